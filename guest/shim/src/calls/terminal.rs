//! Terminals: requests that name groups, and background reads and writes (POSIX.1 11.1.4).

use super::{Answer, remote};
use crate::arch::frame::Context;
use crate::arch::gadget::NOT_BEGUN;
use crate::doorbell::{ring, ring_raw, slot};
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::process::has_daemon;
use crate::signal::SA_RESTART;
use crate::signal::deliver;
use crate::thread::Thread;
use core::sync::atomic::Ordering;
use dunix_guest_abi::arena::{SLOT_BACKGROUND, SLOT_HAS_TERMINAL, SLOT_TOSTOP};
use dunix_guest_abi::doorbell::{
    DEAF_TO_TTIN, DEAF_TO_TTOU, OP_BACKGROUND, OP_OPEN_TERMINAL, OP_TERMINAL, OPENED_REMOTE,
    REMOTE_BACKGROUND,
};
use dunix_shim_core::signal::{SIGTTIN, SIGTTOU, SigSet};
use dunix_shim_core::{Errno, nr};

const TCSETS: u64 = 0x5402;
const TCFLSH: u64 = 0x540b;
const TIOCSCTTY: u64 = 0x540e;
const TIOCGPGRP: u64 = 0x540f;
const TIOCSPGRP: u64 = 0x5410;
const TIOCNOTTY: u64 = 0x5422;
const TIOCGSID: u64 = 0x5429;
const FIONBIO: u64 = 0x5421;
const FIONCLEX: u64 = 0x5450;
const FIOCLEX: u64 = 0x5451;
const F_SETFD: u64 = 2;
const O_NOCTTY: u64 = 0o400;

/// ioctl(2) with a terminal's request.
pub(crate) fn ioctl(thread: &Thread, context: &Context, args: [u64; 6]) -> Answer {
    let request = u64::from(host::uint_arg(args[1]));
    let fd = host::int_arg(args[0]);
    match request {
        TIOCGPGRP | TIOCGSID => {
            let answer = ring(OP_TERMINAL, [host::fd_arg(fd), request, 0, 0]);
            answer
                .and_then(|id| guest::write(GuestAddr(args[2]), &host::uint_arg(id)))
                .map(|()| 0)
                .into()
        }
        TIOCSPGRP => {
            let group = match guest::read::<u32>(GuestAddr(args[2])) {
                Ok(group) => group,
                Err(error) => return Answer::from(Err(error)),
            };
            if let Some(answer) = stopped_change(thread, context, fd) {
                return answer;
            }
            let deaf = deafness(thread, context.mask);
            match ring_raw(OP_TERMINAL, [host::fd_arg(fd), request, u64::from(group), deaf]) {
                REMOTE_BACKGROUND => stop(thread, SIGTTOU),
                result => Answer::Return(result),
            }
        }
        TIOCSCTTY | TIOCNOTTY => ring(OP_TERMINAL, [host::fd_arg(fd), request, args[2], 0]).into(),
        _ => {
            if (TCSETS..=TCFLSH).contains(&request)
                && let Some(answer) = stopped_change(thread, context, fd)
            {
                return answer;
            }
            match request {
                // About the descriptor, not its object.
                FIOCLEX | FIONCLEX => Answer::PassOn,
                _ if !thread.process().remote.has(fd) => Answer::PassOn,
                FIONBIO => set_nonblocking(thread, context, args).into(),
                _ => remote::execute(thread, context, nr::IOCTL, args),
            }
        }
    }
}

/// `FIONBIO` on a descriptor of another node: the flag of the description at its home.
fn set_nonblocking(thread: &Thread, context: &Context, args: [u64; 6]) -> Result<u64, Errno> {
    const F_GETFL: u64 = 3;
    const F_SETFL: u64 = 4;
    const O_NONBLOCK: u64 = 0o4000;
    let is_on: i32 = guest::read(GuestAddr(args[2]))?;
    let call = |command, flags| {
        let args = [args[0], command, flags, 0, 0, 0];
        Errno::check(remote::run(thread, context.mask, nr::FCNTL, args))
    };
    let flags = call(F_GETFL, 0)? & !O_NONBLOCK;
    call(F_SETFL, if is_on == 0 { flags } else { flags | O_NONBLOCK })
}

