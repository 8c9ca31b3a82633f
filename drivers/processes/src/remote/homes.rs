//! Objects that have their home here and are used by processes elsewhere.
//!
//! Who holds an object is counted by arrivals: each image that names it adds one to its target, and
//! a node whose last holder has gone takes away as many as have arrived there. Words of two nodes
//! may come in any order: a count below zero is one whose arrival has not been told yet. An object
//! is let go when every count is zero.

use super::hands::has_passengers;
use super::pump::Relay;
use super::watch::{Watches, ready_now};
use crate::node::lock;
use dunix_ids::NodeId;
use dunix_linux::{Errno, Result, kcmp};
use dunix_wire::processes::image::RemoteKind;
use rustix::fs::{Mode, OFlags, fcntl_getfl, fstat, open};
use rustix::io::fcntl_dupfd_cloexec;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use tokio::sync::Notify;

/// Most objects that a node keeps for others; at the limit a remote exec is refused (`ENFILE`).
const OBJECTS_MAX: usize = 65536;

/// An object kept for holders elsewhere.
#[derive(Debug)]
pub(crate) struct Object {
    /// The description itself, as the process had it.
    pub(crate) original: OwnedFd,
    /// The file that it is of: device and inode. Asked for once, since asking the tree takes time.
    file: Option<(u64, u64)>,
    /// What is done with it.
    pub(crate) purpose: Purpose,
    /// Relays that carry on what is written to it: an exit of its holder waits for them.
    relays: Vec<Arc<Relay>>,
    /// A description of our own of a pipe or terminal, which does not wait.
    own: OnceLock<OwnedFd>,
    /// Held during calls that have no other way not to wait than to look first.
    pub(super) turn: Mutex<()>,
    /// A connect was cancelled and went on.
    pub(super) is_connecting: AtomicBool,
}

/// How an object is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// A relay takes it away: bytes flow to, from or both ways.
    Relay,
    /// Calls are run on it one by one.
    Calls(RemoteKind),
}

impl Purpose {
    /// Whether it may be a socket's.
    fn is_for_socket(self) -> bool {
        matches!(self, Purpose::Relay | Purpose::Calls(RemoteKind::Socket))
    }
}

/// All objects of this node.
#[derive(Debug)]
pub(crate) struct Homes {
    /// Nobody asks the tree under this lock, nor closes what may be a file of it.
    kept: Mutex<Kept>,
    pub(super) watches: Watches,
}

/// An object and how often each node was given it.
#[derive(Debug)]
struct Held {
    object: Arc<Object>,
    by: BTreeMap<NodeId, i64>,
}

impl Held {
    fn add(&mut self, node: NodeId, count: i64) {
        let now = self.by.entry(node).or_default();
        *now += count;
        if *now == 0 {
            self.by.remove(&node);
        }
    }
}

#[derive(Debug, Default)]
struct Kept {
    objects: BTreeMap<u64, Held>,
    /// Relays of objects, until they are done: objects may be let go before.
    relays: BTreeMap<u64, Vec<Arc<Relay>>>,
    /// Calls under way, to be woken if they are cancelled.
    calls: BTreeMap<(NodeId, u64), Arc<Notify>>,
    last: u64,
}

impl Homes {
    pub(crate) fn new() -> Result<Homes> {
        Ok(Homes { kept: Mutex::default(), watches: Watches::new()? })
    }

    /// Keeps an object for a node and names it; a description that is kept for calls already has
    /// its name.
    pub(crate) fn keep(&self, object: Object, holder: NodeId) -> Result<u64> {
        let mut kept = lock(&self.kept);
        if let Some(serial) = kept.same_description(&object) {
            if let Some(held) = kept.objects.get_mut(&serial) {
                held.add(holder, 1);
            }
            return Ok(serial);
        }
        if kept.objects.len() >= OBJECTS_MAX {
            return Err(Errno::NFILE);
        }
        kept.last += 1;
        let serial = kept.last;
        if !object.relays.is_empty() {
            kept.relays.retain(|_, relays| relays.iter().any(|relay| !relay.is_done()));
            kept.relays.insert(serial, object.relays.clone());
        }
        let by = BTreeMap::from([(holder, 1)]);
        kept.objects.insert(serial, Held { object: Arc::new(object), by });
        Ok(serial)
    }

