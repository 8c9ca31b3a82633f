//! Which nodes may keep names of directories, and for how long not.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use dunix_ids::{Ino, NodeId};
use dunix_wire::files::NamePart;

/// For so long after a change of a name that several nodes use it is not leased, ms. It bounds how often nodes that
/// work beside each other have to forget.
pub(crate) const QUIET_MS: u64 = 2000;

/// A directory of fewer parts is not searched for some that say nothing any more.
const SWEEP_FROM: usize = 1024;

/// The leases of names. They are per directory and part of its names: almost as good as per name, and bounded.
#[derive(Default)]
pub(crate) struct LentNames(BTreeMap<Ino, Directory>);

#[derive(Default)]
struct Directory {
    parts: BTreeMap<NamePart, Part>,
    /// How many parts there may be until those that say nothing are dropped.
    sweep_at: usize,
}

#[derive(Default)]
struct Part {
    granted: BTreeSet<NodeId>,
    changed: Option<(NodeId, u64)>,
}

impl Part {
    fn is_quiet(&self, now_ms: u64) -> bool {
        self.changed.is_none_or(|(_, at_ms)| now_ms.saturating_sub(at_ms) >= QUIET_MS)
    }
}

impl LentNames {
    /// Says whether `node` may keep a name of this part, and notes it if so.
    pub(crate) fn lend(&mut self, dir: Ino, part: NamePart, node: NodeId, now_ms: u64) -> bool {
        let part = self.part(dir, part, now_ms);
        let alone = part.granted.iter().all(|&other| other == node);
        let by_itself = alone && part.changed.is_some_and(|(by, _)| by == node);
        let may = by_itself || part.is_quiet(now_ms);
        if may {
            part.granted.insert(node);
        }
        may
    }

    /// A name of this part was changed by `by`, whose kernel knows. Returns the others that may keep it.
    pub(crate) fn changed(
        &mut self,
        dir: Ino,
        part: NamePart,
        by: NodeId,
        now_ms: u64,
    ) -> Vec<NodeId> {
        let part = self.part(dir, part, now_ms);
        part.changed = Some((by, now_ms));
        let others = part.granted.iter().copied().filter(|&node| node != by).collect();
        part.granted.retain(|&node| node == by);
        others
    }

    /// `node` moved a name: its kernel moves what it keeps of it along.
    pub(crate) fn carried(
        &mut self,
        from: (Ino, NamePart),
        to: (Ino, NamePart),
        node: NodeId,
        now_ms: u64,
    ) {
        let known = self.0.get(&from.0).and_then(|dir| dir.parts.get(&from.1));
        if known.is_some_and(|part| part.granted.contains(&node)) {
            self.part(to.0, to.1, now_ms).granted.insert(node);
        }
    }

    /// Forgets a directory that is no more.
    pub(crate) fn discard(&mut self, dir: Ino) {
        self.0.remove(&dir);
    }

    /// Forgets a node that is gone.
    pub(crate) fn node_gone(&mut self, node: NodeId) {
        let parts = self.0.values_mut().flat_map(|dir| dir.parts.values_mut());
        parts.for_each(|part| {
            part.granted.remove(&node);
        });
    }

    fn part(&mut self, dir: Ino, part: NamePart, now_ms: u64) -> &mut Part {
        let dir = self.0.entry(dir).or_default();
        if dir.parts.len() >= dir.sweep_at.max(SWEEP_FROM) {
            dir.parts.retain(|_, part| !part.granted.is_empty() || !part.is_quiet(now_ms));
            dir.sweep_at = dir.parts.len() * 2;
        }
        dir.parts.entry(part).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const D: Ino = Ino(9);
    const X: NamePart = NamePart(3);
    const Y: NamePart = NamePart(4);

    #[test]
    fn names_are_recalled_once_and_lent_again_after_a_quiet_time() {
        let mut names = LentNames::default();
        assert!(names.lend(D, X, A, 0));
        assert_eq!(names.changed(D, X, B, 10), vec![A]);
        assert!(!names.lend(D, X, A, 20));
        assert_eq!(names.changed(D, X, B, 30), vec![]);
        assert!(names.lend(D, X, B, 30), "a node alone is not disturbed by its own changes");
        assert!(names.lend(D, X, A, 30 + QUIET_MS));
        assert_eq!(names.changed(D, X, A, 31 + QUIET_MS), vec![B]);
    }

    #[test]
    fn a_name_is_not_disturbed_by_others_of_its_directory() {
        let mut names = LentNames::default();
        assert!(names.lend(D, X, A, 0));
        assert_eq!(names.changed(D, Y, B, 10), vec![]);
        assert!(names.lend(D, X, B, 20));
        assert_eq!(names.changed(D, X, B, 30), vec![A]);
    }

    #[test]
    fn a_moved_name_is_recalled_from_where_it_went() {
        let to = Ino(21);
        let mut names = LentNames::default();
        assert!(names.lend(D, X, A, 0));
        names.carried((D, X), (to, Y), A, 5);
        names.carried((D, X), (D, Y), A, 5);
        names.carried((to, X), (D, Y), B, 5);
        assert_eq!(names.changed(to, Y, B, 10), vec![A]);
        assert_eq!(names.changed(D, Y, B, 10), vec![A]);
    }

    #[test]
    fn changes_of_many_names_leave_nothing_behind() {
        let mut names = LentNames::default();
        assert!(names.lend(D, X, A, 0));
        for number in 0..u16::MAX {
            names.changed(D, NamePart(number), A, u64::from(number) * 10);
        }
        let parts = names.0.get(&D).map_or(0, |dir| dir.parts.len());
        assert!(parts <= SWEEP_FROM, "{parts}");
        assert_eq!(names.changed(D, X, B, 1_000_000), vec![A]);
    }

    proptest! {
        /// Against a model that keeps what each node would show: nobody shows what is old.
        #[test]
        fn nobody_keeps_what_was_changed(steps in proptest::collection::vec((0_u8..4, 1_u32..4, 0_u16..3, 0_u64..900), 1..300)) {
            let mut names = LentNames::default();
            let mut version = [0_u32; 3];
            let mut shown: BTreeMap<(NodeId, u16), u32> = BTreeMap::new();
            let mut now_ms = 0;
            for (step, node, name, pause) in steps {
                let (node, at) = (NodeId(node), usize::from(name));
                now_ms += pause;
                match step {
                    0 | 1 => {
                        if names.lend(D, NamePart(name), node, now_ms) {
                            shown.insert((node, name), version[at]);
                        }
                    }
                    2 => {
                        version[at] += 1;
                        for other in names.changed(D, NamePart(name), node, now_ms) {
                            shown.remove(&(other, name));
                        }
                        shown.entry((node, name)).and_modify(|seen| *seen = version[at]);
                    }
                    _ => {
                        names.node_gone(node);
                        shown.retain(|key, _| key.0 != node);
                    }
                }
                for (key, seen) in &shown {
                    prop_assert_eq!(*seen, version[usize::from(key.1)]);
                }
            }
        }
    }
}
