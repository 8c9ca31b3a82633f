//! Which calls of a rewritten site need nothing of the shim, or nothing that waits.
//!
//! Each answer is that of [`super::dispatch`], or [`Quick::Trap`], which asks it.

use super::{Answer, descriptor, entries, epoll, fifo, ids, path, socket, status};
use crate::arch::fast;
use crate::doorbell::slot;
use crate::fast::{Quick, rt_sigaction, rt_sigprocmask};
use crate::host;
use crate::process::has_daemon;
use crate::thread::Thread;
use core::sync::atomic::Ordering;
use dunix_guest_abi::arena::{SLOT_BACKGROUND, SLOT_PARK};
use dunix_shim_core::nr;

const TCGETS: u32 = 0x5401;
const TIOCGWINSZ: u32 = 0x5413;
const FIONREAD: u32 = 0x541b;
const F_DUPFD: u32 = 0;
const F_DUPFD_CLOEXEC: u32 = 1030;

/// Decides what becomes of a call; it may have been issued already.
pub(crate) fn decide(thread: &Thread, number: u64, args: [u64; 6]) -> Quick {
    match number {
        nr::RT_SIGACTION => rt_sigaction(thread, args),
        nr::RT_SIGPROCMASK => rt_sigprocmask(thread, args),
        nr::READ | nr::WRITE | nr::READV | nr::WRITEV => transfer(thread, host::int_arg(args[0])),
        nr::SENDTO if args[4] != 0 && !socket::goes_at_once(args[4], args[5]) => Quick::Trap,
        nr::LSEEK | nr::RECVFROM | nr::SENDTO => if_near(thread, host::int_arg(args[0])),
        nr::OPEN | nr::OPENAT => open(thread, number, args),
        nr::STAT | nr::LSTAT | nr::NEWFSTATAT | nr::STATX => {
            if is_far(thread) || !path::is_plain(number, args) {
                Quick::Trap
            } else {
                describe(number, args)
            }
        }
        nr::ACCESS | nr::FACCESSAT | nr::FACCESSAT2 | nr::READLINK | nr::READLINKAT => {
            if is_far(thread) { Quick::Trap } else { if_plain(number, args) }
        }
        nr::FSTAT => {
            if is_far(thread) {
                Quick::Trap
            } else {
                describe(number, args)
            }
        }
        nr::CLOSE => close(thread, host::int_arg(args[0])),
        nr::DUP | nr::DUP2 | nr::DUP3 => duplicate(thread, number, args),
        nr::FCNTL if matches!(host::uint_arg(args[1]), F_DUPFD | F_DUPFD_CLOEXEC) => {
            duplicate(thread, number, args)
        }
        nr::IOCTL if matches!(host::uint_arg(args[1]), TCGETS | TIOCGWINSZ | FIONREAD) => {
            if_near(thread, host::int_arg(args[0]))
        }
        nr::GETPPID | nr::GETPGRP | nr::GETPGID | nr::GETSID => {
            match ids::known(thread, number, args) {
                Some(known) => Ok(known).into(),
                None if has_daemon() => Quick::Trap,
                None => Quick::Pass,
            }
        }
        nr::GETDENTS64 => list(thread, args),
        nr::SENDFILE => match transfer(thread, host::int_arg(args[0])) {
            Quick::Pass => if_near(thread, host::int_arg(args[1])),
            quick => quick,
        },
        nr::POLL if !is_far(thread) => Quick::Pass,
        nr::PPOLL if args[3] == 0 && !is_far(thread) => Quick::Pass,
        nr::EPOLL_CTL => {
            if has_daemon() && epoll::is_refused(thread, args) {
                Quick::Trap
            } else {
                Quick::Pass
            }
        }
        nr::EPOLL_WAIT => Quick::Pass,
        nr::EPOLL_PWAIT if args[4] == 0 => Quick::Pass,
        _ => Quick::Trap,
    }
}

/// Whether the process may have objects of other nodes.
fn is_far(thread: &Thread) -> bool {
    has_daemon() && !thread.process().remote.is_empty()
}

fn if_near(thread: &Thread, fd: i32) -> Quick {
    if has_daemon() && thread.process().remote.has(fd) { Quick::Trap } else { Quick::Pass }
}

/// read(2), write(2): a process in the background may have to stop, a signalfd's bytes are changed.
fn transfer(thread: &Thread, fd: i32) -> Quick {
    if !has_daemon() {
        return Quick::Pass;
    }
    let flags = slot(thread.process()).flags.load(Ordering::Relaxed);
    if flags & (SLOT_BACKGROUND | SLOT_PARK) != 0 || thread.process().signalfds.has(fd) {
        return Quick::Trap;
    }
    if_near(thread, fd)
}

/// stat(2) and kin: the tree's number is the fabric's.
fn describe(number: u64, args: [u64; 6]) -> Quick {
    if !status::is_translated() {
        return Quick::Pass;
    }
    // SAFETY: the guest's own call.
    let result = unsafe { fast::call(number, args) };
    if result == 0 {
        status::translate(number, args);
    }
    Quick::Return(result)
}

fn if_plain(number: u64, args: [u64; 6]) -> Quick {
    if path::is_plain(number, args) { Quick::Pass } else { Quick::Trap }
}

fn open(thread: &Thread, number: u64, args: [u64; 6]) -> Quick {
    if !path::is_plain(number, args) {
        return Quick::Trap;
    }
    if !has_daemon() {
        return Quick::Pass;
    }
    // SAFETY: the guest's own call.
    let result = unsafe { fast::call(number, args) };
    if fifo::is_elsewhere(result) {
        return Quick::Trap;
    }
    if let Ok(fd) = i32::try_from(result)
        && fd >= 0
    {
        descriptor::note_opened(thread, fd);
    }
    Quick::Return(result)
}

fn close(thread: &Thread, fd: i32) -> Quick {
    if has_daemon() {
        if thread.process().remote.has(fd) {
            return Quick::Trap;
        }
        descriptor::note_closed(thread.process(), fd);
    }
    Quick::Pass
}

fn duplicate(thread: &Thread, number: u64, args: [u64; 6]) -> Quick {
    if !has_daemon() {
        return Quick::Pass;
    }
    if is_far(thread) {
        return Quick::Trap;
    }
    match descriptor::try_handle(thread, number, args) {
        Some(Answer::Return(result)) => Quick::Return(result),
        _ => Quick::Trap,
    }
}

fn list(thread: &Thread, args: [u64; 6]) -> Quick {
    match if_near(thread, host::int_arg(args[0])) {
        Quick::Pass if has_daemon() && entries::lists_numbers(args[0]) => Quick::Trap,
        quick => quick,
    }
}
