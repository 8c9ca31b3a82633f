//! Descriptors that no process has and no home, and that are somebody's all the same: those in the queues of
//! sockets of this daemon, and those that it has in its own hands, out of a queue and not described yet, or made from a
//! description and not handed over yet.

use super::fdinfo;
use crate::node::lock;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// What this daemon has in its hands.
#[derive(Debug, Default)]
pub(crate) struct Hands {
    taken: AtomicU64,
    handed_over: AtomicU64,
    /// Sockets whose bytes are relayed.
    relays: Mutex<Vec<Weak<OwnedFd>>>,
}

/// While it lives descriptors are, or may be, in hand.
#[derive(Debug)]
pub(crate) struct InHand(Arc<Hands>);

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.handed_over.fetch_add(1, Ordering::SeqCst);
    }
}

/// An instant to look back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Since(u64);

impl Hands {
    /// Descriptors are about to be taken.
    pub(super) fn take(self: &Arc<Hands>) -> InHand {
        self.taken.fetch_add(1, Ordering::SeqCst);
        InHand(self.clone())
    }

    pub(super) fn now(&self) -> Since {
        Since(self.handed_over.load(Ordering::SeqCst))
    }

    /// Whether any are in hand now.
    pub(super) fn have_any(&self) -> bool {
        self.had_any(self.now())
    }

    /// Whether any have been in hand at or after the instant.
    pub(super) fn had_any(&self, since: Since) -> bool {
        self.taken.load(Ordering::SeqCst) != since.0
    }

    /// A socket of this daemon, which others put descriptors into.
    pub(super) fn note_relay(&self, socket: &Arc<OwnedFd>) {
        let mut relays = lock(&self.relays);
        relays.retain(|relay| relay.strong_count() > 0);
        relays.push(Arc::downgrade(socket));
    }

    /// Whether descriptors wait in the queue of a relayed socket.
    pub(super) fn have_passengers(&self) -> bool {
        let relays: Vec<_> = lock(&self.relays).iter().filter_map(Weak::upgrade).collect();
        relays.iter().any(|relay| has_passengers(std::process::id(), relay.as_raw_fd()))
    }
}

/// Whether descriptors wait in the queue of a socket.
pub(super) fn has_passengers(pid: u32, number: i32) -> bool {
    let info = fdinfo::of(pid, number).unwrap_or_default();
    fdinfo::number(&info, "scm_fds:").is_some_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunix_linux::messages;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::os::fd::AsFd;

    #[test]
    fn what_was_in_hand_at_or_after_an_instant_is_known() {
        let hands = Arc::new(Hands::default());
        let before = hands.now();
        assert!(!hands.had_any(before));
        let first = hands.take();
        let during = hands.now();
        assert!(hands.had_any(before) && hands.had_any(during));
        drop(first);
        assert!(hands.had_any(before) && hands.had_any(during));
        assert!(!hands.had_any(hands.now()));
    }

    #[test]
    fn descriptors_in_a_relays_queue_are_seen_while_it_is_there() {
        let (kind, flags) = (SocketType::STREAM, SocketFlags::CLOEXEC);
        let (sender, relay) = socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
        let (hands, relay) = (Hands::default(), Arc::new(relay));
        hands.note_relay(&relay);
        assert!(!hands.have_passengers());
        messages::send_with(sender.as_fd(), b"x", &[], &[sender.as_fd()], 0).unwrap();
        assert!(hands.have_passengers());
        drop(relay);
        assert!(!hands.have_passengers());
    }
}
