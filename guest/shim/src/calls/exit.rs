//! exit(2) and exit_group(2).

use super::robust;
use crate::arch::syscall;
use crate::doorbell::ring;
use crate::host;
use crate::process::has_daemon;
use crate::thread::Thread;
use dunix_guest_abi::doorbell::OP_THREAD_EXIT;
use dunix_shim_core::nr;

/// exit(2): the calling thread alone.
pub(crate) fn exit(thread: &Thread, status: u64) -> ! {
    if thread.is_vfork_child.get() {
        // The slot belongs to the parent, which frees it when this thread no longer uses it.
        exit_group(thread, status);
    }
    if has_daemon() {
        robust::release(thread);
        if thread.tid.get() != thread.process().pid() {
            let _ = ring(OP_THREAD_EXIT, [u64::from(thread.tid.get()), 0, 0, 0]);
        }
    }
    thread.exit(status)
}

/// exit_group(2): the whole process.
pub(crate) fn exit_group(thread: &Thread, status: u64) -> ! {
    if has_daemon() {
        // The other threads' mutexes belong to the process as well, unless its memory is its parent's.
        if thread.is_vfork_child.get() {
            robust::release(thread);
        } else {
            Thread::for_each(robust::release);
        }
    }
    loop {
        // SAFETY: ends the process.
        let _ = unsafe { syscall(nr::EXIT_GROUP, [status, 0, 0, 0, 0, 0]) };
        host::yield_now();
    }
}
