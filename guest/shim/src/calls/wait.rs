//! wait4(2), waitid(2), and what waited-for children used.

use super::{Answer, pidfd};
use crate::arch::frame::Context;
use crate::children::Foreseen;
use crate::doorbell::{Wake, ring_until_done, slot, wait_event};
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::park;
use crate::thread::Thread;
use core::sync::atomic::Ordering;
use dunix_guest_abi::doorbell::{OP_WAIT, WAIT_AGAIN, WaitResult};
use dunix_shim_core::wait::{
    CLD_DUMPED, CLD_EXITED, Target, WCONTINUED, WEXITED, WLINUX, WNOHANG, WNOWAIT, WUNTRACED,
    status_word,
};
use dunix_shim_core::{Errno, nr};

/// Of getrusage(2).
pub(crate) const RUSAGE_CHILDREN: i32 = -1;
/// `struct rusage`: user and system time take four words, then comes `ru_maxrss`.
const RUSAGE_MAXRSS: usize = 4;
const USEC_PER_SEC: u64 = 1_000_000;
/// Id types of waitid(2).
const P_ALL: u64 = 0;
const P_PID: u64 = 1;
const EMPTY: WaitResult = WaitResult {
    pid: 0,
    uid: 0,
    code: 0,
    status: 0,
    rusage: [0; 18],
    seq: 0,
    children: WAIT_AGAIN,
};

/// Handles a call about children.
pub(crate) fn try_handle(
    thread: &Thread,
    context: &Context,
    number: u64,
    args: [u64; 6],
) -> Option<Answer> {
    match number {
        nr::WAIT4 => Some(wait4(thread, context, args)),
        nr::WAITID => Some(waitid(thread, context, args)),
        _ => None,
    }
}

/// Waits; `Ok(None)` if no child is ready and the caller does not want to wait.
fn wait(
    thread: &Thread,
    context: &Context,
    target: (u64, u64),
    options: u64,
) -> Result<Option<WaitResult>, Answer> {
    if let Some(answer) = foreseen(thread, context, target, options) {
        return answer;
    }
    let children = &thread.process().children;
    let since = children.generation();
    let mut found = EMPTY;
    let args = [target.0, target.1, options, &raw mut found as u64];
    match ring_until_done(thread, context.mask, OP_WAIT, args) {
        Ok(0) => {
            children.note(since, found.seq, found.children, 0);
            Ok(None)
        }
        Ok(_) => {
            children.note(since, found.seq, found.children, found.pid);
            let has_ended = (CLD_EXITED..=CLD_DUMPED).contains(&found.code);
            if has_ended && options & WNOWAIT == 0 {
                add_usage(thread, &found.rusage);
            }
            Ok(Some(found))
        }
        Err(Some(error)) => Err(Answer::from(Err(error))),
        Err(None) => Err(Answer::Interrupted),
    }
}

/// Waits as long as it is known that nothing would be found; `None`: the daemon is to be asked.
fn foreseen(
    thread: &Thread,
    context: &Context,
    target: (u64, u64),
    options: u64,
) -> Option<Result<Option<WaitResult>, Answer>> {
    const PLAIN: u64 = WNOHANG | WEXITED | WUNTRACED | WCONTINUED | WNOWAIT;
    let child = match target {
        (P_ALL, _) => None,
        (P_PID, pid) => Some(host::uint_arg(pid)),
        _ => return None,
    };
    if options & !PLAIN != 0 {
        return None;
    }
    let process = thread.process();
    loop {
        let seen = slot(process).event_seq.load(Ordering::Acquire);
        match process.children.foresee(seen, child) {
            Foreseen::Unknown => return None,
            Foreseen::NoChild => return Some(Err(Answer::from(Err(Errno::ECHILD)))),
            Foreseen::Nothing if options & WNOHANG != 0 => return Some(Ok(None)),
            Foreseen::Nothing => match wait_event(thread, context.mask, seen) {
                Wake::Event => {}
                Wake::Signal => return Some(Err(Answer::Interrupted)),
                Wake::Move => park::if_asked(thread),
            },
        }
    }
}

