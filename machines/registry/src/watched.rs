//! Ports of datagrams: a table of holders, and who is told when a port changes hands.
//!
//! A sender of datagrams learns of no listener, so its node must know before it sends. It asks once and is told
//! from then on: whoever gets a port is granted it after those who watch have heard of it.
//!
//! Invariant: news of a port have ascending versions, whoever gets them.

use crate::{PortTable, Reservation};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use dunix_ids::NodeId;

/// The coordinator's table of UDP ports. At most 65,535 entries, each with at most the fabric's nodes.
#[derive(Debug, Default)]
pub struct WatchedPorts {
    ports: PortTable,
    watchers: BTreeMap<u16, BTreeSet<NodeId>>,
    version: u64,
}

impl WatchedPorts {
    /// Handles a node's wish to hold `port`: as [`PortTable::reserve`].
    pub fn reserve(&mut self, node: NodeId, port: u16) -> Reservation {
        let answer = self.ports.reserve(node, port);
        self.noted(answer)
    }

    /// Handles a holder's answer: as [`PortTable::settle`].
    pub fn settle(
        &mut self,
        node: NodeId,
        port: u16,
        holder: NodeId,
        still_bound: bool,
    ) -> Reservation {
        let answer = self.ports.settle(node, port, holder, still_bound);
        self.noted(answer)
    }

    fn noted(&mut self, answer: Reservation) -> Reservation {
        if answer == Reservation::Granted {
            self.version += 1;
        }
        answer
    }

    /// Who holds `port`, and the version of that.
    #[must_use]
    pub fn news(&self, port: u16) -> (Option<NodeId>, u64) {
        (self.ports.holder(port), self.version)
    }

    /// Notes that `node` is to hear of changes of `port`, and tells how it is.
    pub fn watch(&mut self, node: NodeId, port: u16) -> (Option<NodeId>, u64) {
        self.watchers.entry(port).or_default().insert(node);
        self.news(port)
    }

    /// Who must hear that `node` holds `port` before it may use it.
    #[must_use]
    pub fn watchers(&self, node: NodeId, port: u16) -> Vec<NodeId> {
        let all = self.watchers.get(&port).into_iter().flatten();
        all.copied().filter(|watcher| *watcher != node).collect()
    }

    /// Handles the death of a node: its ports are free, and it watches nothing.
    pub fn handle_node_down(&mut self, node: NodeId) {
        self.ports.handle_node_down(node);
        self.watchers.retain(|_, nodes| {
            nodes.remove(&node);
            !nodes.is_empty()
        });
        self.version += 1;
    }

    /// Checks that nobody is kept for nothing.
    ///
    /// # Panics
    /// If a port without watchers has an entry.
    pub fn check_invariants(&self) {
        assert!(self.watchers.values().all(|nodes| !nodes.is_empty()), "an empty entry");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);

    #[test]
    fn who_asked_before_there_was_a_holder_is_to_hear_of_it() {
        let mut ports = WatchedPorts::default();
        let (holder, before) = ports.watch(B, 53);
        assert_eq!(holder, None);
        assert_eq!(ports.reserve(A, 53), Reservation::Granted);
        assert_eq!(ports.watchers(A, 53), [B]);
        let (holder, after) = ports.news(53);
        assert_eq!(holder, Some(A));
        assert!(after > before);
    }

    #[test]
    fn who_binds_is_not_told_of_itself_and_others_hear_of_each_binding() {
        let mut ports = WatchedPorts::default();
        ports.watch(A, 53);
        ports.watch(C, 53);
        assert_eq!(ports.reserve(A, 53), Reservation::Granted);
        assert_eq!(ports.watchers(A, 53), [C]);
        assert_eq!(ports.reserve(C, 53), Reservation::Ask(A));
        let (_, before) = ports.news(53);
        assert_eq!(ports.settle(C, 53, A, false), Reservation::Granted);
        assert_eq!(ports.watchers(C, 53), [A]);
        assert!(ports.news(53).1 > before);
    }

    #[test]
    fn the_dead_watch_and_hold_nothing() {
        let mut ports = WatchedPorts::default();
        ports.watch(B, 53);
        ports.reserve(A, 54);
        ports.handle_node_down(B);
        ports.handle_node_down(A);
        ports.check_invariants();
        assert_eq!(ports.watchers(A, 53), []);
        assert_eq!(ports.news(54).0, None);
    }
}
