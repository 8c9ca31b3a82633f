//! Locks that inherit priority (futex(2), `FUTEX_LOCK_PI` and kin): their words hold TIDs of the fabric,
//! which the host's kernel takes for dead threads.
//!
//! ```text
//! 0 --lock--> TID --another locks--> TID | WAITERS --unlock--> 0, and all waiters try again
//! ```
//! Kept: who has the lock, its errors and deadlines, the death of an owner of a robust lock. Lost: the
//! owner's boost, and that the most urgent waiter is next. Without a daemon the host does all.

use super::Answer;
use super::robust::{FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS};
use crate::arch::frame::Context;
use crate::arch::gadget::{NOT_BEGUN, Request};
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::restart;
use crate::signal::deliver::INTERRUPTED;
use crate::thread::Thread;
use dunix_shim_core::time::Time;
use dunix_shim_core::{Errno, nr};

const FUTEX_WAKE: u64 = 1;
const FUTEX_LOCK_PI: u64 = 6;
const FUTEX_UNLOCK_PI: u64 = 7;
const FUTEX_TRYLOCK_PI: u64 = 8;
const FUTEX_WAIT_BITSET: u64 = 9;
const FUTEX_LOCK_PI2: u64 = 13;
const FUTEX_PRIVATE: u64 = 128;
const FUTEX_CLOCK_REALTIME: u64 = 256;

/// Handles a call on such a lock; `None`: it is about an ordinary futex.
pub(crate) fn try_handle(thread: &Thread, context: &Context, args: [u64; 6]) -> Option<Answer> {
    let operation = u64::from(host::uint_arg(args[1]));
    let private = operation & FUTEX_PRIVATE;
    let at = GuestAddr(args[0]);
    match operation & 0x7f {
        FUTEX_LOCK_PI => Some(lock(thread, context, at, private | FUTEX_CLOCK_REALTIME, args[3])),
        FUTEX_LOCK_PI2 => {
            let clock = operation & FUTEX_CLOCK_REALTIME;
            Some(lock(thread, context, at, private | clock, args[3]))
        }
        FUTEX_TRYLOCK_PI => Some(match take(thread, at) {
            Ok(None) => Answer::Return(0),
            Ok(Some(_)) => Answer::from(Err(Errno::EAGAIN)),
            Err(error) => Answer::from(Err(error)),
        }),
        FUTEX_UNLOCK_PI => Some(unlock(thread, at, private).into()),
        _ => None,
    }
}

/// Waits as long as it takes: no signal ends it, a handler runs and the call begins anew.
fn lock(thread: &Thread, context: &Context, at: GuestAddr, flags: u64, until: u64) -> Answer {
    const ANY_BIT: u64 = 0xffff_ffff;
    let end = match deadline(until) {
        Ok(end) => end,
        Err(error) => return Answer::from(Err(error)),
    };
    let end = end.as_ref().map_or(0, |end| core::ptr::from_ref(end) as u64);
    loop {
        let held = match take(thread, at).and_then(|held| wait_for(at, held, flags)) {
            Ok(Some(held)) => held,
            Ok(None) => return Answer::Return(0),
            Err(Errno::EAGAIN) => continue,
            Err(error) => return Answer::from(Err(error)),
        };
        let args = [at.0, FUTEX_WAIT_BITSET | flags, u64::from(held), end, 0, ANY_BIT];
        let request = Request { mask: context.mask, nr: nr::FUTEX, args };
        // SAFETY: the guest's own call, its end in the shim's memory.
        match unsafe { restart::keep(thread, request, None) }.result {
            INTERRUPTED | NOT_BEGUN => return Answer::Return(NOT_BEGUN),
            result if result == 0 || result == Errno::EAGAIN.as_result() => {}
            result => return Answer::Return(result),
        }
    }
}

/// Reads an optional instant.
fn deadline(at: u64) -> Result<Option<Time>, Errno> {
    if at == 0 {
        return Ok(None);
    }
    let words = guest::read::<[u64; 2]>(GuestAddr(at))?.map(u64::cast_signed);
    Time::of_timespec(words).map(Some).ok_or(Errno::EINVAL)
}

/// Takes the lock if nobody has it; returns the word if somebody else does. Who takes it here says that
/// others wait: some may, whatever became of those who were woken.
fn take(thread: &Thread, at: GuestAddr) -> Result<Option<u32>, Errno> {
    let mut value = guest::read::<u32>(at)?;
    loop {
        match value & FUTEX_TID_MASK {
            0 => {}
            owner if owner == thread.tid.get() => return Err(Errno::EDEADLK),
            _ => return Ok(Some(value)),
        }
        let taken = thread.tid.get() | value & FUTEX_OWNER_DIED | FUTEX_WAITERS;
        match guest::exchange(at, value, taken)? {
            found if found == value => return Ok(None),
            found => value = found,
        }
    }
}

/// Says in the word that somebody waits; returns what it is then. `EAGAIN`: it has changed.
fn wait_for(at: GuestAddr, held: Option<u32>, flags: u64) -> Result<Option<u32>, Errno> {
    let Some(held) = held else { return Ok(None) };
    if flags & FUTEX_PRIVATE != 0 && !is_alive(held & FUTEX_TID_MASK) {
        return Err(Errno::ESRCH);
    }
    let waited = held | FUTEX_WAITERS;
    let found = guest::exchange(at, held, waited)?;
    if found == held { Ok(Some(waited)) } else { Err(Errno::EAGAIN) }
}

/// Whether a thread of this process has the number.
fn is_alive(tid: u32) -> bool {
    let mut is_alive = false;
    Thread::for_each(|thread| is_alive |= thread.tid.get() == tid);
    is_alive
}

fn unlock(thread: &Thread, at: GuestAddr, private: u64) -> Result<u64, Errno> {
    let mut value = guest::read::<u32>(at)?;
    loop {
        if value & FUTEX_TID_MASK != thread.tid.get() {
            return Err(Errno::EPERM);
        }
        match guest::exchange(at, value, 0)? {
            found if found == value => break,
            found => value = found,
        }
    }
    let all = u64::from(u32::MAX >> 1);
    // SAFETY: wakes waiters of a word of the guest's.
    unsafe { host::call(nr::FUTEX, [at.0, FUTEX_WAKE | private, all, 0, 0, 0]) }.map(|_| 0)
}
