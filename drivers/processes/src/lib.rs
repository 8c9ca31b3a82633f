//! Carries out the process table on one node.
//!
//! Owns: the doorbell of this node's guests, their arena slots, the start of images, the keeper's
//! reports, remote exec and the descriptors that stay behind. Refuses: terminals and ports (the
//! [`Extension`]'s), placement (the [`Policy`]'s), load, files.
//!
//! ```text
//!  guests --doorbell--> Server thread --\                 /--> signals, arena, answers
//!  keeper --reports---> Server thread ----> State (table) ----> messages to peers
//!  mesh   --messages--> mesh's tasks ---/                 \--> roots' ends
//! ```
//!
//! Architecture invariant: nothing is decided outside of the process table and the state's mutex;
//! no thread blocks on a guest, the keeper or a peer while it holds the mutex.

mod access;
mod balance;
mod call;
mod children;
mod config;
mod counts;
mod effects;
mod host;
mod inspect;
mod launch;
mod list;
mod moving;
mod node;
mod ops;
mod procfs;
mod remote;
mod run;
mod server;
mod slots;
mod terminal;
mod tracing;

pub use call::{Caller, DoorbellCall};
pub use config::{
    ChildQuestion, Decision, Extension, FlockAnswer, FlockWish, NoExtension, PlaceQuestion,
    PlaceWish, Placement, Policy, PortCall, ProcessesConfig, Relief, StayHere,
};
pub use counts::Totals;
pub use dunix_placement::{ChildDid, NodeLoad};
pub use dunix_proc_table::KillTarget;
pub use inspect::{ProcessDetails, ProcessEvent};
pub use launch::LaunchError;
pub use node::RootEnd;
pub use ops::FilePrivileges;
pub use run::{RunError, RunHandle, RunSpec};
pub use terminal::{Job, TerminalCall, TerminalState};

use dunix_ids::{Ino, NodeId, ObjectId, Pid};
use dunix_keeper::protocol::{Request, say};
use dunix_linux::Errno;
use dunix_proc_table::{ProcTable, TableConfig};
use dunix_wire::Topic;
use node::Node;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// A node's process driver. Cheap to clone; [`Processes::shut_down`] ends it.
#[derive(Clone)]
pub struct Processes(Arc<Node>);

impl Processes {
    /// Starts the driver and its doorbell thread; call it inside a tokio runtime.
    pub fn start(config: ProcessesConfig) -> Result<Processes, Errno> {
        let table = ProcTable::new(TableConfig { node: config.node, founder: config.founder });
        let arena = slots::SlotArena::new()?;
        if let Some(device) = config.tree_device {
            arena.set_tree_device(device);
        }
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let runtime = tokio::runtime::Handle::current();
        let homes = remote::Homes::new()?;
        let pages = moving::pager::PageThreads::start()?;
        let node = Arc::new(Node::new(config, table, arena, bell, homes, pages, runtime));
        remote::tell_readiness(&node)?;
        let server = server::Server::new(node.clone())?;
        std::thread::Builder::new()
            .name("doorbell".into())
            .spawn(move || server.run())
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        if let Some(mesh) = &node.mesh {
            mesh.register(Topic::Processes, Arc::new(remote::MeshFace(node.clone())));
            node.runtime.spawn(balance::run(Arc::downgrade(&node)));
        }
        // The founder's first block is granted by its own clock.
        node.with(|state, now| state.table.handle_timeout(now));
        Ok(Processes(node))
    }

    /// Whether processes can start here: a block of PIDs is leased.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.look(|state| state.table.is_ready())
    }

    /// Runs a command as the leader of a session of its own.
    pub async fn run(&self, spec: RunSpec) -> Result<RunHandle, RunError> {
        self.0.run(spec).await
    }

    /// Who keeps the location entry of a number, as far as this node knows.
    #[must_use]
    pub fn leaser(&self, pid: Pid) -> Option<NodeId> {
        self.0.look(|state| state.table.leaser(pid))
    }

    /// The story of a process as this node knows it, in readable lines; empty if it knows nothing.
    #[must_use]
    pub fn explain(&self, pid: Pid) -> Vec<String> {
        self.0.explain(pid)
    }

    /// Lets processes send datagrams to a loopback port without asking
    /// ([`OP_SEND`](dunix_guest_abi::doorbell::OP_SEND)) from now on.
    pub fn settle_port(&self, port: u16) {
        self.0.arena.settle_port(port);
    }

    /// Tells a process that an answer `EAGAIN` to its doorbell may have changed.
    pub fn wake(&self, pid: Pid) {
        self.0.wake(pid);
    }

    /// Lets every process ask again before it locks a file (flock(2)), whatever it was granted.
    pub fn recall_locks(&self) {
        self.0.arena.recall_locks();
    }

    /// Whether a thread of this host that looks at a FIFO of the tree may go on; else its open(2) is to
    /// fail. May block for a moment.
    #[must_use]
    pub fn lets_open(&self, ino: Ino, host_tid: u32) -> bool {
        self.0.lets_open(ino, host_tid)
    }

    /// The node where a process runs; `None` if there is no such process.
    pub async fn node_of(&self, pid: Pid) -> Option<NodeId> {
        self.0.locate(pid).await
    }

    /// The object that a process's descriptor stands for, if that lives at another node.
    #[must_use]
    pub fn remote_object(&self, pid: Pid, number: i32) -> Option<ObjectId> {
        self.0.look(|state| Some(state.locals.get(&pid)?.remote.get(number)?.object))
    }

    /// A further descriptor of an object that this node keeps for processes elsewhere.
    pub fn kept_object(&self, serial: u64) -> Result<OwnedFd, Errno> {
        self.0.homes.get(serial).ok_or(Errno::NOENT)?.duplicate()
    }

    /// Counts that must return to where they were when nothing runs: (processes, objects kept for
    /// other nodes, calls in flight to them).
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        let (locals, calls) = self.0.look(|state| (state.locals.len(), state.in_flight.len()));
        (locals, self.0.homes.count(), calls)
    }

    /// Kills this node's guests and ends the keeper.
    pub fn shut_down(&self) {
        self.0.with(|state, _| state.is_shutting_down = true);
        // A keeper that is gone already has killed them.
        let _ = say(self.0.keeper.as_fd(), &Request::Shutdown);
    }
}
