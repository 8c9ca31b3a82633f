//! What this node knows of the others' loads: the freshest entry for each.

use dunix_ids::NodeId;
use dunix_wire::load::{LoadEntry, WINDOW_ENTRIES_MAX};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Greatest number of nodes remembered; the oldest entry makes room.
const NODES_MAX: usize = 64;
/// Older entries say nothing any more.
const AGE_MAX: Duration = Duration::from_secs(30);

/// Entries with the instant at which they were true.
#[derive(Default)]
pub(crate) struct Window {
    entries: BTreeMap<NodeId, (LoadEntry, Instant)>,
}

impl Window {
    /// Takes an entry that a peer sent, if it is news.
    pub(crate) fn learn(&mut self, entry: LoadEntry, now: Instant) {
        let age = Duration::from_millis(entry.age_ms.into());
        let Some(taken) = now.checked_sub(age).filter(|_| age < AGE_MAX) else { return };
        if self.entries.get(&entry.node).is_some_and(|(_, known)| *known >= taken) {
            return;
        }
        self.entries.insert(entry.node, (entry, taken));
        if self.entries.len() > NODES_MAX {
            let oldest = self.entries.iter().min_by_key(|(_, (_, taken))| *taken);
            if let Some(oldest) = oldest.map(|(node, _)| *node) {
                self.entries.remove(&oldest);
            }
        }
    }

    /// Counts a program that was just placed on a node, until the node itself is heard again.
    pub(crate) fn charge(&mut self, node: NodeId) {
        if let Some((entry, _)) = self.entries.get_mut(&node) {
            entry.runnable_centi = entry.runnable_centi.saturating_add(100);
        }
    }

    pub(crate) fn forget(&mut self, node: NodeId) {
        self.entries.remove(&node);
    }

    /// Returns everything known, by node, with ages as of now.
    pub(crate) fn entries(&mut self, now: Instant) -> Vec<LoadEntry> {
        self.entries.retain(|_, (_, taken)| now.saturating_duration_since(*taken) < AGE_MAX);
        let aged = |(entry, taken): &(LoadEntry, Instant)| {
            let age = now.saturating_duration_since(*taken).as_millis();
            LoadEntry { age_ms: u32::try_from(age).unwrap_or(u32::MAX), ..*entry }
        };
        self.entries.values().map(aged).collect()
    }

    /// Returns what is worth telling a peer: the own entry, then the freshest.
    pub(crate) fn best(&mut self, own: LoadEntry, now: Instant) -> Vec<LoadEntry> {
        let mut entries = self.entries(now);
        entries.sort_by_key(|entry| (entry.age_ms, entry.node));
        entries.insert(0, own);
        entries.truncate(WINDOW_ENTRIES_MAX);
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(node: u32, runnable_centi: u32, age_ms: u32) -> LoadEntry {
        let (cpus_centi, pressure, memory_free_mib) = (100, 0, 1);
        let node = NodeId(node);
        LoadEntry { node, runnable_centi, cpus_centi, pressure, memory_free_mib, age_ms }
    }

    #[test]
    fn the_fresher_entry_wins() {
        let now = Instant::now() + AGE_MAX;
        let mut window = Window::default();
        window.learn(entry(1, 10, 500), now);
        window.learn(entry(1, 20, 900), now);
        assert_eq!(window.entries(now), [entry(1, 10, 500)]);
        window.learn(entry(1, 30, 100), now);
        let later = now + Duration::from_millis(50);
        assert_eq!(window.entries(later), [entry(1, 30, 150)]);
        assert_eq!(window.entries(now + AGE_MAX), []);
    }

    #[test]
    fn the_window_is_bounded_and_keeps_the_freshest() {
        let now = Instant::now() + AGE_MAX;
        let mut window = Window::default();
        for node in 0..200 {
            window.learn(entry(node, 0, 200 - node), now);
        }
        assert_eq!(window.entries(now).len(), NODES_MAX);
        let best = window.best(entry(500, 0, 0), now);
        assert_eq!(best.len(), WINDOW_ENTRIES_MAX);
        assert_eq!((best[0].node, best[1].node), (NodeId(500), NodeId(199)));
    }
}
