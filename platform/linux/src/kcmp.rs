//! kcmp(2): tells whether two descriptors are one open file description.

use crate::{Result, check};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Tells whether two descriptors of this process share one open file description.
pub fn same_description(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> Result<bool> {
    let own = libc::c_long::from(std::process::id().cast_signed());
    let (a, b) = (libc::c_long::from(a.as_raw_fd()), libc::c_long::from(b.as_raw_fd()));
    // SAFETY: kcmp takes plain numbers only; 0 is KCMP_FILE.
    let order = check(unsafe { libc::syscall(libc::SYS_kcmp, own, own, 0_i64, a, b) })?;
    Ok(order == 0)
}

/// Tells whether two descriptors, each given as process and number, are one open file description.
///
/// # Errors
/// `EPERM` without the right to trace both processes, `EBADF` or `ESRCH` if one is gone, `ENOSYS`
/// if the kernel lacks kcmp.
pub fn same_description_of(a: (u32, i32), b: (u32, i32)) -> Result<bool> {
    let [pid_a, fd_a] = [i64::from(a.0), i64::from(a.1)];
    let [pid_b, fd_b] = [i64::from(b.0), i64::from(b.1)];
    // SAFETY: kcmp takes plain numbers only; 0 is KCMP_FILE.
    let order = check(unsafe { libc::syscall(libc::SYS_kcmp, pid_a, pid_b, 0_i64, fd_a, fd_b) })?;
    Ok(order == 0)
}
