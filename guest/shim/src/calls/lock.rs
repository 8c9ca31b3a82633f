//! Locks of parts of files, fcntl(2): the fabric is asked first (`OP_LOCK`), then the host locks. A node's
//! kernel keeps the locks of its processes and ends them at close, exec and exit.

use super::{Answer, remote};
use crate::arch::frame::Context;
use crate::arch::gadget::{self, Request};
use crate::doorbell::{ring, ring_until_done};
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::thread::Thread;
use dunix_guest_abi::doorbell::{
    LOCK_GRANTED, LOCK_HOST, LOCK_OF_DESCRIPTION, LOCK_OF_FILE, LOCK_TAKEN, LOCK_TEST, LOCK_WAIT,
    LOCK_WRITE, LockFound, LockWish, OP_LOCK, OP_LOCK_DONE, OP_LOCK_GIVE_UP,
};
use dunix_shim_core::lock::{self, F_RDLCK, F_UNLCK, F_WRLCK, Place};
use dunix_shim_core::{Errno, nr};

const F_GETFL: u64 = 3;
const F_GETLK: u64 = 5;
const F_SETLK: u64 = 6;
const F_SETLKW: u64 = 7;
const F_SETLEASE: u64 = 1024;
const F_OFD_GETLK: u64 = 36;
const F_OFD_SETLK: u64 = 37;
const F_OFD_SETLKW: u64 = 38;

/// `struct flock`, with its padding.
#[repr(C)]
#[derive(Clone, Copy)]
struct Flock {
    kind: i16,
    whence: i16,
    padding: i32,
    start: i64,
    length: i64,
    pid: i32,
    padding_at_end: i32,
}
// SAFETY: integers only.
unsafe impl guest::Plain for Flock {}

/// Handles a call about locks of a part of a file.
pub(crate) fn try_handle(
    thread: &Thread,
    context: &Context,
    number: u64,
    args: [u64; 6],
) -> Option<Answer> {
    if number != nr::FCNTL {
        return None;
    }
    match u64::from(host::uint_arg(args[1])) {
        F_GETLK | F_OFD_GETLK => Some(test(thread, context, args).into()),
        F_SETLEASE => lease(args),
        F_SETLK | F_SETLKW | F_OFD_SETLK | F_OFD_SETLKW => Some(set(thread, context, args)),
        _ => None,
    }
}

/// F_SETLEASE: who opens a file of the tree at another node would not break it, so there are none, as on file systems
/// that keep none.
fn lease(args: [u64; 6]) -> Option<Answer> {
    const NONE: u64 = 2;
    if u64::from(host::uint_arg(args[2])) == NONE {
        return None;
    }
    let last = i64::MAX.cast_unsigned();
    let flags = LOCK_OF_FILE | LOCK_TEST;
    let wish = LockWish { first: 0, last, flags, reserved: 0 };
    match ring(OP_LOCK, [args[0], &raw const wish as u64, 0, 0]) {
        Ok(LOCK_HOST) => None,
        _ => Some(Answer::from(Err(Errno::EINVAL))),
    }
}

fn set(thread: &Thread, context: &Context, args: [u64; 6]) -> Answer {
    let mut flock: Flock = match guest::read(GuestAddr(args[2])) {
        Ok(flock) => flock,
        Err(error) => return Answer::from(Err(error)),
    };
    // What is wrong with the call, the host finds out.
    let Some((first, last)) = place(thread, context, args[0], &mut flock) else {
        return Answer::PassOn;
    };
    let command = u64::from(host::uint_arg(args[1]));
    let own = [args[0], args[1], &raw const flock as u64, 0, 0, 0];
    if flock.kind == F_UNLCK {
        // SAFETY: the structure is here; giving up a lock does not wait.
        return unsafe { host::call(nr::FCNTL, own) }.into();
    }
    if !may_lock(args[0], flock.kind) {
        return Answer::PassOn;
    }
    let mut flags = kind_flag(flock.kind);
    if matches!(command, F_SETLKW | F_OFD_SETLKW) {
        flags |= LOCK_WAIT;
    }
    if matches!(command, F_OFD_SETLK | F_OFD_SETLKW) {
        flags |= LOCK_OF_DESCRIPTION;
    }
    let wish = LockWish { first, last, flags, reserved: 0 };
    let ask = [args[0], &raw const wish as u64, 0, 0];
    match ring_until_done(thread, context.mask, OP_LOCK, ask) {
        Ok(LOCK_GRANTED) => {
            let request = Request { mask: context.mask, nr: nr::FCNTL, args: own };
            // Descriptions of this node may be in the way: those the kernel settles.
            // SAFETY: the structure outlives the call.
            let result = unsafe { gadget::interruptible(&request) };
            let _ = ring(OP_LOCK_DONE, [0; 4]);
            Answer::Return(result)
        }
        Ok(LOCK_TAKEN) => Answer::from(Err(Errno::EAGAIN)),
        Ok(_) => Answer::PassOn,
        Err(Some(error)) => Answer::from(Err(error)),
        Err(None) => {
            let _ = ring(OP_LOCK_GIVE_UP, [0; 4]);
            Answer::Interrupted
        }
    }
}

