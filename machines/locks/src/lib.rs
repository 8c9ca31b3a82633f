//! Which part of a file is locked by whom, and who waits for it, over all nodes of a fabric (fcntl(2), flock(2)).
//!
//! The truth about a lock that is held is the kernel's of the holder's node: it ends locks at close, exec and
//! exit. This table holds what was granted, which may be more than is held still; whoever is refused
//! because of an entry has it confirmed first ([`LockTable::confirm`]).
//!
//! ```text
//!          no entry of others in the way
//!  asked ────────────────────────────────► granted ──── confirmed as less, gone ────► forgotten
//!    │                                        ▲
//!    └── in the way, confirmed ──► waits ─────┘  asked again
//!                                    └── a circle of waiting owners ──► refused
//! ```
//!
//! Refuses: clocks, messages, the order of those who wait (any may be first, as when they ask again).
//! Invariants: of two overlapping entries of different owners, neither is of kind write, unless both are of one
//! node of which one is of descriptions: those its kernel settles.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod circle;
mod held;

pub use circle::{CIRCLE_MAX, Edge};

use alloc::{collections::BTreeMap, vec::Vec};
use dunix_ids::{Ino, NodeId, Pid};
use dunix_wire::locks::{Lock, LockOwner};

/// The most entries of all files; when they are reached, all are to be confirmed.
pub const HELD_MAX: usize = 1 << 16;
/// The most threads that wait; a further one is refused (`ENOLCK`).
pub const WAITING_MAX: usize = 1 << 14;

/// The table, at the authority of the tree.
#[derive(Debug, Default)]
pub struct LockTable {
    files: BTreeMap<Ino, File>,
    waiting: BTreeMap<Pid, Waiter>,
    held: usize,
    grants: u64,
}

#[derive(Debug, Default)]
struct File {
    held: Vec<Entry>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    held: Held,
    /// Which grant it is of.
    grant: u64,
}

/// A lock that was granted to a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Held {
    /// Where its holder is.
    pub node: NodeId,
    /// The lock.
    pub lock: Lock,
}

/// A lock that a thread waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiter {
    /// Where the thread is.
    pub node: NodeId,
    /// Its process.
    pub pid: Pid,
    /// The file.
    pub ino: Ino,
    /// The lock.
    pub lock: Lock,
}

/// There is no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

impl LockTable {
    /// The entries that are in the way of a lock for a process of a node.
    #[must_use]
    pub fn in_the_way(&self, ino: Ino, wanted: Held) -> Vec<Held> {
        let entries = self.files.get(&ino).map_or(&[][..], |file| &file.held);
        let held = entries.iter().map(|entry| entry.held);
        held.filter(|held| held::excludes(*held, wanted)).collect()
    }

    /// Notes a lock that nothing is in the way of; it takes the place of the owner's own on its bytes.
    ///
    /// # Errors
    /// [`Full`]: nothing is noted.
    pub fn grant(&mut self, ino: Ino, granted: Held) -> Result<(), Full> {
        // The owner's lock around it is cut in two.
        if self.held + 2 > HELD_MAX {
            return Err(Full);
        }
        let file = self.files.entry(ino).or_default();
        let before = file.held.len();
        self.grants += 1;
        held::put(&mut file.held, Entry { held: granted, grant: self.grants });
        self.held = self.held + file.held.len() - before;
        Ok(())
    }

    /// How many locks were granted so far: asked for before a question to a node, for
    /// [`LockTable::confirm`].
    #[must_use]
    pub fn grants(&self) -> u64 {
        self.grants
    }

    /// A node has said what its processes hold of a file: entries of that node shrink to it, except
    /// those that were granted after the first `grants`, of which it may not have known yet.
    pub fn confirm(&mut self, ino: Ino, node: NodeId, truth: &[Lock], grants: u64) {
        self.change(ino, |entries| held::shrink(entries, node, truth, grants));
    }

    /// A process has gone from a node, and what it held there.
    pub fn process_gone(&mut self, node: NodeId, pid: Pid) {
        let owner = LockOwner::Process(pid);
        self.retain(|entry| entry.node != node || entry.lock.owner != owner);
        self.waiting.retain(|_, waiter| waiter.node != node || waiter.pid != pid);
    }

