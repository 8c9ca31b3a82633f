//! Calls on another process or thread, whose number is translated for the host.

use super::{Answer, group};
use crate::doorbell::ring;
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::thread::Thread;
use dunix_guest_abi::doorbell::{OP_FROM_HOST, OP_TO_HOST};
use dunix_shim_core::{Errno, nr};

const PRIO_PROCESS: u64 = 0;
const IOPRIO_WHO_PROCESS: u64 = 1;
const CLONE_NEWPID: u64 = 0x2000_0000;
const CLONE_NEWTIME: u64 = 0x80;

/// The host's number of a process or thread of the fabric; 0 stays 0 (the caller), and process 1 is each node's own.
///
/// # Errors
/// `ESRCH`: nobody has the number; `EPERM`: he is at another node, whose kernel is not asked.
pub(crate) fn to_host(id: u64) -> Result<u64, Errno> {
    match host::uint_arg(id) {
        id @ (0 | 1) => Ok(u64::from(id)),
        id => ring(OP_TO_HOST, [u64::from(id), 0, 0, 0]).map_err(|error| match error {
            Errno::EREMOTE => Errno::EPERM,
            _ => Errno::ESRCH,
        }),
    }
}

/// The fabric's number of a host process, 0 if it is none of the fabric's.
pub(crate) fn from_host(id: u32) -> u32 {
    match id {
        0 => 0,
        id => ring(OP_FROM_HOST, [u64::from(id), 0, 0, 0]).map_or(0, host::uint_arg),
    }
}

/// Handles a call that names another process.
pub(crate) fn try_handle(thread: &Thread, number: u64, mut args: [u64; 6]) -> Option<Answer> {
    let at: &[usize] = match number {
        nr::SCHED_SETPARAM
        | nr::SCHED_GETPARAM
        | nr::SCHED_SETSCHEDULER
        | nr::SCHED_GETSCHEDULER
        | nr::SCHED_RR_GET_INTERVAL
        | nr::SCHED_SETAFFINITY
        | nr::SCHED_GETAFFINITY
        | nr::SCHED_SETATTR
        | nr::SCHED_GETATTR
        | nr::PRLIMIT64
        | nr::MOVE_PAGES
        | nr::PROCESS_VM_READV
        | nr::PROCESS_VM_WRITEV => &[0],
        nr::KCMP => &[0, 1],
        nr::GETPRIORITY | nr::SETPRIORITY if args[0] == PRIO_PROCESS => &[1],
        nr::IOPRIO_GET | nr::IOPRIO_SET if args[0] == IOPRIO_WHO_PROCESS => &[1],
        nr::CAPGET | nr::CAPSET => return capabilities(number, args),
        nr::TIMER_CREATE => return timer_create(args),
        nr::GET_ROBUST_LIST => return Some(get_robust_list(thread, args).into()),
        nr::UNSHARE if args[0] & (CLONE_NEWPID | CLONE_NEWTIME) != 0 => {
            return Some(Answer::from(Err(Errno::EPERM)));
        }
        _ => return group::try_handle(number, args).map(Answer::from),
    };
    for &index in at {
        match to_host(args[index]) {
            Ok(host) => args[index] = host,
            Err(error) => return Some(Answer::from(Err(error))),
        }
    }
    // SAFETY: the guest's own call; none of these waits.
    Some(unsafe { host::call(number, args) }.into())
}

/// capget(2) and capset(2): the header names a thread, even if it is the caller.
fn capabilities(number: u64, mut args: [u64; 6]) -> Option<Answer> {
    // `struct __user_cap_header_struct`: what cannot be read is the host's to refuse.
    let [version, pid]: [u32; 2] = guest::read(GuestAddr(args[0])).ok()?;
    if pid.cast_signed() <= 0 {
        return None;
    }
    let host = match to_host(u64::from(pid)) {
        Ok(host) => host::uint_arg(host),
        Err(error) => return Some(Answer::from(Err(error))),
    };
    let mut header = [version, host];
    let at = GuestAddr(args[0]);
    args[0] = header.as_mut_ptr() as u64;
    // SAFETY: reads and writes the header, and the guest's own data.
    let result = unsafe { host::call(number, args) };
    // The kernel may tell the version that it prefers.
    let preferred = core::hint::black_box(header[0]);
    if preferred != version {
        let _ = guest::write(at, &preferred);
    }
    Some(result.into())
}

/// timer_create(2): `SIGEV_THREAD_ID` names a thread.
fn timer_create(mut args: [u64; 6]) -> Option<Answer> {
    const SIGEV_THREAD_ID: u32 = 4;
    /// `struct sigevent`: value, signal and kind, thread.
    const KIND_AT: usize = 3;
    const THREAD_AT: usize = 4;
    let mut event: [u32; 16] = guest::read(GuestAddr(args[1])).ok()?;
    if event[KIND_AT] != SIGEV_THREAD_ID {
        return None;
    }
    match to_host(u64::from(event[THREAD_AT])) {
        Ok(host) => event[THREAD_AT] = host::uint_arg(host),
        Err(_) => return Some(Answer::from(Err(Errno::EINVAL))),
    }
    args[1] = event.as_ptr() as u64;
    // SAFETY: reads the structure, writes the guest's timer id.
    Some(unsafe { host::call(nr::TIMER_CREATE, args) }.into())
}

fn get_robust_list(thread: &Thread, args: [u64; 6]) -> Result<u64, Errno> {
    let id = host::uint_arg(args[0]);
    if id != 0 && id != thread.tid.get() {
        return Err(Errno::EPERM);
    }
    let (head, bytes) = thread.robust.get();
    guest::write(GuestAddr(args[2]), &bytes)?;
    guest::write(GuestAddr(args[1]), &head)?;
    Ok(0)
}
