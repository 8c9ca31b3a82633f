//! Ringing the daemon.

use crate::arch::{gadget, syscall};
use crate::park;
use crate::process::Process;
use crate::thread::Thread;
use core::sync::atomic::{AtomicU32, Ordering};
use dunix_guest_abi::arena::{FACTS_AT, NodeFacts, Slot};
use dunix_guest_abi::{doorbell, layout};
use dunix_shim_core::signal::SigSet;
use dunix_shim_core::{Errno, nr};

/// Rings with up to four arguments and returns the raw answer.
pub(crate) fn ring_raw(op: u64, args: [u64; 4]) -> i64 {
    // SAFETY: the daemon reads and writes only the structures that the operation names, which the
    // callers keep alive.
    unsafe { syscall(doorbell::NR, [op, args[0], args[1], args[2], args[3], 0]) }
}

/// Rings, with errors split off.
///
/// # Errors
/// What the daemon answers.
pub(crate) fn ring(op: u64, args: [u64; 4]) -> Result<u64, Errno> {
    Errno::check(ring_raw(op, args))
}

/// The process's slot of the arena.
pub(crate) fn slot(process: &Process) -> &'static Slot {
    slot_at(process.slot.load(Ordering::Relaxed))
}

/// The slot with this index.
pub(crate) fn slot_at(index: u32) -> &'static Slot {
    let index = u64::from(index) % dunix_guest_abi::arena::SLOTS as u64;
    let address = layout::ARENA_START + index * size_of::<Slot>() as u64;
    // SAFETY: with a daemon, the arena is mapped since boot; the daemon writes through atomics.
    unsafe { &*(address as *const Slot) }
}

/// What the daemon publishes for all processes of the node.
pub(crate) fn node_facts() -> &'static NodeFacts {
    let address = layout::ARENA_START + FACTS_AT as u64;
    // SAFETY: as for a slot.
    unsafe { &*(address as *const NodeFacts) }
}

/// Whether a datagram to a loopback port gets where it should when this node's kernel sends it.
pub(crate) fn is_settled(port: u16) -> bool {
    let word = node_facts().settled_ports.get(usize::from(port / 32));
    word.is_some_and(|word| word.load(Ordering::Acquire) & 1 << (port % 32) != 0)
}

/// How a wait on the slot ended.
#[derive(PartialEq, Eq)]
pub(crate) enum Wake {
    /// Something may have changed.
    Event,
    /// A guest signal was noted.
    Signal,
    /// The daemon's move signal came: [`park::if_asked`] before anything is waited for again.
    Move,
}

/// Waits until the slot's event number is no longer `seen`, or a signal that `mask` accepts comes.
pub(crate) fn wait_event(thread: &Thread, mask: SigSet, seen: u32) -> Wake {
    const FUTEX_WAIT: u64 = 0;
    let word: &AtomicU32 = &slot(thread.process()).event_seq;
    let args = [word.as_ptr() as u64, FUTEX_WAIT, u64::from(seen), 0, 0, 0];
    let request = gadget::Request { mask, nr: nr::FUTEX, args };
    // SAFETY: waits on a word of the arena.
    let _ = unsafe { gadget::once(&request) };
    match thread.first_noted() {
        _ if thread.poked.replace(false) => Wake::Move,
        Some(_) => Wake::Signal,
        None => Wake::Event,
    }
}

/// Rings until the answer is not `-EAGAIN`, waiting for events in between.
///
/// # Errors
/// `Err(None)` if a signal came first, else what the daemon answers.
pub(crate) fn ring_until_done(
    thread: &Thread,
    mask: SigSet,
    op: u64,
    args: [u64; 4],
) -> Result<u64, Option<Errno>> {
    loop {
        let seen = slot(thread.process()).event_seq.load(Ordering::Acquire);
        match ring(op, args) {
            Err(Errno::EAGAIN) => match wait_event(thread, mask, seen) {
                Wake::Event => {}
                Wake::Signal => return Err(None),
                Wake::Move => park::if_asked(thread),
            },
            Err(error) => return Err(Some(error)),
            Ok(value) => return Ok(value),
        }
    }
}
