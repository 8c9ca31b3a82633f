//! Arenas of slots: executable memory near the text whose sites lead there.
//!
//! An arena lies less than 2 GiB from its sites. A slot suits a site if the distance has the byte that the jump needs
//! ([`jump`]); two slots in a hundred do. Sites of the loaded form have an arena of their own, which
//! their table leads to.

use crate::host;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use dunix_shim_core::Errno;
use dunix_shim_core::rewrite::{
    ARENA_BYTES, Form, LOADED_START, SLOT_BYTES, Site, Slot, TABLE_BYTES, TABLE_START, jump,
};

/// Most arenas of a process.
const ARENAS: usize = 24;
const SLOTS: usize = host::to_usize(ARENA_BYTES / SLOT_BYTES);
/// Places that are tried for a new arena.
const PLACES: u64 = 48;
const PLACE_STEP: u64 = 0x0200_0000;
const PAGE: u64 = 4096;

/// Where each is; filled in order, under the lock.
static STARTS: [AtomicU64; ARENAS] = [const { AtomicU64::new(0) }; ARENAS];
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// The pages of the table that are written, a bit each.
static WRITTEN: AtomicU64 = AtomicU64::new(0);
/// Which slots are written.
#[unsafe(link_section = ".bss.cold.1")]
static USED: [[AtomicU64; SLOTS / 64]; ARENAS] =
    [const { [const { AtomicU64::new(0) }; SLOTS / 64] }; ARENAS];

fn all() -> impl Iterator<Item = (usize, u64)> {
    let count = COUNT.load(Ordering::Acquire);
    (0..count.min(ARENAS)).map(|index| (index, STARTS[index].load(Ordering::Relaxed)))
}

/// The written slot that an address lies in.
pub(super) fn slot_of(address: u64) -> Option<u64> {
    let slot = address & !(SLOT_BYTES - 1);
    let (index, start) = all().find(|(_, start)| slot.wrapping_sub(*start) < ARENA_BYTES)?;
    let number = host::to_usize((slot - start) / SLOT_BYTES);
    is_used(index, number).then_some(slot)
}

fn is_used(arena: usize, slot: usize) -> bool {
    USED[arena][slot / 64].load(Ordering::Acquire) >> (slot % 64) & 1 == 1
}

/// What a written slot says of its site.
pub(super) fn read(slot: u64) -> Option<(Form, Site)> {
    slot_of(slot)?;
    // SAFETY: a written slot is readable and never changes again.
    let bytes = unsafe { &*(slot as *const Slot) };
    Some((Site::form_of(bytes), Site::of(bytes)))
}

/// A free slot for a site, in a new arena if need be. Under the lock.
pub(super) fn find(form: Form, call: u64) -> Option<u64> {
    let slot = search(form, call).or_else(|| {
        grow(form, call).ok()?;
        search(form, call)
    })?;
    if let Form::Loaded(_) = form {
        write_table(slot).ok()?;
    }
    Some(slot)
}

fn search(form: Form, call: u64) -> Option<u64> {
    all().find_map(|(index, start)| {
        (0..SLOTS).find_map(|number| {
            let slot = start + number as u64 * SLOT_BYTES;
            (!is_used(index, number) && jump(form, call, slot).is_some()).then_some(slot)
        })
    })
}

/// Maps another arena.
fn grow(form: Form, call: u64) -> Result<(), Errno> {
    let index = COUNT.load(Ordering::Relaxed);
    if index >= ARENAS {
        return Err(Errno::ENOMEM);
    }
    let start = match form {
        Form::Loaded(_) => {
            if all().any(|(_, start)| start == LOADED_START) {
                return Err(Errno::ENOMEM);
            }
            map(TABLE_START, TABLE_BYTES, host::PROT_READ)?;
            map(LOADED_START, ARENA_BYTES, host::PROT_READ | host::PROT_EXEC)?
        }
        Form::Followed(_) => near(call)?,
    };
    STARTS[index].store(start, Ordering::Relaxed);
    COUNT.store(index + 1, Ordering::Release);
    Ok(())
}

