//! The table of sites: how often each trapped, and what became of it.
//!
//! ```text
//! count 1.. -> CHANGING -> slot      (rewritten)
//!           -> NEVER                 (does not fit, or may not be written)
//! ```
//! A hash table without removal; who finds no room stays uncounted and is never rewritten.

use core::sync::atomic::{AtomicU64, Ordering};
use dunix_shim_core::rewrite::SITE_MAX;

/// Most sites of a process.
const SITES: usize = 1024;
/// Entries looked at for one site.
const PROBES: usize = 16;
/// Greater than any count, less than any slot.
const NEVER: u64 = 1 << 16;
const CHANGING: u64 = NEVER + 1;

struct Entry {
    call: AtomicU64,
    state: AtomicU64,
}

#[unsafe(link_section = ".bss.cold.1")]
static ENTRIES: [Entry; SITES] =
    [const { Entry { call: AtomicU64::new(0), state: AtomicU64::new(0) } }; SITES];
/// The site that is being written.
static CHANGED: AtomicU64 = AtomicU64::new(0);

/// What is known of a site.
pub(super) enum State {
    Counted,
    Rewritten(u64),
}

/// Sites of one block of text lie in one group of entries, and neighbours beside one another, so that few pages are
/// touched.
fn probes(call: u64) -> impl Iterator<Item = &'static Entry> {
    const BLOCK_BYTES: u64 = 2048;
    const GROUP: u64 = 64;
    const FILE_BYTES: u64 = 1 << 21;
    let group = call / BLOCK_BYTES + (call / FILE_BYTES).wrapping_mul(7);
    let within = call % BLOCK_BYTES / (BLOCK_BYTES / GROUP);
    let first = crate::host::to_usize(group % (SITES as u64 / GROUP) * GROUP + within);
    (0..PROBES).map(move |step| &ENTRIES[(first + step) % SITES])
}

fn entry(call: u64) -> Option<&'static Entry> {
    probes(call).find(|entry| entry.call.load(Ordering::Acquire) == call)
}

/// Counts a trap at a site and returns how many there were, if it may still be rewritten.
pub(super) fn count(call: u64) -> Option<u64> {
    let entry = probes(call).find(|entry| {
        let found = entry.call.load(Ordering::Acquire);
        let is_ours = |found| found == call;
        is_ours(found)
            || found == 0
                && match entry.call.compare_exchange(0, call, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => true,
                    Err(found) => is_ours(found),
                }
    })?;
    let before = entry
        .state
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            (state < NEVER - 1).then_some(state + 1)
        })
        .ok()?;
    Some(before + 1)
}

/// Claims a counted site for rewriting, under the lock.
pub(super) fn claim(call: u64) -> bool {
    let Some(entry) = entry(call) else { return false };
    let is_counted = entry.state.load(Ordering::Acquire) < NEVER;
    if is_counted {
        entry.state.store(CHANGING, Ordering::Release);
    }
    is_counted
}

/// Says that the bytes of a claimed site begin to change.
pub(super) fn change(call: u64) {
    CHANGED.store(call, Ordering::SeqCst);
}

/// Ends a claim: with the slot that the site leads to, or for good.
pub(super) fn settle(call: u64, slot: Option<u64>) {
    if let Some(entry) = entry(call) {
        entry.state.store(slot.unwrap_or(NEVER), Ordering::Release);
    }
    CHANGED.store(0, Ordering::SeqCst);
}

/// Whether an address lies in the site that is being written.
pub(super) fn is_changing(rip: u64) -> bool {
    let call = CHANGED.load(Ordering::SeqCst);
    call != 0 && rip.abs_diff(call) <= SITE_MAX as u64
}

/// What is known of a site.
pub(super) fn find(call: u64) -> Option<State> {
    match entry(call)?.state.load(Ordering::Acquire) {
        slot if slot > CHANGING => Some(State::Rewritten(slot)),
        state if state < NEVER => Some(State::Counted),
        _ => None,
    }
}