/// open(2) of `/dev/tty`.
pub(crate) fn open_controlling(thread: &Thread, flags: u64) -> Result<u64, Errno> {
    let answer = ring(OP_OPEN_TERMINAL, [flags, 0, 0, 0])?;
    let fd = host::int_arg(answer);
    if answer & OPENED_REMOTE != 0 {
        thread.process().remote.insert(fd);
        // Without it, calls that are native otherwise meet the placeholder.
        let _ = crate::filter::widen();
    }
    if flags & host::O_CLOEXEC == 0 {
        // SAFETY: clears the flag that the daemon's way of giving descriptors sets.
        unsafe { host::call(nr::FCNTL, [host::fd_arg(fd), F_SETFD, 0, 0, 0, 0]) }?;
    }
    Ok(u64::from(fd.unsigned_abs()))
}

/// A terminal opened without `O_NOCTTY` becomes the controlling terminal of a leader that has none
/// (open(2)); the daemon knows who leads.
pub(crate) fn opened(thread: &Thread, number: u64, args: [u64; 6], fd: i32) {
    let (path, open_flags) = match number {
        nr::OPEN => (args[0], args[1]),
        nr::OPENAT => (args[1], args[2]),
        _ => return,
    };
    if open_flags & O_NOCTTY != 0 || !has_daemon() || flags(thread) & SLOT_HAS_TERMINAL != 0 {
        return;
    }
    if guest::read::<[u8; 9]>(GuestAddr(path)).is_ok_and(|start| start == *b"/dev/pts/") {
        // Not a leader, taken by another session, no terminal: the open stands all the same.
        let _ = ring(OP_TERMINAL, [host::fd_arg(fd), TIOCSCTTY, 0, 0]);
    }
}

fn flags(thread: &Thread) -> u32 {
    slot(thread.process()).flags.load(Ordering::Acquire)
}

fn is_background(flags: u32) -> bool {
    flags & (SLOT_HAS_TERMINAL | SLOT_BACKGROUND) == SLOT_HAS_TERMINAL | SLOT_BACKGROUND
}

/// Whether `fd` is the caller's controlling terminal: only then does it have a session for him.
fn is_controlling(fd: i32) -> bool {
    ring(OP_TERMINAL, [host::fd_arg(fd), TIOCGSID, 0, 0]).is_ok()
}

/// What a read on `fd` must do first, if the caller is in the background of its terminal.
pub(crate) fn stopped_read(thread: &Thread, context: &Context, fd: i32) -> Option<Answer> {
    if !is_background(flags(thread)) || !is_controlling(fd) {
        return None;
    }
    if is_deaf(thread, context.mask, SIGTTIN) {
        return Some(Answer::from(Err(Errno::EIO)));
    }
    Some(stop(thread, SIGTTIN))
}

/// The same for a write, which stops only with `TOSTOP`.
pub(crate) fn stopped_write(thread: &Thread, context: &Context, fd: i32) -> Option<Answer> {
    if flags(thread) & SLOT_TOSTOP == 0 {
        return None;
    }
    stopped_change(thread, context, fd)
}

/// The same for a change of the terminal, which always stops.
fn stopped_change(thread: &Thread, context: &Context, fd: i32) -> Option<Answer> {
    if !is_background(flags(thread))
        || is_deaf(thread, context.mask, SIGTTOU)
        || !is_controlling(fd)
    {
        return None;
    }
    Some(stop(thread, SIGTTOU))
}

/// Whether the signal is blocked or ignored.
fn is_deaf(thread: &Thread, mask: SigSet, signal: u32) -> bool {
    mask.has(signal) || thread.process().action(signal).handler == host::SIG_IGN
}

/// Which signals of terminal access the caller does not hear, for the home of a terminal elsewhere.
pub(crate) fn deafness(thread: &Thread, mask: SigSet) -> u64 {
    let bit = |signal, bit| if is_deaf(thread, mask, signal) { bit } else { 0 };
    bit(SIGTTIN, DEAF_TO_TTIN) | bit(SIGTTOU, DEAF_TO_TTOU)
}

/// Stops for a call that the home of a terminal elsewhere refused to a background process.
pub(crate) fn stop_for(thread: &Thread, number: u64) -> i64 {
    let signal = if matches!(number, nr::READ | nr::READV) { SIGTTIN } else { SIGTTOU };
    stop_result(thread, signal)
}

/// Lets the daemon signal the group. The call begins anew once the signal has had its effect.
fn stop(thread: &Thread, signal: u32) -> Answer {
    Answer::Return(stop_result(thread, signal))
}

fn stop_result(thread: &Thread, signal: u32) -> i64 {
    if let Err(error) = ring(OP_BACKGROUND, [u64::from(signal), 0, 0, 0]) {
        return error.as_result();
    }
    let action = thread.process().action(signal);
    let is_cut_short = action.handler > host::SIG_IGN && action.flags & SA_RESTART == 0;
    if is_cut_short { deliver::INTERRUPTED } else { NOT_BEGUN }
}
