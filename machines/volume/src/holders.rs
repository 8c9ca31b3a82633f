//! Which node may have cached what, and whom a change has to reach first.
//!
//! A node holds pages of an inode from its first cached open until they are recalled, and may map what
//! it has open for reading and writing; it holds attributes and names from the answer that carried a
//! lease. A change computes the recalls and takes the holdings back at
//! once: what a node is granted later shows the change already.
//!
//! Owns: the table of holdings. Refuses: waiting; the driver waits for the acknowledgements.
//! Invariant: no holding is empty, and a node that is gone holds nothing.

use crate::names::LentNames;
use alloc::{collections::BTreeMap, vec::Vec};
use dunix_ids::{Ino, NodeId};
use dunix_wire::files::{NamePart, Recall};

/// How a file is open on a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// For reading, through the node's page cache.
    Cached,
    /// For reading and writing past the page cache; it can still be mapped.
    Direct,
    /// For writing only: neither cached nor mapped.
    Blind,
}

/// What a change of data means for caches.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Changed {
    /// What these nodes must forget before the change is acknowledged.
    pub recalls: Vec<(NodeId, Recall)>,
    /// Whether the changing node drops its own pages.
    pub drop_own: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Holding {
    cached_opens: u32,
    direct_opens: u32,
    pages: bool,
    attr: bool,
}

impl Holding {
    fn is_empty(self) -> bool {
        self == Holding::default()
    }
}

/// The holdings of all nodes.
#[derive(Default)]
pub struct Holders {
    inodes: BTreeMap<Ino, BTreeMap<NodeId, Holding>>,
    names: LentNames,
}

impl Holders {
    /// Notes that `node` opened `ino`.
    pub fn opened(&mut self, ino: Ino, node: NodeId, access: Access) {
        let holding = self.inodes.entry(ino).or_default().entry(node).or_default();
        match access {
            Access::Cached => {
                holding.cached_opens += 1;
                holding.pages = true;
            }
            Access::Direct => holding.direct_opens += 1,
            Access::Blind => {}
        }
        self.prune(ino, node);
    }

    /// Notes that `node` closed one of its opens. Its pages stay.
    pub fn closed(&mut self, ino: Ino, node: NodeId, access: Access) {
        if let Some(holding) = self.inodes.get_mut(&ino).and_then(|nodes| nodes.get_mut(&node)) {
            let opens = match access {
                Access::Cached => &mut holding.cached_opens,
                Access::Direct => &mut holding.direct_opens,
                Access::Blind => return,
            };
            *opens = opens.saturating_sub(1);
        }
        self.prune(ino, node);
    }

    /// Notes that `node` was told attributes of `ino` that it may keep.
    pub fn lend_attr(&mut self, ino: Ino, node: NodeId) {
        self.inodes.entry(ino).or_default().entry(node).or_default().attr = true;
    }

    /// Says whether `node` may keep a name in `dir`, and notes it if so.
    pub fn lend_name(&mut self, dir: Ino, name: &[u8], node: NodeId, now_ms: u64) -> bool {
        self.names.lend(dir, NamePart::of(name), node, now_ms)
    }

    /// The data (and so the attributes) of `ino` were changed by `by`. `from_cache`: by the writing
    /// back of dirty pages, which `by` still holds and has locked.
    pub fn changed_data(&mut self, ino: Ino, by: NodeId, from_cache: bool) -> Changed {
        let mut changed = Changed::default();
        let Some(nodes) = self.inodes.get_mut(&ino) else { return changed };
        nodes.retain(|&node, holding| {
            if node == by && !from_cache {
                // A kernel drops the pages that it writes past before it does so; another open may
                // have brought back what was there then. Of the attributes it knows.
                changed.drop_own = holding.pages || holding.direct_opens > 1;
            } else {
                let maps = holding.pages || holding.direct_opens > 0;
                if node != by && maps {
                    changed.recalls.push((node, Recall::Pages(ino)));
                } else if holding.attr {
                    changed.recalls.push((node, Recall::Attr(ino)));
                }
                holding.attr = false;
            }
            if node != by || !from_cache {
                // What is open may be cached again at any time.
                holding.pages = holding.cached_opens > 0;
            }
            !holding.is_empty()
        });
        if nodes.is_empty() {
            self.inodes.remove(&ino);
        }
        changed
    }

