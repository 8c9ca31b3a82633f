//! Arriving: a fresh process becomes one that moves here.
//!
//! ```text
//! boot -> begin -> serve (arrival stack 0) -- SCRIPT_CLONE --> serve (another arrival stack)
//!                    SCRIPT_RESUME -> resume -> park::resumed (the parked thread's own shim stack)
//! ```
//! Invariant: between `begin` and `resume` a thread reads and writes nothing but the script region, its
//! arrival stack and the arena, because the daemon overwrites the rest. It has no [`Thread`].

use crate::arch::switch::{self, Clone};
use crate::doorbell::{ring_raw, slot_at};
use crate::park;
use crate::process::Process;
use crate::script::{self, Role};
use crate::signal::{self, action};
use crate::thread::Thread;
use crate::{fast, filter, host, report};
use core::sync::atomic::Ordering;
use dunix_guest_abi::doorbell::{OP_PARKED, OP_SCRIPT_DONE, StartInfo};
use dunix_guest_abi::layout::{ARRIVAL_END, ARRIVAL_STACKS};
use dunix_guest_abi::moving::{ARRIVAL_STACK_BYTES, PARK_STRICT, ParkRecord, RESUME_PROCESS};
use dunix_shim_core::signal::SIGNAL_MAX;
use dunix_shim_core::{Errno, nr};

/// What a thread of an arriving process shares with the first: everything.
const CLONE_FLAGS: u64 = 0x100 | 0x200 | 0x400 | 0x800 | 0x1_0000 | 0x4_0000;
const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;

/// Serves the daemon's scripts from here on, away from the stack that the daemon overwrites.
pub(crate) fn begin(info: &StartInfo) -> ! {
    if let Err(error) = script::map_for_arrival() {
        report::fatal("no memory for an arrival", "errno", u64::from(error.get()));
    }
    script::set_slot(info.slot);
    let top = ARRIVAL_STACKS + ARRIVAL_STACK_BYTES;
    // SAFETY: just mapped and unused; `serve` never returns.
    unsafe { switch::call_on(top, serve, u64::from(info.pid)) }
}

/// A thread of arrival mode; `tid` is its number in the fabric.
extern "C" fn serve(tid: u64) -> ! {
    let _ = ring_raw(OP_PARKED, [tid, 0, 0, 0]);
    loop {
        let slot = slot_at(script::header().slot);
        let seen = slot.command_seq.load(Ordering::Acquire);
        if let Some(done) = script::run(host::uint_arg(tid), seen, Role::Arriving) {
            let _ = ring_raw(OP_SCRIPT_DONE, [tid, u64::from(done), 0, 0]);
        }
        host::futex_wait(&slot.command_seq, seen);
    }
}

/// `SCRIPT_CLONE`: another thread in arrival mode.
pub(crate) fn clone(args: [u64; 6]) -> i64 {
    let [tid, clear_tid, stack_top, ..] = args;
    let is_stack = (ARRIVAL_STACKS + ARRIVAL_STACK_BYTES..=ARRIVAL_END).contains(&stack_top);
    if !is_stack || !stack_top.is_multiple_of(ARRIVAL_STACK_BYTES) {
        return Errno::EINVAL.as_result();
    }
    let clears = if clear_tid == 0 { 0 } else { CLONE_CHILD_CLEARTID };
    let wanted = Clone { flags: CLONE_FLAGS | clears, parent_tid: 0, child_tid: clear_tid, tls: 0 };
    // SAFETY: an arrival stack that the daemon says is free; `serve` never returns.
    unsafe { switch::clone_onto(&wanted, stack_top, serve, tid) }
}

/// `SCRIPT_RESUME`: becomes the thread that parked with the record at `args[0]`; comes back only with an
/// error. `finish` is told the result first.
pub(crate) fn resume(args: [u64; 6], finish: impl FnOnce(i64)) -> i64 {
    let Some(thread) = park::thread_of(args[0]) else { return Errno::EINVAL.as_result() };
    // SAFETY: the record of a thread state that the daemon has brought here.
    let record = unsafe { &*(args[0] as *const ParkRecord) };
    let outcome = restore_thread(thread, record).and_then(|()| {
        if args[1] & RESUME_PROCESS == 0 { Ok(()) } else { restore_process(thread.process()) }
    });
    if let Err(error) = outcome {
        return error.as_result();
    }
    finish(0);
    // SAFETY: the record's stack holds what `park` put there, and the same shim runs here.
    unsafe { switch::unpark(record, park::resumed) }
}

/// What the kernel keeps of a thread.
fn restore_thread(thread: &Thread, record: &ParkRecord) -> Result<(), Errno> {
    const ARCH_SET_FS: u64 = 0x1002;
    // SAFETY: the shim itself does not use FS.
    unsafe { host::call(nr::ARCH_PRCTL, [ARCH_SET_FS, record.fs_base, 0, 0, 0, 0]) }?;
    thread.install_gs();
    thread.process().slot.store(script::header().slot, Ordering::Relaxed);
    thread.process().children.forget();
    thread.note_slot();
    host::set_altstack(&thread.shim_stack())?;
    // SAFETY: the guest's own word, cleared at the thread's end as it was to be at the source.
    unsafe { host::call(nr::SET_TID_ADDRESS, [record.clear_tid, 0, 0, 0, 0, 0]) }?;
    if record.rseq_area != 0 {
        let signature = u64::from(record.rseq_signature);
        let args = [record.rseq_area, u64::from(record.rseq_bytes), 0, signature, 0, 0];
        // SAFETY: the guest's own area, registered again as it was.
        unsafe { host::call(nr::RSEQ, args) }?;
    }
    if record.flags & PARK_STRICT != 0 {
        filter::install_strict()?;
    }
    Ok(())
}

/// What the node and the kernel keep of the process for the shim.
fn restore_process(process: &Process) -> Result<(), Errno> {
    let header = script::header();
    process.slot.store(header.slot, Ordering::Relaxed);
    process.children.forget();
    process.remote.set_words(&header.remote_fds);
    process.grants.forget_all();
    fast::note_clock();
    filter::note_wide();
    signal::install()?;
    for signal in 1..=SIGNAL_MAX {
        action::install(signal, &process.action(signal));
    }
    Ok(())
}
