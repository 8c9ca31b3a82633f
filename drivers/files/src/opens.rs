//! What this node has open at the authority, and which of it serves further opens without asking.
//!
//! ```text
//!  authority's answer ─► in use (users ≥ 1) ──last close──► idle ──► given back: another file needs
//!                            │   ▲                          │ │        the room, or it is recalled
//!                            │   └──────── next reader ─────┘ │
//!                            └─recalled─► not shared ─last close─► given back
//! ```
//!
//! To the authority an open that is shared is one reader that has the file open all the time, and so
//! it is coherent: every change of the file recalls it. Invariants: only opens that read through the
//! cache are shared; what was recalled is never shared again; no more than [`IDLE_MAX`] are idle.

use dunix_ids::Ino;
use dunix_wire::files::{OpenMode, Reclaim};
use std::collections::{BTreeMap, HashMap};

/// So many files that nobody here uses stay open; beyond, the one is given back that rests longest.
pub(crate) const IDLE_MAX: usize = 1024;

/// The opens of one mount, by the authority's numbers.
#[derive(Default)]
pub(crate) struct Opens {
    all: HashMap<u64, Open>,
    /// The one of a file that is shared.
    shared: HashMap<Ino, u64>,
    /// Those without a user, by the time of their last close.
    idle: BTreeMap<u64, u64>,
    closes: u64,
}

struct Open {
    ino: Ino,
    mode: OpenMode,
    users: u32,
    /// Its key among the idle ones.
    resting: Option<u64>,
}

/// Whether an open only reads what is there.
pub(crate) fn only_reads(open: OpenMode) -> bool {
    open.read && !open.write && !open.truncate
}

impl Opens {
    /// Notes an open that the authority has granted; `shareable` if nothing was recalled meanwhile.
    pub(crate) fn add(&mut self, handle: u64, ino: Ino, mode: OpenMode, shareable: bool) {
        self.all.insert(handle, Open { ino, mode, users: 1, resting: None });
        if shareable && only_reads(mode) {
            self.shared.entry(ino).or_insert(handle);
        }
    }

    /// Serves another reader of the file, if one is shared.
    pub(crate) fn share(&mut self, ino: Ino) -> Option<u64> {
        let handle = *self.shared.get(&ino)?;
        let open = self.all.get_mut(&handle)?;
        open.users += 1;
        if let Some(key) = open.resting.take() {
            self.idle.remove(&key);
        }
        Some(handle)
    }

    /// A user closes. Returns what is to be given back to the authority.
    pub(crate) fn close(&mut self, handle: u64) -> Option<u64> {
        let open = self.all.get_mut(&handle)?;
        open.users = open.users.saturating_sub(1);
        if open.users > 0 {
            return None;
        }
        if self.shared.get(&open.ino) != Some(&handle) {
            self.all.remove(&handle);
            return Some(handle);
        }
        self.closes += 1;
        open.resting = Some(self.closes);
        self.idle.insert(self.closes, handle);
        if self.idle.len() <= IDLE_MAX {
            return None;
        }
        let (_, oldest) = self.idle.pop_first()?;
        let ino = self.all.remove(&oldest)?.ino;
        self.shared.remove(&ino);
        Some(oldest)
    }

    /// The file is shared no more. Returns what is to be given back.
    pub(crate) fn unshare(&mut self, ino: Ino) -> Option<u64> {
        let handle = self.shared.remove(&ino)?;
        let key = self.all.get_mut(&handle)?.resting.take()?;
        self.idle.remove(&key);
        self.all.remove(&handle);
        Some(handle)
    }

    /// No file is shared any more. Returns what is to be given back.
    pub(crate) fn unshare_all(&mut self) -> Vec<u64> {
        let files: Vec<Ino> = self.shared.keys().copied().collect();
        files.into_iter().filter_map(|ino| self.unshare(ino)).collect()
    }

    /// Lists them as the authority has to know them.
    pub(crate) fn list(&self) -> Vec<Reclaim> {
        let all = self.all.iter();
        all.map(|(&handle, open)| Reclaim { handle, ino: open.ino, open: open.mode }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: OpenMode = OpenMode { read: true, write: false, truncate: false, exclusive: false };
    const F: Ino = Ino(7);

    #[test]
    fn readers_share_one_open_that_outlives_them() {
        let mut opens = Opens::default();
        assert_eq!(opens.share(F), None);
        opens.add(1, F, READ, true);
        assert_eq!(opens.share(F), Some(1));
        assert_eq!((opens.close(1), opens.close(1)), (None, None));
        assert_eq!(opens.share(F), Some(1), "it rests");
        assert_eq!(opens.unshare(F), None, "it is in use");
        assert_eq!(opens.share(F), None, "recalled");
        assert_eq!(opens.close(1), Some(1));
        assert!(opens.list().is_empty() && opens.idle.is_empty());
    }

    #[test]
    fn a_recall_gives_back_what_rests() {
        let mut opens = Opens::default();
        opens.add(1, F, READ, true);
        assert_eq!(opens.close(1), None);
        assert_eq!(opens.unshare(F), Some(1));
        assert!(opens.list().is_empty() && opens.idle.is_empty());
    }

    #[test]
    fn writers_and_what_was_recalled_on_the_way_are_not_shared() {
        let mut opens = Opens::default();
        opens.add(1, F, OpenMode { write: true, ..READ }, true);
        opens.add(2, F, READ, false);
        assert_eq!(opens.share(F), None);
        assert_eq!((opens.close(1), opens.close(2)), (Some(1), Some(2)));
    }

    #[test]
    fn the_longest_idle_one_makes_room() {
        let mut opens = Opens::default();
        for handle in 0..=IDLE_MAX as u64 {
            opens.add(handle, Ino(handle), READ, true);
        }
        let closed: Vec<_> =
            (0..=IDLE_MAX as u64).filter_map(|handle| opens.close(handle)).collect();
        assert_eq!(closed, vec![0]);
        assert_eq!((opens.share(Ino(0)), opens.share(Ino(1))), (None, Some(1)));
        assert_eq!(opens.unshare_all().len(), IDLE_MAX - 1);
        assert_eq!(opens.list().len(), 1);
    }
}