    /// Attributes of `ino` were changed by `by`, whose kernel knows.
    pub fn changed_attr(&mut self, ino: Ino, by: NodeId) -> Vec<(NodeId, Recall)> {
        let mut recalls = Vec::new();
        let Some(nodes) = self.inodes.get_mut(&ino) else { return recalls };
        nodes.retain(|&node, holding| {
            if node != by && holding.attr {
                recalls.push((node, Recall::Attr(ino)));
                holding.attr = false;
            }
            !holding.is_empty()
        });
        if nodes.is_empty() {
            self.inodes.remove(&ino);
        }
        recalls
    }

    /// Privileges of `ino` went with a change of its data: no kernel knows, the writer's neither.
    pub fn lost_privilege(&mut self, ino: Ino) -> Vec<(NodeId, Recall)> {
        let nodes = self.inodes.get_mut(&ino).into_iter().flatten();
        let knowing = nodes.filter(|(_, holding)| holding.attr);
        let recalls = knowing.map(|(&node, holding)| {
            holding.attr = false;
            (node, Recall::Attr(ino))
        });
        let recalls = recalls.collect();
        if let Some(nodes) = self.inodes.get_mut(&ino) {
            nodes.retain(|_, holding| !holding.is_empty());
            if nodes.is_empty() {
                self.inodes.remove(&ino);
            }
        }
        recalls
    }

    /// `ino` lost a name and is still open: nodes that have it open for reading, the one that took the
    /// name away too, may do so for nobody, and are to look.
    pub fn lost_name(&self, ino: Ino) -> Vec<(NodeId, Recall)> {
        let nodes = self.inodes.get(&ino).into_iter().flatten();
        let open = nodes.filter(|(_, holding)| holding.cached_opens > 0);
        open.map(|(&node, _)| (node, Recall::Attr(ino))).collect()
    }

    /// A name in `dir` was changed by `by`, whose kernel knows.
    pub fn changed_name(
        &mut self,
        dir: Ino,
        name: &[u8],
        by: NodeId,
        now_ms: u64,
    ) -> Vec<(NodeId, Recall)> {
        let part = NamePart::of(name);
        let keepers = self.names.changed(dir, part, by, now_ms).into_iter();
        keepers.map(|node| (node, Recall::Names(dir, part))).collect()
    }

    /// `node` moved a name: its kernel moves what it keeps of the name along.
    pub fn carried_name(
        &mut self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        node: NodeId,
        now_ms: u64,
    ) {
        let part = |(dir, name)| (dir, NamePart::of(name));
        self.names.carried(part(from), part(to), node, now_ms);
    }

    /// Forgets an inode that is no more.
    pub fn discard(&mut self, ino: Ino) {
        self.inodes.remove(&ino);
        self.names.discard(ino);
    }

    /// Forgets a node that is gone.
    pub fn node_gone(&mut self, node: NodeId) {
        self.inodes.retain(|_, nodes| {
            nodes.remove(&node);
            !nodes.is_empty()
        });
        self.names.node_gone(node);
    }

    /// Panics if the table contradicts itself.
    pub fn check_invariants(&self) {
        for nodes in self.inodes.values() {
            assert!(!nodes.is_empty(), "an inode without holdings");
            for holding in nodes.values() {
                assert!(!holding.is_empty(), "an empty holding");
                assert!(holding.cached_opens == 0 || holding.pages, "open, but without pages");
            }
        }
    }