    /// A node is gone.
    pub fn node_gone(&mut self, node: NodeId) {
        self.retain(|entry| entry.node != node);
        self.waiting.retain(|_, waiter| waiter.node != node);
    }

    /// A thread waits, in place of what it waited for before.
    ///
    /// # Errors
    /// [`Full`].
    pub fn wait(&mut self, thread: Pid, waiter: Waiter) -> Result<(), Full> {
        if self.waiting.len() >= WAITING_MAX && !self.waiting.contains_key(&thread) {
            return Err(Full);
        }
        self.waiting.insert(thread, waiter);
        Ok(())
    }

    /// What a thread waits for.
    #[must_use]
    pub fn waiter(&self, thread: Pid) -> Option<&Waiter> {
        self.waiting.get(&thread)
    }

    /// A thread waits no more.
    pub fn stop_waiting(&mut self, thread: Pid) {
        self.waiting.remove(&thread);
    }

    /// Those who wait and have nothing in their way: the node and the process of each.
    #[must_use]
    pub fn may_go_on(&self) -> Vec<(NodeId, Pid)> {
        let free = self.waiting.iter().filter(|(_, waiter)| {
            let wanted = Held { node: waiter.node, lock: waiter.lock };
            self.in_the_way(waiter.ino, wanted).is_empty()
        });
        free.map(|(_, waiter)| (waiter.node, waiter.pid)).collect()
    }

    /// What stands in the way of those who wait: files, by the node that can confirm it.
    #[must_use]
    pub fn waited_for(&self) -> BTreeMap<NodeId, Vec<Ino>> {
        let entries = self.waiting.values().flat_map(|waiter| {
            let wanted = Held { node: waiter.node, lock: waiter.lock };
            let in_the_way = self.in_the_way(waiter.ino, wanted);
            in_the_way.into_iter().map(|entry| (entry.node, waiter.ino))
        });
        by_node(entries)
    }

    /// Every file with entries, by the node that can confirm them.
    #[must_use]
    pub fn all(&self) -> BTreeMap<NodeId, Vec<Ino>> {
        let files = self.files.iter();
        by_node(files.flat_map(|(ino, file)| file.held.iter().map(|entry| (entry.held.node, *ino))))
    }

    /// Whether anybody waits.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn change(&mut self, ino: Ino, change: impl FnOnce(&mut Vec<Entry>)) {
        let Some(file) = self.files.get_mut(&ino) else { return };
        self.held -= file.held.len();
        change(&mut file.held);
        self.held += file.held.len();
        if file.held.is_empty() {
            self.files.remove(&ino);
        }
    }

    fn retain(&mut self, keep: impl Fn(&Held) -> bool) {
        for file in self.files.values_mut() {
            file.held.retain(|entry| keep(&entry.held));
        }
        self.files.retain(|_, file| !file.held.is_empty());
        self.held = self.files.values().map(|file| file.held.len()).sum();
    }

    /// Panics where an invariant does not hold; for tests.
    pub fn check_invariants(&self) {
        let mut count = 0;
        for file in self.files.values() {
            assert!(!file.held.is_empty(), "an empty file is kept");
            count += file.held.len();
            for (at, one) in file.held.iter().enumerate() {
                assert!(one.held.lock.first <= one.held.lock.last, "{one:?} is empty");
                for other in &file.held[at + 1..] {
                    assert!(!held::excludes(one.held, other.held), "{one:?} beside {other:?}");
                }
            }
        }
        assert_eq!(count, self.held, "entries are counted");
    }
}

fn by_node(entries: impl Iterator<Item = (NodeId, Ino)>) -> BTreeMap<NodeId, Vec<Ino>> {
    let mut files: BTreeMap<NodeId, Vec<Ino>> = BTreeMap::new();
    for (node, ino) in entries {
        files.entry(node).or_default().push(ino);
    }
    for inos in files.values_mut() {
        inos.sort_unstable();
        inos.dedup();
    }
    files
}