/// A place that all text around a site reaches: below it, or above what has little below.
fn near(call: u64) -> Result<u64, Errno> {
    let call = call & !(ARENA_BYTES - 1);
    for step in 1..=PLACES {
        let distance = step * PLACE_STEP + 0x1000_0000;
        let place = if call > 0x1_0000_0000 { call - distance } else { call + distance };
        if let Ok(start) = map(place, ARENA_BYTES, host::PROT_READ | host::PROT_EXEC) {
            return Ok(start);
        }
    }
    Err(Errno::ENOMEM)
}

fn map(at: u64, bytes: u64, prot: u64) -> Result<u64, Errno> {
    let flags = host::MAP_PRIVATE | host::MAP_ANONYMOUS | host::MAP_FIXED_NOREPLACE;
    // SAFETY: replaces nothing.
    let start = unsafe { host::mmap(at, bytes, prot, flags | host::MAP_NORESERVE, -1, 0) }?;
    if start == at {
        return Ok(start);
    }
    // SAFETY: a kernel that does not know the flag mapped it elsewhere, just now.
    unsafe { host::munmap(start, bytes) };
    Err(Errno::EEXIST)
}

/// Makes the table lead the entry of a slot there for good, and the others of its page. Under the lock.
fn write_table(slot: u64) -> Result<(), Errno> {
    const ENTRIES: u64 = PAGE / 8;
    let first = (slot - LOADED_START) / SLOT_BYTES / ENTRIES * ENTRIES;
    let page = TABLE_START + first * 8;
    let bit = 1 << (first / ENTRIES);
    if WRITTEN.load(Ordering::Relaxed) & bit != 0 {
        return Ok(());
    }
    // SAFETY: the shim's own mapping, of which nobody uses this page yet.
    unsafe { host::mprotect(page, PAGE, host::PROT_READ | host::PROT_WRITE) }?;
    for index in first..first + ENTRIES {
        // SAFETY: inside the page.
        unsafe { ((TABLE_START + index * 8) as *mut u64).write(LOADED_START + index * SLOT_BYTES) };
    }
    // SAFETY: as above.
    unsafe { host::mprotect(page, PAGE, host::PROT_READ) }?;
    WRITTEN.fetch_or(bit, Ordering::Relaxed);
    Ok(())
}

/// A page of slots that may be written. Under the lock.
pub(super) struct Open {
    index: usize,
    start: u64,
    page: u64,
}

impl Open {
    /// Opens the page of a free slot; it stays executable for those who are in other slots.
    pub(super) fn around(slot: u64) -> Result<Open, Errno> {
        let found = all().find(|(_, start)| slot.wrapping_sub(*start) < ARENA_BYTES);
        let (index, start) = found.ok_or(Errno::EINVAL)?;
        let page = slot & !(PAGE - 1);
        let open = host::PROT_READ | host::PROT_WRITE | host::PROT_EXEC;
        // SAFETY: a page of an arena.
        unsafe { host::mprotect(page, PAGE, open) }?;
        Ok(Open { index, start, page })
    }

    /// Writes a free slot of the page.
    pub(super) fn write(&self, slot: u64, stub: &Slot) -> Result<(), Errno> {
        if slot & !(PAGE - 1) != self.page {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the page is writable, and nobody knows the slot yet.
        unsafe { (slot as *mut Slot).write(*stub) };
        let number = host::to_usize((slot - self.start) / SLOT_BYTES);
        USED[self.index][number / 64].fetch_or(1 << (number % 64), Ordering::AcqRel);
        Ok(())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: as at its opening.
        let _ = unsafe { host::mprotect(self.page, PAGE, host::PROT_READ | host::PROT_EXEC) };
    }
}
