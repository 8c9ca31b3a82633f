//! `dunix ps`: the processes of the fabric.

use super::{
    Failure,
    table::{self, Align, Table},
};
use crate::{
    admin::{client, discovery::Fabric},
    cli::{PsArgs, PsSort},
};
use dunix_admin_api::{NodeInfo, ProcessInfo, ProcessState};
use dunix_ids::{NodeId, Pid};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

/// Deepest indentation of `--tree`.
const TREE_DEPTH_MAX: usize = 64;

/// Lists the processes.
pub async fn run(fabric: &Fabric, args: &PsArgs) -> Result<(), Failure> {
    table::show(&args.list, || async {
        let nodes = client::nodes(fabric).await?;
        let mut processes = client::processes(fabric).await?;
        if let Some(name) = &args.node {
            let node = find_node(&nodes, name)?;
            processes.retain(|process| process.node == node);
        }
        sort(&mut processes, args.sort);
        let mut out = Vec::new();
        if args.list.json {
            serde_json::to_writer(&mut out, &processes).map_err(std::io::Error::from)?;
            out.push(b'\n');
        } else {
            table::print(&lay_out(&processes, &nodes, args.tree), &mut out)?;
        }
        Ok(out)
    })
    .await
}

/// Finds a node by name or number; the error lists the nodes.
fn find_node(nodes: &[NodeInfo], name: &str) -> Result<NodeId, Failure> {
    let number = name.parse().ok().map(NodeId);
    let found = nodes.iter().find(|node| node.name == name || Some(node.id) == number);
    found.map(|node| node.id).ok_or_else(|| {
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        Failure::failed(format!("no node {name}; there are {}", names.join(", ")))
    })
}

fn sort(processes: &mut [ProcessInfo], key: PsSort) {
    match key {
        PsSort::Pid => processes.sort_by_key(|process| process.pid),
        PsSort::Node => processes.sort_by_key(|process| (process.node, process.pid)),
        PsSort::Cpu => processes.sort_by_key(|process| (Reverse(process.cpu_ms), process.pid)),
        PsSort::Mem => {
            processes.sort_by_key(|process| (Reverse(process.resident_bytes), process.pid));
        }
        PsSort::Start => {
            processes.sort_by_key(|process| (Reverse(process.started_unix_ms), process.pid));
        }
    }
}

fn lay_out(processes: &[ProcessInfo], nodes: &[NodeInfo], tree: bool) -> Table {
    let names: BTreeMap<NodeId, &str> = nodes.iter().map(|n| (n.id, n.name.as_str())).collect();
    let mut table = Table::new(&[
        ("PID", Align::Right),
        ("PPID", Align::Right),
        ("NODE", Align::Left),
        ("UID", Align::Right),
        ("S", Align::Left),
        ("TTY", Align::Left),
        ("AGE", Align::Right),
        ("TIME", Align::Right),
        ("RSS", Align::Right),
        ("COMMAND", Align::Left),
    ]);
    let flat = || processes.iter().map(|process| (0, process)).collect();
    for (depth, process) in if tree { in_tree_order(processes) } else { flat() } {
        let node =
            names.get(&process.node).map_or_else(|| process.node.to_string(), |n| (*n).into());
        table.push(vec![
            process.pid.to_string(),
            process.ppid.to_string(),
            node,
            process.uid.to_string(),
            letter(process.state).to_owned(),
            process.terminal.clone().unwrap_or_else(|| "?".to_owned()),
            table::age(process.started_unix_ms),
            table::cpu_time(process.cpu_ms),
            table::bytes(process.resident_bytes),
            format!("{}{}", "  ".repeat(depth), command(process)),
        ]);
    }
    table
}

/// Every process once, children after their parent, with its depth.
pub(crate) fn in_tree_order<'a>(
    processes: impl IntoIterator<Item = &'a ProcessInfo> + Clone,
) -> Vec<(usize, &'a ProcessInfo)> {
    let pids: BTreeSet<Pid> = processes.clone().into_iter().map(|process| process.pid).collect();
    let mut children: BTreeMap<Option<Pid>, Vec<&ProcessInfo>> = BTreeMap::new();
    for process in processes {
        // A parent that is not listed (another --node, or process 1) makes a root.
        let parent = Some(process.ppid).filter(|ppid| pids.contains(ppid));
        children.entry(parent).or_default().push(process);
    }
    let mut ordered = Vec::new();
    let roots = children.remove(&None).unwrap_or_default();
    let mut stack: Vec<(usize, &ProcessInfo)> = roots.into_iter().rev().map(|p| (0, p)).collect();
    while let Some((depth, process)) = stack.pop() {
        ordered.push((depth.min(TREE_DEPTH_MAX), process));
        let below = children.remove(&Some(process.pid)).unwrap_or_default();
        stack.extend(below.into_iter().rev().map(|child| (depth + 1, child)));
    }
    // The list was gathered while processes came and went: whoever is in a loop is shown flat.
    ordered.extend(children.into_values().flatten().map(|process| (0, process)));
    ordered
}

pub(crate) fn letter(state: ProcessState) -> &'static str {
    match state {
        ProcessState::Starting => "N",
        ProcessState::Running => "R",
        ProcessState::Sleeping => "S",
        ProcessState::Waiting => "D",
        ProcessState::Stopped => "T",
        ProcessState::Moving => "M",
        ProcessState::Zombie => "Z",
    }
}

/// The command line, or as ps(1) the name in brackets if there is none.
pub(crate) fn command(process: &ProcessInfo) -> String {
    if process.args.is_empty() {
        format!("[{}]", table::printable(&process.comm))
    } else {
        table::printable(&process.args.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, ppid: u32) -> ProcessInfo {
        let id = |raw| Pid::new(raw).unwrap();
        ProcessInfo {
            pid: id(pid),
            ppid: id(ppid),
            pgid: id(pid),
            sid: id(pid),
            node: NodeId(1),
            host_pid: None,
            uid: 0,
            state: ProcessState::Sleeping,
            threads: 1,
            started_unix_ms: 0,
            cpu_ms: u64::from(pid),
            resident_bytes: 0,
            terminal: None,
            comm: "x".to_owned(),
            args: Vec::new(),
        }
    }

    #[test]
    fn tree_shows_every_process_once() {
        // 8 and 9 are each other's parent: an inconsistent list must not hang or lose them.
        let list = [process(2, 1), process(3, 2), process(5, 1), process(6, 3), process(7, 2)];
        let list = [&list[..], &[process(8, 9), process(9, 8)]].concat();
        let order: Vec<(usize, u32)> =
            in_tree_order(&list).iter().map(|(depth, p)| (*depth, p.pid.get())).collect();
        assert_eq!(order, [(0, 2), (1, 3), (2, 6), (1, 7), (0, 5), (0, 9), (0, 8)]);
    }

    #[test]
    fn sorts_by_cpu_time() {
        let mut list = [process(2, 1), process(9, 1), process(5, 1)];
        sort(&mut list, PsSort::Cpu);
        assert_eq!(list.map(|process| process.pid.get()), [9, 5, 2]);
    }
}
