//! What the driver asks of the table, as plain data.

use alloc::string::String;
use dunix_ids::{NodeId, ObjectId, Pid};
use dunix_wire::processes::{Credentials, ExitStatus, Rusage};

/// What a table is told once.
#[derive(Clone, Copy, Debug)]
pub struct TableConfig {
    /// This node.
    pub node: NodeId,
    /// The node that grants the first block to itself and is the coordinator while it lives: the
    /// same on every node of the fabric (the lowest number; a lab's node 1).
    pub founder: NodeId,
}

/// A process without a parent: leader of a new session and group.
#[derive(Clone, Debug, Default)]
pub struct RootSpec {
    pub credentials: Credentials,
    pub terminal: Option<ObjectId>,
    pub comm: String,
}

/// Which children a wait is for (waitid(2)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitFor {
    Any,
    Child(Pid),
    Group(Pid),
}

/// The options of a wait. Blocking is the caller's: an answer `NotYet` is woken by
/// [`Effect::Wake`](crate::Effect::Wake).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitOptions {
    /// `WEXITED`; always on in wait4.
    pub exited: bool,
    /// `WSTOPPED` (`WUNTRACED`).
    pub stopped: bool,
    /// `WCONTINUED`.
    pub continued: bool,
    /// `WNOWAIT`: the child's state can be waited for again.
    pub keep: bool,
    /// Which children by exit signal: `None` without `__WCLONE` and `__WALL` is
    /// [`Kind::Ordinary`].
    pub kind: Kind,
}

/// Which children by their exit signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Those that send SIGCHLD.
    Ordinary,
    /// `__WCLONE`: those that do not.
    Clone,
    /// `__WALL`.
    All,
}

/// What a wait yields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitOutcome {
    /// This child has changed.
    Found(Waited),
    /// There are such children, and none has anything to say: 0 with `WNOHANG`, else wait for
    /// [`Effect::Wake`](crate::Effect::Wake) and ask again.
    NotYet,
}

/// One report about a child.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waited {
    pub pid: Pid,
    pub uid: u32,
    /// `CLD_*`.
    pub code: i32,
    /// Exit status or signal number.
    pub status: i32,
    pub rusage: Rusage,
}

impl Waited {
    /// Returns the status word of wait4(2).
    #[must_use]
    pub const fn status_word(&self) -> i32 {
        match self.code {
            CLD_EXITED => (self.status & 0xff) << 8,
            CLD_KILLED => self.status & 0x7f,
            CLD_DUMPED => (self.status & 0x7f) | 0x80,
            CLD_STOPPED => ((self.status & 0xff) << 8) | 0x7f,
            _ => 0xffff,
        }
    }
}

/// `si_code` of SIGCHLD (`signal.h`).
pub const CLD_EXITED: i32 = 1;
/// Killed by a signal.
pub const CLD_KILLED: i32 = 2;
/// Killed by a signal, with a core.
pub const CLD_DUMPED: i32 = 3;
/// Stopped.
pub const CLD_STOPPED: i32 = 5;
/// Continued.
pub const CLD_CONTINUED: i32 = 6;

/// Turns an end into `(CLD_*, status)`.
#[must_use]
pub const fn cld_of(status: ExitStatus) -> (i32, i32) {
    match status {
        ExitStatus::Exited(code) => (CLD_EXITED, code as i32),
        ExitStatus::Killed { signal, dumped: false } => (CLD_KILLED, signal as i32),
        ExitStatus::Killed { signal, dumped: true } => (CLD_DUMPED, signal as i32),
        ExitStatus::Lost => (CLD_KILLED, crate::SIGKILL as i32),
    }
}

/// Whom kill(2) means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KillTarget {
    Process(Pid),
    /// A thread (tkill, tgkill); `process` as tgkill gives it.
    Thread {
        process: Option<Pid>,
        thread: Pid,
    },
    /// `kill(-pgid)`; for `kill(0)` the caller's own group.
    Group(Pid),
    /// `kill(-1)`.
    All,
}

impl KillTarget {
    /// Reads the first argument of kill(2). `caller_group` stands for 0. `None`: no such process
    /// can exist (`ESRCH`).
    #[must_use]
    pub fn of_kill(argument: i32, caller_group: Pid) -> Option<KillTarget> {
        match argument {
            0 => Some(KillTarget::Group(caller_group)),
            -1 => Some(KillTarget::All),
            pid if pid > 0 => Pid::new(pid.unsigned_abs()).map(KillTarget::Process),
            group => Pid::new(group.unsigned_abs()).map(KillTarget::Group),
        }
    }
}
