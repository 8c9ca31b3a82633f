//! Nodes with kernels, processes and open file descriptions, and the table that they ask.

use dunix_ids::{Ino, NodeId, Pid};
use dunix_locks_table::{Held, LockTable, Waiter};
use dunix_scenarios::Rng;
use dunix_wire::locks::{Lock, LockKind, LockOwner};
use std::collections::{BTreeMap, BTreeSet};

const NODES: u32 = 3;
const FILES: u64 = 2;
const BYTES: u64 = 12;
/// Processes of a node, and its open file descriptions.
const OWNERS: u64 = 3;
/// Threads of a process that may wait.
const THREADS: u64 = 2;

/// Who holds a lock, as a kernel knows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Owner {
    node: u32,
    number: u32,
    sort: Sort,
}

/// Whose calls make its locks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Sort {
    /// A process, by `F_SETLK`.
    Process,
    /// An open file description, by `F_OFD_SETLK`.
    Description,
    /// An open file description, by flock(2): all of the file, beside the others' locks.
    Flock,
}

/// Whether for writing, the first and the last byte.
pub(crate) type Range = (bool, u64, u64);

/// How an attempt came out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Came {
    Had,
    Refused,
    Waits,
    Deadlock,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    owner: Owner,
    file: u64,
    range: Range,
}

/// What a node has said, on its way.
struct Answer {
    node: u32,
    file: u64,
    truth: Vec<Lock>,
    grants: u64,
}

pub(crate) struct World {
    table: LockTable,
    /// Kernels: who has which byte of which file, and whether for writing.
    held: BTreeMap<(u64, u64, Owner), bool>,
    waiting: BTreeMap<Pid, Wait>,
    answers: Vec<Answer>,
    rng: Rng,
}

impl Owner {
    pub(crate) fn description(node: u32, number: u32) -> Owner {
        Owner { node, number, sort: Sort::Description }
    }

    pub(crate) fn process(node: u32, number: u32) -> Owner {
        Owner { node, number, sort: Sort::Process }
    }

    fn is_process(self) -> bool {
        self.sort == Sort::Process
    }

    /// Whether the locks of both exclude each other.
    fn meets(self, other: Owner) -> bool {
        self != other && (self.sort == Sort::Flock) == (other.sort == Sort::Flock)
    }

    fn pid(self) -> Pid {
        Pid::new(self.node * 100 + self.number * 10 + 1).expect("small")
    }

    fn thread(self, number: u64) -> Pid {
        Pid::new(self.pid().get() + u32::try_from(number).expect("small")).expect("small")
    }

    fn named(self) -> LockOwner {
        match self.sort {
            Sort::Process => LockOwner::Process(self.pid()),
            Sort::Description => LockOwner::Descriptions(NodeId(self.node)),
            Sort::Flock => LockOwner::Flocks(NodeId(self.node)),
        }
    }

    fn wish(self, (is_write, first, last): Range) -> Held {
        let kind = if is_write { LockKind::Write } else { LockKind::Read };
        Held { node: NodeId(self.node), lock: Lock { owner: self.named(), kind, first, last } }
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let (table, held, waiting) = Default::default();
        World { table, held, waiting, answers: Vec::new(), rng: Rng::new(seed) }
    }

    /// Something happens.
    pub(crate) fn step(&mut self) -> Option<Came> {
        let (owner, file) = (self.any_owner(), self.rng.below(FILES));
        let range = self.any_range_for(owner);
        match self.rng.below(20) {
            0..8 => return Some(self.attempt(owner, file, range)),
            8..12 => {
                // A description's wait is its node's business, not the table's.
                let owner = Owner { sort: Sort::Process, ..owner };
                let range = self.any_range_for(owner);
                let thread = owner.thread(self.rng.below(THREADS));
                if !self.waiting.contains_key(&thread) {
                    return Some(self.wait(thread, Wait { owner, file, range }));
                }
            }
            12..15 => self.unlock(owner, file, range),
            15 => self.ends(owner),
            16 if self.rng.below(8) == 0 => self.node_ends(owner.node),
            16 | 17 => {
                let grants = self.table.grants();
                let truth = self.truth(owner.node, file);
                self.answers.push(Answer { node: owner.node, file, truth, grants });
            }
            18 => {
                if let Some(late) = self.answers.pop() {
                    let node = NodeId(late.node);
                    self.table.confirm(Ino(late.file), node, &late.truth, late.grants);
                }
            }
            _ => self.look(),
        }
        None
    }

