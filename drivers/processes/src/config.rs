//! What the wiring gives this driver, and the two questions the driver asks back.

use crate::call::DoorbellCall;
use crate::ops::FilePrivileges;
use crate::terminal::{Job, TerminalCall};
use dunix_guest_abi::doorbell::{
    EXEC_PLACE_LOCAL, EXEC_PLACE_PIN, EXEC_PLACE_SPREAD, LOCK_HOST, OP_LOCK,
};
use dunix_ids::{NodeId, ObjectId, Pid};
use dunix_linux::Errno;
use dunix_placement::{ChildDid, NodeLoad};
use dunix_transport::Mesh;
use rustix::fs::{FlockOperation, OFlags};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Everything that a node's process driver needs.
pub struct ProcessesConfig {
    /// This node.
    pub node: NodeId,
    /// The node that grants the first block of PIDs: the same on every node of the fabric.
    pub founder: NodeId,
    /// The way to the other nodes; `None`: this node is alone.
    pub mesh: Option<Mesh>,
    /// The daemon's end of the socket to the keeper.
    pub keeper: OwnedFd,
    /// The shim, opened for reading.
    pub shim: OwnedFd,
    /// Where files give privileges; `None`: nowhere.
    pub privileges: Option<FilePrivileges>,
    /// What guests join, in this order (the guests' user namespace, then their mount namespace).
    pub namespaces: Vec<OwnedFd>,
    /// Directory of the guests' root inside their mount namespace; empty: its root.
    pub root: Vec<u8>,
    /// The number of the tree's file system here (`st_dev`), which guests are told as the fabric's; `None`: as it is.
    pub tree_device: Option<u32>,
    /// This node's number for the guests' uid and gid 0.
    pub ids_base: u32,
    /// Where images go.
    pub policy: Arc<dyn Policy>,
    /// Who answers the doorbell's operations that are not about processes.
    pub extension: Arc<dyn Extension>,
}

/// Decides where a new image runs, and a child that fork(2) made.
pub trait Policy: Send + Sync + 'static {
    /// Answers at once, from what is known: the doorbell waits for it.
    fn place(&self, question: &PlaceQuestion) -> Decision;
    /// The same for a child, before its first instruction and again when it turns out to work by
    /// itself. It moves there; if it cannot, it stays. `None` leaves it open.
    fn place_child(&self, _question: &ChildQuestion) -> Option<Decision> {
        None
    }
    /// Whether [`Policy::place_child`] may send a child of this program away before its first instruction. If not, the
    /// child need not tell that it is there.
    fn may_send_child(&self, _program: &[u8]) -> bool {
        true
    }
    /// Hears what children of a program come to.
    fn child_did(&self, _program: &[u8], _what: ChildDid) {}
    /// How busy this node is; `None`: what runs here stays however busy it is.
    fn load(&self) -> Option<NodeLoad> {
        None
    }
    /// Looks for a node that would do better by one of the programs that compute here, and holds a place there.
    fn relieve(&self) -> Pin<Box<dyn Future<Output = Option<Relief>> + Send + '_>> {
        Box::pin(std::future::ready(None))
    }
}

/// Where a program is to go that computes on a busy node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Relief {
    pub to: NodeId,
    /// For people.
    pub why: String,
}

/// What is known of an image that is about to start.
#[derive(Clone, Debug)]
pub struct PlaceQuestion {
    pub pid: Pid,
    /// Absolute path of the program; as the user named it for a root.
    pub exe_path: Vec<u8>,
    /// The image is a root of `run`, not an exec.
    pub is_root: bool,
    /// What its environment asks for.
    pub wish: PlaceWish,
}

/// What is known of a child that fork(2) has made and that has executed nothing since.
#[derive(Clone, Debug)]
pub struct ChildQuestion {
    pub pid: Pid,
    /// Absolute path of the program that it shares with its parent.
    pub program: Arc<[u8]>,
    /// What the environment of that program asked for.
    pub wish: PlaceWish,
    /// It has computed for a while; otherwise it is just made and has run nothing.
    pub is_working: bool,
}

