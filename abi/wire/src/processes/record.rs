//! What is known of one process, in the form in which it travels.

use alloc::{string::String, vec::Vec};
use dunix_ids::{NodeId, ObjectId, Pid};
use serde::{Deserialize, Serialize};

/// Most children (running and zombie) of one process that may move with it.
pub const CHILDREN_MAX: usize = 32768;
/// Most signal serials that a process remembers (see [`SignalSerial`]).
pub const SERIALS_MAX: usize = 64;
/// Most lessees that a record names.
pub const LESSEES_MAX: usize = 16;
/// Most bytes of a command name (`comm`, `TASK_COMM_LEN - 1`).
pub const COMM_BYTES_MAX: usize = 15;

/// `struct rusage` as 18 words: seconds and microseconds of user and of system time, maximum
/// resident set, and thirteen counters (getrusage(2)).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Rusage(pub [u64; 18]);

impl Rusage {
    /// Adds another process's use: times and counters add up, the resident set is the greater one.
    pub fn add(&mut self, other: &Rusage) {
        for (seconds, micros) in [(0, 1), (2, 3)] {
            let sum = self.0[micros].saturating_add(other.0[micros]);
            let whole = self.0[seconds].saturating_add(other.0[seconds]);
            self.0[seconds] = whole.saturating_add(sum / 1_000_000);
            self.0[micros] = sum % 1_000_000;
        }
        self.0[4] = self.0[4].max(other.0[4]);
        for (mine, theirs) in self.0[5..].iter_mut().zip(&other.0[5..]) {
            *mine = mine.saturating_add(*theirs);
        }
    }
}

/// How a process ended, in the words of waitid(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It called exit; the low eight bits of its argument.
    Exited(u8),
    /// A signal killed it.
    Killed { signal: u8, dumped: bool },
    /// Its node died; programs see `Killed` by SIGKILL.
    Lost,
}

/// The users of a process, as guests number them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Credentials {
    pub uid: u32,
    pub euid: u32,
    pub suid: u32,
}

/// Whether a process runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RunState {
    /// No host process yet.
    Starting,
    Running,
    /// Stopped by this signal.
    Stopped(u8),
    /// On its way to another node: still here until that node has adopted it.
    Leaving(NodeId),
    /// Ended, not waited for.
    Zombie,
}

/// What a child's node knows of the parent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ParentLink {
    /// The parent; [`Pid::INIT`] if none is left.
    pub pid: Pid,
    /// Where the parent is believed to run. For INIT: the node that launched this root and wants
    /// its exit, or `None` for an orphan, which nobody waits for.
    pub node: Option<NodeId>,
    /// The parent's group and session, 0-free; `None` for INIT.
    pub group: Option<(Pid, Pid)>,
    /// The parent's version when it said so; older news of it is stale.
    pub version: u64,
}

impl ParentLink {
    /// The link of a process that nobody waits for.
    pub const ORPHAN: ParentLink =
        ParentLink { pid: Pid::INIT, node: None, group: None, version: 0 };
}

/// What a parent's node knows of a child's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ChildState {
    Running,
    /// Stopped by a signal; `waited` once a wait has reported it.
    Stopped {
        signal: u8,
        waited: bool,
    },
    /// Continued, and no wait has reported it.
    Continued,
    /// Ended: own and waited-for descendants' use.
    Zombie {
        status: ExitStatus,
        rusage: Rusage,
    },
}

/// One child in its parent's table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Child {
    /// Where it is believed to run.
    pub node: NodeId,
    /// Newest change seen; older ones are stale.
    pub version: u64,
    pub state: ChildState,
    pub pgid: Pid,
    pub uid: u32,
    /// Signal for the parent when it ends (clone(2)); 0 for none.
    pub exit_signal: u8,
}

/// Names one signal sent to a group, so that a process that moves meanwhile gets it once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SignalSerial {
    /// The group's home.
    pub home: NodeId,
    /// Counts up at that home.
    pub serial: u64,
}

/// Everything of the process table that moves with a process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessRecord {
    pub pid: Pid,
    /// Counts changes that others were told of, on every node the process was on.
    pub version: u64,
    pub parent: ParentLink,
    pub exit_signal: u8,
    pub pgid: Pid,
    pub sid: Pid,
    /// The controlling terminal.
    pub terminal: Option<ObjectId>,
    pub credentials: Credentials,
    /// SIGCHLD is ignored or has `SA_NOCLDWAIT`: children leave no zombies.
    pub children_reaped: bool,
    /// `SA_NOCLDSTOP`: no SIGCHLD for stops.
    pub stops_silent: bool,
    pub children: Vec<(Pid, Child)>,
    /// Use of the children that were waited for.
    pub children_rusage: Rusage,
    /// Group signals that it has had.
    pub serials: Vec<SignalSerial>,
    pub comm: String,
    /// When it was made, in seconds since the epoch.
    pub started_seconds: u64,
    /// It has called exec since its fork: its parent may not change its group any more.
    pub has_execed: bool,
    /// TIDs besides the first, of a process that moves while it runs; at most
    /// [`THREADS_MAX`](super::moving::THREADS_MAX).
    pub threads: Vec<Pid>,
    /// What it has used on the nodes that it was on before.
    pub used: Rusage,
    /// Who leases the blocks of the numbers above, as far as the source knows: at most
    /// [`LESSEES_MAX`]. So the target need not ask before it can tell them.
    pub lessees: Vec<(u32, NodeId)>,
}

/// One line of `ps`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessSummary {
    pub pid: Pid,
    pub ppid: u32,
    pub pgid: Pid,
    pub sid: Pid,
    pub uid: u32,
    pub state: RunState,
    pub threads: u32,
    /// The host's number on its node, if it has one.
    pub host_pid: Option<u32>,
    pub comm: String,
    /// Arguments for display, cut at some length; filled in by the driver.
    pub arguments: Vec<String>,
    pub cpu_micros: u64,
    pub resident_bytes: u64,
    /// When it started, in seconds since the epoch; filled in by the driver.
    pub started_seconds: u64,
}
