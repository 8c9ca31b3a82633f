//! Who am I: process, parent, group, session. With a daemon, all are the fabric's.

use super::Answer;
use crate::doorbell::ring;
use crate::host;
use crate::thread::Thread;
use dunix_guest_abi::doorbell::{OP_GETPGID, OP_GETPPID, OP_GETSID, OP_SETPGID, OP_SETSID};
use dunix_shim_core::nr;

/// Answers a call about identity.
pub(crate) fn try_handle(thread: &Thread, number: u64, args: [u64; 6]) -> Option<Answer> {
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
