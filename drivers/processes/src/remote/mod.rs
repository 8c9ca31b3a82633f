//! Descriptors whose object lives at another node, on both sides.
//!
//! ```text
//!  home (object's node)                              holder (where the process runs)
//!  capture  - what a leaving process holds   image   rebuild - what an arriving process gets
//!  homes    - objects kept for holders    <--------- calls   - OP_REMOTE, one call at a time
//!  execute  - one call; waiting, sockets   answer --->
//!  watch    - what becomes ready           word ----> mirror  - a placeholder as ready as the object
//!  pump     - bytes to and from a pipe    <-stream-> pump    - bytes from and to a local pipe
//! ```
//!
//! Invariant: an object is kept exactly while a node holds it or an image that names it is under
//! way; the table of a process names only objects that its node holds.

mod adopt;
mod alone;
mod arguments;
mod bearing;
mod calls;
mod capture;
mod depart;
mod drain;
mod execute;
mod fdinfo;
mod fifo;
mod flock;
mod hands;
mod homes;
mod late;
mod messages;
mod mirror;
mod moving;
mod names;
mod offer;
mod passing;
mod pump;
mod rebuild;
mod restore;
mod sockets;
mod taking;
mod timer;
mod transfer;
mod unix;
mod waiting;
mod watch;

pub(crate) use bearing::Bearings;
pub(crate) use calls::{InFlight, outcome_of};
pub(crate) use capture::Capture;
pub(crate) use depart::Destination;
pub(crate) use depart::{NotGone, empty_record, shortened};
pub(crate) use drain::Written;
pub(crate) use homes::Homes;
pub(crate) use late::Late;
pub(crate) use messages::MeshFace;
pub(crate) use mirror::{Mirror, Mirrors};
pub(crate) use names::Names;
pub(crate) use passing::{Passed, Passing};
pub(crate) use pump::Relay;
pub(crate) use watch::tell_readiness;
pub(crate) use {
    capture::Unmovable,
    offer::{Offer, directory, inside, is_named},
    rebuild::{Owner, PendingRelay, Rebuilt},
    unix::Binding,
};

use crate::node::Node;
use dunix_ids::{NodeId, ObjectId, Pid};
use dunix_wire::processes::image::{RemoteKind, UNDRAINED_MAX};
use dunix_wire::processes::{ProcessesCall, ProcessesMessage};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long a close waits for the home's word.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);

/// One descriptor of a process that lives elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RemoteFd {
    pub(crate) object: ObjectId,
    pub(crate) what: RemoteKind,
    /// The file is also open here; only its offset lives at the home.
    pub(crate) is_open_here: bool,
    /// What is written goes on from the home by a relay.
    pub(crate) drains: bool,
}

/// What one process holds at other nodes.
#[derive(Debug, Default)]
pub(crate) struct RemoteTable {
    fds: BTreeMap<i32, RemoteFd>,
    relays: Vec<Arc<Relay>>,
    /// Objects from whose homes relays carry on what was written, closed ones too.
    drained_at: BTreeSet<ObjectId>,
    /// What stands here for the objects.
    mirrors: BTreeMap<ObjectId, Arc<Mirror>>,
}

impl RemoteTable {
    /// A forked child holds what its parent holds.
    pub(crate) fn for_child(&self) -> RemoteTable {
        let relays = self.relays.iter().filter(|relay| !relay.is_done()).cloned().collect();
        let (fds, drained_at) = (self.fds.clone(), self.drained_at.clone());
        RemoteTable { fds, relays, drained_at, mirrors: self.mirrors.clone() }
    }

    /// The relays whose local end is a file that the process has open.
    fn relays_of(&self, stat: &rustix::fs::Stat) -> Vec<Arc<Relay>> {
        let file = (stat.st_dev, stat.st_ino);
        self.relays.iter().filter(|relay| relay.is_of(file) && !relay.is_done()).cloned().collect()
    }

    pub(crate) fn descriptors(&self) -> Vec<i32> {
        self.fds.keys().copied().collect()
    }

    /// It wrote to what others carry on from there.
    pub(crate) fn must_drain(&mut self, homes: &Homes, own: NodeId, undrained: Vec<ObjectId>) {
        for object in undrained {
            if object.home == own {
                homes.relays(object.serial).into_iter().for_each(|relay| self.add_relay(relay));
            } else {
                self.drained_at.insert(object);
            }
        }
    }

    /// Where what the process wrote may still be on its way, for another node: its end is told there.
    pub(crate) fn undrained(&self, homes: &Homes, own: NodeId) -> Vec<ObjectId> {
        let Written { relays, at } = self.written();
        let here = homes.keep_relays(relays).map(|serial| ObjectId { home: own, serial });
        here.into_iter().chain(at).take(UNDRAINED_MAX).collect()
    }

    /// Where what the process wrote may still be on its way.
    pub(crate) fn written(&self) -> Written {
        let relays = self.relays.iter().filter(|relay| !relay.is_done()).cloned().collect();
        Written { relays, at: self.drained_at.clone() }
    }

    pub(crate) fn get(&self, number: i32) -> Option<RemoteFd> {
        self.fds.get(&number).copied()
    }

