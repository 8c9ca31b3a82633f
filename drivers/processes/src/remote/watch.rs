//! Home: what becomes ready at objects that processes elsewhere have.
//!
//! ```text
//! told not ready --epoll: ready--> told ready      (a message, once)
//!      ^                              |
//!      `---- a call's answer: not ready any more ---'  (with the answer, watched again)
//! ```
//! Each node is told what it does not know yet: an object that stays ready costs nothing, however
//! much goes through it. Invariant: an object is in the epoll set with exactly the events that some
//! node believes not to hold, so that none of them is missed.

use super::Homes;
use super::homes::Object;
use crate::node::{Node, lock};
use dunix_ids::NodeId;
use dunix_linux::{Errno, Result};
use dunix_wire::processes::{ProcessesMessage, Readiness};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, Weak};
use tokio::io::Interest;

/// Most objects that are looked at after one call; changes of others come as messages.
const LOOKED_AT_MAX: usize = 256;
/// Events taken from the epoll set at a time.
const EVENTS_AT_ONCE: usize = 64;

/// `POLLIN`, `POLLPRI`, `POLLOUT`, `POLLRDHUP`: what is waited for.
const WAITED_FOR: u16 = 0x1 | 0x2 | 0x4 | 0x2000;
/// With them `POLLERR` and `POLLHUP`.
const ALL: u16 = WAITED_FOR | 0x8 | 0x10;

/// What other nodes believe to be ready here.
#[derive(Debug)]
pub(crate) struct Watches {
    set: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    watched: BTreeMap<u64, Watched>,
    by_node: BTreeMap<NodeId, BTreeSet<u64>>,
}

#[derive(Debug)]
struct Watched {
    object: Arc<Object>,
    /// What each node was told last.
    told: BTreeMap<NodeId, u16>,
    /// What the epoll set waits for.
    armed: u16,
}

/// What is ready at a description now.
pub(super) fn ready_now(fd: &OwnedFd) -> u16 {
    let mut polled = [PollFd::new(fd, PollFlags::from_bits_retain(WAITED_FOR))];
    poll_now(&mut polled);
    polled[0].revents().bits() & ALL
}

