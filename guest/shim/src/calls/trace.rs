//! ptrace(2): the daemon traces for the guest, whose stops of others it shows without the shim.

use crate::doorbell::ring;
use crate::process::has_daemon;
use crate::thread::Thread;
use dunix_guest_abi::doorbell::OP_PTRACE;
use dunix_shim_core::Errno;

/// ptrace(2).
///
/// # Errors
/// As for ptrace(2); `EPERM` for a process of another node, and without a daemon.
pub(crate) fn ptrace(thread: &Thread, args: [u64; 6]) -> Result<u64, Errno> {
    let [request, pid, address, data, ..] = args;
    if !has_daemon() {
        crate::report::unsupported("ptrace");
        return Err(Errno::EPERM);
    }
    // Tracees are waited for like children.
    thread.process().children.forget();
    ring(OP_PTRACE, [request, pid & 0xffff_ffff, address, data]).map_err(|error| match error {
        // At another node.
        Errno::EREMOTE => Errno::EPERM,
        error => error,
    })
}
