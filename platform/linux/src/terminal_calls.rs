//! The ioctls of terminals and pipes that one process may ask for on another's behalf
//! (tty_ioctl(4)): a closed list, each with the size of its structure.

use crate::{Errno, Result, check};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes of the structure that a request reads and writes through its argument; `Some(0)`: the
/// argument is a plain value; `None`: not on the list.
///
/// Not listed: what names processes (`TIOCSPGRP`, ...), what injects input (`TIOCSTI`), and what
/// changes flags of a shared description (`FIONBIO`).
#[must_use]
pub const fn structure_bytes(request: u32) -> Option<usize> {
    // Requests of this kind have 32-bit numbers; libc types them wider on some targets.
    const TCGETS2: u32 = 0x802c_542a;
    const TCSETS2: u32 = 0x402c_542b;
    const TCSETSW2: u32 = 0x402c_542c;
    const TCSETSF2: u32 = 0x402c_542d;
    Some(match request {
        // TCGETS, TCSETS, TCSETSW, TCSETSF: struct termios of the kernel.
        0x5401..=0x5404 => 36,
        TCGETS2 | TCSETS2 | TCSETSW2 | TCSETSF2 => 44,
        // TCSBRK, TCXONC, TCFLSH, TCSBRKP: a value.
        0x5409 | 0x540a | 0x540b | 0x5425 => 0,
        // TIOCEXCL, TIOCNXCL: nothing.
        0x540c | 0x540d => 0,
        // TIOCOUTQ, FIONREAD, TIOCGETD, TIOCGEXCL: an int.
        0x5411 | 0x541b | 0x5424 | 0x8004_5440 => 4,
        // TIOCGPTN: an unsigned int.
        0x8004_5430 => 4,
        // TIOCGWINSZ, TIOCSWINSZ.
        0x5413 | 0x5414 => 8,
        _ => return None,
    })
}

/// Runs one listed request; `structure` must have exactly its bytes.
pub fn ioctl(fd: BorrowedFd<'_>, request: u32, value: u64, structure: &mut [u8]) -> Result<i32> {
    let bytes = structure_bytes(request).ok_or(Errno::NOTTY)?;
    let number = libc::c_ulong::from(request);
    let result = if bytes == 0 {
        // SAFETY: these requests take their argument by value.
        unsafe { libc::ioctl(fd.as_raw_fd(), number, value) }
    } else if structure.len() == bytes {
        // SAFETY: the request reads and writes at most `bytes`, which `structure` has.
        unsafe { libc::ioctl(fd.as_raw_fd(), number, structure.as_mut_ptr()) }
    } else {
        return Err(Errno::INVAL);
    };
    let result = check(result.into())?;
    i32::try_from(result).map_err(|_| Errno::OVERFLOW)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn listed_requests_run_and_others_do_not() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&write, b"abc").unwrap();
        let mut count = [0; 4];
        assert_eq!(ioctl(read.as_fd(), 0x541b, 0, &mut count), Ok(0));
        assert_eq!(u32::from_ne_bytes(count), 3);
        assert_eq!(ioctl(read.as_fd(), 0x541b, 0, &mut [0; 3]), Err(Errno::INVAL));
        assert_eq!(ioctl(read.as_fd(), 0x5412, 0, &mut [0; 1]), Err(Errno::NOTTY));
    }
}
