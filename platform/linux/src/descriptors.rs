//! Descriptor numbers: placing, closing ranges, taking over inherited ones.

use crate::clone::as_errno;
use rustix::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Gives up every descriptor that the program holds except the given ones, which end at numbers
/// 0, 1, 2... in the order given and survive an exec. For a process that is about to exec.
///
/// # Errors
/// What the host reports: descriptors run out, or a given one is not open.
pub fn keep_only(descriptors: &[OwnedFd]) -> io::Result<()> {
    let count = RawFd::try_from(descriptors.len()).map_err(|_| io::Errno::MFILE)?;
    // First out of the way of the target numbers, then onto them.
    let mut parked = Vec::with_capacity(descriptors.len());
    for descriptor in descriptors {
        parked.push(io::fcntl_dupfd_cloexec(descriptor, count)?);
    }
    for (target, descriptor) in (0..).zip(&parked) {
        // SAFETY: dup3 takes plain numbers. What was open at `target` is closed under its owner;
        // the caller execs next, and this function's contract says that all others are given up.
        if unsafe { libc::dup3(descriptor.as_raw_fd(), target, 0) } < 0 {
            return Err(as_errno(std::io::Error::last_os_error()));
        }
    }
    close_on_exec_from(count)
}

/// Marks every descriptor from `first` on close-on-exec.
///
/// # Errors
/// `EINVAL` on a kernel older than 5.11.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    #[expect(clippy::cast_sign_loss, reason = "descriptor numbers are not negative")]
    // SAFETY: CLOEXEC only sets a flag; no descriptor is closed.
    let result = unsafe {
        libc::close_range(
            first as libc::c_uint,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC as i32,
        )
    };
    if result == 0 { Ok(()) } else { Err(as_errno(std::io::Error::last_os_error())) }
}

/// Closes every descriptor above 2 except one: for a forked child that never returns to the owners
/// of the others.
///
/// # Errors
/// `ENOSYS` on a kernel older than 5.9.
pub fn close_all_but(kept: BorrowedFd<'_>) -> io::Result<()> {
    let kept = kept.as_raw_fd().unsigned_abs();
    let close = |first: u32, last: u32| {
        // SAFETY: by this function's contract nobody uses the descriptors any more.
        let result = unsafe { libc::close_range(first, last, 0) };
        if result == 0 { Ok(()) } else { Err(as_errno(std::io::Error::last_os_error())) }
    };
    if kept > 3 {
        close(3, kept - 1)?;
    }
    close(kept.max(2) + 1, u32::MAX)
}

/// Takes ownership of an inherited descriptor by number, or `None` if the number is not open.
///
/// Meant for a program's start: whoever calls promises that nothing else in the program owns the
/// number, which holds for the numbers that its parent passed on by contract.
#[must_use]
pub fn inherited(number: RawFd) -> Option<OwnedFd> {
    use std::os::fd::FromRawFd;
    if number < 0 {
        return None;
    }
    // SAFETY: the number is not negative; borrowed only for fcntl, which reports EBADF.
    let probe = unsafe { BorrowedFd::borrow_raw(number) };
    io::fcntl_getfd(probe).ok()?;
    // SAFETY: it is open (just seen), and by this function's contract nobody else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}
