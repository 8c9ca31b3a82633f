//! The guest's registers, wherever the shim has put them.
//!
//! GS is the shim's: the guest sees 0 there, and cannot change it.

use dunix_guest_abi::layout;
use dunix_linux::guest_memory::GuestMemory;
use dunix_linux::ptrace::{self, REGISTERS};
use dunix_linux::{Errno, Result};
use dunix_tracing::{Kind, Shown, View};

/// `struct user_regs_struct`.
pub(super) type Registers = [u64; REGISTERS];

pub(super) const RAX: usize = 10;
pub(super) const RCX: usize = 11;
pub(super) const RDI: usize = 14;
pub(super) const ORIG_RAX: usize = 15;
pub(super) const RIP: usize = 16;
const CS: usize = 17;
pub(super) const RSP: usize = 19;
const SS: usize = 20;
const GS_BASE: usize = 22;

/// Offset of `uc_mcontext` in `ucontext_t`.
const MCONTEXT: u64 = 40;
/// Where the words of `struct sigcontext` go, up to `eflags`.
const OF_CONTEXT: [usize; 18] = [9, 8, 7, 6, 3, 2, 1, 0, 14, 13, 4, 5, 12, 10, 11, 19, 16, 18];
/// `-ERESTARTSYS`.
const RESTART: u64 = -512_i64 as u64;
/// `-ENOSYS`, as it is in `rax` at the entry of a call.
const NOT_DONE: u64 = -38_i64 as u64;

/// Where the pass-on stub goes back to.
pub(super) fn pass_return(tid: u32, registers: &Registers) -> Result<u64> {
    ptrace::peek(tid, registers[GS_BASE] + layout::THREAD_PASS_RETURN)
}

/// The registers of a guest whose call the shim serves, from the frame of its handler.
pub(super) fn caught(tid: u32, registers: &Registers) -> Result<Registers> {
    let frame = ptrace::peek(tid, registers[GS_BASE] + layout::THREAD_CAUGHT)?;
    if frame == 0 {
        return Err(Errno::FAULT);
    }
    let words: [u64; 19] = GuestMemory::of(tid).read_plain(frame + MCONTEXT)?;
    let mut found = *registers;
    for (word, to) in words.iter().zip(OF_CONTEXT) {
        found[to] = *word;
    }
    found[CS] = words[18] & 0xffff;
    found[SS] = words[18] >> 48;
    found[ORIG_RAX] = words[13];
    found[RAX] = RESTART;
    Ok(found)
}

/// What the tracer is to see; `number` is the call that the thread makes or made.
pub(super) fn shown(tid: u32, shown: Shown, number: u64) -> Result<Registers> {
    let own = ptrace::registers(tid)?;
    let mut found = match shown.view {
        View::Direct => own,
        View::Caught => caught(tid, &own)?,
    };
    match (shown.kind, shown.view) {
        (Kind::Enter, View::Caught) => found[RAX] = NOT_DONE,
        (Kind::Exit { .. }, View::Direct) => found[ORIG_RAX] = number,
        _ => {}
    }
    found[GS_BASE] = 0;
    Ok(found)
}

/// Takes what the tracer has changed.
///
/// # Errors
/// [`Errno::BUSY`] while the shim serves a call: the registers are those of its end then.
pub(super) fn change(tid: u32, stop: Shown, number: u64, wanted: &Registers) -> Result<()> {
    let before = shown(tid, stop, number)?;
    if before == *wanted {
        return Ok(());
    }
    if stop.view == View::Caught {
        return Err(Errno::BUSY);
    }
    let mut own = ptrace::registers(tid)?;
    for index in (0..REGISTERS).filter(|index| before[*index] != wanted[*index]) {
        if index != GS_BASE {
            own[index] = wanted[index];
        }
    }
    ptrace::set_registers(tid, &own)
}