fn wait4(thread: &Thread, context: &Context, args: [u64; 6]) -> Answer {
    let options = u64::from(host::uint_arg(args[2]));
    if options & !(WNOHANG | WUNTRACED | WCONTINUED | WLINUX) != 0 {
        return Answer::from(Err(Errno::EINVAL));
    }
    let pid = host::int_arg(args[0]);
    if pid == i32::MIN {
        return Answer::from(Err(Errno::ESRCH));
    }
    let target = Target::of_wait4(pid).as_waitid();
    let found = match wait(thread, context, target, options | WEXITED) {
        Ok(Some(found)) => found,
        Ok(None) => return Answer::Return(0),
        Err(answer) => return answer,
    };
    let (status, usage) = (GuestAddr(args[1]), GuestAddr(args[3]));
    let mut written = Ok(());
    if !status.is_null() {
        written = guest::write(status, &status_word(found.code, found.status));
    }
    if !usage.is_null() && written.is_ok() {
        written = guest::write(usage, &found.rusage);
    }
    written.map(|()| u64::from(found.pid)).into()
}

fn waitid(thread: &Thread, context: &Context, args: [u64; 6]) -> Answer {
    const P_PIDFD: u64 = 3;
    const SIGCHLD: i32 = 17;
    let options = u64::from(host::uint_arg(args[3]));
    let states = WEXITED | WUNTRACED | WCONTINUED;
    let known = states | WNOHANG | WNOWAIT | WLINUX;
    let kind = u64::from(host::uint_arg(args[0]));
    if options & states == 0 || options & !known != 0 || kind > P_PIDFD {
        return Answer::from(Err(Errno::EINVAL));
    }
    let mut target = (kind, u64::from(host::uint_arg(args[1])));
    let mut is_nonblocking = false;
    if kind == P_PIDFD {
        match pidfd::subject(thread, args[1]) {
            Ok(subject) => target = (P_PID, u64::from(subject.pid)),
            Err(error) => return Answer::from(Err(error)),
        }
        is_nonblocking = options & WNOHANG == 0 && is_nonblocking_fd(args[1]);
    }
    let wnohang = if is_nonblocking { WNOHANG } else { 0 };
    let found = match wait(thread, context, target, options | wnohang) {
        Ok(None) if is_nonblocking => return Answer::from(Err(Errno::EAGAIN)),
        Ok(found) => found,
        Err(answer) => return answer,
    };
    let mut info = [0i32; 7];
    if let Some(found) = &found {
        let (pid, uid) = (found.pid.cast_signed(), found.uid.cast_signed());
        info = [SIGCHLD, 0, found.code, 0, pid, uid, found.status];
    }
    let mut written = Ok(());
    if args[2] != 0 {
        written = guest::write(GuestAddr(args[2]), &info);
    }
    if let Some(found) = found.filter(|_| args[4] != 0 && written.is_ok()) {
        written = guest::write(GuestAddr(args[4]), &found.rusage);
    }
    written.map(|()| 0).into()
}

fn is_nonblocking_fd(fd: u64) -> bool {
    const F_GETFL: u64 = 3;
    const O_NONBLOCK: u64 = 0o4000;
    // SAFETY: only asks.
    let flags = unsafe { host::call(nr::FCNTL, [fd, F_GETFL, 0, 0, 0, 0]) };
    flags.is_ok_and(|flags| flags & O_NONBLOCK != 0)
}

/// What the children used that were waited for, as `struct rusage`.
pub(crate) fn children_usage(thread: &Thread) -> [u64; 18] {
    let process = thread.process();
    process.lock.acquire();
    // SAFETY: under the lock.
    let usage = unsafe { *process.children_usage.get() };
    process.lock.release();
    usage
}

fn add_usage(thread: &Thread, more: &[u64; 18]) {
    let process = thread.process();
    process.lock.acquire();
    // SAFETY: under the lock.
    let sum = unsafe { &mut *process.children_usage.get() };
    for (index, (sum, more)) in sum.iter_mut().zip(more).enumerate() {
        *sum = if index == RUSAGE_MAXRSS { (*sum).max(*more) } else { sum.wrapping_add(*more) };
    }
    for seconds in [0, 2] {
        sum[seconds] = sum[seconds].wrapping_add(sum[seconds + 1] / USEC_PER_SEC);
        sum[seconds + 1] %= USEC_PER_SEC;
    }
    process.lock.release();
}