    /// The object, if it is here.
    pub(crate) fn get(&self, serial: u64) -> Option<Arc<Object>> {
        lock(&self.kept).objects.get(&serial).map(|held| held.object.clone())
    }

    /// Hands an object to the relay that carries it from now on.
    pub(crate) fn take_for_relay(&self, serial: u64, holder: NodeId) -> Option<Arc<Object>> {
        let mut kept = lock(&self.kept);
        let held = kept.objects.get(&serial)?;
        if held.object.purpose != Purpose::Relay || !held.by.contains_key(&holder) {
            return None;
        }
        kept.objects.remove(&serial).map(|held| held.object)
    }

    /// A process with the object is on its way to a node.
    pub(crate) fn share(&self, serial: u64, with: NodeId) {
        self.release(serial, with, -1);
    }

    /// A node to which `times` processes came with the object holds it no longer.
    pub(crate) fn release(&self, serial: u64, holder: NodeId, times: i64) {
        let mut kept = lock(&self.kept);
        let Some(held) = kept.objects.get_mut(&serial) else { return };
        held.add(holder, -times);
        if !held.by.contains_key(&holder) {
            self.watches.forget(serial, holder);
        }
        let unused = if held.by.is_empty() { kept.objects.remove(&serial) } else { None };
        drop(kept);
        drop(unused);
    }

    /// A node died.
    pub(crate) fn release_all(&self, holder: NodeId) {
        self.watches.forget_node(holder);
        let mut kept = lock(&self.kept);
        let unused: Vec<Held> = kept
            .objects
            .extract_if(.., |_, held| {
                // Nobody is left to tell of arrivals from there.
                held.by.retain(|node, count| *node != holder && *count > 0);
                held.by.is_empty()
            })
            .map(|(_, held)| held)
            .collect();
        for (_, call) in kept.calls.range((holder, 0)..=(holder, u64::MAX)) {
            call.notify_one();
        }
        drop(kept);
        drop(unused);
    }

    /// Whether the object of a descriptor is kept for someone's calls (a pipe has further readers).
    pub(crate) fn has_same_file(&self, device: u64, inode: u64) -> bool {
        lock(&self.kept).objects.values().any(|held| held.object.file == Some((device, inode)))
    }

    /// Whether a description itself is kept for someone's calls.
    pub(crate) fn has_description(&self, fd: BorrowedFd<'_>) -> bool {
        file_of(fd).is_some_and(|file| lock(&self.kept).named(fd, file).is_some())
    }

    /// Whether descriptors wait in the queue of a socket that is kept here.
    pub(super) fn have_passengers(&self) -> bool {
        let objects: Vec<Arc<Object>> =
            lock(&self.kept).objects.values().map(|held| held.object.clone()).collect();
        let own = std::process::id();
        let is_socket = |object: &&Arc<Object>| object.purpose.is_for_socket();
        objects.iter().filter(is_socket).any(|o| has_passengers(own, o.original.as_raw_fd()))
    }

    /// The relays that may still carry what was written to an object.
    pub(crate) fn relays(&self, serial: u64) -> Vec<Arc<Relay>> {
        let relays = lock(&self.kept).relays.get(&serial).cloned().unwrap_or_default();
        relays.into_iter().filter(|relay| !relay.is_done()).collect()
    }

    /// Keeps relays until they are done, and names them, as those of an object; `None` without any.
    pub(crate) fn keep_relays(&self, relays: Vec<Arc<Relay>>) -> Option<u64> {
        if relays.is_empty() {
            return None;
        }
        let mut kept = lock(&self.kept);
        let are_all_in = |others: &Vec<Arc<Relay>>| {
            relays.iter().all(|relay| others.iter().any(|other| Arc::ptr_eq(relay, other)))
        };
        let same = kept.relays.iter().find(|(_, others)| are_all_in(others));
        if let Some((serial, _)) = same {
            return Some(*serial);
        }
        kept.relays.retain(|_, relays| relays.iter().any(|relay| !relay.is_done()));
        kept.last += 1;
        let serial = kept.last;
        kept.relays.insert(serial, relays);
        Some(serial)
    }

