//! The node's arena and who has which of its slots.

use dunix_guest_abi::arena::{
    ARENA_BYTES, CpuidAnswer, FACTS_AT, NodeFacts, SLOT_PARK, SLOTS, STEADY_LEAVES, Slot,
};
use dunix_ids::Pid;
use dunix_linux::Result;
use dunix_linux::arena::Arena;
use rustix::thread::futex;
use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};

/// A slot's index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct SlotIndex(u32);

impl SlotIndex {
    pub(crate) fn get(self) -> u32 {
        self.0
    }
}

/// The page range that every guest reads.
#[derive(Debug)]
pub(crate) struct SlotArena(Arena);

const WORDS: usize = size_of::<Slot>() / 4;

impl SlotArena {
    pub(crate) fn new() -> Result<SlotArena> {
        let arena = Arena::new("arena", ARENA_BYTES)?;
        for (index, leaf) in STEADY_LEAVES.into_iter().enumerate() {
            let at = FACTS_AT + offset_of!(NodeFacts, answers) + index * size_of::<CpuidAnswer>();
            for (register, value) in dunix_linux::cpuid(leaf).into_iter().enumerate() {
                if let Some(word) = arena.word(at / 4 + register) {
                    word.store(value, Ordering::Relaxed);
                }
            }
        }
        let arena = SlotArena(arena);
        // What a process remembers of no epoch is nothing.
        arena.recall_locks();
        Ok(arena)
    }

    /// Whatever was granted for flock(2) is to be asked for again.
    pub(crate) fn recall_locks(&self) {
        let at = FACTS_AT + offset_of!(NodeFacts, lock_epoch);
        if let Some(word) = self.0.word(at / 4) {
            word.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Publishes the number of the tree's file system here.
    pub(crate) fn set_tree_device(&self, device: u32) {
        let at = FACTS_AT + offset_of!(NodeFacts, tree_device);
        if let Some(word) = self.0.word(at / 4) {
            word.store(device, Ordering::Release);
        }
    }

    /// Publishes that datagrams to a port need not be asked about again.
    pub(crate) fn settle_port(&self, port: u16) {
        let at = FACTS_AT + offset_of!(NodeFacts, settled_ports);
        if let Some(word) = self.0.word(at / 4 + usize::from(port) / 32) {
            word.fetch_or(1 << (port % 32), Ordering::Release);
        }
    }

    /// Tells a process that an answer `EAGAIN` may have changed.
    pub(crate) fn wake(&self, slot: SlotIndex) {
        self.note(slot);
        self.wake_waiters(slot);
    }

    /// The first half of [`SlotArena::wake`]: who looks from now on sees it.
    pub(crate) fn note(&self, slot: SlotIndex) {
        if let Some(word) = self.word(slot, offset_of!(Slot, event_seq)) {
            word.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The second half: who looked before.
    pub(crate) fn wake_waiters(&self, slot: SlotIndex) {
        if let Some(word) = self.word(slot, offset_of!(Slot, event_seq)) {
            let _ = futex::wake(word, futex::Flags::empty(), i32::MAX.cast_unsigned());
        }
    }

    /// How often a process was told so.
    pub(crate) fn events(&self, slot: SlotIndex) -> u32 {
        let word = self.word(slot, offset_of!(Slot, event_seq));
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Publishes a process's `SLOT_*` bits, all but [`SLOT_PARK`].
    pub(crate) fn set_flags(&self, slot: SlotIndex, flags: u32) {
        if let Some(word) = self.word(slot, offset_of!(Slot, flags)) {
            let keep = |old| Some(old & SLOT_PARK | flags & !SLOT_PARK);
            let _ = word.fetch_update(Ordering::AcqRel, Ordering::Relaxed, keep);
        }
    }

    /// Publishes who a process's parent, group and session are, as far as they are known.
    pub(crate) fn set_identity(&self, slot: SlotIndex, identity: [Option<Pid>; 3]) {
        let words = [offset_of!(Slot, parent), offset_of!(Slot, group), offset_of!(Slot, session)];
        for (offset, pid) in words.into_iter().zip(identity) {
            if let Some(word) = self.word(slot, offset) {
                word.store(pid.map_or(0, Pid::get), Ordering::Release);
            }
        }
    }

    /// Asks all threads of a process to park; returns the epoch that they ring with.
    pub(crate) fn begin_park(&self, slot: SlotIndex) -> u32 {
        let epoch = self.word(slot, offset_of!(Slot, park_epoch));
        let epoch = epoch.map_or(0, |word| word.fetch_add(1, Ordering::AcqRel).wrapping_add(1));
        if let Some(word) = self.word(slot, offset_of!(Slot, flags)) {
            word.fetch_or(SLOT_PARK, Ordering::AcqRel);
        }
        epoch
    }

    /// Lets parked threads go on.
    pub(crate) fn end_park(&self, slot: SlotIndex) {
        if let Some(word) = self.word(slot, offset_of!(Slot, flags)) {
            word.fetch_and(!SLOT_PARK, Ordering::AcqRel);
        }
        self.command(slot, self.next_command(slot));
    }

    /// The serial that the next script has; never 0.
    pub(crate) fn next_command(&self, slot: SlotIndex) -> u32 {
        let word = self.word(slot, offset_of!(Slot, command_seq));
        word.map_or(1, |word| word.load(Ordering::Acquire).wrapping_add(1).max(1))
    }

    /// Publishes a script, which is in its place.
    pub(crate) fn command(&self, slot: SlotIndex, serial: u32) {
        if let Some(word) = self.word(slot, offset_of!(Slot, command_seq)) {
            word.store(serial, Ordering::Release);
            let _ = futex::wake(word, futex::Flags::empty(), i32::MAX.cast_unsigned());
        }
    }

    fn word(&self, slot: SlotIndex, offset: usize) -> Option<&AtomicU32> {
        self.0.word(slot.0 as usize * WORDS + offset / 4)
    }
}

impl AsFd for SlotArena {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The slots that nobody has.
#[derive(Debug)]
pub(crate) struct SlotPool {
    free: Vec<u32>,
    next: u32,
}

impl SlotPool {
    pub(crate) fn new() -> SlotPool {
        SlotPool { free: Vec::new(), next: 0 }
    }

    /// Takes a slot; `None` when all [`SLOTS`] are taken (a fork then fails with `EAGAIN`).
    pub(crate) fn take(&mut self) -> Option<SlotIndex> {
        if let Some(index) = self.free.pop() {
            return Some(SlotIndex(index));
        }
        if self.next as usize >= SLOTS {
            return None;
        }
        self.next += 1;
        Some(SlotIndex(self.next - 1))
    }

    pub(crate) fn give_back(&mut self, slot: SlotIndex) {
        debug_assert!(!self.free.contains(&slot.0), "slot {} given back twice", slot.0);
        self.free.push(slot.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_run_out_and_come_back() {
        let mut pool = SlotPool::new();
        let first = pool.take().unwrap();
        for _ in 1..SLOTS {
            pool.take().unwrap();
        }
        assert_eq!(pool.take(), None);
        pool.give_back(first);
        assert_eq!(pool.take(), Some(first));
    }

    #[test]
    fn a_wake_shows_in_the_arena() {
        let arena = SlotArena::new().unwrap();
        arena.wake(SlotIndex(2));
        arena.set_flags(SlotIndex(2), 5);
        let mut bytes = [0; 8];
        rustix::io::pread(&arena, &mut bytes, 128).unwrap();
        assert_eq!(bytes, [1, 0, 0, 0, 5, 0, 0, 0]);
    }
}