    /// A lock that is had at once or not: who is in the way is asked first, as the driver does.
    pub(crate) fn attempt(&mut self, owner: Owner, file: u64, range: Range) -> Came {
        self.confirm_in_the_way(owner, file, range);
        let is_free = self.clashes(owner, file, range).is_empty();
        let came = if self.lock(owner, file, range) { Came::Had } else { Came::Refused };
        assert_eq!(came == Came::Had, is_free, "{owner:?} {file} {range:?}");
        came
    }

    /// Asks for a lock, or asks again, and is refused only if it would wait for itself.
    fn wait(&mut self, thread: Pid, wait: Wait) -> Came {
        let Wait { owner, file, range } = wait;
        self.confirm_in_the_way(owner, file, range);
        let mut confirmed = BTreeSet::new();
        loop {
            if self.table.in_the_way(Ino(file), owner.wish(range)).is_empty() {
                self.stop_waiting(thread);
                // Else a description of its node has it: it waits in the kernel.
                let is_had = self.lock(owner, file, range);
                return if is_had { Came::Had } else { Came::Refused };
            }
            let Some(circle) = self.table.circle(Ino(file), owner.wish(range)) else {
                assert!(!self.is_circle(wait), "{thread:?} {wait:?} is not seen to be a circle");
                let pid = owner.pid();
                let (node, ino, lock) = (NodeId(owner.node), Ino(file), owner.wish(range).lock);
                self.table.wait(thread, Waiter { node, pid, ino, lock }).expect("room");
                self.waiting.insert(thread, wait);
                return Came::Waits;
            };
            if circle.iter().all(|edge| confirmed.contains(edge)) {
                assert!(self.is_circle(wait), "{thread:?} {wait:?} is no circle");
                self.stop_waiting(thread);
                return Came::Deadlock;
            }
            for (node, ino) in circle {
                self.confirm(node.0, ino.0);
                confirmed.insert((node, ino));
            }
        }
    }

    /// What the authority does for those who wait: whoever has nothing in the way any more is told.
    fn look(&mut self) {
        for (node, inos) in self.table.waited_for() {
            for ino in inos {
                self.confirm(node.0, ino.0);
            }
        }
        let told = self.table.may_go_on();
        for wait in self.waiting.values() {
            let is_told = told.contains(&(NodeId(wait.owner.node), wait.owner.pid()));
            let clashes = self.clashes(wait.owner, wait.file, wait.range);
            let is_kernels = |other: &Owner| !other.is_process() && other.node == wait.owner.node;
            assert!(is_told || !clashes.iter().all(is_kernels), "{wait:?} is forgotten");
        }
        let again: Vec<(Pid, Wait)> =
            self.waiting.iter().map(|(pid, wait)| (*pid, *wait)).collect();
        for (thread, wait) in again {
            if told.contains(&(NodeId(wait.owner.node), wait.owner.pid())) {
                self.wait(thread, wait);
            }
        }
    }

    /// Nobody is left out: when all give up what they have, again and again, all who wait come to have theirs.
    pub(crate) fn all_who_wait_get_it(&mut self) {
        while !self.waiting.is_empty() {
            let before = self.waiting.len();
            self.held.clear();
            self.look();
            self.check();
            assert!(self.waiting.len() < before, "nobody goes on of {:?}", self.waiting);
        }
    }

    /// Panics if the table knows less than the kernels have.
    pub(crate) fn check(&self) {
        self.table.check_invariants();
        for ((file, byte, owner), is_write) in &self.held {
            // What excludes readers shows to a reader, too.
            let elsewhere = Owner { node: NODES + 1, ..*owner };
            let probe = elsewhere.wish((!is_write, *byte, *byte));
            let entries = self.table.in_the_way(Ino(*file), probe);
            let is_known =
                entries.iter().any(|e| e.lock.owner == owner.named() && e.node.0 == owner.node);
            assert!(is_known, "byte {byte} of {file} for {owner:?}, is {is_write}: {entries:?}");
        }
    }

    /// How many entries are in the way of who wants all of a file.
    pub(crate) fn in_the_way_of_all(&self, file: u64) -> usize {
        let all = Owner::description(NODES + 1, 0).wish((true, 0, u64::MAX));
        self.table.in_the_way(Ino(file), all).len()
    }

