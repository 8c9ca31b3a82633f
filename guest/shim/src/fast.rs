//! Calls of rewritten sites, answered or passed on while the guest's signals stay accepted.
//!
//! Only what is hot is here, and only where the answer neither waits in the shim nor asks the daemon: the rest
//! takes the way over the slot's trap and [`crate::calls::handle`], as from a site that is not rewritten.
//!
//! ```text
//! signal in Rust code here -> keep: noted, all blocked, a call that waits ends -> way out by the trap -> end: delivered
//! ```
//! Invariant: [`fast::call`] is never made with a lock held, and [`keep`] takes one only for a signal that found such a
//! call. So no handler waits for a lock that its own thread holds.

use crate::arch::fast::{
    self, CLASS_PID, CLASS_QUICK, CLASS_TID, CLASS_TRANSFER, CLASS_TRAP, Frame,
};
use crate::arch::frame::{Context, SigInfo};
use crate::arch::gadget::{self, NOT_BEGUN};
use crate::calls::{self, Answer, passed};
use crate::host;
use crate::park;
use crate::process::has_daemon;
use crate::signal::{action, deliver, mask};
use crate::thread::Thread;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use dunix_shim_core::rewrite::TRAP_FROM_TAIL;
use dunix_shim_core::signal::{SHIM_MASK, SIGCHLD};
use dunix_shim_core::time::Time;
use dunix_shim_core::{Errno, nr};

/// What becomes of a call.
pub(crate) enum Quick {
    /// The guest sees this result; [`NOT_BEGUN`] makes it anew after a handler.
    Return(i64),
    /// Issued unchanged from the stub.
    Pass,
    /// Issued from the slot, where the filter judges it as at its site.
    Trap,
}

impl From<Result<u64, Errno>> for Quick {
    fn from(result: Result<u64, Errno>) -> Quick {
        match Answer::from(result) {
            Answer::Return(result) => Quick::Return(result),
            _ => Quick::Trap,
        }
    }
}

/// Calls below [`fast::CLASSES`] and how they begin.
const CLASSES: [(u64, u8); 31] = [
    (nr::READ, CLASS_TRANSFER),
    (nr::WRITE, CLASS_TRANSFER),
    (nr::READV, CLASS_TRANSFER),
    (nr::WRITEV, CLASS_TRANSFER),
    (nr::RECVFROM, CLASS_TRANSFER),
    (nr::SENDTO, CLASS_TRANSFER),
    (nr::LSEEK, CLASS_TRANSFER),
    (nr::GETPID, CLASS_PID),
    (nr::GETTID, CLASS_TID),
    (nr::OPEN, CLASS_QUICK),
    (nr::CLOSE, CLASS_QUICK),
    (nr::STAT, CLASS_QUICK),
    (nr::FSTAT, CLASS_QUICK),
    (nr::LSTAT, CLASS_QUICK),
    (nr::ACCESS, CLASS_QUICK),
    (nr::READLINK, CLASS_QUICK),
    (nr::POLL, CLASS_QUICK),
    (nr::RT_SIGACTION, CLASS_QUICK),
    (nr::RT_SIGPROCMASK, CLASS_QUICK),
    (nr::IOCTL, CLASS_QUICK),
    (nr::DUP, CLASS_QUICK),
    (nr::DUP2, CLASS_QUICK),
    (nr::FCNTL, CLASS_QUICK),
    (nr::GETPPID, CLASS_QUICK),
    (nr::GETPGRP, CLASS_QUICK),
    (nr::GETPGID, CLASS_QUICK),
    (nr::GETSID, CLASS_QUICK),
    (nr::GETDENTS64, CLASS_QUICK),
    (nr::EPOLL_WAIT, CLASS_QUICK),
    (nr::EPOLL_CTL, CLASS_QUICK),
    (nr::SENDFILE, CLASS_QUICK),
];
/// The others.
const GREATER: [u64; 9] = [
    nr::OPENAT,
    nr::NEWFSTATAT,
    nr::READLINKAT,
    nr::FACCESSAT,
    nr::FACCESSAT2,
    nr::STATX,
    nr::DUP3,
    nr::EPOLL_PWAIT,
    nr::PPOLL,
];

static IS_ON: AtomicBool = AtomicBool::new(false);

/// Opens the fast path.
pub(crate) fn open() {
    for (number, class) in CLASSES {
        fast::set_class(host::to_usize(number), class);
    }
    note_clock();
    IS_ON.store(true, Ordering::Relaxed);
}

/// Sends all calls over the trap from now on: a filter of the guest's own is to see them.
pub(crate) fn shut() {
    IS_ON.store(false, Ordering::Relaxed);
    for (number, _) in CLASSES {
        fast::set_class(host::to_usize(number), CLASS_TRAP);
    }
}

/// Whether a rewritten site would serve a call better than a trap.
pub(crate) fn is_hot(number: u64) -> bool {
    IS_ON.load(Ordering::Relaxed)
        && (CLASSES.iter().any(|(hot, _)| *hot == number) || GREATER.contains(&number))
}

