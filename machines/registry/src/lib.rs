//! Who holds which loopback port of the fabric.
//!
//! A fabric has one port space, as one machine has. The coordinator owns this table. It does not
//! track sockets: a holder's host kernel knows best when a port came free. So a conflict is settled
//! by asking the holder, and only then.
//!
//! ```text
//!            reserve                          conflict
//!   free ─────────────► held by a node ─────────────────────────────► in question
//!     ▲                   │    ▲                                         │    │
//!     └── release, down ──┘    └──────── still bound, or about to ───────┘    │
//!     └───────────────────────────── not bound any more ──────────────────────┘
//! ```
//!
//! Refuses: sockets, clocks and messages of its own; which addresses count as loopback.
//! Invariant: a port has at most one holder, which loses it by its own word or its death only.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod watched;

pub use watched::WatchedPorts;

use alloc::collections::BTreeMap;
use dunix_ids::NodeId;

/// The coordinator's table of ports of one protocol. At most 65,535 entries, for ports have 16 bits.
#[derive(Debug, Default)]
pub struct PortTable {
    held: BTreeMap<u16, NodeId>,
}

/// What became of a wish to hold a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reservation {
    /// The port is the asker's.
    Granted,
    /// Another node holds it (`EADDRINUSE`).
    Taken(NodeId),
    /// The holder must be asked whether it still does; then [`PortTable::settle`] decides.
    Ask(NodeId),
}

impl PortTable {
    /// Makes an empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Handles a node's wish to hold `port`.
    pub fn reserve(&mut self, node: NodeId, port: u16) -> Reservation {
        match self.held.get(&port) {
            Some(&holder) if holder != node => Reservation::Ask(holder),
            _ => {
                self.held.insert(port, node);
                Reservation::Granted
            }
        }
    }

    /// Handles a holder's answer: `still_bound` as `holder` saw it, a bind(2) that it is about to make
    /// included. Never answers `Ask`, so a question ends.
    pub fn settle(
        &mut self,
        node: NodeId,
        port: u16,
        holder: NodeId,
        still_bound: bool,
    ) -> Reservation {
        if self.held.get(&port) == Some(&holder) {
            if still_bound {
                return Reservation::Taken(holder);
            }
            self.held.remove(&port);
        }
        match self.reserve(node, port) {
            // It changed hands while the question was under way: the newcomer is about to bind it.
            Reservation::Ask(other) => Reservation::Taken(other),
            settled => settled,
        }
    }

    /// Forgets that `node` holds `port`.
    pub fn release(&mut self, node: NodeId, port: u16) {
        if self.held.get(&port) == Some(&node) {
            self.held.remove(&port);
        }
    }

    /// Returns who holds `port`.
    #[must_use]
    pub fn holder(&self, port: u16) -> Option<NodeId> {
        self.held.get(&port).copied()
    }

    /// Handles the death of a node: its ports are free.
    pub fn handle_node_down(&mut self, node: NodeId) {
        self.held.retain(|_, holder| *holder != node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);

    #[test]
    fn a_port_is_held_by_one_node_until_it_lets_go() {
        let mut table = PortTable::new();
        assert_eq!(table.reserve(A, 80), Reservation::Granted);
        assert_eq!(table.reserve(A, 80), Reservation::Granted);
        assert_eq!(table.reserve(B, 80), Reservation::Ask(A));
        assert_eq!(table.settle(B, 80, A, true), Reservation::Taken(A));
        table.release(B, 80);
        assert_eq!(table.holder(80), Some(A));
        table.release(A, 80);
        assert_eq!(table.reserve(B, 80), Reservation::Granted);
    }

    #[test]
    fn a_stale_holder_loses_what_it_left_at_once() {
        let mut table = PortTable::new();
        table.reserve(A, 80);
        assert_eq!(table.reserve(B, 80), Reservation::Ask(A));
        assert_eq!(table.settle(B, 80, A, false), Reservation::Granted);
        assert_eq!(table.holder(80), Some(B));
    }

    #[test]
    fn of_two_askers_one_gets_the_port() {
        let mut table = PortTable::new();
        table.reserve(A, 80);
        assert_eq!(table.reserve(B, 80), Reservation::Ask(A));
        assert_eq!(table.reserve(C, 80), Reservation::Ask(A));
        assert_eq!(table.settle(B, 80, A, false), Reservation::Granted);
        assert_eq!(table.settle(C, 80, A, false), Reservation::Taken(B));
    }

    #[test]
    fn a_dead_node_holds_nothing() {
        let mut table = PortTable::new();
        table.reserve(A, 80);
        table.reserve(B, 81);
        table.handle_node_down(A);
        assert_eq!((table.holder(80), table.holder(81)), (None, Some(B)));
    }
}
