//! exit(2) and exit_group(2).

use super::robust;
use crate::arch::syscall;
use crate::doorbell::ring;
use crate::host;
use crate::process::has_daemon;
use crate::thread::Thread;
use dunix_guest_abi::doorbell::OP_THREAD_EXIT;
use dunix_shim_core::nr;
use dunix_shim_core::signal::SIGKILL;

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

/// The end of a thread in strict mode by a call that is not left to it (seccomp(2)): SIGKILL, of the process if it is
/// the only thread.
pub(crate) fn end_strictly(thread: &Thread) -> ! {
    /// What a shell shows for SIGKILL.
    const KILLED: u64 = 128 + 9;
    let mut others = false;
    Thread::for_each(|other| {
        others |= !core::ptr::eq(other, thread) && !other.is_vfork_child.get();
    });
    let is_first = thread.tid.get() == thread.process().pid();
    if !thread.is_vfork_child.get() && (others || !is_first) {
        // Of a first thread the status is seen only if the others end by exit(2), one by one.
        exit(thread, KILLED);
    }
    robust::release(thread);
    loop {
        let args = [u64::from(host::getpid()), u64::from(SIGKILL), 0, 0, 0, 0];
        // SAFETY: ends the process.
        let _ = unsafe { syscall(nr::KILL, args) };
        host::yield_now();
    }
}