/// F_GETLK: first the host's locks, then those of other nodes.
fn test(thread: &Thread, context: &Context, args: [u64; 6]) -> Result<u64, Errno> {
    let at = GuestAddr(args[2]);
    let asked: Flock = guest::read(at)?;
    let mut flock = asked;
    let place = place(thread, context, args[0], &mut flock);
    let own = [args[0], args[1], &raw mut flock as u64, 0, 0, 0];
    let wanted = flock.kind;
    // SAFETY: the structure is here; testing a lock does not wait for it.
    unsafe { host::call(nr::FCNTL, own) }?;
    if flock.kind != F_UNLCK {
        if flock.pid > 0 {
            flock.pid = super::other::from_host(flock.pid.unsigned_abs()).cast_signed();
        }
        guest::write(at, &flock)?;
        return Ok(0);
    }
    let mut found = LockFound { first: 0, last: 0, flags: 0, pid: 0 };
    let answer = match place {
        Some((first, last)) => {
            let mut flags = kind_flag(wanted) | LOCK_TEST;
            if u64::from(host::uint_arg(args[1])) == F_OFD_GETLK {
                flags |= LOCK_OF_DESCRIPTION;
            }
            let wish = LockWish { first, last, flags, reserved: 0 };
            ring(OP_LOCK, [args[0], &raw const wish as u64, &raw mut found as u64, 0])?
        }
        None => LOCK_HOST,
    };
    let mut result = Flock { kind: F_UNLCK, ..asked };
    if answer == LOCK_TAKEN {
        result.kind = if found.flags & LOCK_WRITE == 0 { F_RDLCK } else { F_WRLCK };
        result.whence = lock::SEEK_SET;
        (result.start, result.length) = lock::start_and_length(found.first, found.last);
        result.pid = if found.pid == 0 { -1 } else { found.pid.cast_signed() };
    }
    guest::write(at, &result)?;
    Ok(0)
}

fn kind_flag(kind: i16) -> u32 {
    if kind == F_WRLCK { LOCK_WRITE } else { 0 }
}

/// The bytes that are meant, which `flock` then names from the file's beginning; `None` if there are none.
fn place(thread: &Thread, context: &Context, fd: u64, flock: &mut Flock) -> Option<Place> {
    const SEEK_CUR: u64 = 1;
    let base = match flock.whence {
        lock::SEEK_SET => 0,
        lock::SEEK_CUR => {
            let args = [fd, 0, SEEK_CUR, 0, 0, 0];
            if thread.process().remote.has(host::int_arg(fd)) {
                remote::run(thread, context.mask, nr::LSEEK, args)
            } else {
                // SAFETY: only asks.
                unsafe { host::call(nr::LSEEK, args) }.ok()?.cast_signed()
            }
        }
        lock::SEEK_END => size(fd)?,
        _ => return None,
    };
    if base < 0 {
        return None;
    }
    let place = lock::place(flock.kind, base, flock.start, flock.length)?;
    flock.whence = lock::SEEK_SET;
    (flock.start, flock.length) = lock::start_and_length(place.0, place.1);
    Some(place)
}

fn size(fd: u64) -> Option<i64> {
    /// Words of `struct stat`, and which of them is `st_size`.
    const STAT_WORDS: usize = 18;
    const SIZE_AT: usize = 6;
    let mut stat = [0_u64; STAT_WORDS];
    // SAFETY: the structure is large enough.
    unsafe { host::call(nr::FSTAT, [fd, stat.as_mut_ptr() as u64, 0, 0, 0, 0]) }.ok()?;
    i64::try_from(stat[SIZE_AT]).ok()
}

/// Whether the descriptor is open for what the lock needs: the host refuses else, before it waits.
fn may_lock(fd: u64, kind: i16) -> bool {
    const O_ACCMODE: u64 = 3;
    const O_RDONLY: u64 = 0;
    const O_WRONLY: u64 = 1;
    // SAFETY: only asks.
    let flags = unsafe { host::call(nr::FCNTL, [fd, F_GETFL, 0, 0, 0, 0]) };
    flags.is_ok_and(|flags| match flags & O_ACCMODE {
        O_RDONLY => kind == F_RDLCK,
        O_WRONLY => kind == F_WRLCK,
        _ => true,
    })
}
