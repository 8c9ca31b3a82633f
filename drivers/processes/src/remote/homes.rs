//! Objects that have their home here and are used by processes elsewhere.

use crate::node::lock;
use dunix_ids::NodeId;
use dunix_linux::{Errno, Result};
use dunix_wire::processes::image::RemoteKind;
use rustix::fs::{Mode, OFlags, fstat, open};
use rustix::io::fcntl_dupfd_cloexec;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// Most objects that a node keeps for others; at the limit a remote exec is refused (`ENFILE`).
const OBJECTS_MAX: usize = 65536;

/// An object kept for holders elsewhere.
#[derive(Debug)]
pub(crate) struct Object {
    /// The description itself, as the process had it.
    pub(crate) original: OwnedFd,
    /// What is done with it.
    pub(crate) purpose: Purpose,
}

/// How an object is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// A relay takes it away: bytes flow to, from or both ways.
    Relay,
    /// Calls are run on it one by one.
    Calls(RemoteKind),
}

/// All objects of this node.
#[derive(Debug)]
pub(crate) struct Homes {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    objects: BTreeMap<u64, (Arc<Object>, BTreeSet<NodeId>)>,
    /// Calls under way, to be woken if they are cancelled.
    calls: BTreeMap<(NodeId, u64), Arc<Notify>>,
    last: u64,
}

impl Homes {
    pub(crate) fn new() -> Homes {
        Homes { kept: Mutex::default() }
    }

    /// Keeps an object for a node and names it.
    pub(crate) fn keep(&self, object: Object, holder: NodeId) -> Result<u64> {
        let mut kept = lock(&self.kept);
        if kept.objects.len() >= OBJECTS_MAX {
            return Err(Errno::NFILE);
        }
        kept.last += 1;
        let serial = kept.last;
        kept.objects.insert(serial, (Arc::new(object), BTreeSet::from([holder])));
        Ok(serial)
    }

    /// The object, if it is here.
    pub(crate) fn get(&self, serial: u64) -> Option<Arc<Object>> {
        lock(&self.kept).objects.get(&serial).map(|(object, _)| object.clone())
    }

    /// Hands an object to the relay that carries it from now on.
    pub(crate) fn take_for_relay(&self, serial: u64, holder: NodeId) -> Option<Arc<Object>> {
        let mut kept = lock(&self.kept);
        let (object, holders) = kept.objects.get(&serial)?;
        if object.purpose != Purpose::Relay || !holders.contains(&holder) {
            return None;
        }
        kept.objects.remove(&serial).map(|(object, _)| object)
    }

    /// A further node holds the object.
    pub(crate) fn share(&self, serial: u64, with: NodeId) {
        if let Some((_, holders)) = lock(&self.kept).objects.get_mut(&serial) {
            holders.insert(with);
        }
    }

    /// A node holds the object no longer.
    pub(crate) fn release(&self, serial: u64, holder: NodeId) {
        let mut kept = lock(&self.kept);
        if let Some((_, holders)) = kept.objects.get_mut(&serial) {
            holders.remove(&holder);
            if holders.is_empty() {
                kept.objects.remove(&serial);
            }
        }
    }

    /// A node died.
    pub(crate) fn release_all(&self, holder: NodeId) {
        let mut kept = lock(&self.kept);
        kept.objects.retain(|_, (_, holders)| {
            holders.remove(&holder);
            !holders.is_empty()
        });
        for (_, call) in kept.calls.range((holder, 0)..=(holder, u64::MAX)) {
            call.notify_one();
        }
    }

    /// Whether the object of a descriptor is kept for someone's calls (a pipe has further readers).
    pub(crate) fn has_same_file(&self, device: u64, inode: u64) -> bool {
        lock(&self.kept).objects.values().any(|(object, _)| {
            fstat(&object.original).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (device, inode))
        })
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

/// Opens a pipe or terminal a second time, without blocking: a description of our own, so that
/// nobody else's flags change.
pub(crate) fn reopen(fd: BorrowedFd<'_>, access: OFlags) -> Result<OwnedFd> {
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    open(format!("/proc/self/fd/{}", fd.as_raw_fd()), flags, Mode::empty())
}

impl Object {
    /// A further descriptor of the description.
    pub(crate) fn duplicate(&self) -> Result<OwnedFd> {
        fcntl_dupfd_cloexec(self.original.as_fd(), 0)
    }
}
