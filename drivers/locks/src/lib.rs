//! Locks of files and of parts of them (flock(2), fcntl(2)) over all nodes of a fabric.
//!
//! ```text
//!  shim ──1 may I?──► this driver ──► authority: table ──► holders' nodes: do they hold it still?
//!    │                                   │
//!    ├──2 the host's own fcntl(2)        └── who waits: asked again until nothing is in the way
//!    └──3 it is done
//! ```
//!
//! Each node's kernel keeps the locks of its processes, and ends them at close, exec and exit; nothing of that is
//! reported. The tree's authority keeps a [table](dunix_locks_table) of what it granted. Before it refuses
//! anybody for an entry, the holder's node looks into its kernel's list (`/proc/locks`, proc(5)).
//!
//! What is granted for flock(2) is granted to the node, whose descriptions lock and unlock the file as they like: nobody is
//! asked again until the authority has asked here. Before that is answered, the grant is recalled.
//!
//! Refuses: files that are not the tree's; which process a lock's holder is to another node's programs is told by number
//! only. Invariants: between 1 and 3 a lock counts as held; a grant for flock(2) is in the authority's table as long as it is
//! not recalled.

mod authority;
mod here;
mod list;

use bytes::Bytes;
use dunix_ids::{Ino, NodeId, Pid};
use dunix_locks_table::LockTable;
use dunix_transport::{Handler, Mesh, MeshStream, PeerEvent, Responder};
use dunix_wire::{
    Topic,
    locks::{FILES_MAX, Lock, LockCall, LockKind, LockNotice, LockOwner, LockReply, LockWish},
};
pub use here::FileLock;
use list::{Device, Entry, Holder};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, atomic::AtomicU64},
    time::Duration,
};
use tokio::runtime::Handle;

/// How long the authority may take for an answer, which may wait for other nodes' words.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The tree has one number, or a few; what a guest mounts under the tree's name comes after.
const DEVICES_MAX: usize = 16;

/// Files whose descriptions here may lock them unasked; when they are more, all are recalled.
const GRANTS_MAX: usize = 4096;

/// This node's part in the locks. Cheap to clone.
#[derive(Clone)]
pub struct Locks(Arc<Inner>);

struct Inner {
    mesh: Mesh,
    me: NodeId,
    authority: NodeId,
    runtime: Handle,
    /// Used at the authority only.
    table: Mutex<LockTable>,
    /// Whether somebody looks after those who wait. Locked within `table`.
    is_watching: Mutex<bool>,
    local: Mutex<Local>,
    wake: OnceLock<Box<dyn Fn(Pid) + Send + Sync>>,
    recall: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// The kernel's list has locks of descriptions whose locker has ended.
    lists_all: bool,
    /// Numbers the calls that are made here for others.
    calls: AtomicU64,
}

/// What this node knows of its processes.
#[derive(Default)]
struct Local {
    /// Those that have asked for a lock, by the host's number.
    users: BTreeMap<u32, Pid>,
    /// What is about to be locked.
    pending: BTreeMap<Call, (Ino, Lock)>,
    /// What this node's descriptions may lock (flock(2)).
    grants: BTreeMap<Ino, LockKind>,
    /// The numbers under which the kernel lists the tree.
    devices: BTreeSet<Device>,
}

impl Local {
    /// Notes a number of the tree.
    fn know(&mut self, device: Device) {
        if self.devices.len() < DEVICES_MAX {
            self.devices.insert(device);
        }
    }
}

/// What is about to lock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Call {
    /// A thread of a process of this node.
    Thread { pid: Pid, tid: Pid },
    /// This driver, for a process elsewhere.
    Here(u64),
}

impl Asker {
    fn call(&self) -> Call {
        Call::Thread { pid: self.pid, tid: self.tid }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// The process.
    pub pid: Pid,
    /// The thread.
    pub tid: Pid,
    /// The process's number on this host.
    pub host_pid: u32,
}

/// What is asked about the bytes `first..=last` of a file.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// The asker's descriptor.
    pub descriptor: i32,
    /// The first byte.
    pub first: u64,
    /// The last byte.
    pub last: u64,
    /// What the lock excludes.
    pub kind: LockKind,
    /// Who is to have it.
    pub by: By,
    /// What about it.
    pub how: How,
}

/// Who is to have a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// The process (fcntl(2), `F_SETLK`).
    Process,
    /// The open file description (`F_OFD_SETLK`).
    Description,
    /// The open file description, of the whole file (flock(2)).
    File,
}

