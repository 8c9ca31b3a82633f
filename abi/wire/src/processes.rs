//! What nodes say to each other about processes ([`Topic::Processes`](crate::Topic)).
//!
//! Owns: the process table's messages ([`table`]), the image of a process that execs onto another
//! node ([`image`]), the hand-over of one that moves while it runs ([`moving`], [`refusal`]) and its
//! description ([`resident`]), the headers of byte streams ([`relay`]), and the pages of a process that moves
//! ([`pages`]).
//! Refuses: behaviour. Limits are named here and checked by whoever decodes.
//!
//! One-way messages are [`ProcessesMessage`], calls [`ProcessesCall`] answered by
//! [`ProcessesAnswer`], streams start with a [`relay::StreamOpening`]. All are encoded by
//! [`encode`](crate::encode).

pub mod errno;
pub mod image;
pub mod moving;
pub mod names;
pub mod pages;
pub mod procfs;
pub mod record;
pub mod refusal;
pub mod relay;
pub mod resident;
pub mod table;
pub mod taking;

pub use errno::Errno;
pub use image::{
    CallArguments, CallExtra, CallOutcome, CallerJob, DescriptorImage, ExecImage, Place, Readiness,
    RemoteCallRequest,
};
pub use moving::{MoveId, MoveMessage, MoveReport, MoveRequest, MoveWish, Package};
pub use names::{ConnectWish, FifoWish, SharedName};
pub use pages::{PageFrame, PagesHeader};
pub use procfs::{ProcFile, ProcQuestion};
pub use record::{
    Child, ChildState, Credentials, ExitStatus, ParentLink, ProcessRecord, ProcessSummary,
    RunState, Rusage, SignalSerial,
};
pub use refusal::Refusal;
pub use relay::{BorneMessage, StreamHeader, StreamOpening};
pub use table::{
    Answer, MemberState, ProcMessage, ProcessBody, ReturnTo, Sender, SignalInfo, SignalRequest,
};

pub use taking::{Asker, TakeWish};

use alloc::{boxed::Box, string::String, vec::Vec};
use dunix_ids::{NodeId, ObjectId, Pid};
use serde::{Deserialize, Serialize};

/// A one-way message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ProcessesMessage {
    /// From process table to process table.
    Table(ProcMessage),
    /// A call on a descriptor at its home (see [`image::DescriptorKind::Remote`]) is given up
    /// because a signal came; the call's answer follows all the same.
    CancelRemoteCall { ticket: u64 },
    /// No process of the sender holds a remote descriptor any more; this one was the last. `times`:
    /// how often one has arrived with it.
    RemoteClosed { object: u64, pid: Pid, times: u32 },
    /// A process that is going to `with` takes a remote descriptor along.
    RemoteShared { object: u64, with: NodeId },
    /// To a terminal's home: the leader of the session that it controls has ended.
    TerminalHangUp { session: Pid, terminal: ObjectId },
    /// It stayed.
    RemoteUnshared { object: u64, with: NodeId },
    /// A process of the sender has an object of the callee: say what becomes ready that was not when
    /// it last heard, which was `events`.
    RemoteWatch { object: u64, events: u16 },
    /// Something has become ready at an object of the sender.
    RemoteReady(Readiness),
    /// Between the two nodes of a move.
    Move(MoveMessage),
    /// To the founder: the sender keeps what had this name no more.
    NameGone(SharedName),
}

/// A request that has exactly one answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ProcessesCall {
    /// Become the node of this process. Answered `Adopted` or `Refused`; from `Adopted` on the
    /// process lives at the answerer.
    Exec(Box<ExecImage>),
    /// Run one call on an object that has its home here.
    Remote(RemoteCallRequest),
    /// Put a message with descriptors into a relayed socket of the callee. Answered `Remote`.
    Bear(BorneMessage),
    /// What runs on this node.
    List,
    /// Tell one process's story.
    Explain(Pid),
    /// Move a process that runs here. Answered `Moved`; takes as long as the move.
    Move(MoveRequest),
    /// Open the controlling terminal of the sender's process, which is the callee's. Answered
    /// `Remote`.
    OpenTerminal { pid: Pid, job: CallerJob, flags: u32 },
    /// Wait until relays have carried on all that was written so far to an object of the callee.
    Drain { object: u64 },
    /// To the founder: who keeps what has this name? `claims`: the sender does if nobody else does, or
    /// `not`. Answered `Keeper`.
    FindKeeper { name: SharedName, claims: bool, not: Option<NodeId> },
    /// Whether a socket of the callee has this abstract name. Answered `Keeper`: itself or nobody.
    IsBound(SharedName),
    /// As [`ProcessesMessage::RemoteClosed`], for who waits until it is so. Answered `Drained`.
    LetGo { object: u64, times: u32 },
    /// Open a FIFO that the callee keeps. Answered `Remote`; given up by `CancelRemoteCall`.
    OpenFifo(FifoWish),
    /// Connect a socket to one whose name the callee keeps. Answered `Remote`; given up as a call is.
    ConnectNamed(ConnectWish),
    /// Which processes are here, and which the callee as the leaser of their numbers knows elsewhere.
    Numbers,
    /// A file about a process that runs here.
    ProcFile(ProcQuestion),
    /// How a controlling terminal of the callee stands.
    Terminal { terminal: ObjectId },
    /// Describe a descriptor of a process that runs here for a process of the sender, which is to share it.
    Take(TakeWish),
}

/// The step of a start that failed, as far as who asked for the start tells it apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum StartStep {
    /// Its working directory cannot be entered.
    WorkingDirectory,
    /// Its program cannot be found or executed.
    Program,
    Other,
}

/// The answer to a [`ProcessesCall`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ProcessesAnswer {
    /// The process lives here now.
    Adopted,
    /// It does not, and nothing was changed: an errno for the caller and a reason for people.
    Refused { step: StartStep, errno: Errno, reason: String },
    /// The outcome of a remote call.
    Remote(CallOutcome),
    /// The processes of a node.
    Processes { node: NodeId, processes: Vec<ProcessSummary> },
    /// Readable lines.
    Lines(Vec<String>),
    /// How a move went. `None`: the process is not here.
    Moved(Option<Result<MoveReport, Refusal>>),
    /// All has arrived, or never will.
    Drained,
    /// The node that keeps what has a name.
    Keeper(Option<NodeId>),
    /// Numbers of processes, zombies included: those here, and those whose number the answerer leases.
    Numbers { here: Vec<Pid>, leased: Vec<Pid> },
    /// A file; `ESRCH` if the process is not here, `ENOENT` if it has no such file.
    ProcFile(Result<ProcFile, Errno>),
    /// Its number in the devpts of its home, and its foreground group; `None`: it controls nobody.
    Terminal(Option<(u32, Pid)>),
    /// `ESRCH` if the process is not here, `EAGAIN` while it is on its way, `EPERM`, `EBADF`.
    Taken(Result<DescriptorImage, Errno>),
}
