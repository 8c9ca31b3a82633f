//! rt_sigprocmask(2) and the calls that wait under a mask of their own.

use super::deliver;
use crate::arch::frame::{Context, SigInfo};
use crate::arch::gadget;
use crate::calls::Answer;
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::restart::{self, Timeout};
use crate::thread::Thread;
use dunix_shim_core::signal::{SHIM_MASK, SIG_UNBLOCK, SigSet, change_mask};
use dunix_shim_core::time::Time;
use dunix_shim_core::{Errno, nr};

/// Bytes of the kernel's `sigset_t`.
const SIGSET_BYTES: u64 = 8;

/// rt_sigprocmask(2): edits the mask that the trapped context returns to.
pub(crate) fn rt_sigprocmask(context: &mut Context, args: [u64; 6]) -> Result<u64, Errno> {
    if args[3] != SIGSET_BYTES {
        return Err(Errno::EINVAL);
    }
    let old = context.mask;
    if args[1] != 0 {
        let set: SigSet = guest::read(GuestAddr(args[1]))?;
        let new = change_mask(old, args[0], set).ok_or(Errno::EINVAL)?;
        context.mask = new.for_kernel();
    }
    if args[2] != 0 {
        guest::write(GuestAddr(args[2]), &old)?;
    }
    Ok(0)
}

/// rt_sigprocmask(2) as the kernel may do it on its own: the set without signals that must get
/// through, and the arguments with room for its address.
pub(crate) fn for_kernel(args: [u64; 6]) -> Result<(SigSet, [u64; 6]), Errno> {
    if args[3] != SIGSET_BYTES {
        return Err(Errno::EINVAL);
    }
    if args[1] == 0 {
        return Ok((SigSet::EMPTY, args));
    }
    let set: SigSet = guest::read(GuestAddr(args[1]))?;
    let is_taken_out = args[0] != SIG_UNBLOCK;
    Ok((if is_taken_out { set.for_kernel() } else { set }, args))
}

/// Issues a call that sets a mask for its own duration. The kernel does that atomically, so the
/// gadget is entered with all signals blocked.
///
/// # Safety
/// As for [`restart::keep`].
pub(crate) unsafe fn issue_under(
    thread: &Thread,
    nr: u64,
    args: [u64; 6],
    timeout: Option<Timeout>,
) -> i64 {
    let request = gadget::Request { mask: SHIM_MASK, nr, args };
    // SAFETY: forwarded from the caller.
    unsafe { restart::keep(thread, request, timeout) }.result
}

/// How such a call ends: what was let in is delivered under the call's own mask.
pub(crate) fn answer_under(
    thread: &Thread,
    context: &Context,
    result: i64,
    mask: SigSet,
) -> Answer {
    if thread.first_noted().is_none() {
        return Answer::Return(result);
    }
    thread.saved_mask.set(Some(context.mask));
    Answer::UnderMask(if result == gadget::NOT_BEGUN { deliver::INTERRUPTED } else { result }, mask)
}

pub(crate) fn guest_set(at: u64, bytes: u64) -> Result<SigSet, Errno> {
    if bytes != SIGSET_BYTES {
        return Err(Errno::EINVAL);
    }
    Ok(guest::read::<SigSet>(GuestAddr(at))?.for_kernel())
}

/// rt_sigsuspend(2).
pub(crate) fn rt_sigsuspend(thread: &Thread, context: &Context, args: [u64; 6]) -> Answer {
    match guest_set(args[0], args[1]) {
        Err(error) => Answer::from(Err(error)),
        Ok(mask) => {
            let call = [&raw const mask as u64, SIGSET_BYTES, 0, 0, 0, 0];
            // SAFETY: reads the mask only.
            let result = unsafe { issue_under(thread, nr::RT_SIGSUSPEND, call, None) };
            answer_under(thread, context, result, mask)
        }
    }
}

/// rt_sigtimedwait(2).
pub(crate) fn rt_sigtimedwait(thread: &Thread, context: &Context, args: [u64; 6]) -> Answer {
    let set = match guest_set(args[0], args[3]) {
        Ok(set) => set,
        Err(error) => return Answer::from(Err(error)),
    };
    let mut info = SigInfo { signal: 0, errno: 0, code: 0, pad: 0, fields: [0; 14] };
    let call = [&raw const set as u64, &raw mut info as u64, args[2], SIGSET_BYTES, 0, 0];
    let request = gadget::Request { mask: context.mask, nr: nr::RT_SIGTIMEDWAIT, args: call };
    // A span that cannot be read or is wrong stays the kernel's to refuse.
    let span = guest::read::<[u64; 2]>(GuestAddr(args[2])).ok();
    let span = span.and_then(|words| Time::of_timespec(words.map(u64::cast_signed)));
    let timeout = span.map(|span| Timeout::starting(2, span));
    // SAFETY: the timeout is the guest's or ours, set and info are ours.
    let result = unsafe { restart::keep(thread, request, timeout) }.result;
    if result > 0 && args[1] != 0 {
        super::restore_code(&mut info);
        info = super::with_sender(&info).unwrap_or(info);
        if let Err(error) = guest::write(GuestAddr(args[1]), &info) {
            return Answer::from(Err(error));
        }
    }
    Answer::Return(result)
}

/// signalfd4(2) with the shim's signals taken out of the set.
pub(crate) fn signalfd(nr: u64, mut args: [u64; 6]) -> Result<u64, Errno> {
    let set = guest_set(args[1], args[2])?;
    args[1] = &raw const set as u64;
    // SAFETY: reads the set only.
    unsafe { host::call(nr, args) }
}