    fn prune(&mut self, ino: Ino, node: NodeId) {
        if let Some(nodes) = self.inodes.get_mut(&ino) {
            if nodes.get(&node).is_some_and(|holding| holding.is_empty()) {
                nodes.remove(&node);
            }
            if nodes.is_empty() {
                self.inodes.remove(&ino);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const F: Ino = Ino(9);

    #[test]
    fn readers_elsewhere_are_recalled_even_after_they_closed() {
        let mut holders = Holders::default();
        holders.opened(F, A, Access::Cached);
        holders.closed(F, A, Access::Cached);
        let changed = holders.changed_data(F, B, false);
        assert_eq!(changed.recalls, vec![(A, Recall::Pages(F))]);
        assert!(!changed.drop_own);
        assert_eq!(holders.changed_data(F, B, false), Changed::default(), "recalled once");
    }

    #[test]
    fn an_open_reader_is_recalled_at_each_change() {
        let mut holders = Holders::default();
        holders.opened(F, A, Access::Cached);
        for _ in 0..3 {
            assert_eq!(holders.changed_data(F, B, false).recalls, vec![(A, Recall::Pages(F))]);
        }
    }

    #[test]
    fn a_writer_drops_its_own_pages_but_not_those_that_it_writes_back() {
        let mut holders = Holders::default();
        holders.opened(F, A, Access::Cached);
        assert!(holders.changed_data(F, A, false).drop_own);
        assert!(!holders.changed_data(F, A, true).drop_own);
        holders.opened(F, B, Access::Direct);
        assert!(!holders.changed_data(F, B, false).drop_own, "the kernel does it by itself");
    }

    /// write(2): the kernel of the node that wrote does not know that a set-id bit went.
    #[test]
    fn whoever_knows_privileges_that_went_is_told_the_writer_too() {
        let mut holders = Holders::default();
        holders.lend_attr(F, A);
        holders.lend_attr(F, B);
        assert_eq!(holders.changed_data(F, A, false).recalls, vec![(B, Recall::Attr(F))]);
        assert_eq!(holders.lost_privilege(F), vec![(A, Recall::Attr(F))]);
        assert_eq!(holders.lost_privilege(F), vec![]);
        holders.check_invariants();
    }

    proptest! {
        /// Against a model that keeps what each node would show: nobody shows what is old.
        #[test]
        fn nobody_keeps_what_was_changed(steps in proptest::collection::vec((0_u8..7, 1_u32..4, 0_u64..3), 1..200)) {
            let mut holders = Holders::default();
            let mut version = [0_u32; 3];
            let mut shown: BTreeMap<(NodeId, u64), u32> = BTreeMap::new();
            let mut opens: BTreeMap<(NodeId, u64), u32> = BTreeMap::new();
            for (step, node, file) in steps {
                let (node, ino, at) = (NodeId(node), Ino(file), usize::try_from(file).expect("small"));
                match step {
                    0 => {
                        holders.opened(ino, node, Access::Cached);
                        *opens.entry((node, file)).or_default() += 1;
                    }
                    1 if opens.get(&(node, file)).is_some_and(|&n| n > 0) => {
                        holders.closed(ino, node, Access::Cached);
                        *opens.entry((node, file)).or_default() -= 1;
                    }
                    2 if opens.get(&(node, file)).is_some_and(|&n| n > 0) => {
                        // A read: the page stays beyond the close.
                        shown.insert((node, file), version[at]);
                    }
                    3 | 4 => {
                        version[at] += 1;
                        let changed = holders.changed_data(ino, node, false);
                        if changed.drop_own {
                            shown.remove(&(node, file));
                        }
                        for (other, recall) in changed.recalls {
                            prop_assert_eq!(recall, Recall::Pages(ino));
                            shown.remove(&(other, file));
                        }
                    }
                    5 => {
                        holders.node_gone(node);
                        shown.retain(|key, _| key.0 != node);
                        opens.retain(|key, _| key.0 != node);
                    }
                    _ => {}
                }
                holders.check_invariants();
                for (key, seen) in &shown {
                    prop_assert_eq!(*seen, version[usize::try_from(key.1).expect("small")]);
                }
            }
        }
    }
}
