//! The daemon's scripts: lists of system calls that a parked or arriving thread executes.
//!
//! The protocol is [`dunix_guest_abi::moving`]'s. Everything here works on the script region and the
//! stack only, because at an arrival the daemon overwrites the shim's data meanwhile.

use crate::arch::syscall;
use crate::{arrive, host, interval};
use core::sync::atomic::{AtomicU32, Ordering};
use dunix_guest_abi::layout::{ARRIVAL_END, SCRIPT_CALLS, SCRIPT_END, SCRIPT_START};
use dunix_guest_abi::moving::{
    CALL_STOP_ON_ERROR, CALL_STOP_ON_SUCCESS, SCRIPT_CALLS_MAX, SCRIPT_CLONE, SCRIPT_RESUME,
    SCRIPT_START_REAL, ScriptCall, ScriptHeader,
};
use dunix_shim_core::Errno;

const HEADER: *mut ScriptHeader = SCRIPT_START as *mut ScriptHeader;
const CALLS: *mut ScriptCall = SCRIPT_CALLS as *mut ScriptCall;

/// Who runs scripts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A thread in [`crate::park`], on its shim stack.
    Parked,
    /// A thread of [`crate::arrive`], on an arrival stack.
    Arriving,
}

/// Whether the script region is there. Forked children inherit both, and arrivals get both.
static IS_MAPPED: AtomicU32 = AtomicU32::new(0);

/// Maps the script region if no thread has yet.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn map() -> Result<(), Errno> {
    if IS_MAPPED.load(Ordering::Acquire) == 0 {
        match map_range(SCRIPT_END) {
            Ok(()) | Err(Errno::EEXIST) => IS_MAPPED.store(1, Ordering::Release),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Maps the script region and the stacks of an arrival.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn map_for_arrival() -> Result<(), Errno> {
    map_range(ARRIVAL_END)
}

fn map_range(end: u64) -> Result<(), Errno> {
    let flags =
        host::MAP_PRIVATE | host::MAP_ANONYMOUS | host::MAP_NORESERVE | host::MAP_FIXED_NOREPLACE;
    let prot = host::PROT_READ | host::PROT_WRITE;
    // SAFETY: never replaces a mapping.
    unsafe { host::mmap(SCRIPT_START, end - SCRIPT_START, prot, flags, -1, 0) }.map(|_| ())
}

/// The header, as the daemon and the shim left it.
pub(crate) fn header() -> ScriptHeader {
    // SAFETY: mapped since the first park or the arrival; volatile, because the daemon writes it.
    unsafe { HEADER.read_volatile() }
}

/// Notes at an arrival which slot the process has.
pub(crate) fn set_slot(slot: u32) {
    // SAFETY: mapped, and the daemon writes only after the first ring.
    unsafe { (&raw mut (*HEADER).slot).write_volatile(slot) };
}

/// Runs the script that `command_seq`'s value `seen` published, if it is `owner`'s and new; returns
/// how many calls were done.
pub(crate) fn run(owner: u32, seen: u32, role: Role) -> Option<u32> {
    let header = header();
    if header.owner != owner || header.serial != seen || header.finished == seen {
        return None;
    }
    let count = header.count.min(SCRIPT_CALLS_MAX);
    let mut done = 0;
    while done < count {
        // SAFETY: below the limit, hence inside the region.
        let call = unsafe { CALLS.add(done as usize) };
        done += 1;
        // SAFETY: as above; volatile, because the daemon wrote it.
        let (wanted, is_last) = (unsafe { call.read_volatile() }, done == count);
        let result = match wanted.nr {
            SCRIPT_RESUME if role == Role::Arriving && is_last => {
                arrive::resume(wanted.args, |result| finish(call, result, done, seen))
            }
            _ => execute(&wanted, role),
        };
        // SAFETY: as above.
        unsafe { (&raw mut (*call).result).write_volatile(result) };
        let ends_it =
            if Errno::check(result).is_ok() { CALL_STOP_ON_SUCCESS } else { CALL_STOP_ON_ERROR };
        if wanted.flags & ends_it != 0 {
            break;
        }
    }
    end(done, seen);
    Some(done)
}

/// Ends a script whose last call does not come back.
fn finish(call: *mut ScriptCall, result: i64, done: u32, serial: u32) {
    // SAFETY: a call of the region.
    unsafe { (&raw mut (*call).result).write_volatile(result) };
    end(done, serial);
}

fn end(done: u32, serial: u32) {
    // SAFETY: mapped, and only the script's owner writes these.
    unsafe {
        (&raw mut (*HEADER).done).write_volatile(done);
        (&raw mut (*HEADER).finished).write_volatile(serial);
    }
}

fn execute(call: &ScriptCall, role: Role) -> i64 {
    match call.nr {
        SCRIPT_CLONE if role == Role::Arriving => arrive::clone(call.args),
        SCRIPT_START_REAL if role == Role::Parked => interval::start(call.args[0], call.args[1]),
        SCRIPT_CLONE | SCRIPT_RESUME | SCRIPT_START_REAL => Errno::EINVAL.as_result(),
        // SAFETY: the daemon, which started this process, answers for what its calls do.
        number => unsafe { syscall(number, call.args) },
    }
}
