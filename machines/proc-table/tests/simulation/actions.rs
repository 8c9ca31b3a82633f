//! What processes do at random, and how a run ends.

use crate::{
    truth::{GroupSignal, Life, Pending},
    world::{SIGSTOP, SIGTERM, SIGUSR1, World},
};
use dunix_ids::{NodeId, Pid};
use dunix_proc_table::{
    KillTarget, Kind, RootSpec, SIGCHLD, SIGCONT, SIGKILL, Token, WaitFor, WaitOptions, WaitOutcome,
};
use dunix_wire::processes::{Errno, ExitStatus, SignalInfo};
use std::time::Duration;

#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) nodes: u32,
    pub(crate) steps: u64,
    pub(crate) deaths: u32,
    pub(crate) delay_us_max: u64,
}

pub(crate) struct Outcome {
    pub(crate) hash: u64,
    pub(crate) execs: u64,
    pub(crate) moves: u64,
    pub(crate) refusals: u64,
    pub(crate) answers: u64,
}

const ALIVE_MAX: usize = 120;
const WAIT: WaitOptions =
    WaitOptions { exited: true, stopped: false, continued: false, keep: false, kind: Kind::All };

pub(crate) fn run(seed: u64, plan: Plan) -> Outcome {
    let outcome = std::panic::catch_unwind(|| run_seed(seed, plan));
    outcome.unwrap_or_else(|panic| {
        eprintln!("seed {seed} failed");
        std::panic::resume_unwind(panic)
    })
}

fn run_seed(seed: u64, plan: Plan) -> Outcome {
    let mut world = World::new(seed, plan.nodes, plan.delay_us_max);
    world.run_until(Duration::from_secs(2));
    for node in world.tables.keys().copied().collect::<Vec<_>>() {
        spawn(&mut world, node);
    }
    let mut deaths_left = plan.deaths;
    for step in 0..plan.steps {
        let pause = Duration::from_micros(world.rng.below(10_000));
        world.run_until(world.now + pause);
        act(&mut world);
        let death_is_due = deaths_left > 0
            && world.tables.len() > 2
            && world.rng.below(plan.steps) < 2 * u64::from(plan.deaths);
        if death_is_due {
            deaths_left -= 1;
            let nodes: Vec<NodeId> = world.tables.keys().copied().collect();
            let node = world.rng.pick(&nodes).expect("there are nodes");
            world.kill_node(node);
        }
        if step % 500 == 499 {
            world.rest();
            check_quiet(&mut world);
        }
    }
    world.rest();
    check_quiet(&mut world);
    wind_up(&mut world);
    Outcome {
        hash: world.hash,
        execs: world.execs,
        moves: world.moves,
        refusals: world.refusals,
        answers: world.truths.answers,
    }
}

fn spawn(world: &mut World, node: NodeId) {
    if let Ok(pid) = world.with(node, |table, now| table.spawn_root(now, RootSpec::default())) {
        world.born(node, pid, None);
    }
}

fn token(world: &mut World, node: NodeId, pending: Pending) -> Token {
    let token = world.rng.number();
    world.truths.pending.insert(token, (node, pending));
    Token(token)
}

fn act(world: &mut World) {
    let running = world.truths.running();
    let Some(pid) = world.rng.pick(&running) else {
        let nodes: Vec<NodeId> = world.tables.keys().copied().collect();
        let node = world.rng.pick(&nodes).expect("there are nodes");
        return spawn(world, node);
    };
    let node = world.truths.processes[&pid].node;
    match world.rng.below(100) {
        0..30 => fork(world, node, pid),
        30..38 => exec(world, pid),
        38..50 => move_on(world, pid),
        50..58 => {
            let code = u8::try_from(world.rng.below(256)).expect("a byte");
            world.host_exit(pid, ExitStatus::Exited(code));
        }
        58..73 => wait(world, node, pid),
        73..81 => kill(world, node, pid),
        81..86 => kill_group(world, node, pid),
        86..92 => setpgid(world, node, pid),
        92..94 => {
            let token = token(world, node, Pending::Session);
            world.with(node, |table, now| table.setsid(now, token, pid));
        }
        94..97 => kill_thread(world, node, pid),
        _ => threads(world, node, pid),
    }
}

fn fork(world: &mut World, node: NodeId, pid: Pid) {
    if world.truths.alive().len() >= ALIVE_MAX {
        return;
    }
    if let Ok(child) = world.with(node, |table, now| table.fork(now, pid, SIGCHLD)) {
        world.born(node, child, Some(pid));
    }
}

fn exec(world: &mut World, pid: Pid) {
    let nodes: Vec<NodeId> = world.tables.keys().copied().collect();
    if let Some(to) = world.rng.pick(&nodes) {
        world.depart(pid, to);
    }
}