    pub(crate) fn insert(&mut self, number: i32, fd: RemoteFd) {
        if fd.drains {
            self.drained_at.insert(fd.object);
        }
        self.fds.insert(number, fd);
    }

    /// Keeps what stands for an object while the table names it.
    pub(crate) fn keep_mirror(&mut self, object: ObjectId, mirror: Arc<Mirror>) {
        self.mirrors.insert(object, mirror);
    }

    fn mirror_of(&self, object: ObjectId) -> Option<Arc<Mirror>> {
        self.mirrors.get(&object).cloned()
    }

    /// What stands for the objects.
    pub(crate) fn mirrors(&self) -> impl Iterator<Item = (ObjectId, &Mirror)> {
        self.mirrors.iter().map(|(object, mirror)| (*object, &**mirror))
    }

    /// Removes a descriptor.
    fn remove(&mut self, number: i32) -> Option<RemoteFd> {
        let fd = self.fds.remove(&number)?;
        self.drop_mirror(fd.object);
        Some(fd)
    }

    fn drop_mirror(&mut self, object: ObjectId) {
        if !self.holds(object) {
            self.mirrors.remove(&object);
        }
    }

    pub(crate) fn add_relay(&mut self, relay: Arc<Relay>) {
        self.relays.retain(|relay| !relay.is_done());
        if !self.relays.iter().any(|other| Arc::ptr_eq(other, &relay)) {
            self.relays.push(relay);
        }
    }

    fn holds(&self, object: ObjectId) -> bool {
        self.fds.values().any(|fd| fd.object == object)
    }

    pub(crate) fn objects(&self) -> BTreeSet<ObjectId> {
        self.fds.values().map(|fd| fd.object).collect()
    }
}

impl Node {
    /// A process has gone: objects that no other process here holds are let go.
    pub(crate) fn release_remote(&self, pid: Pid, table: RemoteTable) {
        for object in table.objects() {
            self.release_object(pid, object);
        }
    }

    /// A process has closed a remote descriptor.
    pub(crate) fn close_remote(&self, pid: Pid, number: i32) {
        let closed =
            self.with(|state, _| state.locals.get_mut(&pid).and_then(|l| l.remote.remove(number)));
        if let Some(fd) = closed {
            self.release_object(pid, fd.object);
        }
    }

    /// A process has duplicated a remote descriptor.
    pub(crate) fn duplicate_remote(&self, pid: Pid, from: i32, to: i32) -> bool {
        let replaced = self.with(|state, _| {
            let table = &mut state.locals.get_mut(&pid)?.remote;
            let fd = table.get(from)?;
            let replaced = table.fds.insert(to, fd);
            if let Some(replaced) = replaced {
                table.drop_mirror(replaced.object);
            }
            Some(replaced)
        });
        if let Some(Some(old)) = replaced {
            self.release_object(pid, old.object);
        }
        replaced.is_some()
    }

    /// The same, as close(2) does it: whoever looks at the other end once the answer of the home has come
    /// finds it closed. The descriptor is the process's no more when this returns: its number may be
    /// another's soon.
    pub(crate) fn begin_close_remote(
        &self,
        pid: Pid,
        number: i32,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let closed =
            self.with(|state, _| state.locals.get_mut(&pid).and_then(|l| l.remote.remove(number)));
        let RemoteFd { object, what, .. } = closed?;
        let has_other_end = matches!(what, RemoteKind::Pipe | RemoteKind::Socket);
        let Some(mesh) = self.mesh.as_ref().filter(|_| has_other_end && object.home != self.id)
        else {
            self.release_object(pid, object);
            return None;
        };
        let times = self.let_go(object)?;
        let body = dunix_wire::encode(&ProcessesCall::LetGo { object: object.serial, times });
        // A home that is silent is dead soon, and its objects with it.
        let answer = mesh.call(object.home, dunix_wire::Topic::Processes, body, CLOSED_WITHIN);
        Some(async move { drop(answer.await) })
    }

    /// How often an object has come here, if nobody here holds it any more.
    fn let_go(&self, object: ObjectId) -> Option<u32> {
        self.with(|state, _| {
            let is_held =
                state.locals.values().any(|l| l.remote.holds(object)) || self.passing.holds(object);
            if is_held { None } else { state.arrivals.remove(&object) }
        })
    }

    fn release_object(&self, pid: Pid, object: ObjectId) {
        if let Some(times) = self.let_go(object) {
            let closed = ProcessesMessage::RemoteClosed { object: object.serial, pid, times };
            self.tell(object.home, &closed);
        }
    }

    /// Sends a one-way message; a peer that cannot be reached is about to be declared dead.
    pub(crate) fn tell(&self, to: NodeId, message: &ProcessesMessage) {
        if to == self.id {
            self.hear(self.id, message.clone());
        } else if let Some(mesh) = &self.mesh {
            let body = dunix_wire::encode(message);
            if let Err(error) = mesh.send(to, dunix_wire::Topic::Processes, body) {
                tracing::debug!(node = %self.id, %to, %error, "a message was not sent");
            }
        }
    }
}
