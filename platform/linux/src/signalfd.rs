//! signalfd(2), which no safe crate offers.

use crate::{Result, check};
use std::os::fd::{FromRawFd, OwnedFd};

/// A new signalfd(2), close-on-exec, for the signals of `mask` (bit `n - 1` for signal `n`).
pub fn open(mask: u64, is_nonblocking: bool) -> Result<OwnedFd> {
    let nonblocking = if is_nonblocking { libc::SFD_NONBLOCK } else { 0 };
    let flags = libc::SFD_CLOEXEC | nonblocking;
    // SAFETY: the kernel reads the eight bytes of `mask`.
    let fd = check(unsafe {
        libc::syscall(libc::SYS_signalfd4, -1_i32, &raw const mask, size_of::<u64>(), flags)
    })?;
    let fd = i32::try_from(fd).map_err(|_| crate::Errno::BADF)?;
    // SAFETY: a descriptor that the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
