//! What must hold while nothing is on its way: the tables together say what is true.

use crate::{
    actions::token,
    counts::PerNode,
    truth::{Life, Pending},
    world::World,
};
use dunix_ids::{NodeId, Pid};
use dunix_proc_table::ProcTable;
use dunix_wire::processes::ExitStatus;
use std::collections::BTreeMap;

/// The tables that count: those of nodes that live and were not fenced.
fn tables(world: &World) -> impl Iterator<Item = (NodeId, &ProcTable)> {
    let tables = world.nodes.iter().map(|(node, here)| (*node, &here.table));
    tables.filter(|(_, table)| !table.is_fenced())
}

/// While nothing is on its way, tables and truth agree.
pub(crate) fn check_quiet(world: &mut World) {
    world.truths.lose_launchers();
    world.truths.check_signals();
    world.truths.check_waits();
    world.truths.check_excuses();
    check_answers(world);
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
    check_answers(world);
}

/// Every operation was answered, but those of nodes that are cut off.
fn check_answers(world: &World) {
    let open = world.truths.pending.values().find(|(node, _)| !world.truths.cut_off.contains(node));
    assert!(open.is_none(), "an operation was never answered: {open:?}");
}

fn check_process(world: &World, pid: Pid) {
    let truth = &world.truths.processes[&pid];
    let holders: Vec<NodeId> = world
        .nodes
        .iter()
        .filter(|(_, here)| here.table.is_alive(pid))
        .map(|(node, _)| *node)
        .collect();
    assert_eq!(holders, [truth.node], "who holds {pid}");
    let table = &world.nodes[&truth.node].table;
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
        tables(world).filter_map(|(_, table)| table.group_members(pgid)).collect();
    if expected.is_empty() {
        assert!(homes.is_empty(), "group {pgid} has ended, but not for {homes:?}");
    } else {
        assert_eq!(homes, [expected], "members of group {pgid}");
    }
}

fn locate_all(world: &mut World, pids: &[Pid]) {
    let nodes = world.active_nodes();
    for pid in pids {
        // A fabric that fell into too many parts has fenced all of them.
        let Some(node) = world.rng.pick(&nodes) else { return };
        let token = token(world, node, Pending::Locate { pid: *pid });
        world.with(node, |table, now| table.locate(now, token, *pid));
    }
}

/// Nodes on which no program ran heard of none: what membership sends is all that came since it was counted.
pub(crate) fn check_bystanders(world: &World, before: &BTreeMap<NodeId, PerNode>) {
    if !world.truths.cut_off.is_empty() {
        return; // Every survivor says to every other what it had from the dead.
    }
    let bystanders = world.nodes.keys().filter(|node| node.0 > world.plan.active);
    for node in bystanders {
        let [now, before] = [&world.counts.nodes, before].map(|counts| counts[node].of_processes);
        assert_eq!(now, before, "{node} heard of processes that are none of its concern");
    }
}

/// Everyone waits for all children; those without any end; until nobody is left.
pub(crate) fn wind_up(world: &mut World) {
    for _ in 0..1000 {
        let alive = world.truths.alive();
        if alive.is_empty() {
            break;
        }
        for pid in alive {
            if world.collect_children(pid) {
                world.exit(pid, ExitStatus::Exited(0));
            }
        }
        world.rest();
    }
    let left = world.truths.processes.iter().filter(|(_, truth)| truth.life != Life::Reaped);
    let left: Vec<_> = left.map(|(pid, t)| (*pid, t.node, t.parent, t.life)).collect();
    assert_eq!(left, [], "somebody is left");
    // What was lost without a claimant goes free in time.
    world.run_until(world.now + dunix_proc_table::limits::CLAIM_WAIT * 2);
    for (node, table) in tables(world) {
        assert_eq!(table.list().len(), 0, "{node} has processes left");
        let used: Vec<(Pid, String)> =
            table.numbers_in_use().into_iter().map(|n| (n, table.describe_number(n))).collect();
        assert_eq!(used, [], "{node} has numbers in use");
    }
}