/// What a process tree asks for by `DUNIX_PLACE` in its environment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum PlaceWish {
    /// Nothing: the fabric's policy decides.
    #[default]
    Policy,
    /// `local`: on the node that it is on.
    Local,
    /// `spread`: every exec on the next node in turn.
    Spread,
    /// `pin`: where the policy has placed it.
    Pin,
}

impl PlaceWish {
    /// Reads the flags of an exec request; a bit that means nothing is ignored.
    pub(crate) const fn of_flags(flags: u32) -> PlaceWish {
        if flags & EXEC_PLACE_LOCAL != 0 {
            PlaceWish::Local
        } else if flags & EXEC_PLACE_SPREAD != 0 {
            PlaceWish::Spread
        } else if flags & EXEC_PLACE_PIN != 0 {
            PlaceWish::Pin
        } else {
            PlaceWish::Policy
        }
    }

    /// The flags of an exec request that ask for it.
    pub(crate) const fn flags(self) -> u32 {
        match self {
            PlaceWish::Policy => 0,
            PlaceWish::Local => EXEC_PLACE_LOCAL,
            PlaceWish::Spread => EXEC_PLACE_SPREAD,
            PlaceWish::Pin => EXEC_PLACE_PIN,
        }
    }

    /// Reads an environment, as the shim does at an exec.
    pub(crate) fn of_environment(environment: &[Vec<u8>]) -> PlaceWish {
        let value = environment.iter().find_map(|entry| entry.strip_prefix(b"DUNIX_PLACE="));
        match value {
            Some(b"local") => PlaceWish::Local,
            Some(b"spread") => PlaceWish::Spread,
            Some(b"pin") => PlaceWish::Pin,
            _ => PlaceWish::Policy,
        }
    }
}

/// Where an image runs, and why, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    pub placement: Placement,
    /// At most [`REASON_BYTES_MAX`](dunix_wire::processes::image::REASON_BYTES_MAX) bytes of it are kept.
    pub why: String,
}

/// Where an image runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    Here,
    /// At that node; if it refuses, here.
    At(NodeId),
    /// At that node; if it refuses, the exec fails.
    OnlyAt(NodeId),
}

/// Places everything on this node.
#[derive(Clone, Copy, Debug)]
pub struct StayHere;

impl Policy for StayHere {
    fn place(&self, _question: &PlaceQuestion) -> Decision {
        Decision { placement: Placement::Here, why: "everything stays here".into() }
    }
    fn may_send_child(&self, _program: &[u8]) -> bool {
        false
    }
}

/// Answers the doorbell's operations on terminals and ports, and hears of lost terminals.
pub trait Extension: Send + Sync + 'static {
    /// A call whose operation this driver does not know. Must not block; the answer may be given
    /// later, from anywhere.
    fn handle_call(&self, call: DoorbellCall);
    /// A root that is about to start leads a session that this terminal (of the
    /// [`RunSpec`](crate::RunSpec)) controls. Comes again, with another number, if it could not
    /// start where it should have; not at all if it then does not start.
    fn handle_root(&self, _pid: Pid, _terminal: ObjectId) {}
    /// A process at another node asks something of a terminal that has its home here.
    fn handle_terminal_call(&self, call: TerminalCall) {
        call.conclude(Err(Errno::NOTTY));
    }
    /// Opens the controlling terminal, whose home is here, of a process at another node.
    ///
    /// # Errors
    /// `ENXIO` if it has none here.
    fn open_terminal(&self, _pid: Pid, _job: Job, _flags: OFlags) -> Result<OwnedFd, Errno> {
        Err(Errno::NXIO)
    }
    /// A process at another node is about to name a port with a socket whose home is here, or has got
    /// one, as [`OP_BIND`](dunix_guest_abi::doorbell::OP_BIND),
    /// [`OP_BOUND`](dunix_guest_abi::doorbell::OP_BOUND), [`OP_CONNECT`](dunix_guest_abi::doorbell::OP_CONNECT)
    /// and [`OP_SEND`](dunix_guest_abi::doorbell::OP_SEND) say of a process here.
    fn handle_port_call(&self, call: PortCall) {
        call.conclude(Ok(0));
    }
    /// A process at another node locks a file (flock(2)) by a description whose home is here.
    fn handle_flock_call(&self, wish: FlockWish, answer: FlockAnswer) {
        answer.conclude(wish.lock_on_host());
    }
    /// The leader of a session has ended (see [`dunix_proc_table::Effect::HangUp`]).
    fn handle_hang_up(&self, session: Pid, terminal: ObjectId);
    /// The process's controlling terminal was taken away.
    fn handle_terminal_lost(&self, pid: Pid);
    /// Whether a file of the tree may have extended attributes, by what is known: answers at once.
    /// `None`: the kernel serves the tree, and may be asked.
    fn may_have_attributes(&self, _ino: u64) -> Option<bool> {
        None
    }
    /// A process has gone from this node.
    fn handle_gone(&self, pid: Pid);
}

