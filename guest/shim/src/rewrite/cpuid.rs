//! `cpuid` in a dynamic linker that is about to start: answered from the node's table.
//!
//! Nothing runs in the text yet, and no other thread is there. What goes wrong leaves instructions as they are.

use super::{arena, sites};
use crate::host;
use core::mem::offset_of;
use dunix_guest_abi::arena::{CpuidAnswer, FACTS_AT, NodeFacts, STEADY_LEAVES};
use dunix_guest_abi::layout;
use dunix_shim_core::Errno;
use dunix_shim_core::rewrite::{Form, LOAD_BYTES, SITE_MAX, cpuid, jump};

const PAGE: u64 = 4096;

/// Where the table has the answer to a leaf.
fn answer_to(leaf: u32) -> Option<u64> {
    let index = STEADY_LEAVES.iter().position(|steady| *steady == leaf)?;
    let at = FACTS_AT + offset_of!(NodeFacts, answers) + index * size_of::<CpuidAnswer>();
    Some(layout::ARENA_START + at as u64)
}

/// Rewrites the instructions of an executable segment. Under the lock.
///
/// # Safety
/// The segment is mapped privately and readable, and nobody executes it yet.
pub(super) unsafe fn rewrite(start: u64, bytes: u64, prot: u64) -> Result<(), Errno> {
    let next = |from| {
        // SAFETY: forwarded from the caller; nothing is written while the slice lives.
        let text =
            unsafe { core::slice::from_raw_parts(start as *const u8, host::to_usize(bytes)) };
        steady(text, from).map(|(at, leaf, answer)| (start + at as u64, leaf, answer))
    };
    let Some((mut call, mut leaf, mut answer)) = next(0) else { return Ok(()) };
    let slots = arena::Open::around(arena::find(Form::Loaded(leaf), call).ok_or(Errno::ENOMEM)?)?;
    let first = (call - LOAD_BYTES) & !(PAGE - 1);
    let span = start + bytes - first;
    // SAFETY: forwarded from the caller.
    unsafe { host::mprotect(first, span, prot | host::PROT_WRITE) }?;
    loop {
        if site(&slots, call, leaf, answer).is_none() {
            break;
        }
        match next(host::to_usize(call - start) + 2) {
            Some(found) => (call, leaf, answer) = found,
            None => break,
        }
    }
    // SAFETY: as above.
    unsafe { host::mprotect(first, span, prot) }.map(|_| ())
}

/// The next instruction whose answer the table has: where, the leaf, and the answer's address.
fn steady(text: &[u8], mut from: usize) -> Option<(usize, u32, u64)> {
    loop {
        let (at, leaf) = cpuid::find(text, from)?;
        if let Some(answer) = answer_to(leaf) {
            return Some((at, leaf, answer));
        }
        from = at + 2;
    }
}

/// Rewrites one site; `None` if there is no room.
fn site(slots: &arena::Open, call: u64, leaf: u32, answer: u64) -> Option<()> {
    let form = Form::Loaded(leaf);
    let slot = arena::find(form, call)?;
    sites::count(call)?;
    if !sites::claim(call) {
        return None;
    }
    let written = (|| {
        slots.write(slot, &cpuid::slot(call, answer)?).ok()?;
        let jump: [u8; SITE_MAX] = jump(form, call, slot)?;
        // SAFETY: the load and the instruction, which the caller has made writable.
        unsafe { ((call - LOAD_BYTES) as *mut [u8; SITE_MAX]).write(jump) };
        Some(slot)
    })();
    sites::settle(call, written);
    written.map(|_| ())
}
