//! rt_sigprocmask(2) and the calls that wait under a mask of their own.

use super::deliver;
use crate::arch::frame::{Context, SigInfo};
use crate::arch::gadget;
use crate::calls::Answer;
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::thread::Thread;
use dunix_shim_core::signal::{SHIM_MASK, SigSet, change_mask};
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

/// Issues a call that sets a mask for its own duration. The kernel does that atomically, so the
/// gadget is entered with all signals blocked.
fn under_mask(thread: &Thread, context: &Context, nr: u64, args: [u64; 6], mask: SigSet) -> Answer {
    let request = gadget::Request { mask: SHIM_MASK, nr, args };
    // SAFETY: the call is the guest's own but for a mask in the shim's memory.
    let result = unsafe { gadget::interruptible(&request) };
    if thread.first_noted().is_none() {
        return Answer::Return(result);
    }
    thread.saved_mask.set(Some(context.mask));
    Answer::UnderMask(if result == gadget::NOT_BEGUN { deliver::INTERRUPTED } else { result }, mask)
}

fn guest_set(at: u64, bytes: u64) -> Result<SigSet, Errno> {
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
            under_mask(thread, context, nr::RT_SIGSUSPEND, call, mask)
        }
    }
}

/// ppoll(2), epoll_pwait(2), epoll_pwait2(2): the mask's address and length are two arguments.
pub(crate) fn with_mask_argument(
    thread: &Thread,
    context: &Context,
    nr: u64,
    mut args: [u64; 6],
    at: usize,
) -> Answer {
    if args[at] == 0 {
        return Answer::PassOn;
    }
    match guest_set(args[at], args[at + 1]) {
        Err(error) => Answer::from(Err(error)),
        Ok(mask) => {
            args[at] = &raw const mask as u64;
            under_mask(thread, context, nr, args, mask)
        }
    }
}

/// pselect6(2): the sixth argument points to the mask's address and length.
pub(crate) fn pselect6(thread: &Thread, context: &Context, mut args: [u64; 6]) -> Answer {
    if args[5] == 0 {
        return Answer::PassOn;
    }
    let [at, bytes]: [u64; 2] = match guest::read(GuestAddr(args[5])) {
        Ok(pair) => pair,
        Err(error) => return Answer::from(Err(error)),
    };
    if at == 0 {
        return Answer::PassOn;
    }
    match guest_set(at, bytes) {
        Err(error) => Answer::from(Err(error)),
        Ok(mask) => {
            let pair = [&raw const mask as u64, SIGSET_BYTES];
            args[5] = &raw const pair as u64;
            under_mask(thread, context, nr::PSELECT6, args, mask)
        }
    }
}

/// rt_sigtimedwait(2).
pub(crate) fn rt_sigtimedwait(context: &Context, args: [u64; 6]) -> Answer {
    let set = match guest_set(args[0], args[3]) {
        Ok(set) => set,
        Err(error) => return Answer::from(Err(error)),
    };
    let mut info = SigInfo { signal: 0, errno: 0, code: 0, pad: 0, fields: [0; 14] };
    let call = [&raw const set as u64, &raw mut info as u64, args[2], SIGSET_BYTES, 0, 0];
    let request = gadget::Request { mask: context.mask, nr: nr::RT_SIGTIMEDWAIT, args: call };
    // SAFETY: the timeout is the guest's, set and info are ours.
    let result = unsafe { gadget::interruptible(&request) };
    if result > 0 && args[1] != 0 {
        super::restore_code(&mut info);
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
