//! One ring of the doorbell, from its arrival to its answer.
//!
//! Invariant: every call is answered exactly once. One that is dropped unanswered answers `EIO`,
//! so that no guest waits for a daemon that forgot it.

use dunix_ids::Pid;
use dunix_linux::guest_memory::GuestMemory;
use dunix_linux::seccomp::{Listener, Notification};
use dunix_linux::{Errno, Result};
use dunix_wire::processes;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

/// Who rings, once the table knows him.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The process.
    pub pid: Pid,
    /// The calling thread's number in the fabric (the PID for the first one).
    pub tid: Pid,
    /// The process's number on this host.
    pub host_pid: u32,
}

/// A guest's call, waiting for its answer. Arguments are allegations.
#[derive(Debug)]
pub struct DoorbellCall {
    listener: Arc<Listener>,
    notification: Notification,
    caller: Option<Caller>,
    is_answered: bool,
}

impl DoorbellCall {
    pub(crate) fn new(listener: Arc<Listener>, notification: Notification) -> DoorbellCall {
        DoorbellCall { listener, notification, caller: None, is_answered: false }
    }

    pub(crate) fn set_caller(&mut self, caller: Caller) {
        self.caller = Some(caller);
    }

    /// Who rings; [`Errno::SRCH`] before the table knows him.
    pub fn caller(&self) -> Result<Caller> {
        self.caller.ok_or(Errno::SRCH)
    }

    /// The host TID that the kernel vouches for.
    #[must_use]
    pub fn host_tid(&self) -> u32 {
        self.notification.tid
    }

    /// The operation (`OP_*`).
    #[must_use]
    pub fn op(&self) -> u64 {
        self.notification.args[0]
    }

    /// The operation's argument `a1..=a5`.
    #[must_use]
    pub fn arg(&self, number: usize) -> u64 {
        self.notification.args.get(number).copied().unwrap_or(0)
    }

    /// An argument that the guest means as an `int`.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "as the kernel takes an int argument")]
    pub fn int_arg(&self, number: usize) -> i32 {
        self.arg(number) as i32
    }

    /// An argument that names a process or thread; `None` for 0, [`Errno::SRCH`] out of range.
    pub fn pid_arg(&self, number: usize) -> Result<Option<Pid>> {
        match u32::try_from(self.arg(number)) {
            Ok(0) => Ok(None),
            Ok(raw) => Pid::new(raw).map(Some).ok_or(Errno::SRCH),
            Err(_) => Err(Errno::SRCH),
        }
    }

    /// The caller's memory.
    #[must_use]
    pub fn memory(&self) -> GuestMemory {
        GuestMemory::of(self.notification.tid)
    }

    /// Takes a duplicate of the caller's descriptor.
    pub fn take_fd(&self, number: RawFd) -> Result<OwnedFd> {
        crate::host::take_fd(self.caller()?.host_pid, number)
    }

    /// Whether the caller still waits; what was read before this holds if it does.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.listener.is_pending(self.notification.id).is_ok()
    }

    /// Gives the caller a descriptor (`O_CLOEXEC`) and returns its number there.
    pub fn add_fd(&self, fd: BorrowedFd<'_>) -> Result<RawFd> {
        self.listener.add_fd(self.notification.id, fd)
    }

    /// Gives the caller a descriptor at this number, without `O_CLOEXEC`.
    pub(crate) fn set_fd(&self, fd: BorrowedFd<'_>, number: RawFd) -> Result<()> {
        self.listener.set_fd(self.notification.id, fd, number)
    }

    /// Answers with a value.
    pub fn answer(mut self, value: i64) {
        self.send(value);
    }

    /// Answers with an errno.
    pub fn refuse(mut self, errno: Errno) {
        self.send(-i64::from(errno.raw_os_error()));
    }

    /// Answers with a new descriptor of the caller, `O_CLOEXEC`.
    pub fn answer_fd(mut self, fd: BorrowedFd<'_>) {
        match self.listener.answer_fd(self.notification.id, fd) {
            Ok(()) | Err(Errno::NOENT) => self.is_answered = true,
            Err(errno) => self.send(-i64::from(errno.raw_os_error())),
        }
    }

    /// Answers with a result.
    pub fn conclude(self, result: Result<i64>) {
        match result {
            Ok(value) => self.answer(value),
            Err(errno) => self.refuse(errno),
        }
    }

    fn send(&mut self, value: i64) {
        self.is_answered = true;
        // A caller that was killed meanwhile needs no answer.
        let _ = self.listener.answer(self.notification.id, value);
    }
}

impl Drop for DoorbellCall {
    fn drop(&mut self) {
        if !self.is_answered {
            self.send(-i64::from(Errno::IO.raw_os_error()));
        }
    }
}

/// The host's errno for a table's.
pub(crate) fn errno_of(errno: processes::Errno) -> Errno {
    Errno::from_raw_os_error(i32::from(errno.0))
}

/// The wire's errno for a host's.
pub(crate) fn wire_errno(errno: Errno) -> processes::Errno {
    processes::Errno(u16::try_from(errno.raw_os_error()).unwrap_or(processes::Errno::IO.0))
}
