//! Locks of parts of files (fcntl(2)) over all nodes of a fabric.
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
//! Refuses: flock(2); files that are not the tree's; which process a lock's holder is to another node's
//! programs is told by number only. Invariant: between 1 and 3 a lock counts as held.

mod authority;
mod list;

use bytes::Bytes;
use dunix_ids::{Ino, NodeId, Pid};
use dunix_locks_table::LockTable;
use dunix_transport::{Handler, Mesh, MeshStream, PeerEvent, Responder};
use dunix_wire::{
    Topic,
    locks::{FILES_MAX, Lock, LockCall, LockKind, LockNotice, LockOwner, LockReply, LockWish},
};
use list::Device;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};
use tokio::runtime::Handle;

/// How long the authority may take for an answer, which may wait for other nodes' words.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The tree has one number, or a few; what a guest mounts under the tree's name comes after.
const DEVICES_MAX: usize = 16;

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
}

/// What this node knows of its processes.
#[derive(Default)]
struct Local {
    /// Those that have asked for a lock, by the host's number.
    users: BTreeMap<u32, Pid>,
    /// What threads are about to lock, and their process.
    pending: BTreeMap<Pid, (Pid, Ino, Lock)>,
    /// The numbers under which the kernel lists the tree.
    devices: BTreeSet<Device>,
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
    /// The open file description is to have it, not the process.
    pub is_descriptions: bool,
    /// What about it.
    pub how: How,
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
        }));
        mesh.register(Topic::Locks, Arc::new(locks.clone()));
        locks
    }

    /// Says how a process is told to ask again; once.
    pub fn set_wake(&self, wake: impl Fn(Pid) + Send + Sync + 'static) {
        let _ = self.0.wake.set(Box::new(wake));
    }

    /// Asks about a lock. What was granted counts as held until [`Locks::done`].
    pub async fn ask(&self, asker: Asker, wish: Wish) -> Answer {
        let Some((device, ino)) = list::file_of(asker.host_pid, wish.descriptor) else {
            return Answer::NotOurs;
        };
        let owner = if wish.is_descriptions {
            LockOwner::Descriptions(self.0.me)
        } else {
            LockOwner::Process(asker.pid)
        };
        let Wish { kind, first, last, .. } = wish;
        let lock = Lock { owner, kind, first, last };
        {
            let mut local = self.local();
            if local.devices.len() < DEVICES_MAX {
                local.devices.insert(device);
            }
            if wish.how != How::Test {
                local.users.insert(asker.host_pid, asker.pid);
                local.pending.insert(asker.tid, (asker.pid, ino, lock));
            }
        }
        let wish = match wish.how {
            How::Try => LockWish::Try,
            How::Wait => LockWish::Wait { thread: asker.tid, process: asker.pid },
            How::Test => LockWish::Test,
        };
        let answer = match self.call(self.0.authority, &LockCall::Ask { ino, lock, wish }).await {
            Some(LockReply::Granted) => return Answer::Granted,
            Some(LockReply::Taken(other)) => Answer::Taken(other),
            Some(LockReply::Waits) => Answer::Waits,
            Some(LockReply::Deadlock) => Answer::Deadlock,
            Some(LockReply::Full | LockReply::Held(_)) | None => Answer::None,
        };
        self.done(asker.tid);
        answer
    }

    /// A thread has made use of what it was granted, or has not.
    pub fn done(&self, thread: Pid) {
        self.local().pending.remove(&thread);
    }

    /// A thread waits no more: a signal came first.
    pub fn give_up(&self, thread: Pid) {
        self.tell(self.0.authority, LockNotice::GivenUp(thread));
    }

    /// A process has gone from this node, or ended.
    pub fn gone(&self, pid: Pid) {
        let mut local = self.local();
        local.pending.retain(|_, (of, ..)| *of != pid);
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
            let local = self.local();
            let pending = local.pending.values().filter(|(_, ino, _)| inos.contains(ino));
            let pending: Vec<(Ino, Lock)> = pending.map(|(_, ino, lock)| (*ino, *lock)).collect();
            (pending, local.users.clone(), local.devices.clone())
        };
        match std::fs::read_to_string("/proc/locks") {
            Ok(text) => held.extend(list::entries(&text).filter_map(|entry| {
                let owner = match entry.host_pid {
                    None => LockOwner::Descriptions(self.0.me),
                    Some(host_pid) => LockOwner::Process(*users.get(&host_pid)?),
                };
                let is_asked = inos.contains(&entry.ino) && devices.contains(&entry.device);
                let list::Entry { kind, first, last, .. } = entry;
                is_asked.then_some((entry.ino, Lock { owner, kind, first, last }))
            })),
            Err(error) => tracing::error!(%error, "/proc/locks cannot be read"),
        }
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
