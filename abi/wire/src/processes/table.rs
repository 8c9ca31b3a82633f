//! Messages between the process tables of two nodes.
//!
//! Assumption: what one node sends to another arrives in order, or the other learns of a death.
//! Between different pairs of nodes nothing is ordered; versions and serials settle that.
//!
//! Addressees: *a process* (wherever it is; forwarded at most [`HOPS_MAX`] times), *the leaser* of
//! a PID (keeps its location), *the home* of a group or session (the leaser of its number), *the
//! coordinator* (the founder, or the lowest live node after it).

use super::{Errno, ExitStatus, Rusage, SignalSerial};
use alloc::vec::Vec;
use dunix_ids::{NodeId, ObjectId, Pid};
use serde::{Deserialize, Serialize};

/// Most times that a message to a process is forwarded.
pub const HOPS_MAX: u8 = 16;
/// PIDs of a block; block `b` is `b * BLOCK_PIDS .. (b + 1) * BLOCK_PIDS`.
pub const BLOCK_PIDS: u32 = 4096;
/// Blocks of a fabric.
pub const BLOCKS: u32 = Pid::LIMIT / BLOCK_PIDS;
/// Most blocks that one node leases.
pub const NODE_BLOCKS_MAX: usize = 1024;

/// Where the outcome of an asynchronous operation goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReturnTo {
    pub node: NodeId,
    pub token: u64,
}

/// What an asynchronous operation yields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    Done,
    Pid(Pid),
    Node(NodeId),
}

/// Who sends a signal, for the permission check of kill(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sender {
    /// `None`: the fabric itself (terminals, hang-ups), always permitted, shown as pid 0.
    pub pid: Option<Pid>,
    pub uid: u32,
    pub euid: u32,
    /// SIGCONT may cross users within a session.
    pub sid: Option<Pid>,
}

/// The rest of a `siginfo_t`; `si_pid` and `si_uid` come from the [`Sender`] or the child.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SignalInfo {
    /// kill(2): `SI_USER`.
    User,
    /// tgkill(2): `SI_TKILL`.
    Thread,
    /// sigqueue(3): the guest's own negative code and its value.
    Queued { code: i32, value: u64 },
    /// The fabric's own: `SI_KERNEL`.
    Kernel,
    /// SIGCHLD about this child; `code` is `CLD_*`.
    Child { pid: Pid, uid: u32, code: i32, status: i32 },
}

/// A signal on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SignalRequest {
    /// 0 only checks.
    pub signal: u8,
    pub info: SignalInfo,
    pub sender: Sender,
}

impl SignalRequest {
    /// A signal that the fabric itself sends.
    #[must_use]
    pub const fn of_fabric(signal: u8) -> SignalRequest {
        let sender = Sender { pid: None, uid: 0, euid: 0, sid: None };
        SignalRequest { signal, info: SignalInfo::Kernel, sender }
    }
}

/// What a message to a process is about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ProcessBody {
    /// A signal for the process, or for one of its threads.
    Signal { request: SignalRequest, thread: Option<Pid>, reply: Option<ReturnTo> },
    /// To a parent: a child changed.
    ChildChanged { child: Pid, node: NodeId, version: u64, change: ChildChange },
    /// To a child: its parent moved or changed group or session.
    ParentChanged { parent: Pid, version: u64, node: NodeId, group: (Pid, Pid) },
    /// To a child: its parent ended; stale if the child knows a later version of the parent.
    ParentGone { parent: Pid, version: u64 },
    /// To a child: its parent went to a node that has died. If it lives on, its leaser knows.
    ParentDoubtful { parent: Pid },
    /// To an ended child: the parent has waited for it.
    Reaped,
    /// Its session has lost this terminal.
    TerminalLost(ObjectId),
    /// To a child that has not called exec: its parent, which is in session `sid`, puts it into the
    /// group. Answered as setpgid(2).
    Regroup { sid: Pid, pgid: Pid, reply: ReturnTo },
    /// A question about the process.
    Ask { question: Question, reply: ReturnTo },
}

/// What came for a process while it moved.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum HeldForMove {
    Body(ProcessBody),
    /// A signal to its group.
    Group {
        pgid: Pid,
        serial: SignalSerial,
        request: SignalRequest,
    },
}

/// Most of these in one message; more go in several.
pub const HANDED_OVER_MAX: usize = 1024;

/// What a parent learns of a child.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ChildChange {
    /// It runs at that node now.
    Moved,
    /// It went to a node that has died. If it lives on, its leaser knows.
    Doubtful,
    Group(Pid),
    Stopped {
        signal: u8,
        uid: u32,
    },
    Continued {
        uid: u32,
    },
    Ended {
        status: ExitStatus,
        rusage: Rusage,
        uid: u32,
    },
}

