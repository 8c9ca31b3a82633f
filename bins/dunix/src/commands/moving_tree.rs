//! `dunix move --with-children`: a process and all that descends from it.
//!
//! ```text
//! list the tree --> move what is new in it, some at a time --> list it again, until nothing is new
//!                      `-- refused for now: once more, some rounds long; for good: it stays, and is told
//! ```
//! What its members fork meanwhile is found by a later look.

use super::{Failure, moving::in_words, table};
use crate::{
    admin::{
        client::{self, ClientError},
        discovery::Fabric,
    },
    cli::MoveArgs,
};
use dunix_admin_api::{
    ErrorKind, MoveOutcome, MoveRefused, MoveRequest, ProcessInfo, ProcessState,
};
use dunix_ids::Pid;
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    time::Duration,
};
use tokio::task::JoinSet;

/// Moves under way at a time: a node takes part in a limited number.
const AT_ONCE: usize = 8;
/// Looks at the tree at most: one whose members fork faster than they are moved is told so.
const LOOKS_MAX: usize = 100;
/// Between two looks while something was refused for now.
const PAUSE: Duration = Duration::from_millis(100);
/// What is worth asking again (`docs/MOVING.md`).
const FOR_NOW: [&str; 8] = [
    "starting",
    "already-moving",
    "still-arriving",
    "not-found",
    "regrouping",
    "not-parked",
    "too-many-moves",
    "too-slow",
];

/// What came of one process, for `--json`: an object a line.
#[derive(Serialize)]
struct Told<'a> {
    pid: Pid,
    outcome: &'a MoveOutcome,
}

/// How far it is.
#[derive(Default)]
struct Progress {
    /// They run at the target, or are no more.
    done: BTreeSet<Pid>,
    stay: BTreeMap<Pid, MoveRefused>,
    /// To be asked once more.
    later: BTreeMap<Pid, MoveRefused>,
}

/// Moves the tree; succeeds if all of it runs at the target.
pub(super) async fn run(fabric: &Fabric, args: &MoveArgs) -> Result<(), Failure> {
    let mut progress = Progress::default();
    for look in 0..LOOKS_MAX {
        let mut tree = tree(&client::processes(fabric).await?, args.pid);
        if look == 0 && tree.is_empty() {
            return Err(Failure::failed(format!("no process {}; see dunix ps", args.pid)));
        }
        tree.retain(|pid| !progress.done.contains(pid) && !progress.stay.contains_key(pid));
        progress.later.clear();
        if tree.is_empty() {
            return progress.judge();
        }
        for some in tree.chunks(AT_ONCE) {
            for (pid, outcome) in move_some(fabric, args, some).await? {
                progress.note(pid, outcome, args.json)?;
            }
        }
        if !progress.later.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
    }
    if progress.later.is_empty() {
        return Err(Failure::failed("its processes fork faster than they can be moved"));
    }
    progress.judge()
}

/// The process and its descendants, parents first, without those that have ended.
fn tree(processes: &[ProcessInfo], root: Pid) -> Vec<Pid> {
    let is_there = |one: &&ProcessInfo| one.state != ProcessState::Zombie;
    let mut tree: Vec<Pid> =
        processes.iter().filter(is_there).map(|one| one.pid).filter(|pid| *pid == root).collect();
    let mut at = 0;
    while let Some(&parent) = tree.get(at) {
        let children = processes.iter().filter(is_there).filter(|one| one.ppid == parent);
        let new: Vec<Pid> = children.map(|one| one.pid).filter(|pid| !tree.contains(pid)).collect();
        tree.extend(new);
        at += 1;
    }
    tree
}

async fn move_some(
    fabric: &Fabric,
    args: &MoveArgs,
    some: &[Pid],
) -> Result<Vec<(Pid, MoveOutcome)>, Failure> {
    let mut moves = JoinSet::new();
    for &pid in some {
        let (fabric, node) = (fabric.clone(), args.node.clone());
        let request = MoveRequest { pid, node, safe: args.safe, wait: !args.no_wait };
        moves.spawn(async move { (pid, client::move_process(&fabric, request).await) });
    }
    let mut outcomes = Vec::new();
    while let Some(ended) = moves.join_next().await {
        let (pid, outcome) = ended.map_err(std::io::Error::from)?;
        match outcome {
            Ok(outcome) => outcomes.push((pid, outcome)),
            Err(ClientError::Refused(error)) if error.kind == ErrorKind::NoSuchProcess => {
                let (reason, message) = ("no-such-process".into(), error.message);
                let refused = MoveRefused { reason, message, gone: true };
                outcomes.push((pid, MoveOutcome::Refused(refused)));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(outcomes)
}

impl Progress {
    /// Notes what came of a move, and prints what is certain.
    fn note(&mut self, pid: Pid, outcome: MoveOutcome, json: bool) -> std::io::Result<()> {
        let mut stdout = std::io::stdout();
        match &outcome {
            MoveOutcome::Refused(refused) if FOR_NOW.contains(&refused.reason.as_str()) => {
                self.later.insert(pid, refused.clone());
                return Ok(());
            }
            MoveOutcome::Refused(refused) if !refused.gone && refused.reason != "already-there" => {
                self.stay.insert(pid, refused.clone());
            }
            MoveOutcome::Refused(_) => {
                self.done.insert(pid);
            }
            MoveOutcome::Moved(moved) => {
                self.done.insert(pid);
                if !json {
                    return writeln!(stdout, "{}", in_words(pid, moved));
                }
            }
        }
        if json {
            serde_json::to_writer(&mut stdout, &Told { pid, outcome: &outcome })?;
            writeln!(stdout)?;
        }
        Ok(())
    }

    fn judge(&self) -> Result<(), Failure> {
        let all: BTreeMap<_, _> = self.stay.iter().chain(&self.later).collect();
        let why = |(pid, refused): (&Pid, &MoveRefused)| {
            format!("process {pid} stays where it is: {}", table::printable(&refused.message))
        };
        let lines: Vec<String> =
            all.into_iter().map(|(pid, refused)| why((pid, refused))).collect();
        if lines.is_empty() { Ok(()) } else { Err(Failure::failed(lines.join("\ndunix: "))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunix_ids::NodeId;

    fn process(pid: u32, ppid: u32, state: ProcessState) -> ProcessInfo {
        let number = |number| Pid::new(number).unwrap();
        ProcessInfo {
            pid: number(pid),
            ppid: number(ppid),
            pgid: number(pid),
            sid: number(pid),
            node: NodeId(1),
            host_pid: None,
            uid: 0,
            state,
            threads: 1,
            started_unix_ms: 0,
            cpu_ms: 0,
            resident_bytes: 0,
            terminal: None,
            comm: String::new(),
            args: Vec::new(),
        }
    }

    #[test]
    fn a_tree_is_all_that_descends_and_has_not_ended() {
        let (run, zombie) = (ProcessState::Running, ProcessState::Zombie);
        let list = [
            process(9, 7, run),
            process(2, 1, run),
            process(7, 5, run),
            process(5, 1, run),
            process(8, 5, zombie),
        ];
        let tree = |pid| tree(&list, Pid::new(pid).unwrap());
        assert_eq!(tree(5).iter().map(|pid| pid.get()).collect::<Vec<_>>(), [5, 7, 9]);
        assert_eq!(tree(2).len(), 1);
        assert!(tree(4).is_empty() && tree(8).is_empty());
    }
}
