//! What the table asks its driver to do.

use dunix_ids::{NodeId, ObjectId, Pid};
use dunix_wire::processes::{Answer, Errno, ExitStatus, ProcMessage, Rusage, SignalInfo};

/// Names an asynchronous operation of the driver; the table hands it back once, in
/// [`Effect::Reply`]. The driver chooses it, unique among those that are open.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Token(pub u64);

/// The host's number for whom a signal is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostTarget {
    /// A whole process (`rt_sigqueueinfo`).
    Process(u32),
    /// One thread of it (`rt_tgsigqueueinfo`).
    Thread { process: u32, thread: u32 },
}

/// One thing to do, in the order given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Send to a peer. A message that cannot be sent is dropped: the peer's death follows.
    Send { to: NodeId, message: ProcMessage },
    /// Queue a signal to a host process. `si_pid` and `si_uid` of `User`, `Thread` and `Queued`
    /// are `sender_pid` (0 for the fabric) and `sender_uid`.
    Signal {
        pid: Pid,
        target: HostTarget,
        signal: u8,
        info: SignalInfo,
        sender_pid: u32,
        sender_uid: u32,
    },
    /// What wait(2) would say to this process may have changed: raise its slot's event number.
    Wake { pid: Pid },
    /// A process that moved here has all that its last node held for it: it may move on.
    Arrived { pid: Pid },
    /// The outcome of an operation that was given this token.
    Reply { token: Token, result: Result<Answer, Errno> },
    /// A root that was launched here has ended, wherever it ran last.
    RootExited { pid: Pid, status: ExitStatus, rusage: Rusage },
    /// The process is no longer on this node (ended, moved, or lost with the node that it was moving
    /// to: then its host process must not go on): drop its slot, host
    /// numbers and descriptions. For a zombie this comes before the reaping.
    Gone { pid: Pid },
    /// A process here changed its group, and perhaps its session (the slot changes). Comes
    /// before the answer to whoever asked for it.
    Regrouped { pid: Pid },
    /// The parent of a process here is process 1 now (the slot changes).
    Orphaned { pid: Pid },
    /// Its controlling terminal was taken from a process here (the slot's flags change).
    TerminalLost { pid: Pid },
    /// The leader of a session has ended: the terminal's home hangs up, sends SIGHUP and SIGCONT
    /// to the foreground group and disassociates the session.
    HangUp { session: Pid, terminal: ObjectId },
    /// The others have declared this node dead, or will have: end every guest at once and start none
    /// any more. Comes once.
    Fenced,
    /// For `explain` and `events`: the fabric did something that a user may ask about.
    Note(Note),
}

/// Something worth telling people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Note {
    /// The process was on a node that died.
    LostWithNode { pid: Pid, node: NodeId },
    /// A group became orphaned with stopped members: SIGHUP and SIGCONT were sent.
    OrphanedGroup { pgid: Pid },
    /// This node now leases the block.
    BlockGranted { block: u32 },
    /// This node keeps the homes and locations of a dead node's block.
    BlockTakenOver { block: u32, from: NodeId },
    /// A message to a process was forwarded too often, or had nowhere to go.
    Undeliverable { pid: Pid },
}
