//! Who holds which loopback port of the fabric.
//!
//! A fabric has one port space, as one machine has. The coordinator owns this table. It does not
//! track sockets: a holder's host kernel knows best when a port came free. So a conflict is settled
//! by asking the holder, and only then.
//!
//! ```text
//!            reserve                      conflict after the grace
//!   free ─────────────► held by a node ─────────────────────────────► in question
//!     ▲                   │    ▲                                         │    │
//!     └── release, down ──┘    └────────────── still bound ──────────────┘    │
//!     └───────────────────────────── not bound any more ──────────────────────┘
//! ```
//!
//! Refuses: sockets, clocks and messages of its own; which addresses count as loopback.
//! Invariant: a port has at most one holder, and a holder keeps it through the grace period.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

use alloc::collections::BTreeMap;
use dunix_ids::NodeId;

/// Milliseconds for which a new holder is believed without being asked: the time between the
/// grant and the holder's bind(2).
pub const GRACE_MS: u64 = 5_000;

/// The coordinator's table of TCP ports. At most 65,535 entries, for ports have 16 bits.
#[derive(Debug, Default)]
pub struct PortTable {
    held: BTreeMap<u16, Holding>,
}

#[derive(Debug, Clone, Copy)]
struct Holding {
    node: NodeId,
    since_ms: u64,
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

    /// Handles a node's wish to hold `port` at `now_ms`.
    pub fn reserve(&mut self, now_ms: u64, node: NodeId, port: u16) -> Reservation {
        match self.held.get(&port) {
            Some(holding) if holding.node != node => {
                if now_ms.saturating_sub(holding.since_ms) < GRACE_MS {
                    Reservation::Taken(holding.node)
                } else {
                    Reservation::Ask(holding.node)
                }
            }
            _ => {
                self.held.insert(port, Holding { node, since_ms: now_ms });
                Reservation::Granted
            }
        }
    }

    /// Handles a holder's answer: `still_bound` as `holder` saw it. Never answers `Ask` for the
    /// same holder, so a question ends.
    pub fn settle(
        &mut self,
        now_ms: u64,
        node: NodeId,
        port: u16,
        holder: NodeId,
        still_bound: bool,
    ) -> Reservation {
        match self.held.get(&port) {
            Some(holding) if holding.node == holder && still_bound => Reservation::Taken(holder),
            Some(holding) if holding.node == holder => {
                self.held.remove(&port);
                self.reserve(now_ms, node, port)
            }
            // It changed hands while the question was under way: the newcomer is in its grace.
            _ => match self.reserve(now_ms, node, port) {
                Reservation::Ask(other) => Reservation::Taken(other),
                settled => settled,
            },
        }
    }

    /// Forgets that `node` holds `port`.
    pub fn release(&mut self, node: NodeId, port: u16) {
        if self.held.get(&port).is_some_and(|holding| holding.node == node) {
            self.held.remove(&port);
        }
    }

    /// Returns who holds `port`.
    #[must_use]
    pub fn holder(&self, port: u16) -> Option<NodeId> {
        self.held.get(&port).map(|holding| holding.node)
    }

    /// Handles the death of a node: its ports are free.
    pub fn handle_node_down(&mut self, node: NodeId) {
        self.held.retain(|_, holding| holding.node != node);
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
        assert_eq!(table.reserve(0, A, 80), Reservation::Granted);
        assert_eq!(table.reserve(1, A, 80), Reservation::Granted);
        assert_eq!(table.reserve(2, B, 80), Reservation::Taken(A));
        table.release(B, 80);
        assert_eq!(table.holder(80), Some(A));
        table.release(A, 80);
        assert_eq!(table.reserve(3, B, 80), Reservation::Granted);
    }

    #[test]
    fn a_stale_holder_is_asked_and_loses_only_what_it_left() {
        let mut table = PortTable::new();
        table.reserve(0, A, 80);
        assert_eq!(table.reserve(GRACE_MS, B, 80), Reservation::Ask(A));
        assert_eq!(table.settle(GRACE_MS, B, 80, A, true), Reservation::Taken(A));
        assert_eq!(table.settle(GRACE_MS, B, 80, A, false), Reservation::Granted);
        assert_eq!(table.holder(80), Some(B));
    }

    #[test]
    fn of_two_askers_one_gets_the_port() {
        let mut table = PortTable::new();
        table.reserve(0, A, 80);
        assert_eq!(table.reserve(GRACE_MS, B, 80), Reservation::Ask(A));
        assert_eq!(table.reserve(GRACE_MS, C, 80), Reservation::Ask(A));
        assert_eq!(table.settle(GRACE_MS + 1, B, 80, A, false), Reservation::Granted);
        assert_eq!(table.settle(GRACE_MS + 2, C, 80, A, false), Reservation::Taken(B));
    }

    #[test]
    fn a_dead_node_holds_nothing() {
        let mut table = PortTable::new();
        table.reserve(0, A, 80);
        table.reserve(0, B, 81);
        table.handle_node_down(A);
        assert_eq!((table.holder(80), table.holder(81)), (None, Some(B)));
    }
}