fn move_on(world: &mut World, pid: Pid) {
    let nodes: Vec<NodeId> = world.tables.keys().copied().collect();
    if let Some(to) = world.rng.pick(&nodes) {
        world.start_move(pid, to);
    }
}

fn wait(world: &mut World, node: NodeId, pid: Pid) {
    let which = match world.rng.below(3) {
        0 => WaitFor::Group(world.truths.processes[&pid].pgid),
        _ => WaitFor::Any,
    };
    let found = world.with(node, |table, now| table.wait(now, pid, which, WAIT));
    if let Ok(WaitOutcome::Found(found)) = found {
        world.truths.reported(pid, &found);
    }
}

/// A signal under a name of its own. Some end their target, some stop it, some do nothing.
fn any_signal(world: &mut World) -> u8 {
    let signals = [SIGUSR1, SIGUSR1, SIGUSR1, SIGSTOP, SIGCONT, SIGCONT, SIGTERM, SIGKILL];
    world.rng.pick(&signals).expect("there are signals")
}

fn kill(world: &mut World, node: NodeId, pid: Pid) {
    let alive = world.truths.alive();
    let Some(target) = world.rng.pick(&alive) else { return };
    let (value, signal) = (world.rng.number(), any_signal(world));
    let token = token(world, node, Pending::Kill { value, target: Some(target) });
    let info = SignalInfo::Queued { code: -1, value };
    world.with(node, |table, now| {
        table.kill(now, token, pid, KillTarget::Process(target), signal, info);
    });
}

fn kill_group(world: &mut World, node: NodeId, pid: Pid) {
    let alive = world.truths.alive();
    let Some(target) = world.rng.pick(&alive) else { return };
    let pgid = world.truths.processes[&target].pgid;
    let value = world.rng.number();
    let signals = [SIGUSR1, SIGUSR1, SIGSTOP, SIGCONT];
    let signal = world.rng.pick(&signals).expect("there are signals");
    let members = world.truths.members(pgid);
    let sent_at = world.now;
    let token = token(world, node, Pending::Kill { value, target: None });
    world.truths.group_signals.push(GroupSignal { value, pgid, sent_at, members });
    let info = SignalInfo::Queued { code: -1, value };
    world.with(node, |table, now| {
        table.kill(now, token, pid, KillTarget::Group(pgid), signal, info);
    });
}

fn setpgid(world: &mut World, node: NodeId, pid: Pid) {
    let children: Vec<Pid> = world
        .truths
        .processes
        .iter()
        .filter(|(_, t)| t.parent == Some(pid) && t.life == Life::Alive)
        .map(|(child, _)| *child)
        .chain([pid])
        .collect();
    let target = world.rng.pick(&children).expect("it has itself");
    let groups: Vec<Pid> =
        world.truths.processes.values().map(|t| t.pgid).chain([target]).collect();
    let pgid = match world.rng.below(2) {
        0 => target,
        _ => world.rng.pick(&groups).expect("there are groups"),
    };
    let token = token(world, node, Pending::Group);
    world.with(node, |table, now| table.setpgid(now, token, pid, Some(target), Some(pgid)));
}

fn threads(world: &mut World, node: NodeId, pid: Pid) {
    let threads: Vec<Pid> = world.truths.processes[&pid].threads.iter().copied().collect();
    if let Some(tid) = world.rng.pick(&threads).filter(|_| threads.len() > 2) {
        world.truths.processes.get_mut(&pid).expect("it is there").threads.remove(&tid);
        world.with(node, |table, now| table.thread_exited(now, tid));
        return;
    }
    let tid = world.with(node, |table, now| table.thread_prepare(now, pid));
    let Ok(tid) = tid else { return };
    assert!(!world.truths.processes.get(&tid).is_some_and(|t| t.life != Life::Reaped));
    world.truths.check_no_thread(tid);
    world.truths.processes.get_mut(&pid).expect("it is there").threads.insert(tid);
    let host = world.host_next;
    world.host_next += 1;
    world.with(node, |table, now| table.thread_bound(now, tid, host)).expect("it is new");
}

/// By a thread's number alone, from anywhere.
fn kill_thread(world: &mut World, node: NodeId, pid: Pid) {
    let threads: Vec<(Pid, Pid)> = world
        .truths
        .processes
        .iter()
        .flat_map(|(pid, truth)| truth.threads.iter().map(|tid| (*pid, *tid)))
        .collect();
    let Some((target, thread)) = world.rng.pick(&threads) else { return };
    let value = world.rng.number();
    let token = token(world, node, Pending::Kill { value, target: Some(target) });
    let info = SignalInfo::Queued { code: -1, value };
    let process = world.rng.pick(&[None, Some(target)]).flatten();
    world.with(node, |table, now| {
        table.kill(now, token, pid, KillTarget::Thread { process, thread }, SIGUSR1, info);
    });
}