/// What is asked about a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// To have it, or not.
    Try,
    /// To have it, or to be woken when it may be worth to ask again.
    Wait,
    /// Whether somebody at another node is in its way.
    Test,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The file is not the tree's: the host keeps its locks.
    NotOurs,
    /// The host is to lock it now; then [`Locks::done`].
    Granted,
    /// This is in its way.
    Taken(Lock),
    /// The asker will be woken.
    Waits,
    /// `EDEADLK`.
    Deadlock,
    /// `ENOLCK`: too many locks, or no word from the authority.
    None,
}

impl Locks {
    /// Starts to answer peers; `authority` keeps the table. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(mesh: &Mesh, me: NodeId, authority: NodeId) -> Locks {
        let locks = Locks(Arc::new(Inner {
            mesh: mesh.clone(),
            me,
            authority,
            runtime: Handle::current(),
            table: Mutex::default(),
            is_watching: Mutex::default(),
            local: Mutex::default(),
            wake: OnceLock::new(),
            recall: OnceLock::new(),
            lists_all: list::is_complete(),
            calls: AtomicU64::new(0),
        }));
        mesh.register(Topic::Locks, Arc::new(locks.clone()));
        locks
    }

    /// Says how a process is told to ask again; once.
    pub fn set_wake(&self, wake: impl Fn(Pid) + Send + Sync + 'static) {
        let _ = self.0.wake.set(Box::new(wake));
    }

    /// Says how processes are told to ask again before they lock a file, whatever they were granted; once.
    pub fn set_recall(&self, recall: impl Fn() + Send + Sync + 'static) {
        let _ = self.0.recall.set(Box::new(recall));
    }

    /// Asks about a lock. What was granted counts as held until [`Locks::done`].
    pub async fn ask(&self, asker: Asker, wish: Wish) -> Answer {
        let Some((device, ino)) = list::file_of(asker.host_pid, wish.descriptor) else {
            return Answer::NotOurs;
        };
        let owner = match wish.by {
            By::Process => LockOwner::Process(asker.pid),
            By::Description => LockOwner::Descriptions(self.0.me),
            By::File => LockOwner::Flocks(self.0.me),
        };
        let Wish { kind, first, last, .. } = wish;
        let lock = Lock { owner, kind, first, last };
        self.local().know(device);
        if wish.how != How::Test {
            self.local().users.insert(asker.host_pid, asker.pid);
        }
        self.ask_about(asker.call(), (ino, lock), wish.how).await
    }

    /// Asks about a lock of a file of the tree; what was granted is pending then.
    async fn ask_about(&self, call: Call, (ino, lock): (Ino, Lock), how: How) -> Answer {
        let is_of_file = matches!(lock.owner, LockOwner::Flocks(_));
        if how != How::Test {
            let mut local = self.local();
            local.pending.insert(call, (ino, lock));
            if is_of_file && local.grants.get(&ino).is_some_and(|kind| *kind >= lock.kind) {
                return Answer::Granted;
            }
        }
        let wish = match (how, call) {
            (How::Wait, Call::Thread { pid, tid }) => LockWish::Wait { thread: tid, process: pid },
            (How::Test, _) => LockWish::Test,
            _ => LockWish::Try,
        };
        let answer = match self.call(self.0.authority, &LockCall::Ask { ino, lock, wish }).await {
            Some(LockReply::Granted) => {
                if is_of_file && how != How::Test {
                    self.may_lock(ino, lock.kind);
                }
                return Answer::Granted;
            }
            Some(LockReply::Taken(other)) => Answer::Taken(other),
            Some(LockReply::Waits) => Answer::Waits,
            Some(LockReply::Deadlock) => Answer::Deadlock,
            Some(LockReply::Full | LockReply::Held(_)) | None => Answer::None,
        };
        self.local().pending.remove(&call);
        answer
    }

    /// The authority has let this node's descriptions lock a file. What the answer is about is pending: whoever asked
    /// here meanwhile was told of it.
    fn may_lock(&self, ino: Ino, kind: LockKind) {
        let mut local = self.local();
        if local.grants.len() >= GRANTS_MAX {
            local.grants.clear();
            self.recall();
        }
        let known = local.grants.entry(ino).or_insert(kind);
        *known = kind.max(*known);
    }

    /// Locked within `local`.
    fn recall(&self) {
        if let Some(recall) = self.0.recall.get() {
            recall();
        }
    }

    /// A thread has made use of what it was granted, or has not.
    pub fn done(&self, asker: Asker) {
        self.local().pending.remove(&asker.call());
    }

    /// A thread waits no more: a signal came first.
    pub fn give_up(&self, thread: Pid) {
        self.tell(self.0.authority, LockNotice::GivenUp(thread));
    }

    /// A process has gone from this node, or ended.
    pub fn gone(&self, pid: Pid) {
        let mut local = self.local();
        local.pending.retain(|call, _| !matches!(call, Call::Thread { pid: of, .. } if *of == pid));
        let before = local.users.len();
        local.users.retain(|_, user| *user != pid);
        let was_user = local.users.len() < before;
        drop(local);
        if was_user {
            self.tell(self.0.authority, LockNotice::Gone(pid));
        }
    }

    /// The locks of these files that processes of this node have, or are about to.
    fn held(&self, inos: &[Ino]) -> Vec<(Ino, Lock)> {
        // In this order: who is not about to lock any more is in the kernel's list.
        let (mut held, users, devices) = {
            let mut local = self.local();
            let granted = local.grants.len();
            local.grants.retain(|ino, _| !inos.contains(ino));
            if local.grants.len() < granted {
                self.recall();
            }
            let pending = local.pending.values().filter(|(ino, _)| inos.contains(ino));
            (pending.copied().collect::<Vec<_>>(), local.users.clone(), local.devices.clone())
        };
        let text = match std::fs::read_to_string("/proc/locks") {
            Ok(text) if self.0.lists_all => text,
            Ok(text) => text + &list::by_descriptors(),
            Err(error) => {
                tracing::error!(%error, "/proc/locks cannot be read");
                return held;
            }
        };
        held.extend(list::entries(&text).filter_map(|entry| {
            let owner = match entry.holder {
                Holder::Process(host_pid) => LockOwner::Process(*users.get(&host_pid)?),
                Holder::Description => LockOwner::Descriptions(self.0.me),
                Holder::Flock => LockOwner::Flocks(self.0.me),
            };
            let is_asked = inos.contains(&entry.ino) && devices.contains(&entry.device);
            let Entry { kind, first, last, .. } = entry;
            is_asked.then_some((entry.ino, Lock { owner, kind, first, last }))
        }));
        held
    }

    async fn call(&self, to: NodeId, call: &LockCall) -> Option<LockReply> {
        let body = dunix_wire::encode(call);
        match self.0.mesh.call(to, Topic::Locks, body, ANSWER_WITHIN).await {
            Ok(answer) => dunix_wire::decode(&answer)
                .inspect_err(|_| tracing::warn!(node = %to, "a malformed answer about locks"))
                .ok(),
            Err(error) => {
                tracing::warn!(node = %to, %error, "no answer about locks");
                None
            }
        }
    }

    fn tell(&self, to: NodeId, notice: LockNotice) {
        if let Err(error) = self.0.mesh.send(to, Topic::Locks, dunix_wire::encode(&notice)) {
            // A node that is not reached is soon declared dead, and what it held with it.
            tracing::debug!(node = %to, %error, "a notice about locks is lost");
        }
    }

    fn local(&self) -> MutexGuard<'_, Local> {
        self.0.local.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handler for Locks {
    fn handle_message(&self, from: NodeId, body: Bytes) {
        match dunix_wire::decode(&body) {
            Ok(LockNotice::Retry(pid)) if from == self.0.authority => {
                if self.local().users.values().any(|user| *user == pid) {
                    if let Some(wake) = self.0.wake.get() {
                        wake(pid);
                    }
                } else {
                    // It was killed while the authority considered its wish.
                    self.tell(from, LockNotice::Gone(pid));
                }
            }
            Ok(LockNotice::GivenUp(thread)) => self.waits_no_more(from, thread),
            Ok(LockNotice::Gone(pid)) => self.process_gone(from, pid),
            _ => tracing::warn!(%from, "a malformed notice about locks"),
        }
    }

    fn handle_call(&self, from: NodeId, body: Bytes, reply: Responder) {
        let locks = self.clone();
        match dunix_wire::decode(&body) {
            Ok(LockCall::Ask { ino, lock, wish })
                if self.0.me == self.0.authority && authority::is_sound(from, &lock) =>
            {
                self.0.runtime.spawn(async move {
                    reply.send(dunix_wire::encode(&locks.decide(from, ino, lock, wish).await));
                });
            }
            Ok(LockCall::Held(inos)) if from == self.0.authority && inos.len() <= FILES_MAX => {
                self.0.runtime.spawn_blocking(move || {
                    reply.send(dunix_wire::encode(&LockReply::Held(locks.held(&inos))));
                });
            }
            // Dropping the reply tells the peer that there is no answer.
            _ => tracing::warn!(%from, "a malformed question about locks"),
        }
    }

    fn handle_stream(&self, from: NodeId, _: Bytes, _: MeshStream) {
        tracing::warn!(%from, "a stream about locks, which has none");
    }

    fn handle_peer(&self, event: &PeerEvent) {
        if let PeerEvent::Down(node) = event {
            self.node_gone(*node);
        }
    }
}
