//! Circles of owners who wait for one another (`EDEADLK`).

use crate::{Held, LockTable};
use alloc::{collections::BTreeSet, vec::Vec};
use dunix_ids::{Ino, NodeId};
use dunix_wire::locks::LockOwner;

/// How many owners a circle may have; a longer one goes unseen, as with the kernel's own (there 10).
pub const CIRCLE_MAX: usize = 64;

/// An entry that makes one owner wait for another: where, and for which file.
pub type Edge = (NodeId, Ino);

impl LockTable {
    /// Whether the owner of a wanted lock would wait for itself: the entries that make it so. They may
    /// be out of date; a circle of confirmed ones is a deadlock. Open file descriptions wait for nobody: as with
    /// a kernel's locks, who would end their wait is unknown.
    #[must_use]
    pub fn circle(&self, ino: Ino, wanted: Held) -> Option<Vec<Edge>> {
        let LockOwner::Process(_) = wanted.lock.owner else { return None };
        let mut seen = BTreeSet::new();
        let mut path = Vec::new();
        self.leads_to(wanted.lock.owner, ino, wanted, &mut seen, &mut path).then_some(path)
    }

    /// Follows waiting owners, each once.
    fn leads_to(
        &self,
        goal: LockOwner,
        ino: Ino,
        wanted: Held,
        seen: &mut BTreeSet<LockOwner>,
        path: &mut Vec<Edge>,
    ) -> bool {
        for entry in self.in_the_way(ino, wanted) {
            path.push((entry.node, ino));
            if entry.lock.owner == goal {
                return true;
            }
            if path.len() < CIRCLE_MAX && seen.insert(entry.lock.owner) {
                let waits = self.waiting.values().filter(|w| w.lock.owner == entry.lock.owner);
                for waiter in waits {
                    let next = Held { node: waiter.node, lock: waiter.lock };
                    if self.leads_to(goal, waiter.ino, next, seen, path) {
                        return true;
                    }
                }
            }
            path.pop();
        }
        false
    }
}