/// What can be asked of a process anywhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Question {
    /// Its group; answered [`Answer::Pid`].
    Group,
    /// Its session; answered [`Answer::Pid`].
    Session,
    /// Its node; answered [`Answer::Node`].
    Node,
    /// Its end; answered [`Answer::Done`] when it has ended, or [`Answer::Node`] when it has gone to
    /// that node, where it is to be asked again. One node asks for one `watch` once at a time.
    End { watch: u64 },
}

/// How a member of a group stands, as the home sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberState {
    pub node: NodeId,
    pub version: u64,
    /// Its parent is in the same session and in another group (POSIX 3.264: a group with no such
    /// member is orphaned).
    pub anchored: bool,
    pub stopped: bool,
    /// Ended, not waited for: keeps the group in being, gets no signals.
    pub zombie: bool,
}

/// One message from table to table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ProcMessage {
    /// To wherever the process is.
    ToProcess {
        pid: Pid,
        hops: u8,
        body: ProcessBody,
    },

    /// To the leaser: the process runs at that node.
    Located {
        pid: Pid,
        node: NodeId,
        version: u64,
    },
    /// To the leaser: the process has ended at that node and was waited for.
    Released {
        pid: Pid,
        node: NodeId,
        version: u64,
    },
    /// To the leaser, after a death: a parent still holds the zombie.
    Held {
        pid: Pid,
    },
    /// To the leaser: the process left the sender for a node that has died; stale if a later
    /// version was located anywhere.
    LostOnTheWay {
        pid: Pid,
        version: u64,
    },

    /// To the leaser of these threads' numbers, which are of one block: their process runs at that
    /// node, or (`None`) they have ended.
    ThreadsAt {
        process: Pid,
        node: Option<NodeId>,
        version: u64,
        tids: Vec<Pid>,
    },
    /// To the node that a process has moved to: what its old node holds for it, in its order. Until
    /// the last of these the new node gives it nothing else.
    HandedOver {
        pid: Pid,
        held: Vec<HeldForMove>,
        is_last: bool,
    },

    /// To the group's home: a member came or changed.
    Member {
        pgid: Pid,
        sid: Pid,
        pid: Pid,
        state: MemberState,
        by_exit: bool,
    },
    /// To the group's home: a member left, or ended and was waited for.
    MemberLeft {
        pgid: Pid,
        pid: Pid,
        version: u64,
    },
    /// To the group's home: may the process join? Answered `Done` or `EPERM`.
    MayJoin {
        pgid: Pid,
        sid: Pid,
        reply: ReturnTo,
    },
    /// To the home of a session to be: is the number free of a group? Answered `Done` or `EPERM`.
    MayLead {
        pid: Pid,
        reply: ReturnTo,
    },
    /// To the group's home: its session; answered [`Answer::Pid`] or `ESRCH`.
    AskSession {
        pgid: Pid,
        reply: ReturnTo,
    },
    /// To the group's home: signal every member. With `unless_orphaned` an orphaned group is left
    /// alone and `EIO` answered.
    SignalGroup {
        pgid: Pid,
        request: SignalRequest,
        unless_orphaned: bool,
        reply: Option<ReturnTo>,
    },
    /// From the group's home (or forwarded after a process): signal your members.
    SignalMembers {
        pgid: Pid,
        serial: SignalSerial,
        request: SignalRequest,
        hops: u8,
    },
    /// To the group's home: how that went, in processes.
    MembersSignalled {
        serial: SignalSerial,
        delivered: u32,
        denied: u32,
    },
    /// To every node: signal all that the sender may (kill(2) with -1), but itself.
    SignalAll {
        request: SignalRequest,
        reply: ReturnTo,
    },
    /// From the group's home to the session's home: the group exists, or has ended.
    SessionGroup {
        sid: Pid,
        pgid: Pid,
        home: NodeId,
        exists: bool,
    },
    /// To the session's home, then to its groups' homes, then to the members' nodes: the session
    /// has lost this terminal.
    SessionTerminalLost {
        sid: Pid,
        terminal: ObjectId,
    },
    GroupTerminalLost {
        pgid: Pid,
        terminal: ObjectId,
    },
    MembersTerminalLost {
        pgid: Pid,
        terminal: ObjectId,
    },

    /// The outcome of an operation that named a [`ReturnTo`] at the receiver.
    Reply {
        token: u64,
        result: Result<Answer, Errno>,
    },

    /// To the coordinator: a block, please.
    BlockRequest,
    /// From the coordinator: the block is the receiver's.
    BlockGranted {
        block: u32,
    },
    /// To the coordinator: whose is this block?
    BlockQuery {
        block: u32,
    },
    /// From the coordinator; `None`: nobody's.
    BlockOwner {
        block: u32,
        node: Option<NodeId>,
    },

    /// To every live node, after a death: what the dead node handed to the sender has been told;
    /// these blocks are the sender's.
    Settled {
        dead: NodeId,
        blocks: Vec<u32>,
    },
}