/// What a process at another node is about to do with a socket whose home is here.
#[derive(Debug)]
pub struct PortCall {
    /// `OP_BIND`, `OP_BOUND` (no address), `OP_CONNECT` or `OP_SEND` (also of a socket that has no ports).
    pub operation: u64,
    /// A duplicate of the socket.
    pub socket: OwnedFd,
    /// `struct sockaddr` as the process gave it.
    pub address: Vec<u8>,
    pub(crate) answer: oneshot::Sender<Result<u32, Errno>>,
}

impl PortCall {
    /// Lets the call go on (0), says that it is done
    /// ([`IS_BOUND`](dunix_guest_abi::doorbell::IS_BOUND)), or gives its errno; one that is dropped
    /// goes on.
    pub fn conclude(self, result: Result<u32, Errno>) {
        // The caller's node may be gone.
        let _ = self.answer.send(result);
    }
}

/// What a process at another node is about to lock (flock(2)).
#[derive(Debug)]
pub struct FlockWish {
    /// A duplicate of its descriptor.
    pub descriptor: OwnedFd,
    /// The file, if it may be the tree's: the number of its file system (major, minor), and its own.
    pub file: Option<((u32, u32), u64)>,
    /// `LOCK_EX`, not `LOCK_SH`.
    pub is_exclusive: bool,
    /// Not `LOCK_NB`.
    pub waits: bool,
}

impl FlockWish {
    /// Locks it without waiting, as this host's lock alone.
    ///
    /// # Errors
    /// `ENOLCK` if it would have to wait, else the host's.
    pub fn lock_on_host(&self) -> Result<(), Errno> {
        let operation = match self.is_exclusive {
            true => FlockOperation::NonBlockingLockExclusive,
            false => FlockOperation::NonBlockingLockShared,
        };
        match rustix::fs::flock(&self.descriptor, operation) {
            Err(Errno::AGAIN) if self.waits => Err(Errno::NOLCK),
            other => other,
        }
    }
}

/// Where the answer to a [`FlockWish`] goes.
#[derive(Debug)]
pub struct FlockAnswer(pub(crate) oneshot::Sender<Result<(), Errno>>);

impl FlockAnswer {
    /// Whether nobody wants it any more.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.0.is_closed()
    }

    /// Tells the caller; whether it heard.
    pub fn conclude(self, result: Result<(), Errno>) -> bool {
        self.0.send(result).is_ok()
    }
}

/// Knows no further operation (`ENOSYS`).
#[derive(Clone, Copy, Debug)]
pub struct NoExtension;

impl Extension for NoExtension {
    fn handle_call(&self, call: DoorbellCall) {
        match call.op() {
            // Without a tree that is one on all nodes, the host's locks are all there are.
            OP_LOCK => call.conclude(Ok(LOCK_HOST.cast_signed())),
            _ => call.refuse(Errno::NOSYS),
        }
    }
    fn handle_hang_up(&self, _session: Pid, _terminal: ObjectId) {}
    fn handle_terminal_lost(&self, _pid: Pid) {}
    fn handle_gone(&self, _pid: Pid) {}
}
