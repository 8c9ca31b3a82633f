//! What programs do, at random.

use crate::{
    processes::{SIGTERM, SIGUSR1},
    truth::{GroupSignal, Life, Pending},
    world::World,
};
use dunix_ids::{NodeId, Pid};
use dunix_proc_table::{
    KillTarget, Kind, RootSpec, SIGCHLD, SIGCONT, SIGKILL, SIGSTOP, Token, WaitFor, WaitOptions,
};
use dunix_wire::processes::{ExitStatus, SignalInfo};

/// Every wait is for ends.
pub(crate) const WAIT: WaitOptions =
    WaitOptions { exited: true, stopped: false, continued: false, keep: false, kind: Kind::All };

/// Starts a program without a parent.
pub(crate) fn spawn(world: &mut World, node: NodeId) {
    if let Ok(pid) = world.with(node, |table, now| table.spawn_root(now, RootSpec::default())) {
        world.born(node, pid, None);
    }
}

pub(crate) fn token(world: &mut World, node: NodeId, pending: Pending) -> Token {
    let token = world.rng.number();
    world.truths.pending.insert(token, (node, pending));
    Token(token)
}

/// One process does one thing.
pub(crate) fn act(world: &mut World) {
    let running = world.truths.running();
    let Some(pid) = world.rng.pick(&running) else {
        let nodes = world.active_nodes();
        if let Some(node) = world.rng.pick(&nodes) {
            spawn(world, node);
        }
        return;
    };
    let node = world.truths.processes[&pid].node;
    match world.rng.below(100) {
        0..30 => fork(world, node, pid),
        30..38 => exec(world, pid),
        38..50 => move_on(world, pid),
        50..58 => {
            let code = u8::try_from(world.rng.below(256)).expect("a byte");
            world.exit(pid, ExitStatus::Exited(code));
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
    if world.truths.alive().len() >= world.plan.alive_max {
        return;
    }
    if let Ok(child) = world.with(node, |table, now| table.fork(now, pid, SIGCHLD)) {
        world.born(node, child, Some(pid));
    }
}

fn exec(world: &mut World, pid: Pid) {
    let nodes = world.active_nodes();
    if let Some(to) = world.rng.pick(&nodes) {
        world.depart(pid, to);
    }
}

fn move_on(world: &mut World, pid: Pid) {
    let nodes = world.active_nodes();
    if let Some(to) = world.rng.pick(&nodes) {
        world.start_move(pid, to);
    }
}

fn wait(world: &mut World, node: NodeId, pid: Pid) {
    let which = match world.rng.below(3) {
        0 => WaitFor::Group(world.truths.processes[&pid].pgid),
        _ => WaitFor::Any,
    };
    world.wait(node, pid, which);
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
        world.truths.process(pid).threads.remove(&tid);
        world.with(node, |table, now| table.thread_exited(now, tid));
        return;
    }
    let tid = world.with(node, |table, now| table.thread_prepare(now, pid));
    let Ok(tid) = tid else { return };
    assert!(!world.truths.processes.get(&tid).is_some_and(|t| t.life != Life::Reaped));
    world.truths.check_no_thread(tid);
    world.truths.process(pid).threads.insert(tid);
    let host = world.new_host();
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