    /// Notes the lock and asks its owner's kernel for it; whether both let it.
    fn lock(&mut self, owner: Owner, file: u64, range: Range) -> bool {
        let wanted = owner.wish(range);
        if !self.table.in_the_way(Ino(file), wanted).is_empty() {
            return false;
        }
        self.table.grant(Ino(file), wanted).expect("room");
        let clashes = self.clashes(owner, file, range);
        assert!(
            clashes.iter().all(|other| other.node == owner.node),
            "{owner:?} beside {clashes:?}"
        );
        if clashes.is_empty() {
            let (is_write, first, last) = range;
            self.held.extend((first..=last).map(|byte| ((file, byte, owner), is_write)));
        }
        clashes.is_empty()
    }

    fn unlock(&mut self, owner: Owner, file: u64, (_, first, last): Range) {
        self.held.retain(|(of, byte, by), _| {
            (*of, *by) != (file, owner) || !(first..=last).contains(byte)
        });
    }

    fn ends(&mut self, owner: Owner) {
        self.held.retain(|(.., by), _| *by != owner);
        if owner.is_process() {
            self.waiting.retain(|_, wait| wait.owner != owner);
            self.table.process_gone(NodeId(owner.node), owner.pid());
        }
    }

    fn node_ends(&mut self, node: u32) {
        self.held.retain(|(.., by), _| by.node != node);
        self.waiting.retain(|_, wait| wait.owner.node != node);
        self.answers.retain(|answer| answer.node != node);
        self.table.node_gone(NodeId(node));
    }

    fn stop_waiting(&mut self, thread: Pid) {
        self.table.stop_waiting(thread);
        self.waiting.remove(&thread);
    }

    fn confirm_in_the_way(&mut self, owner: Owner, file: u64, range: Range) {
        for entry in self.table.in_the_way(Ino(file), owner.wish(range)) {
            self.confirm(entry.node.0, file);
        }
    }

    fn confirm(&mut self, node: u32, file: u64) {
        let (truth, grants) = (self.truth(node, file), self.table.grants());
        self.table.confirm(Ino(file), NodeId(node), &truth, grants);
    }

    /// What a node's kernel lists, byte by byte.
    fn truth(&self, node: u32, file: u64) -> Vec<Lock> {
        let own = self.held.iter().filter(|((of, _, by), _)| *of == file && by.node == node);
        own.map(|((_, byte, by), is_write)| by.wish((*is_write, *byte, *byte)).lock).collect()
    }

    /// Who has what excludes such a lock.
    fn clashes(&self, owner: Owner, file: u64, (is_write, first, last): Range) -> BTreeSet<Owner> {
        let others = self.held.iter().filter(|((of, byte, by), others)| {
            *of == file
                && by.meets(owner)
                && (first..=last).contains(byte)
                && (is_write || **others)
        });
        others.map(|((.., by), _)| *by).collect()
    }

    /// Whether processes that wait lead from who is in the way back to who waits.
    fn is_circle(&self, wait: Wait) -> bool {
        let mut seen = BTreeSet::new();
        let mut next: Vec<Owner> =
            self.clashes(wait.owner, wait.file, wait.range).into_iter().collect();
        while let Some(owner) = next.pop() {
            if owner == wait.owner {
                return true;
            }
            if seen.insert(owner) {
                let waits = self.waiting.values().filter(|other| other.owner == owner);
                next.extend(waits.flat_map(|w| self.clashes(w.owner, w.file, w.range)));
            }
        }
        false
    }

    fn any_owner(&mut self) -> Owner {
        let mut below = |limit: u64| u32::try_from(self.rng.below(limit)).expect("small");
        let sort =
            [Sort::Process, Sort::Process, Sort::Description, Sort::Flock][below(4) as usize];
        Owner { node: 1 + below(NODES.into()), number: below(OWNERS), sort }
    }

    fn any_range_for(&mut self, owner: Owner) -> Range {
        if owner.sort == Sort::Flock {
            return (self.rng.below(2) == 0, 0, BYTES * 2);
        }
        let first = self.rng.below(BYTES);
        (self.rng.below(2) == 0, first, first + self.rng.below(BYTES / 2))
    }
}
