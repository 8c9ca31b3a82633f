//! Rewriting: hot sites of trapped calls become jumps to the fast path.
//!
//! ```text
//! SIGSYS -> trapped: counted -- often enough --> patch::try_site -> the site is a jump, its stub in an arena
//! SIGILL -> repair:  inside a rewritten site --> goes on where it meant to
//! addresses: guest's <- shown -- context's;  guest's -- real -> context's
//! ```
//! Only text is rewritten that maps a file privately and cannot be written, and nothing that the shim itself
//! maps. Text with jumps belongs to the process: a fork copies it, a move carries it, an exec loses it.
//! Slots are never given back, so whoever is in one may stay; when arenas or the table of sites are full,
//! sites stay as they are.

mod arena;
mod cpuid;
mod patch;
mod sites;

use crate::arch::frame::{Context, SigInfo};
use crate::fast;
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::process::{Lock, has_daemon};
use crate::thread::Thread;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use dunix_guest_abi::layout;
use dunix_shim_core::rewrite::{
    CALL_BYTES, LOAD_BYTES, SITE_MAX, SLOT_BYTES, Site, TAIL_AT, TRAP_AT, jump,
};
use dunix_shim_core::signal::SIGILL;
use sites::State;

/// Traps of a site before it is rewritten: as many as cost what rewriting costs.
const TRAPS_BEFORE: u64 = 8;

/// Held while anything is rewritten, and by fork, so that no child finds half a jump.
pub(crate) static LOCK: Lock = Lock::new();
static IS_ON: AtomicBool = AtomicBool::new(false);

/// Lets sites be rewritten from now on.
pub(crate) fn start() {
    if crate::filter::has_guests_filter() {
        return;
    }
    IS_ON.store(true, Ordering::Relaxed);
    fast::open();
}

/// Rewrites nothing more, and lets every call trap: a filter of the guest's own is to see them.
pub(crate) fn stop() {
    IS_ON.store(false, Ordering::Relaxed);
    fast::shut();
}

/// Answers `cpuid` of a dynamic linker's executable segment from the node's table.
///
/// # Safety
/// The segment is mapped privately and readable, and nobody executes it yet.
pub(crate) unsafe fn answer_cpuid(start: u64, bytes: u64, prot: u64) {
    if !IS_ON.load(Ordering::Relaxed) || !has_daemon() {
        return;
    }
    LOCK.acquire();
    // SAFETY: forwarded from the caller. What is not rewritten asks the processor.
    let _ = unsafe { cpuid::rewrite(start, bytes, prot) };
    LOCK.release();
}

/// Counts a trap; rewrites the site if it is hot. The context then goes on behind the jump.
pub(crate) fn trapped(thread: &Thread, context: &mut Context) {
    let number = context.call().0;
    if !IS_ON.load(Ordering::Relaxed) || !fast::is_hot(number) {
        return;
    }
    let call = context.regs.rip.wrapping_sub(CALL_BYTES);
    if (layout::BASE..layout::END).contains(&call) || arena::slot_of(call).is_some() {
        return;
    }
    match sites::count(call) {
        Some(traps) if traps >= TRAPS_BEFORE => {}
        _ => return,
    }
    // A child that shares its parent's memory could be killed alone, with the lock.
    if thread.is_vfork_child.get() {
        leave_to_parent(call, number);
    } else if rewrite(call, number) {
        context.regs.rip = real(context.regs.rip);
    }
}

fn rewrite(call: u64, number: u64) -> bool {
    LOCK.acquire();
    let done = patch::try_site(call, number);
    LOCK.release();
    done
}

/// Sites that were hot in children that share the process's memory, with the number that trapped there. What finds no room
/// is hot in the next child as well.
static LEFT: [(AtomicU64, AtomicU64); 4] = [const { (AtomicU64::new(0), AtomicU64::new(0)) }; 4];

