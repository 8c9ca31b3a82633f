//! FIFOs of the tree: the kernel opens those whose pipe this node keeps (`EREMOTE` else), and for others
//! the daemon does.

use super::remote::{self, Attempt};
use crate::arch::frame::Context;
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::thread::Thread;
use dunix_shim_core::{Errno, nr};

const O_WRONLY: u64 = 1;
const O_NOFOLLOW: u64 = 0o400_000;
const O_PATH: u64 = 0o10_000_000;
const F_SETFD: u64 = 2;
const FD_CLOEXEC: u64 = 1;

/// Whether an open ended because it was of a FIFO that is not known to be this node's.
pub(crate) fn is_elsewhere(result: i64) -> bool {
    result == Errno::EREMOTE.as_result()
}

/// Opens a FIFO for which the kernel was told that it is elsewhere.
pub(crate) fn open(thread: &Thread, context: &Context, number: u64, args: [u64; 6]) -> Attempt {
    let opened = handle_on(number, args);
    let (handle, flags) = match opened {
        Ok(opened) => opened,
        Err(error) => return Attempt::Ended(error.as_result()),
    };
    let attempt = remote::open(thread, context.mask, handle, flags);
    match attempt {
        Attempt::Ended(result) if result >= 0 => {
            let process = thread.process();
            process.private.remove(handle);
            process.signalfds.remove(handle);
            process.remote.insert(handle);
            // Without it, calls that are native otherwise meet the placeholder.
            let _ = crate::filter::widen();
            let close_on_exec = if flags & host::O_CLOEXEC == 0 { 0 } else { FD_CLOEXEC };
            let args = [host::fd_arg(handle), F_SETFD, close_on_exec, 0, 0, 0];
            // SAFETY: sets the flag only.
            let _ = unsafe { host::call(nr::FCNTL, args) };
        }
        _ => {
            // SAFETY: a descriptor of the shim's own.
            let _ = unsafe { host::call(nr::CLOSE, [host::fd_arg(handle), 0, 0, 0, 0, 0]) };
        }
    }
    attempt
}

/// A descriptor that stands for what a call opens, and the flags with which it does.
fn handle_on(number: u64, mut args: [u64; 6]) -> Result<(i32, u64), Errno> {
    let as_handle = |flags: u64| O_PATH | host::O_CLOEXEC | flags & O_NOFOLLOW;
    let mut how: [u64; 3];
    let (call, flags) = match number {
        nr::OPENAT2 => {
            how = guest::read(GuestAddr(args[2]))?;
            let flags = how[0];
            (how[0], how[1]) = (as_handle(flags), 0);
            args[2] = (&raw const how) as u64;
            args[3] = size_of_val(&how) as u64;
            (nr::OPENAT2, flags)
        }
        nr::OPENAT => {
            let flags = args[2];
            args[2] = as_handle(flags);
            (nr::OPENAT, flags)
        }
        _ => {
            let flags = if number == nr::CREAT { O_WRONLY } else { args[1] };
            args = [host::AT_FDCWD, args[0], as_handle(flags), 0, 0, 0];
            (nr::OPENAT, flags)
        }
    };
    // SAFETY: looks the guest's own path up.
    let handle = unsafe { host::call(call, args) }?;
    Ok((host::int_arg(handle), flags))
}