/// Time stamp and time of one instant.
static STAMP: AtomicU64 = AtomicU64::new(0);
static STAMP_NANOS: AtomicU64 = AtomicU64::new(0);

fn nanos(time: Time) -> u64 {
    time.seconds
        .cast_unsigned()
        .wrapping_mul(1_000_000_000)
        .wrapping_add(time.nanos.cast_unsigned())
}

/// Notes an instant of this machine's clocks, to tell the age of time stamps by.
pub(crate) fn note_clock() {
    STAMP.store(fast::ticks(), Ordering::Relaxed);
    STAMP_NANOS.store(nanos(host::now()), Ordering::Relaxed);
}

/// When a call began whose time stamp is `ticks`.
pub(crate) fn time_of(ticks: u64) -> Time {
    let (now, now_ticks) = (host::now(), fast::ticks());
    let passed = u128::from(nanos(now).saturating_sub(STAMP_NANOS.load(Ordering::Relaxed)));
    let counted = u128::from(now_ticks.saturating_sub(STAMP.load(Ordering::Relaxed)).max(1));
    let age = u128::from(now_ticks.saturating_sub(ticks)) * passed / counted;
    let began = nanos(now).saturating_sub(u64::try_from(age).unwrap_or(u64::MAX));
    Time {
        seconds: (began / 1_000_000_000).cast_signed(),
        nanos: (began % 1_000_000_000).cast_signed(),
    }
}

/// Called by the machine code with the guest's registers; says in `frame` and thread how it goes on.
pub(crate) extern "C" fn quick(frame: &mut Frame) {
    let thread = Thread::current();
    let r = &frame.regs;
    let (number, args) =
        (u64::from(host::uint_arg(r.rax)), [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]);
    let tail = thread.pass_return.get();
    thread.fast_result.set(None);
    let decision = if IS_ON.load(Ordering::Relaxed) {
        calls::quick::decide(thread, number, args)
    } else {
        Quick::Trap
    };
    match decision {
        Quick::Return(NOT_BEGUN) => {
            // Something is kept, so the way out is the trap, which goes back to the call.
            debug_assert!(thread.has_kept.get());
        }
        Quick::Return(result) => {
            thread.fast_result.set(Some(result));
            frame.regs.rax = result.cast_unsigned();
            thread.fast_target.set(tail);
        }
        Quick::Pass => {
            passed::note_stamp(thread, number);
            thread.fast_target.set(gadget::pass_stub());
        }
        Quick::Trap => thread.fast_target.set(tail + TRAP_FROM_TAIL),
    }
}

/// A signal found Rust code of the fast path: it is delivered by [`end`], with all others blocked until then.
pub(crate) fn keep(thread: &Thread, context: &mut Context, info: Option<&SigInfo>) {
    if let Some(info) = info {
        thread.note(*info);
    }
    if !thread.has_kept.replace(true) {
        thread.kept_mask.set(context.mask);
    }
    context.mask = SHIM_MASK;
    // Asked only about a call that was issued: anywhere else this thread may hold the actions' lock.
    fast::end_call(context, |context| match info {
        Some(info) if !deliver::is_restarting(thread, info) => deliver::INTERRUPTED,
        _ if gadget::wants_rest(context) => deliver::INTERRUPTED,
        _ => NOT_BEGUN,
    });
}

/// Ends a way out by the trap: delivers what was kept. `false` if nothing was, and the call is one to handle.
pub(crate) fn end(thread: &Thread, context: &mut Context) -> bool {
    if !thread.has_kept.replace(false) {
        return false;
    }
    context.mask = thread.kept_mask.get();
    match thread.fast_result.take() {
        Some(result) => context.set_result(result),
        None => {
            context.regs.rax = thread.pass_number.get();
            context.rewind_call();
        }
    }
    park::if_asked(thread);
    deliver::finish(thread, context);
    true
}

/// rt_sigaction(2), unless the daemon has to know.
pub(crate) fn rt_sigaction(thread: &Thread, args: [u64; 6]) -> Quick {
    if has_daemon() && args[0] == u64::from(SIGCHLD) {
        return Quick::Trap;
    }
    action::rt_sigaction(thread, args).into()
}

/// rt_sigprocmask(2) by the kernel, which keeps the guest's mask here.
pub(crate) fn rt_sigprocmask(thread: &Thread, args: [u64; 6]) -> Quick {
    match mask::for_kernel(args) {
        Err(error) => Quick::from(Err(error)),
        Ok((set, mut args)) => {
            if args[1] != 0 {
                args[1] = &raw const set as u64;
            }
            // SAFETY: reads the set; the guest's own address is the kernel's to check.
            let result = unsafe { fast::call(nr::RT_SIGPROCMASK, args) };
            // It may have failed after it had changed the mask: the old one has no place to go.
            if args[1] != 0 {
                thread.note_mask_change(u64::from(host::uint_arg(args[0])), set);
            }
            Quick::Return(result)
        }
    }
}
