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