    /// Registers a call so that it can be cancelled.
    pub(crate) fn begin_call(&self, from: NodeId, ticket: u64) -> Arc<Notify> {
        let cancelled = Arc::new(Notify::new());
        lock(&self.kept).calls.insert((from, ticket), cancelled.clone());
        cancelled
    }

    pub(crate) fn end_call(&self, from: NodeId, ticket: u64) {
        lock(&self.kept).calls.remove(&(from, ticket));
    }

    pub(crate) fn cancel_call(&self, from: NodeId, ticket: u64) {
        if let Some(call) = lock(&self.kept).calls.get(&(from, ticket)) {
            call.notify_one();
        }
    }

    /// How many objects are kept.
    pub(crate) fn count(&self) -> usize {
        lock(&self.kept).objects.len()
    }
}

impl Kept {
    fn same_description(&self, object: &Object) -> Option<u64> {
        let serial = self.named(object.original.as_fd(), object.file?)?;
        (self.objects.get(&serial)?.object.purpose == object.purpose).then_some(serial)
    }

    /// The number of a description that is kept for calls.
    fn named(&self, fd: BorrowedFd<'_>, file: (u64, u64)) -> Option<u64> {
        let is_it = |object: &Object| {
            object.purpose != Purpose::Relay
                && object.file == Some(file)
                && kcmp::same_description(object.original.as_fd(), fd).unwrap_or(false)
        };
        self.objects.iter().find(|(_, held)| is_it(&held.object)).map(|(serial, _)| *serial)
    }
}

/// The file that a descriptor is of: device and inode.
fn file_of(fd: BorrowedFd<'_>) -> Option<(u64, u64)> {
    fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// Opens a pipe or terminal a second time, without blocking: a description of our own, so that
/// nobody else's flags change.
pub(crate) fn reopen(fd: BorrowedFd<'_>, access: OFlags) -> Result<OwnedFd> {
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    open(format!("/proc/self/fd/{}", fd.as_raw_fd()), flags, Mode::empty())
}

impl Object {
    pub(crate) fn new(original: OwnedFd, purpose: Purpose, relays: Vec<Arc<Relay>>) -> Object {
        let (own, turn, is_connecting) = (OnceLock::new(), Mutex::default(), false.into());
        let file = file_of(original.as_fd());
        Object { original, file, purpose, relays, own, turn, is_connecting }
    }

    /// A description of our own of a pipe or terminal, which does not wait.
    pub(super) fn nonblocking(&self) -> Result<&OwnedFd> {
        if let Some(own) = self.own.get() {
            return Ok(own);
        }
        let access = fcntl_getfl(&self.original)? & OFlags::RWMODE;
        let own = reopen(self.original.as_fd(), access).map_err(|errno| match errno {
            // A FIFO that nobody reads (fifo(7)): who has it open is told so by a write.
            Errno::NXIO => Errno::PIPE,
            other => other,
        })?;
        Ok(self.own.get_or_init(|| own))
    }

    /// Makes a call that would wait only if some of `events` hold; one caller at a time.
    pub(super) fn in_turn<T>(
        &self,
        waits: bool,
        events: u16,
        call: impl FnOnce(&OwnedFd) -> Result<T>,
    ) -> Result<T> {
        let _turn = lock(&self.turn);
        if waits && ready_now(&self.original) & events == 0 {
            return Err(Errno::AGAIN);
        }
        call(&self.original)
    }

    /// The file that it is of: device and inode, if it is known.
    pub(super) fn file(&self) -> Option<(u64, u64)> {
        self.file
    }

    /// A further descriptor of the description.
    pub(crate) fn duplicate(&self) -> Result<OwnedFd> {
        fcntl_dupfd_cloexec(self.original.as_fd(), 0)
    }
}
