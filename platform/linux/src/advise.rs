//! process_madvise(2) and process_mrelease(2): what becomes of the memory of another process.

use crate::{Result, check};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A part of a process's memory: its address there, and its bytes (`struct iovec`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Part {
    /// Where it begins.
    pub start: u64,
    /// How long it is.
    pub bytes: u64,
}

/// Most parts of one call (`UIO_MAXIOV`).
pub const PARTS_MAX: usize = 1024;

/// What may be advised about another's memory, which loses nothing by it: `MADV_WILLNEED`, `MADV_COLD`, `MADV_PAGEOUT`,
/// `MADV_COLLAPSE`.
pub const ADVICES: [i32; 4] = [3, 20, 21, 25];

/// Advises about memory of the process of a pidfd; returns for how many bytes.
///
/// # Errors
/// `EINVAL` for an advice that is not of [`ADVICES`]; what process_madvise(2) reports.
pub fn advise(process: BorrowedFd<'_>, parts: &[Part], advice: i32) -> Result<i64> {
    if !ADVICES.contains(&advice) || parts.len() > PARTS_MAX {
        return Err(Errno::INVAL);
    }
    let (process, advice) = (i64::from(process.as_raw_fd()), i64::from(advice));
    let (at, count, number) = (parts.as_ptr(), parts.len(), libc::SYS_process_madvise);
    // SAFETY: reads the parts, which are of another process's memory, and changes the contents of none.
    check(unsafe { libc::syscall(number, process, at, count, advice, 0_i64) })
}

/// Gives back the memory of the process of a pidfd, which is being killed.
///
/// # Errors
/// What process_mrelease(2) reports: `EINVAL` if it is not being killed.
pub fn release(process: BorrowedFd<'_>) -> Result<()> {
    let process = i64::from(process.as_raw_fd());
    // SAFETY: takes numbers only; the process runs no more.
    check(unsafe { libc::syscall(libc::SYS_process_mrelease, process, 0_i64) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{PidfdFlags, getpid, pidfd_open};
    use std::os::fd::AsFd;

    #[test]
    fn what_would_lose_contents_is_refused() {
        let own = pidfd_open(getpid(), PidfdFlags::empty()).expect("oneself");
        let bytes = vec![7u8; 1 << 16];
        let part = Part { start: (bytes.as_ptr() as u64).next_multiple_of(4096), bytes: 4096 };
        assert_eq!(advise(own.as_fd(), &[part], 20), Ok(4096));
        assert_eq!(advise(own.as_fd(), &[part], 4), Err(Errno::INVAL));
        assert_eq!(release(own.as_fd()), Err(Errno::INVAL));
        assert!(bytes.iter().all(|byte| *byte == 7));
    }
}
