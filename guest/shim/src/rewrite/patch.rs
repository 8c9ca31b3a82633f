//! Writing the jump: whether the text may be changed, and how, while other threads run it.
//!
//! ```text
//! several threads:  first byte and the one behind the call := 06 | barrier | the rest | barrier | first byte
//! one thread:       all at once
//! ```
//! Whoever comes by in between meets 06 and waits in SIGILL ([`super::repair`]). The barriers are
//! membarrier(2)'s, which make all processors fetch anew; without them only one thread's text is written.

use super::{arena, sites};
use crate::arch::fast;
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::thread::Thread;
use core::sync::atomic::{AtomicU8, Ordering};
use dunix_shim_core::rewrite::{Form, INVALID, SITE_MAX, choose, jump, stub};
use dunix_shim_core::{Errno, nr};

const PAGE: u64 = 4096;
/// What is looked at before and from the call on.
const BEFORE: usize = 6;
const FROM: usize = 17;
const MADV_WIPEONFORK: u64 = 18;
const MADV_KEEPONFORK: u64 = 19;
const MREMAP_MAYMOVE: u64 = 1;
const BARRIER_SYNC_CORE: u64 = 1 << 5;
const BARRIER_REGISTER_SYNC_CORE: u64 = 1 << 6;

/// Rewrites the site whose call instruction lies at `call`. Under the lock; `false` leaves it as it is.
pub(super) fn try_site(call: u64, number: u64) -> bool {
    if !sites::claim(call) {
        return false;
    }
    let slot = make(call, number).ok();
    sites::settle(call, slot);
    slot.is_some()
}

fn make(call: u64, number: u64) -> Result<u64, Errno> {
    let mut before = [0u8; BEFORE];
    let has_before = guest::read_bytes(GuestAddr(call - BEFORE as u64), &mut before).is_ok();
    let before = if has_before { &before[..] } else { &[] };
    let mut from = [0u8; FROM];
    // The text may end with its page.
    let room = if guest::read_bytes(GuestAddr(call), &mut from).is_ok() {
        FROM
    } else {
        let room = host::to_usize(PAGE - call % PAGE).min(FROM);
        guest::read_bytes(GuestAddr(call), &mut from[..room])?;
        room
    };
    let from = &from[..room];
    let form = choose(before, from, number).ok_or(Errno::EINVAL)?;
    let start = call - form.bytes_before();
    let (first, end) = (start & !(PAGE - 1), start + form.bytes() as u64);
    let bytes = ((end - 1) & !(PAGE - 1)) + PAGE - first;
    for page in (first..first + bytes).step_by(host::to_usize(PAGE)) {
        check_text(page)?;
    }
    let is_alone = is_alone();
    if !is_alone {
        barrier(BARRIER_REGISTER_SYNC_CORE)?;
    }
    let slot = arena::find(form, call).ok_or(Errno::ENOMEM)?;
    let jump = jump(form, call, slot).ok_or(Errno::EINVAL)?;
    let stub = stub(form, call, slot, from, fast::ENTRY_OFFSET).ok_or(Errno::EINVAL)?;
    let text = host::PROT_READ | host::PROT_EXEC;
    arena::Open::around(slot)?.write(slot, &stub)?;
    // SAFETY: private text of a file, which stays executable for those who are in it.
    unsafe { host::mprotect(first, bytes, text | host::PROT_WRITE) }?;
    sites::change(call);
    write(form, start, call, &jump, is_alone);
    // SAFETY: as above.
    let _ = unsafe { host::mprotect(first, bytes, text) };
    Ok(slot)
}

/// Whether a page is text that a private mapping of a file holds, and that cannot be written.
fn check_text(page: u64) -> Result<(), Errno> {
    if is_writable(page) || is_anonymous(page) || is_shared(page) {
        return Err(Errno::EACCES);
    }
    Ok(())
}

/// Lets the kernel `or` nothing into the page, which fails if it cannot be written.
fn is_writable(page: u64) -> bool {
    const FUTEX_WAKE_OP_PRIVATE: u64 = 5 | 128;
    const OP_OR: u64 = 2 << 28;
    // SAFETY: changes nothing; who waits for a futex in text is woken for no reason, as futexes may be.
    unsafe { host::call(nr::FUTEX, [page, FUTEX_WAKE_OP_PRIVATE, 0, 0, page, OP_OR]) }.is_ok()
}

/// Only private anonymous memory can be wiped on fork; nobody forks meanwhile.
fn is_anonymous(page: u64) -> bool {
    // SAFETY: taken back at once, before a fork can see it.
    let wiped = unsafe { host::call(nr::MADVISE, [page, PAGE, MADV_WIPEONFORK, 0, 0, 0]) };
    if wiped.is_ok() {
        // SAFETY: as above.
        let _ = unsafe { host::call(nr::MADVISE, [page, PAGE, MADV_KEEPONFORK, 0, 0, 0]) };
    }
    wiped.is_ok()
}

/// Only shared mappings can be doubled by mremap(2).
fn is_shared(page: u64) -> bool {
    // SAFETY: the old mapping stays; the new one, if there is one, goes.
    match unsafe { host::call(nr::MREMAP, [page, 0, PAGE, MREMAP_MAYMOVE, 0, 0]) } {
        Ok(double) => {
            // SAFETY: just mapped.
            unsafe { host::munmap(double, PAGE) };
            true
        }
        Err(_) => false,
    }
}

/// Whether no other thread, of this process or one that shares its memory, can be in the text.
fn is_alone() -> bool {
    let mut threads = 0;
    Thread::for_each(|_| threads += 1);
    threads == 1
}

fn barrier(command: u64) -> Result<(), Errno> {
    // SAFETY: no effect on memory.
    unsafe { host::call(nr::MEMBARRIER, [command, 0, 0, 0, 0, 0]) }.map(|_| ())
}

fn write(form: Form, start: u64, call: u64, jump: &[u8; SITE_MAX], is_alone: bool) {
    let store = |at: u64, byte: u8| {
        // SAFETY: inside the site, which is writable now.
        unsafe { &*(at as *const AtomicU8) }.store(byte, Ordering::SeqCst);
    };
    // The byte that keeps its value from the first moment on: behind the call, or the call itself.
    let hidden = match form {
        Form::Followed(_) => call + 2,
        Form::Loaded(_) => call,
    };
    let rest = |at: u64| at != start && at != hidden;
    if !is_alone {
        store(start, INVALID);
        store(hidden, INVALID);
        let _ = barrier(BARRIER_SYNC_CORE);
    }
    for (at, byte) in (start..).zip(&jump[..form.bytes()]).filter(|(at, _)| rest(*at)) {
        store(at, *byte);
    }
    store(hidden, INVALID);
    if !is_alone {
        let _ = barrier(BARRIER_SYNC_CORE);
    }
    store(start, jump[0]);
    if !is_alone {
        let _ = barrier(BARRIER_SYNC_CORE);
    }
}
