//! The memory of one process that lacks pages: what it lacks, and how the kernel is given it.

use super::Lost;
use super::pending::Pending;
use bytes::Bytes;
use dunix_linux::Errno;
use dunix_linux::userfault::{Filled, PAGE, PAGE_BYTES, Userfault};
use std::ops::Range;

/// The memory of one process.
pub(super) struct Space {
    pub(super) fault: Userfault,
    pub(super) pending: Pending,
    /// Old places of mremap(2), whose unmapping is still to be told; it concerns nothing that came
    /// there since.
    vacated: Vec<Range<u64>>,
}

/// What became of a request.
pub(super) enum Done {
    Yes,
    Refused,
    SpaceGone,
}

impl Space {
    pub(super) fn new(fault: Userfault, pending: Pending) -> Space {
        Space { fault, pending, vacated: Vec::new() }
    }

    /// mremap(2) has moved pages.
    pub(super) fn move_pages(&mut self, from: u64, to: u64, bytes: u64) {
        self.pending.remap(from, to, bytes);
        self.vacated.push(from..from.saturating_add(bytes));
        self.look_again(from, bytes);
    }

    /// What is lacking there will not be asked for any more.
    pub(super) fn forget(&mut self, start: u64, end: u64) {
        self.pending.forget(start..end);
        self.look_again(start, end.saturating_sub(start));
    }

    /// munmap(2). `arrived`: where mremap(2) has put pages in the same breath: nobody knows yet that
    /// they are there, so an unmapping of that place is older.
    pub(super) fn unmap(&mut self, start: u64, end: u64, arrived: &[Range<u64>]) {
        let known = self.vacated.iter().position(|range| *range == (start..end));
        match known {
            Some(at) => drop(self.vacated.swap_remove(at)),
            None => without(start..end, arrived).for_each(|range| self.pending.forget(range)),
        }
        self.look_again(start, end.saturating_sub(start));
    }

    /// Makes threads that wait for pages of a range fault again.
    pub(super) fn look_again(&self, start: u64, bytes: u64) {
        // Fails for an empty range, where nobody waits.
        let _ = self.fault.wake(start, bytes);
    }

    /// Places what this space lacks of these pages.
    pub(super) fn place(&mut self, source: u64, bytes: &Bytes) -> Result<Done, Lost> {
        for piece in self.pending.pieces_of(source..source + bytes.len() as u64) {
            let start = usize::try_from(piece.source - source).unwrap_or(usize::MAX);
            let end = start.saturating_add(usize::try_from(piece.bytes).unwrap_or(usize::MAX));
            let Some(part) = bytes.get(start..end) else { continue };
            match self.fill(piece.place, part)? {
                Done::Yes => {}
                other => return Ok(other),
            }
        }
        Ok(Done::Yes)
    }

    /// Fills missing pages; those that are there already, or are mapped no more, are passed over.
    ///
    /// That nothing is mapped (`ENOENT`) can mean an event that is not read: the kernel looks whether
    /// one is under way before it looks for the mapping. So it has to say so twice.
    fn fill(&mut self, to: u64, bytes: &[u8]) -> Result<Done, Lost> {
        let (mut at, mut is_unmapped) = (0, false);
        // A run that crosses mappings is refused as a whole, so it then goes page by page.
        let mut step = bytes.len();
        while at < bytes.len() {
            let address = to + at as u64;
            let part = &bytes[at..bytes.len().min(at + step)];
            let Filled { bytes: filled, stopped } = self.fault.copy(address, part);
            self.pending.forget(address..address + filled);
            at += usize::try_from(filled).unwrap_or(usize::MAX);
            let was_unmapped = std::mem::replace(&mut is_unmapped, stopped == Some(Errno::NOENT));
            match stopped {
                None => {}
                Some(Errno::AGAIN) => return Ok(Done::Refused),
                Some(Errno::SRCH) => return Ok(Done::SpaceGone),
                Some(Errno::NOENT) if part.len() as u64 > PAGE => {
                    (step, is_unmapped) = (PAGE_BYTES, false);
                }
                Some(Errno::NOENT) if !was_unmapped => {}
                Some(Errno::NOENT | Errno::EXIST) => {
                    self.pending.forget(address..address + PAGE);
                    self.look_again(address, PAGE);
                    (at, is_unmapped) = (at + PAGE_BYTES, false);
                }
                Some(error) => return Err(Lost::Host(error)),
            }
        }
        Ok(Done::Yes)
    }

    /// A page that the source does not have, or that has come meanwhile.
    pub(super) fn give_zeros(&self, address: u64, is_write: bool) -> Result<Done, Lost> {
        // A page that is written at once is made so, else the write would fault a second time.
        let filled = if is_write {
            self.fault.copy(address, &[0; PAGE_BYTES])
        } else {
            self.fault.zero(address, PAGE)
        };
        match filled.stopped {
            None => Ok(Done::Yes),
            Some(Errno::AGAIN) => Ok(Done::Refused),
            Some(Errno::SRCH) => Ok(Done::SpaceGone),
            Some(Errno::NOENT | Errno::EXIST) => {
                self.look_again(address, PAGE);
                Ok(Done::Yes)
            }
            Some(error) => Err(Lost::Host(error)),
        }
    }
}

/// The parts of a range that are in none of the others.
fn without(range: Range<u64>, others: &[Range<u64>]) -> impl Iterator<Item = Range<u64>> {
    let mut parts = vec![range];
    for other in others {
        parts = parts
            .into_iter()
            .flat_map(|part| {
                let before = part.start..part.end.min(other.start);
                let after = part.start.max(other.end)..part.end;
                [before, after]
            })
            .filter(|part| part.start < part.end)
            .collect();
    }
    parts.into_iter()
}
