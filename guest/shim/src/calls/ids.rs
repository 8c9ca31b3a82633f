//! Who am I: process, parent, group, session. With a daemon, all are the fabric's.

use super::Answer;
use crate::doorbell::{ring, slot};
use crate::host;
use crate::process::has_daemon;
use crate::thread::Thread;
use core::sync::atomic::Ordering;
use dunix_guest_abi::doorbell::{OP_GETPGID, OP_GETPPID, OP_GETSID, OP_SETPGID, OP_SETSID};
use dunix_shim_core::nr;

/// What the daemon has published of the caller itself, if that answers the call.
pub(crate) fn known(thread: &Thread, number: u64, args: [u64; 6]) -> Option<u64> {
    if !has_daemon() {
        return None;
    }
    let slot = slot(thread.process());
    let word = match number {
        nr::GETPPID => &slot.parent,
        nr::GETPGRP => &slot.group,
        nr::GETPGID if host::uint_arg(args[0]) == 0 => &slot.group,
        nr::GETSID if host::uint_arg(args[0]) == 0 => &slot.session,
        _ => return None,
    };
    let known = word.load(Ordering::Acquire);
    (known != 0).then_some(u64::from(known))
}

/// Answers a call about identity.
pub(crate) fn try_handle(thread: &Thread, number: u64, args: [u64; 6]) -> Option<Answer> {
    if let Some(known) = known(thread, number, args) {
        return Some(Ok(known).into());
    }
    let pid_arg = |index: usize| host::fd_arg(host::int_arg(args[index]));
    let result = match number {
        nr::GETPPID => ring(OP_GETPPID, [0; 4]),
        nr::GETPGRP => ring(OP_GETPGID, [0; 4]),
        nr::GETPGID => ring(OP_GETPGID, [pid_arg(0), 0, 0, 0]),
        nr::GETSID => ring(OP_GETSID, [pid_arg(0), 0, 0, 0]),
        nr::SETPGID => ring(OP_SETPGID, [pid_arg(0), pid_arg(1), 0, 0]),
        nr::SETSID => ring(OP_SETSID, [0; 4]),
        nr::SET_TID_ADDRESS => {
            thread.clear_tid.set(args[0]);
            // SAFETY: the kernel clears the guest's word at the thread's end, as without the shim.
            let _ = unsafe { host::call(number, args) };
            Ok(u64::from(thread.tid.get()))
        }
        _ => return None,
    };
    Some(result.into())
}
