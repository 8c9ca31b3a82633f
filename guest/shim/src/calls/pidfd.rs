//! Descriptors that stand for processes: pidfd_open(2) and what is done with them.
//!
//! The daemon makes them and knows which process each is about, wherever that runs.

use super::remote::{self, Attempt};
use super::{Answer, descriptor, kill, memory, other, socket};
use crate::arch::frame::Context;
use crate::doorbell::{ring, ring_until_done};
use crate::guest::GuestAddr;
use crate::host;
use crate::thread::Thread;
use dunix_guest_abi::doorbell::{
    OP_PIDFD, OP_PIDFD_GETFD, OP_PIDFD_OPEN, OP_PROCESS_ADVISE, OP_PROCESS_RELEASE, PIDFD_ENDED,
    PIDFD_NONBLOCK, PROCESS_FILES,
};
use dunix_shim_core::signal::SigSet;
use dunix_shim_core::{Errno, nr, proc_path};

/// A process that a descriptor is about.
#[derive(Clone, Copy)]
pub(crate) struct Subject {
    pub(crate) pid: u32,
    /// Only its status may be left: its number could already be another's.
    pub(crate) has_ended: bool,
}

/// Handles a call on such a descriptor.
pub(crate) fn try_handle(
    thread: &Thread,
    context: &Context,
    number: u64,
    args: [u64; 6],
) -> Option<Answer> {
    match number {
        nr::PIDFD_GETFD => Some(get(thread, context, args)),
        nr::PIDFD_OPEN => Some(open(args).into()),
        nr::PIDFD_SEND_SIGNAL => Some(send_signal(thread, args).into()),
        nr::PROCESS_MADVISE => Some(advise(thread, args).into()),
        nr::PROCESS_MRELEASE => Some(release(thread, args).into()),
        _ => None,
    }
}

fn open(args: [u64; 6]) -> Result<u64, Errno> {
    let (pid, flags) = (host::int_arg(args[0]), u64::from(host::uint_arg(args[1])));
    if pid <= 0 || flags & !PIDFD_NONBLOCK != 0 {
        return Err(Errno::EINVAL);
    }
    open_for(pid.unsigned_abs(), flags)
}

/// Makes a descriptor for a process; `O_CLOEXEC`.
pub(crate) fn open_for(pid: u32, flags: u64) -> Result<u64, Errno> {
    ring(OP_PIDFD_OPEN, [u64::from(pid), flags, 0, 0])
}

/// Which process a descriptor is about. No signal interrupts the question.
///
/// # Errors
/// `EBADF`: it is no such descriptor.
pub(crate) fn subject(thread: &Thread, fd: u64) -> Result<Subject, Errno> {
    let fd = host::int_arg(fd);
    let number = host::fd_arg(fd);
    let mut answer = None;
    if thread.process().remote.has(fd) {
        // Its home knows.
        let (mask, args) = (SigSet(u64::MAX).for_kernel(), [number, 0, 0, 0, 0, 0]);
        if let Attempt::Ended(result) = remote::attempt(thread, mask, nr::PIDFD_OPEN, args) {
            answer = Some(Errno::check(result));
        }
    }
    let found = answer.unwrap_or_else(|| ring(OP_PIDFD, [number, 0, 0, 0]));
    let found = found.map_err(|_| Errno::EBADF)?;
    Ok(Subject { pid: host::uint_arg(found), has_ended: found & PIDFD_ENDED != 0 })
}

/// pidfd_getfd(2).
fn get(thread: &Thread, context: &Context, args: [u64; 6]) -> Answer {
    if host::uint_arg(args[2]) != 0 {
        return Answer::from(Err(Errno::EINVAL));
    }
    let subject = match subject(thread, args[0]) {
        Ok(subject) if subject.has_ended => return Answer::from(Err(Errno::ESRCH)),
        Ok(subject) => subject,
        Err(error) => return Answer::from(Err(error)),
    };
    let number = host::int_arg(args[1]);
    if subject.pid == thread.process().pid() {
        return descriptor::reopen(thread, number, host::O_CLOEXEC);
    }
    let ask = [u64::from(subject.pid), host::fd_arg(number), 0, 0];
    match ring_until_done(thread, context.mask, OP_PIDFD_GETFD, ask) {
        Ok(fd) => socket::adopt_taken(thread, host::int_arg(fd)).into(),
        Err(Some(error)) => Answer::from(Err(error)),
        Err(None) => Answer::Interrupted,
    }
}

/// process_madvise(2).
fn advise(thread: &Thread, args: [u64; 6]) -> Result<u64, Errno> {
    let [fd, parts, count, advice, flags, _] = args;
    if host::uint_arg(flags) != 0 {
        return Err(Errno::EINVAL);
    }
    let subject = subject(thread, fd)?;
    let advice = u64::from(host::uint_arg(advice));
    if subject.pid == thread.process().pid() && !subject.has_ended {
        return memory::advise_own(GuestAddr(parts), count, advice);
    }
    speak(subject, OP_PROCESS_ADVISE, [parts, count, advice])
}

/// process_mrelease(2).
fn release(thread: &Thread, args: [u64; 6]) -> Result<u64, Errno> {
    if host::uint_arg(args[1]) != 0 {
        return Err(Errno::EINVAL);
    }
    speak(subject(thread, args[0])?, OP_PROCESS_RELEASE, [0; 3])
}

/// Has the daemon speak about the memory of a process of this node; another node's kernel is not asked (`EPERM`).
fn speak(subject: Subject, op: u64, [parts, count, advice]: [u64; 3]) -> Result<u64, Errno> {
    if subject.has_ended {
        return Err(Errno::ESRCH);
    }
    ring(op, [u64::from(subject.pid), parts, count, advice]).map_err(|error| match error {
        Errno::EREMOTE => Errno::EPERM,
        error => error,
    })
}

/// pidfd_send_signal(2).
fn send_signal(thread: &Thread, args: [u64; 6]) -> Result<u64, Errno> {
    if host::uint_arg(args[3]) != 0 {
        return Err(Errno::EINVAL);
    }
    let signal = kill::check_signal(args[1])?;
    let subject = match subject(thread, args[0]) {
        Err(Errno::EBADF) => folder_of(args[0])?,
        found => found?,
    };
    let info = GuestAddr(args[2]);
    let info = if info.is_null() { None } else { Some(kill::carried_with(signal, info)?) };
    if subject.has_ended {
        // Whether its status is still there.
        return kill::kill_other(subject.pid, 0, None);
    }
    if info.is_none() && subject.pid == thread.process().pid() {
        return kill::kill_own(thread, signal);
    }
    kill::kill_other(subject.pid, signal, info.as_ref())
}

/// Which process a folder below `/proc` is about: such a descriptor may be signalled, too.
fn folder_of(fd: u64) -> Result<Subject, Errno> {
    let mut target = [0u8; 64];
    let path = descriptor::link_of(fd, &mut target).ok_or(Errno::EBADF)?;
    let composed =
        path.strip_prefix(PROCESS_FILES.as_bytes()).and_then(|rest| rest.strip_prefix(b"/"));
    let of_host = path.strip_prefix(b"/proc/");
    let pid = match (composed.and_then(proc_path::number), of_host.and_then(proc_path::number)) {
        (Some(pid), _) => pid,
        (None, Some(host)) => other::from_host(host),
        (None, None) => return Err(Errno::EBADF),
    };
    if pid == 0 { Err(Errno::ESRCH) } else { Ok(Subject { pid, has_ended: false }) }
}
