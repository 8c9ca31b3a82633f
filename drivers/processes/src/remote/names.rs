//! What has a name in the common tree and lives in one node's kernel: who keeps it.
//!
//! ```text
//!  user of a name --FindKeeper--> founder: the first who claims it keeps it
//!       `--its own wish--> keeper, which has a handle on the name since before it asked
//! ```
//! The kernel of each node has a pipe of its own behind the same FIFO; one of them is used by all.
//! Invariant: a node that the founder calls a keeper has a handle on the name, until the name is gone
//! from the tree.

use crate::node::{Node, lock};
use dunix_ids::NodeId;
use dunix_linux::{Errno, Result};
use dunix_wire::Topic;
use dunix_wire::processes::{ProcessesAnswer, ProcessesCall, ProcessesMessage, SharedName};
use rustix::fs::fstat;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Most names of the fabric that have a keeper; at the limit nobody becomes one (`ENFILE`).
const NAMES_MAX: usize = 65536;
/// Most names that one node keeps; at the limit it keeps no further one (`ENFILE`).
const KEPT_MAX: usize = 4096;
/// So many names are kept before it is looked for the first time whether the tree still has them.
const LOOK_AT: usize = 64;
/// How long the founder may take for an answer; then it is `EIO`.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The names that nodes keep.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// At the founder: who keeps what.
    keepers: Mutex<BTreeMap<SharedName, NodeId>>,
    here: Mutex<Here>,
}

#[derive(Debug, Default)]
struct Here {
    names: BTreeMap<SharedName, Kept>,
    /// At so many names it is looked again whether the tree still has them.
    look_at: usize,
}

/// A name that this node keeps, or asks about.
#[derive(Debug)]
struct Kept {
    /// The file with the name, opened with `O_PATH`.
    handle: Arc<OwnedFd>,
    /// Those who wait for the founder's word.
    asking: usize,
    is_here: bool,
}

impl Names {
    /// The handle of a name that is kept here.
    pub(super) fn handle(&self, name: &SharedName) -> Option<Arc<OwnedFd>> {
        lock(&self.here).names.get(name).map(|kept| kept.handle.clone())
    }

    /// Whether this node is known to keep a name.
    pub(super) fn is_here(&self, name: &SharedName) -> bool {
        lock(&self.here).names.get(name).is_some_and(|kept| kept.is_here)
    }

    /// At the founder: who keeps a name. `not` does no more.
    fn keeper(
        &self,
        name: SharedName,
        claimed_by: Option<NodeId>,
        not: Option<NodeId>,
    ) -> Option<NodeId> {
        let mut keepers = lock(&self.keepers);
        if let Some(keeper) = keepers.get(&name).filter(|keeper| Some(**keeper) != not) {
            return Some(*keeper);
        }
        let claimer = claimed_by.filter(|_| keepers.len() < NAMES_MAX)?;
        keepers.insert(name, claimer);
        Some(claimer)
    }

    /// At the founder: a node keeps a name no more.
    pub(super) fn gone(&self, from: NodeId, name: &SharedName) {
        let mut keepers = lock(&self.keepers);
        if keepers.get(name) == Some(&from) {
            keepers.remove(name);
        }
    }

    /// At the founder: a node died, and with it what it kept.
    pub(super) fn node_gone(&self, node: NodeId) {
        lock(&self.keepers).retain(|_, keeper| *keeper != node);
    }

    /// Has a handle before anybody can be sent here for it.
    fn begin(&self, name: &SharedName, handle: OwnedFd) -> Result<()> {
        let mut here = lock(&self.here);
        if let Some(kept) = here.names.get_mut(name) {
            kept.asking += 1;
            return Ok(());
        }
        if here.names.len() >= KEPT_MAX {
            return Err(Errno::NFILE);
        }
        let kept = Kept { handle: Arc::new(handle), asking: 1, is_here: false };
        here.names.insert(name.clone(), kept);
        Ok(())
    }

    fn end(&self, name: &SharedName, is_here: bool) {
        let mut here = lock(&self.here);
        let Some(kept) = here.names.get_mut(name) else { return };
        kept.asking -= 1;
        kept.is_here |= is_here;
        let unused = if kept.asking == 0 && !kept.is_here { here.names.remove(name) } else { None };
        drop(here);
        drop(unused);
    }

    /// What to look at again: names that have become many.
    fn to_look_at(&self) -> Vec<(SharedName, Arc<OwnedFd>)> {
        let here = &mut *lock(&self.here);
        if here.names.len() < here.look_at.max(LOOK_AT) {
            return Vec::new();
        }
        here.look_at = (here.names.len() * 2).min(KEPT_MAX);
        let kept = here.names.iter().filter(|(_, kept)| kept.is_here && kept.asking == 0);
        kept.map(|(name, kept)| (name.clone(), kept.handle.clone())).collect()
    }

