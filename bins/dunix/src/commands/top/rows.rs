//! The table's rows: which processes, in which order, with which share of a CPU.

use super::super::{ps, table};
use dunix_admin_api::{NodeInfo, ProcessInfo};
use dunix_ids::{NodeId, Pid};
use std::{cmp::Reverse, collections::BTreeMap};

/// The columns that can be sorted by, in the table's order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Column {
    Pid,
    Node,
    User,
    State,
    Cpu,
    Memory,
    Time,
    Command,
}

impl Column {
    pub(super) const ALL: [Column; 8] = [
        Column::Pid,
        Column::Node,
        Column::User,
        Column::State,
        Column::Cpu,
        Column::Memory,
        Column::Time,
        Column::Command,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Column::Pid => "PID",
            Column::Node => "NODE",
            Column::User => "UID",
            Column::State => "S",
            Column::Cpu => "CPU%",
            Column::Memory => "RSS",
            Column::Time => "TIME",
            Column::Command => "COMMAND",
        }
    }

    /// The column `steps` further on, round the end.
    pub(super) fn step(self, steps: usize) -> Column {
        let at = Column::ALL.iter().position(|column| *column == self).unwrap_or(0);
        Column::ALL[(at + steps) % Column::ALL.len()]
    }
}

/// One process as it is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub(super) pid: Pid,
    /// An entry for each of [`Column::ALL`].
    pub(super) cells: [String; 8],
}

/// Thousandths of a CPU by process.
pub(super) type Shares = BTreeMap<Pid, u64>;

/// What the processes used between two lists, `elapsed_ms` apart. One that is new, or that has a PID
/// used before, counts from the next list on.
pub(super) fn shares(before: &[ProcessInfo], now: &[ProcessInfo], elapsed_ms: u64) -> Shares {
    let before: BTreeMap<Pid, &ProcessInfo> = before.iter().map(|p| (p.pid, p)).collect();
    let share = |process: &ProcessInfo| {
        let old = before.get(&process.pid)?;
        let is_same = old.started_unix_ms == process.started_unix_ms;
        let used_ms = process.cpu_ms.saturating_sub(old.cpu_ms);
        is_same.then(|| used_ms.saturating_mul(1000) / elapsed_ms.max(1))
    };
    now.iter().filter_map(|process| Some((process.pid, share(process)?))).collect()
}

/// What is shown of the processes.
pub(super) struct Choice<'a> {
    pub(super) sort: Column,
    pub(super) tree: bool,
    /// Only commands that contain this, in lower case; empty for all.
    pub(super) filter: &'a str,
    pub(super) node: Option<NodeId>,
}

/// Lays the rows out.
pub(super) fn rows(
    processes: &[ProcessInfo],
    nodes: &[NodeInfo],
    shares: &Shares,
    choice: &Choice<'_>,
) -> Vec<Row> {
    let is_chosen = |process: &&ProcessInfo| {
        choice.node.is_none_or(|node| node == process.node)
            && ps::command(process).to_lowercase().contains(choice.filter)
    };
    let mut chosen: Vec<&ProcessInfo> = processes.iter().filter(is_chosen).collect();
    sort(&mut chosen, choice.sort, shares);
    let ordered = if choice.tree {
        ps::in_tree_order(chosen.iter().copied())
    } else {
        chosen.into_iter().map(|process| (0, process)).collect()
    };
    ordered.into_iter().map(|(depth, process)| row(depth, process, nodes, shares)).collect()
}

fn sort(processes: &mut [&ProcessInfo], column: Column, shares: &Shares) {
    let share = |pid: &Pid| shares.get(pid).copied().unwrap_or(0);
    processes.sort_by_key(|process| process.pid);
    match column {
        Column::Pid => {}
        Column::Node => processes.sort_by_key(|process| process.node),
        Column::User => processes.sort_by_key(|process| process.uid),
        Column::State => processes.sort_by_key(|process| ps::letter(process.state)),
        Column::Cpu => processes.sort_by_key(|process| Reverse(share(&process.pid))),
        Column::Memory => processes.sort_by_key(|process| Reverse(process.resident_bytes)),
        Column::Time => processes.sort_by_key(|process| Reverse(process.cpu_ms)),
        Column::Command => processes.sort_by_cached_key(|process| ps::command(process)),
    }
}

fn row(depth: usize, process: &ProcessInfo, nodes: &[NodeInfo], shares: &Shares) -> Row {
    let node = nodes.iter().find(|node| node.id == process.node);
    let share = shares.get(&process.pid).copied().unwrap_or(0);
    let cells = [
        process.pid.to_string(),
        node.map_or_else(|| process.node.to_string(), |node| table::printable(&node.name)),
        process.uid.to_string(),
        ps::letter(process.state).to_owned(),
        format!("{}.{}", share / 10, share % 10),
        table::bytes(process.resident_bytes),
        table::cpu_time(process.cpu_ms),
        format!("{}{}", "  ".repeat(depth), ps::command(process)),
    ];
    Row { pid: process.pid, cells }
}
