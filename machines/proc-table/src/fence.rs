//! When this node must not go on: the others have declared it dead, or will have.
//!
//! ```text
//! goes on --it lost the majority of those it knew--------------------> fenced
//!    `-----a lower number says that it has declared this node dead---> fenced
//! ```
//! The others report to parents that this node's processes were killed; fencing makes that true.
//! Those that count are the live and the dead whose death is not settled: what all survivors have
//! agreed upon changes the number of which a majority is needed. Of two halves the one with the
//! coordinator goes on. Of two nodes that lost only one another the lower number does.
//!
//! Whoever has lost only its connection to a node that others still speak with declares it dead alone. So a node
//! that is fenced says so to all it can reach, and then it is dead for everyone; and who hears of a death
//! of a node that answers passes the word on to that.
//!
//! Invariant: a fenced node stays fenced, and declares nobody dead to others but itself.

use crate::{Effect, ProcTable};
use alloc::vec::Vec;
use dunix_ids::NodeId;
use dunix_wire::processes::ProcMessage;

impl ProcTable {
    /// Returns whether nothing may run here any more ([`Effect::Fenced`] has been queued).
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.is_fenced
    }

    /// Another death became known: is it this node that was cut off?
    pub(crate) fn fence_in_minority(&mut self) {
        let live = 1 + self.peers.live().count();
        let lost = self.peers.trusted().count() + 1 - live;
        let has_coordinator = self.coordinator().is_some_and(|node| self.is_live(node));
        if lost > live || (lost == live && !has_coordinator) {
            self.fence();
        }
    }

    /// A peer says whom it has declared dead, whatever this node thinks of the peer.
    pub(crate) fn fence_if_told(&mut self, from: NodeId, message: &ProcMessage) {
        if let ProcMessage::Settled { dead, .. } = message
            && *dead == self.config.node
            && from < *dead
        {
            self.fence();
        }
    }

    /// A node that was declared dead is there again: it may not know.
    pub(crate) fn tell_it_is_dead(&mut self, dead: NodeId) {
        if !self.is_fenced {
            let message = ProcMessage::Settled { dead, blocks: Default::default() };
            self.effects.push_back(Effect::Send { to: dead, message });
        }
    }

    fn fence(&mut self) {
        if core::mem::replace(&mut self.is_fenced, true) {
            return;
        }
        self.effects.push_back(Effect::Fenced);
        let dead = self.config.node;
        let peers: Vec<NodeId> = self.peers.live().collect();
        for peer in peers {
            self.send(peer, ProcMessage::Settled { dead, blocks: Vec::new() });
        }
    }
}