fn leave_to_parent(call: u64, number: u64) {
    let is_left = |entry: &&(AtomicU64, AtomicU64)| entry.0.load(Ordering::Acquire) == call;
    if LEFT.iter().find(is_left).is_some() {
        return;
    }
    // Number first: whoever takes the site in between rewrites what traps by another number only if it fits.
    if let Some((site, of)) = LEFT.iter().find(|entry| entry.0.load(Ordering::Acquire) == 0) {
        of.store(number, Ordering::Relaxed);
        let _ = site.compare_exchange(0, call, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// Rewrites what a child left that has just ended or executed.
pub(crate) fn take_left(thread: &Thread) {
    if !IS_ON.load(Ordering::Relaxed) || thread.is_vfork_child.get() {
        return;
    }
    for (site, of) in &LEFT {
        let number = of.load(Ordering::Relaxed);
        let call = site.swap(0, Ordering::AcqRel);
        if call != 0 {
            rewrite(call, number);
        }
    }
}

/// The slot that a rewritten site leads to, if the site still is what it was made.
fn slot_behind(call: u64) -> Option<(u64, Site)> {
    let State::Rewritten(slot) = sites::find(call)? else { return None };
    let (form, site) = arena::read(slot)?;
    let mut found = [0; SITE_MAX];
    let bytes = form.bytes();
    guest::read_bytes(GuestAddr(call - form.bytes_before()), &mut found[..bytes]).ok()?;
    (jump(form, call, slot)?[..bytes] == found[..bytes]).then_some((slot, site))
}

/// Whether a rewritten site has its call instruction at this address.
pub(crate) fn is_call(at: u64) -> bool {
    slot_behind(at).is_some()
}

/// What the guest is to see for an address of a context.
pub(crate) fn shown(rip: u64) -> u64 {
    match arena::slot_of(rip).and_then(arena::read) {
        Some((_, site)) => site.shown(rip % SLOT_BYTES),
        None => rip,
    }
}

/// Where a context goes on that the guest says is at `rip`.
pub(crate) fn real(rip: u64) -> u64 {
    match slot_behind(rip.wrapping_sub(CALL_BYTES)) {
        Some((slot, site)) if site.hides_after() => slot + TAIL_AT,
        _ => rip,
    }
}

/// Where the guest makes a call anew behind which a context is at `rip`: at the call instruction,
/// even if it is hidden now, because only there the number is the one that the guest had.
pub(crate) fn before(rip: u64) -> u64 {
    match arena::slot_of(rip).and_then(arena::read) {
        Some((_, site)) => site.call,
        None => rip - CALL_BYTES,
    }
}

/// The tail of the slot whose trap raised the signal in a context at `rip`.
pub(crate) fn tail_of_trap(rip: u64) -> Option<u64> {
    let slot = arena::slot_of(rip)?;
    (rip - slot == TRAP_AT + CALL_BYTES).then_some(slot + TAIL_AT)
}

/// Sets right what meets the inside of a rewritten site; `false` if the fault is the guest's own.
pub(crate) fn repair(context: &mut Context, info: &SigInfo) -> bool {
    if info.signal.unsigned_abs() != SIGILL || info.code <= 0 {
        return false;
    }
    let rip = context.regs.rip;
    if sites::is_changing(rip) {
        // Another thread is writing the jump: it is there in a moment.
        host::yield_now();
        return true;
    }
    if let Some((slot, site)) = slot_behind(rip.wrapping_sub(CALL_BYTES))
        && site.hides_after()
    {
        context.regs.rip = slot + TAIL_AT;
        return true;
    }
    if let Some((slot, site)) = slot_behind(rip) {
        // Somebody jumped behind the load of the number: a call like any other. Else the jump has
        // been completed since.
        if !site.hides_after() {
            context.regs.rip = slot + TRAP_AT;
        }
        return true;
    }
    // The same for the load, with the call behind it.
    slot_behind(rip + LOAD_BYTES).is_some_and(|(_, site)| site.start() == rip)
}
