//! What people ask of this node's processes: lists, one process in full, signals, what happens.
//!
//! Refuses: other nodes' processes. What `/proc` shows of a process that ends meanwhile is left out.

use crate::Processes;
use crate::call::errno_of;
use crate::host::{Status, Times, arguments, link};
use crate::node::{Node, Pending};
use dunix_ids::{NodeId, ObjectId, Pid};
use dunix_linux::Errno;
use dunix_proc_table::KillTarget;
use dunix_wire::processes::{ExitStatus, ProcessSummary, Refusal};
use tokio::sync::{broadcast, oneshot};

/// Events that wait for a slow subscriber before the oldest are dropped.
pub(crate) const EVENTS_KEPT: usize = 4096;

/// Something that happened to a process of this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProcessEvent {
    /// A fork made it.
    Started { pid: Pid, parent: Pid },
    /// It runs a new program here.
    Executed { pid: Pid, arguments: Vec<String> },
    /// It came here while it ran, and stood still for so long.
    Moved { pid: Pid, from: NodeId, frozen_micros: u64 },
    /// It was to move to a node and did not, for this reason.
    MoveRefused { pid: Pid, to: NodeId, message: String },
    /// It ended.
    Exited { pid: Pid, status: ExitStatus },
}

/// One process of this node in full.
#[derive(Clone, Debug)]
pub struct ProcessDetails {
    pub summary: ProcessSummary,
    /// The program's path, lossily.
    pub exe_path: String,
    /// Why it runs here.
    pub placed: String,
    pub working_directory: String,
    pub terminal: Option<ObjectId>,
    /// The kernel function that its first thread waits in, if it waits.
    pub waits_in: Option<String>,
    /// Why it cannot move now, as far as the table knows; what its memory and its descriptors forbid
    /// shows when it is tried.
    pub unmovable: Option<Refusal>,
    /// Open descriptors: number, what the host shows (`pipe:[7]`, a path), the home if remote.
    pub descriptors: Vec<(u32, String, Option<ObjectId>)>,
}

impl Processes {
    /// Lists the processes of this node, by PID. Reads `/proc`: not for the runtime's threads.
    #[must_use]
    pub fn list(&self) -> Vec<ProcessSummary> {
        self.0.list()
    }

    /// Tells all of one process of this node. Reads `/proc`: not for the runtime's threads.
    #[must_use]
    pub fn details(&self, pid: Pid) -> Option<ProcessDetails> {
        let summary = self.0.look(|state| state.table.summary(pid))?;
        let summary = self.0.filled_in(summary);
        let exe_path = self.0.look(|state| {
            let local = state.locals.get(&pid)?;
            Some(String::from_utf8_lossy(&local.exe_path).into_owned())
        });
        let placed = self.0.look(|state| Some(state.locals.get(&pid)?.placed.to_string()));
        let host_pid = summary.host_pid.unwrap_or(0);
        let working_directory = link(host_pid, "cwd").unwrap_or_default();
        Some(ProcessDetails {
            exe_path: exe_path.unwrap_or_default(),
            placed: placed.unwrap_or_default(),
            working_directory: String::from_utf8_lossy(&working_directory).into_owned(),
            terminal: self.0.look(|state| state.table.terminal(pid)),
            waits_in: waits_in(host_pid),
            unmovable: self.0.look(|state| state.table.check_move(pid)).err(),
            descriptors: self.0.descriptors(pid, host_pid),
            summary,
        })
    }

    /// Sends a signal in the fabric's name, wherever the target is; 0 only asks whether it exists.
    ///
    /// # Errors
    /// `ESRCH` without a target, `EINVAL` for no signal, `EIO` if the home cannot be reached.
    pub async fn signal(&self, target: KillTarget, signal: u8) -> Result<(), Errno> {
        let (sender, answer) = oneshot::channel();
        self.0.with(|state, now| {
            let token = state.expect_reply(Pending::Daemon(sender));
            state.table.kill_by_fabric(now, Some(token), target, signal);
        });
        match answer.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(errno)) => Err(errno_of(errno)),
            Err(_) => Err(Errno::IO),
        }
    }

    /// Subscribes to what happens to the processes of this node from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<ProcessEvent> {
        self.0.events.subscribe()
    }
}

impl Node {
    /// Tells subscribers, if there are any.
    pub(crate) fn announce(&self, event: impl FnOnce() -> ProcessEvent) {
        if self.events.receiver_count() > 0 {
            // The last subscriber may have left meanwhile.
            let _ = self.events.send(event());
        }
    }

    pub(crate) fn filled_in(&self, mut summary: ProcessSummary) -> ProcessSummary {
        let Some(host_pid) = summary.host_pid else { return summary };
        summary.arguments = arguments(host_pid);
        if let Ok(status) = Status::of(host_pid, self.ids_base) {
            summary.resident_bytes = status.resident_bytes;
        }
        if let Some(times) = Times::of(host_pid) {
            summary.cpu_micros = summary.cpu_micros.saturating_add(times.cpu_micros);
        }
        summary
    }

    fn descriptors(&self, pid: Pid, host_pid: u32) -> Vec<(u32, String, Option<ObjectId>)> {
        let Ok(directory) = std::fs::read_dir(format!("/proc/{host_pid}/fd")) else {
            return Vec::new();
        };
        let numbers = directory.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let mut list: Vec<(u32, String, Option<ObjectId>)> = numbers
            .map(|number: u32| {
                let target = link(host_pid, &format!("fd/{number}")).unwrap_or_default();
                let home = self.look(|state| {
                    let local = state.locals.get(&pid)?;
                    local.remote.get(number.cast_signed()).map(|fd| fd.object)
                });
                (number, String::from_utf8_lossy(&target).into_owned(), home)
            })
            .collect();
        list.sort_unstable_by_key(|(number, ..)| *number);
        list
    }
}

/// The kernel function that the first thread waits in, `None` if it runs (or the host hides it).
fn waits_in(host_pid: u32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{host_pid}/wchan")).ok()?;
    (!name.is_empty() && name != "0").then_some(name)
}
