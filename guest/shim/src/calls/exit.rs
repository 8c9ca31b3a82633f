//! exit(2) and exit_group(2).

use crate::arch::syscall;
use crate::host;
use crate::thread::Thread;
use dunix_shim_core::nr;

/// exit(2): the calling thread alone.
pub(crate) fn exit(thread: &Thread, status: u64) -> ! {
    if thread.is_vfork_child.get() {
        // The slot belongs to the parent, which frees it when this thread no longer uses it.
        exit_group(thread, status);
    }
    thread.exit(status)
}

/// exit_group(2): the whole process.
pub(crate) fn exit_group(_thread: &Thread, status: u64) -> ! {
    loop {
        // SAFETY: ends the process.
        let _ = unsafe { syscall(nr::EXIT_GROUP, [status, 0, 0, 0, 0, 0]) };
        host::yield_now();
    }
}
