//! Seccomp notifications (seccomp_unotify(2)): receiving, answering, adding descriptors.
//!
//! Owns: the ioctl numbers and layouts. Invariant: a [`Notification`] is only data; answering one
//! whose caller is gone is [`Errno::NOENT`], which callers treat as nothing left to do.

use crate::{Errno, Result, check};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// A system call that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub struct Notification {
    /// Names the notification on its listener.
    pub id: u64,
    /// The caller's TID in the receiver's PID namespace; 0 if it is not visible there.
    pub tid: u32,
    /// The system-call number.
    pub nr: i32,
    /// The call's arguments, unvalidated.
    pub args: [u64; 6],
}

/// The listening end of a seccomp filter.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// Struct `seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// Struct `seccomp_notif_addfd`.
#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    source: u32,
    number: u32,
    number_flags: u32,
}

/// Struct `seccomp_notif`.
#[repr(C)]
#[derive(Default)]
struct Raw {
    id: u64,
    pid: u32,
    flags: u32,
    nr: i32,
    arch: u32,
    instruction_pointer: u64,
    args: [u64; 6],
}

const fn ioctl_number(direction: u64, number: u64, size: usize) -> u64 {
    (direction << 30) | ((size as u64) << 16) | ((b'!' as u64) << 8) | number
}

const RECV: u64 = ioctl_number(3, 0, size_of::<Raw>());
const SEND: u64 = ioctl_number(3, 1, size_of::<Response>());
const ID_VALID: u64 = ioctl_number(1, 2, size_of::<u64>());
const ADD_FD: u64 = ioctl_number(1, 3, size_of::<AddFd>());
const SET_FLAGS: u64 = ioctl_number(1, 4, size_of::<u64>());
/// `SECCOMP_ADDFD_FLAG_SETFD`.
const ADD_FD_SET: u32 = 1 << 0;
/// `SECCOMP_ADDFD_FLAG_SEND`.
const ADD_FD_SEND: u32 = 1 << 1;
/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`.
const SYNC_WAKE_UP: libc::c_ulong = 1;

impl Listener {
    /// Takes a descriptor that a guest offers as its listener; [`Errno::INVAL`] if it is none.
    pub fn try_from_fd(fd: OwnedFd) -> Result<Listener> {
        let listener = Listener(fd);
        match listener.is_pending(0) {
            // The kernel looks the id up before anything else: no such id proves a listener.
            Ok(()) | Err(Errno::NOENT) => Ok(listener),
            Err(_) => Err(Errno::INVAL),
        }
    }

    /// Makes the kernel wake the other side on this CPU (since Linux 6.6).
    ///
    /// Returns whether the kernel can; without it answers are correct and slower.
    pub fn try_wake_on_same_cpu(&self) -> bool {
        // SAFETY: the request takes its flags by value.
        let result = unsafe { libc::ioctl(self.raw(), SET_FLAGS, SYNC_WAKE_UP) };
        result == 0
    }

    /// Receives one notification; [`Errno::NOENT`] if its caller went away, [`Errno::INTR`].
    pub fn receive(&self) -> Result<Notification> {
        let mut raw = Raw::default();
        // SAFETY: `raw` is a zeroed struct of the layout and size that RECV encodes.
        check(unsafe { libc::ioctl(self.raw(), RECV, &raw mut raw) }.into())?;
        Ok(Notification { id: raw.id, tid: raw.pid, nr: raw.nr, args: raw.args })
    }

    /// Answers with a value, or with an errno if `value` is in `-4095..0`.
    pub fn answer(&self, id: u64, value: i64) -> Result<()> {
        let failed = (-4095..0).contains(&value);
        let response = Response {
            id,
            value: if failed { 0 } else { value },
            error: if failed { i32::try_from(value).unwrap_or(-libc::EIO) } else { 0 },
            flags: 0,
        };
        // SAFETY: `response` has the layout and size that SEND encodes.
        check(unsafe { libc::ioctl(self.raw(), SEND, &raw const response) }.into())?;
        Ok(())
    }

    /// Gives the caller a descriptor with `O_CLOEXEC` and returns its number there.
    pub fn add_fd(&self, id: u64, fd: BorrowedFd<'_>) -> Result<RawFd> {
        self.add(id, fd, 0)
    }

    /// Gives the caller a descriptor at a number of our choice; whatever is open there is closed.
    pub fn set_fd(&self, id: u64, fd: BorrowedFd<'_>, number: RawFd) -> Result<()> {
        let number = u32::try_from(number).map_err(|_| Errno::BADF)?;
        let source = u32::try_from(fd.as_raw_fd()).map_err(|_| Errno::BADF)?;
        let add = AddFd { id, flags: ADD_FD_SET, source, number, number_flags: 0 };
        // SAFETY: `add` has the layout and size that ADD_FD encodes.
        check(unsafe { libc::ioctl(self.raw(), ADD_FD, &raw const add) }.into())?;
        Ok(())
    }

    /// Gives the caller a descriptor with `O_CLOEXEC`; its number there is the call's answer.
    pub fn answer_fd(&self, id: u64, fd: BorrowedFd<'_>) -> Result<()> {
        self.add(id, fd, ADD_FD_SEND).map(drop)
    }

    /// Tells whether the caller still waits for the answer; [`Errno::NOENT`] if not.
    ///
    /// What was read from the caller's memory before a successful test is the caller's.
    pub fn is_pending(&self, id: u64) -> Result<()> {
        // SAFETY: the request reads one u64 at the pointer.
        check(unsafe { libc::ioctl(self.raw(), ID_VALID, &raw const id) }.into())?;
        Ok(())
    }

    fn add(&self, id: u64, fd: BorrowedFd<'_>, flags: u32) -> Result<RawFd> {
        let source = u32::try_from(fd.as_raw_fd()).map_err(|_| Errno::BADF)?;
        let number_flags = libc::O_CLOEXEC.cast_unsigned();
        let add = AddFd { id, flags, source, number: 0, number_flags };
        // SAFETY: `add` has the layout and size that ADD_FD encodes.
        let number = check(unsafe { libc::ioctl(self.raw(), ADD_FD, &raw const add) }.into())?;
        RawFd::try_from(number).map_err(|_| Errno::BADF)
    }

    fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