fn poll_now(polled: &mut [PollFd<'_>]) {
    while poll(polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Err(Errno::INTR) {}
}

fn interest(armed: u16) -> EventFlags {
    EventFlags::from_bits_retain(u32::from(armed)) | EventFlags::ET
}

impl Watches {
    pub(crate) fn new() -> Result<Watches> {
        Ok(Watches { set: epoll::create(CreateFlags::CLOEXEC)?, state: Mutex::default() })
    }

    /// A node wants to know of an object, of which it was told `told`.
    pub(super) fn watch(&self, serial: u64, object: Arc<Object>, node: NodeId, told: u16) {
        let mut state = lock(&self.state);
        let fresh = Watched { object, told: BTreeMap::new(), armed: WAITED_FOR };
        if let std::collections::btree_map::Entry::Vacant(entry) = state.watched.entry(serial) {
            let data = EventData::new_u64(serial);
            if epoll::add(&self.set, &fresh.object.original, data, interest(WAITED_FOR)).is_err() {
                // A file: it is always ready.
                return;
            }
            entry.insert(fresh);
        }
        state.by_node.entry(node).or_default().insert(serial);
        if let Some(watched) = state.watched.get_mut(&serial) {
            watched.told.insert(node, told);
            watched.arm(&self.set, serial);
        }
    }

    /// What has changed since the node was told, which it is by this.
    pub(super) fn changes_for(&self, node: NodeId, called: u64) -> Vec<Readiness> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let Some(serials) = state.by_node.get(&node) else { return Vec::new() };
        let serials: Vec<u64> = std::iter::once(called)
            .filter(|called| serials.contains(called))
            .chain(serials.iter().copied().filter(|serial| *serial != called))
            .take(LOOKED_AT_MAX)
            .collect();
        let objects: Vec<Arc<Object>> =
            serials.iter().filter_map(|s| Some(state.watched.get(s)?.object.clone())).collect();
        let mut polled: Vec<PollFd<'_>> = objects
            .iter()
            .map(|object| PollFd::new(&object.original, PollFlags::from_bits_retain(WAITED_FOR)))
            .collect();
        poll_now(&mut polled);
        let mut changes = Vec::new();
        for (serial, polled) in serials.iter().zip(&polled) {
            let events = polled.revents().bits() & ALL;
            changes.extend(state.tell(&self.set, *serial, node, events));
        }
        changes
    }

    /// What to tell whom of an object at which something has happened.
    fn happened(&self, serial: u64) -> Vec<(NodeId, Readiness)> {
        let mut state = lock(&self.state);
        let Some(watched) = state.watched.get(&serial) else { return Vec::new() };
        let events = ready_now(&watched.object.original);
        let news: Vec<NodeId> = watched
            .told
            .iter()
            .filter(|(_, told)| events & !**told != 0)
            .map(|(node, _)| *node)
            .collect();
        let mut messages = Vec::new();
        for node in news {
            let readiness = state.tell(&self.set, serial, node, events);
            messages.extend(readiness.map(|readiness| (node, readiness)));
        }
        messages
    }

    /// A node has an object no more.
    pub(super) fn forget(&self, serial: u64, node: NodeId) {
        let mut state = lock(&self.state);
        if let Some(serials) = state.by_node.get_mut(&node) {
            serials.remove(&serial);
        }
        let Some(watched) = state.watched.get_mut(&serial) else { return };
        watched.told.remove(&node);
        if watched.told.is_empty()
            && let Some(watched) = state.watched.remove(&serial)
        {
            // While the description lives on elsewhere, the set would go on to watch it.
            let _ = epoll::delete(&self.set, &watched.object.original);
        }
    }

    /// A node died.
    pub(super) fn forget_node(&self, node: NodeId) {
        let serials = lock(&self.state).by_node.remove(&node).unwrap_or_default();
        for serial in serials {
            self.forget(serial, node);
        }
    }
}

impl State {
    fn tell(&mut self, set: &OwnedFd, serial: u64, node: NodeId, events: u16) -> Option<Readiness> {
        let watched = self.watched.get_mut(&serial)?;
        let told = watched.told.get_mut(&node)?;
        if *told == events {
            return None;
        }
        *told = events;
        watched.arm(set, serial);
        self.last += 1;
        Some(Readiness { object: serial, events, serial: self.last })
    }
}

impl Watched {
    /// Waits for what some node believes not to hold; what holds by now is found at once.
    fn arm(&mut self, set: &OwnedFd, serial: u64) {
        let armed = self.told.values().fold(0, |armed, told| armed | !told) & WAITED_FOR;
        if armed != self.armed {
            self.armed = armed;
            let data = EventData::new_u64(serial);
            let _ = epoll::modify(set, &self.object.original, data, interest(armed));
        }
    }
}

impl Homes {
    /// A node has an object of this one and wants to know when it becomes ready.
    pub(crate) fn watch(&self, serial: u64, node: NodeId, told: u16) {
        if let Some(object) = self.get(serial) {
            self.watches.watch(serial, object, node, told);
        }
    }
}

/// Tells other nodes what becomes ready here, as long as the node lives.
pub(crate) fn tell_readiness(node: &Arc<Node>) -> Result<()> {
    let set = rustix::io::fcntl_dupfd_cloexec(node.homes.watches.set.as_fd(), 0)?;
    let runtime = node.runtime.clone();
    let node = Arc::downgrade(node);
    runtime.spawn(async move {
        let Ok(set) = super::pump::watch(set, Interest::READABLE) else { return };
        loop {
            let Ok(mut ready) = set.readable().await else { return };
            let serials = happenings(set.get_ref());
            if serials.is_empty() {
                ready.clear_ready();
            }
            if tell_all(&node, &serials).is_none() {
                return;
            }
        }
    });
    Ok(())
}

fn happenings(set: &OwnedFd) -> Vec<u64> {
    let mut events: Vec<Event> = Vec::with_capacity(EVENTS_AT_ONCE);
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let _ = epoll::wait(set, rustix::buffer::spare_capacity(&mut events), Some(&now));
    events.iter().map(|event| event.data.u64()).collect()
}

/// `None` if the node is no more.
fn tell_all(node: &Weak<Node>, serials: &[u64]) -> Option<()> {
    let node = node.upgrade()?;
    for serial in serials {
        for (to, readiness) in node.homes.watches.happened(*serial) {
            node.tell(to, &ProcessesMessage::RemoteReady(readiness));
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::homes::Purpose;
    use super::*;
    use dunix_wire::processes::image::RemoteKind;

    const IN: u16 = 1;
    const OUT: u16 = 4;
    const HUP: u16 = 16;

    fn kept(original: OwnedFd) -> Arc<Object> {
        Arc::new(Object::new(original, Purpose::Calls(RemoteKind::Pipe), Vec::new()))
    }

    fn told(watches: &Watches) -> Vec<(u32, u16)> {
        let serials = happenings(&watches.set);
        let all = serials.into_iter().flat_map(|serial| watches.happened(serial));
        all.map(|(node, readiness)| (node.0, readiness.events)).collect()
    }

    #[test]
    fn what_becomes_ready_is_told_once_until_it_is_not() {
        let watches = Watches::new().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let object = kept(read);
        watches.watch(1, object.clone(), NodeId(2), 0);
        watches.watch(1, object.clone(), NodeId(3), 0);
        assert_eq!(told(&watches), []);
        rustix::io::write(&write, b"ab").unwrap();
        assert_eq!(told(&watches), [(2, IN), (3, IN)]);
        rustix::io::write(&write, b"c").unwrap();
        assert_eq!(told(&watches), [], "they know");
        rustix::io::read(&object.original, &mut [0; 9]).unwrap();
        let changes = watches.changes_for(NodeId(2), 1);
        assert_eq!(changes.iter().map(|c| c.events).collect::<Vec<_>>(), [0]);
        assert_eq!(watches.changes_for(NodeId(2), 1), []);
        rustix::io::write(&write, b"d").unwrap();
        assert_eq!(told(&watches), [(2, IN)], "the third still believes in the first bytes");
        drop(write);
        assert_eq!(told(&watches), [(2, IN | HUP), (3, IN | HUP)]);
        assert_eq!(told(&watches), [], "an end is no news twice");
    }

    #[test]
    fn a_wrong_belief_is_corrected_at_once() {
        let watches = Watches::new().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        watches.watch(1, kept(write), NodeId(2), 0);
        assert_eq!(told(&watches), [(2, OUT)]);
        rustix::io::write(&lock(&watches.state).watched[&1].object.original, b"x").unwrap();
        watches.watch(2, kept(read), NodeId(2), 0);
        let changes = watches.changes_for(NodeId(2), 1);
        assert_eq!(changes.iter().map(|c| (c.object, c.events)).collect::<Vec<_>>(), [(2, IN)]);
    }

    #[test]
    fn a_forgotten_object_is_not_watched_though_it_lives() {
        let watches = Watches::new().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let object = kept(read);
        watches.watch(1, object.clone(), NodeId(2), 0);
        watches.forget(1, NodeId(2));
        watches.watch(2, object.clone(), NodeId(3), 0);
        watches.forget_node(NodeId(3));
        rustix::io::write(&write, b"x").unwrap();
        assert_eq!(happenings(&watches.set), []);
        assert!(lock(&watches.state).watched.is_empty());
        drop(object);
    }
}