/// While nothing is on its way, tables and truth agree.
fn check_quiet(world: &mut World) {
    world.truths.check_signals();
    assert!(world.truths.pending.values().all(|(node, _)| world.truths.dead.contains(node)));
    let alive = world.truths.alive();
    for pid in &alive {
        check_process(world, *pid);
    }
    let groups: std::collections::BTreeSet<Pid> =
        world.truths.processes.values().map(|truth| truth.pgid).collect();
    for pgid in groups {
        check_group(world, pgid);
    }
    locate_all(world, &alive);
    world.rest();
    assert!(world.truths.pending.values().all(|(node, _)| world.truths.dead.contains(node)));
}

fn check_process(world: &World, pid: Pid) {
    let truth = &world.truths.processes[&pid];
    let holders: Vec<NodeId> = world
        .tables
        .iter()
        .filter(|(_, table)| table.is_alive(pid))
        .map(|(node, _)| *node)
        .collect();
    assert_eq!(holders, [truth.node], "who holds {pid}");
    let table = &world.tables[&truth.node];
    let threads: Vec<Pid> = [pid].into_iter().chain(truth.threads.iter().copied()).collect();
    assert_eq!(table.threads_of(pid), threads, "threads of {pid}");
    assert_eq!(table.group(pid), Some(truth.pgid), "group of {pid}");
    assert_eq!(table.session(pid), Some(truth.sid), "session of {pid}");
    assert_eq!(table.parent(pid), Some(truth.parent.unwrap_or(Pid::INIT)), "parent of {pid}");
}

fn check_group(world: &World, pgid: Pid) {
    let expected: Vec<(Pid, NodeId)> = world
        .truths
        .members(pgid)
        .into_iter()
        .map(|pid| (pid, world.truths.processes[&pid].node))
        .collect();
    let homes: Vec<Vec<(Pid, NodeId)>> =
        world.tables.values().filter_map(|table| table.group_members(pgid)).collect();
    if expected.is_empty() {
        assert!(homes.is_empty(), "group {pgid} has ended, but not for {homes:?}");
    } else {
        assert_eq!(homes, [expected], "members of group {pgid}");
    }
}

fn locate_all(world: &mut World, pids: &[Pid]) {
    let nodes: Vec<NodeId> = world.tables.keys().copied().collect();
    for pid in pids {
        let node = world.rng.pick(&nodes).expect("there are nodes");
        let token = token(world, node, Pending::Locate { pid: *pid });
        world.with(node, |table, now| table.locate(now, token, *pid));
    }
}

/// Everyone waits for all children; those without any end; until nobody is left.
fn wind_up(world: &mut World) {
    for _ in 0..1000 {
        let alive = world.truths.alive();
        if alive.is_empty() {
            break;
        }
        for pid in alive {
            if collect_children(world, pid) {
                world.host_exit(pid, ExitStatus::Exited(0));
            }
        }
        world.rest();
    }
    let left = world.truths.processes.iter().filter(|(_, truth)| truth.life != Life::Reaped);
    let left: Vec<_> = left.map(|(pid, t)| (*pid, t.node, t.parent, t.life)).collect();
    assert_eq!(left, [], "somebody is left");
    // What was lost without a claimant goes free in time.
    world.run_until(world.now + dunix_proc_table::limits::CLAIM_WAIT * 2);
    for (node, table) in &world.tables {
        assert_eq!(table.list().len(), 0, "{node} has processes left");
        let used: Vec<(Pid, String)> =
            table.numbers_in_use().into_iter().map(|n| (n, table.describe_number(n))).collect();
        assert_eq!(used, [], "{node} has numbers in use");
    }
}

/// Returns whether the process has no children any more.
fn collect_children(world: &mut World, pid: Pid) -> bool {
    loop {
        let node = world.truths.processes[&pid].node;
        match world.with(node, |table, now| table.wait(now, pid, WaitFor::Any, WAIT)) {
            Ok(WaitOutcome::Found(found)) => world.truths.reported(pid, &found),
            Ok(WaitOutcome::NotYet) => return false,
            Err(Errno::CHILD) => {
                let has = world
                    .truths
                    .processes
                    .values()
                    .any(|t| t.parent == Some(pid) && t.life != Life::Reaped);
                assert!(!has, "a child of {pid} is unknown to its table");
                return true;
            }
            Err(error) => panic!("wait by {pid}: {error:?}"),
        }
    }
}
