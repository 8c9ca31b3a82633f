//! timerfd and signalfd calls that no safe crate offers.

use crate::{Result, check};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Sets how many expirations of a timerfd nobody has read (`TFD_IOC_SET_TICKS`), which wakes who
/// waits for it.
///
/// # Errors
/// `ENOTTY` on a kernel without checkpoint and restore, `EINVAL` for 0.
pub fn set_ticks(timer: &impl AsFd, ticks: u64) -> Result<()> {
    const TFD_IOC_SET_TICKS: libc::c_ulong = 0x4008_5400;
    let fd = timer.as_fd().as_raw_fd();
    // SAFETY: the request reads eight bytes at its argument.
    check(unsafe { libc::ioctl(fd, TFD_IOC_SET_TICKS, &raw const ticks) }.into())?;
    Ok(())
}

/// A new signalfd(2), close-on-exec, for the signals of `mask` (bit `n - 1` for signal `n`).
pub fn signalfd(mask: u64, is_nonblocking: bool) -> Result<OwnedFd> {
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