    fn forget(&self, name: &SharedName) -> bool {
        let mut here = lock(&self.here);
        let is_idle = here.names.get(name).is_some_and(|kept| kept.asking == 0);
        let forgotten = if is_idle { here.names.remove(name) } else { None };
        drop(here);
        forgotten.is_some()
    }
}

impl Node {
    /// Who keeps a name; `claims`: this node does if nobody else does, but for `not`, which has no use for
    /// it any more.
    pub(super) async fn find_keeper(
        &self,
        name: SharedName,
        claims: bool,
        not: Option<NodeId>,
    ) -> Result<Option<NodeId>> {
        let Some(mesh) = self.mesh.as_ref().filter(|_| self.founder != self.id) else {
            return Ok(self.names.keeper(name, claims.then_some(self.id), not));
        };
        let body = dunix_wire::encode(&ProcessesCall::FindKeeper { name, claims, not });
        let answer = mesh.call(self.founder, Topic::Processes, body, ANSWER_WITHIN).await;
        match answer.ok().and_then(|answer| dunix_wire::decode(&answer).ok()) {
            Some(ProcessesAnswer::Keeper(keeper)) => Ok(keeper),
            _ => Err(Errno::IO),
        }
    }

    /// At the founder: answers [`ProcessesCall::FindKeeper`].
    pub(super) fn keeper_for(
        &self,
        from: NodeId,
        name: SharedName,
        (claims, not): (bool, Option<NodeId>),
    ) -> Option<NodeId> {
        let claimed_by = claims.then_some(from);
        if self.founder == self.id { self.names.keeper(name, claimed_by, not) } else { None }
    }

    /// Who keeps the file of a name: this node, which has a handle on it, if nobody else does.
    pub(super) async fn keep_name(
        self: &Arc<Node>,
        name: &SharedName,
        handle: OwnedFd,
    ) -> Result<NodeId> {
        self.look_at_names();
        self.names.begin(name, handle)?;
        let keeper = self.find_keeper(name.clone(), true, None).await;
        self.names.end(name, keeper == Ok(Some(self.id)));
        keeper?.ok_or(Errno::NFILE)
    }

    /// Lets go of names that the tree has no more.
    fn look_at_names(self: &Arc<Node>) {
        let kept = self.names.to_look_at();
        if kept.is_empty() {
            return;
        }
        let node = self.clone();
        // It asks the tree, and nobody waits for it.
        self.runtime.spawn_blocking(move || {
            for (name, handle) in kept {
                if fstat(&handle).is_ok_and(|stat| stat.st_nlink == 0) && node.names.forget(&name) {
                    node.tell(node.founder, &ProcessesMessage::NameGone(name));
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunix_ids::Ino;

    const NAME: SharedName = SharedName::Fifo(Ino(7));

    #[test]
    fn the_first_claim_counts_until_its_node_is_gone() {
        let names = Names::default();
        assert_eq!(names.keeper(NAME, None, None), None);
        assert_eq!(names.keeper(NAME, Some(NodeId(2)), None), Some(NodeId(2)));
        assert_eq!(names.keeper(NAME, Some(NodeId(3)), None), Some(NodeId(2)));
        names.gone(NodeId(3), &NAME);
        assert_eq!(names.keeper(NAME, None, None), Some(NodeId(2)));
        names.node_gone(NodeId(2));
        assert_eq!(names.keeper(NAME, Some(NodeId(3)), None), Some(NodeId(3)));
        assert_eq!(names.keeper(NAME, Some(NodeId(4)), Some(NodeId(2))), Some(NodeId(3)));
        assert_eq!(names.keeper(NAME, Some(NodeId(4)), Some(NodeId(3))), Some(NodeId(4)));
        names.gone(NodeId(4), &NAME);
        assert_eq!(names.keeper(NAME, None, None), None);
    }

    #[test]
    fn a_handle_is_there_while_somebody_asks_and_as_long_as_the_node_keeps_it() {
        let handle = || std::fs::File::open("/").unwrap().into();
        let names = Names::default();
        names.begin(&NAME, handle()).unwrap();
        names.begin(&NAME, handle()).unwrap();
        assert!(names.handle(&NAME).is_some() && !names.is_here(&NAME));
        names.end(&NAME, false);
        assert!(names.handle(&NAME).is_some());
        names.end(&NAME, false);
        assert!(names.handle(&NAME).is_none());
        names.begin(&NAME, handle()).unwrap();
        assert!(!names.forget(&NAME));
        names.end(&NAME, true);
        assert!(names.is_here(&NAME) && names.handle(&NAME).is_some());
        assert!(names.forget(&NAME) && !names.forget(&NAME));
    }
}
