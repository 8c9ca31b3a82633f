//! Opening, duplicating and closing: which descriptors are private, and which live elsewhere.
//!
//! *Private*: no other process shares the open file description; so it may be reopened at another node. Set by opening, kept by
//! duplicates inside the process, lost by all at fork and when descriptors are sent.

use super::remote::Attempt;
use super::{Answer, fifo, terminal};
use crate::arch::frame::Context;
use crate::arch::gadget::{self, Request};
use crate::doorbell::ring;
use crate::host;
use crate::process::Process;
use crate::thread::Thread;
use dunix_guest_abi::doorbell::{OP_REMOTE_FD, REMOTE_FD_WORDS};
use dunix_shim_core::{Errno, nr, proc_path};

const F_DUPFD: u64 = 0;
const F_SETOWN: u64 = 8;
const F_GETOWN: u64 = 9;
const F_SETOWN_EX: u64 = 15;
const F_GETOWN_EX: u64 = 16;
const F_DUPFD_CLOEXEC: u64 = 1030;
const CLOSE_RANGE_CLOEXEC: u64 = 4;
/// How often a FIFO is opened that a move or its deletion brings elsewhere each time; then it is `EREMOTE`.
const OPENS_MAX: u32 = 64;
/// Descriptors that the bitmaps cover.
const TRACKED: u32 = 1024;
const _: () = assert!(TRACKED as usize == 64 * REMOTE_FD_WORDS);

/// Handles a call on the descriptor table.
pub(crate) fn try_handle(thread: &Thread, number: u64, args: [u64; 6]) -> Option<Answer> {
    let process = thread.process();
    match number {
        nr::CLOSE => {
            forget(process, host::int_arg(args[0]));
            Some(Answer::PassOn)
        }
        nr::CLOSE_RANGE if args[2] & CLOSE_RANGE_CLOEXEC == 0 => {
            let last = host::uint_arg(args[1]).min(TRACKED);
            for fd in host::uint_arg(args[0])..=last {
                forget(process, fd.cast_signed());
            }
            Some(Answer::PassOn)
        }
        nr::DUP | nr::DUP2 | nr::DUP3 => Some(duplicate(process, number, args)),
        nr::FCNTL => fcntl(process, number, args),
        _ => None,
    }
}

/// Issues a call that opens a file, and marks the descriptor as private.
pub(crate) fn opened(thread: &Thread, context: &Context, number: u64, args: [u64; 6]) -> Answer {
    let request = Request { mask: context.mask, nr: number, args };
    // SAFETY: the guest's own call, its path perhaps in the shim's memory.
    let mut result = unsafe { gadget::interruptible(&request) };
    for _ in 0..OPENS_MAX {
        if !fifo::is_elsewhere(result) {
            break;
        }
        match fifo::open(thread, context, number, args) {
            Attempt::Ended(result) => return Answer::Return(result),
            // SAFETY: as before.
            Attempt::Here(_) => result = unsafe { gadget::interruptible(&request) },
        }
    }
    if let Ok(fd) = i32::try_from(result)
        && fd >= 0
    {
        note_opened(thread, fd);
        terminal::opened(thread, number, args, fd);
    }
    Answer::Return(result)
}

/// A file was opened: nobody shares it.
pub(crate) fn note_opened(thread: &Thread, fd: i32) {
    note_closed(thread.process(), fd);
    thread.process().private.insert(fd);
}

/// What was known of a number's descriptor, if that lives here, is nothing of the next one's.
pub(crate) fn note_closed(process: &Process, fd: i32) {
    process.grants.forget(fd);
    process.private.remove(fd);
    process.signalfds.remove(fd);
    process.watchable.remove(fd);
}

/// Whether a call opens a file.
pub(crate) fn is_open(number: u64) -> bool {
    matches!(number, nr::OPEN | nr::OPENAT | nr::OPENAT2 | nr::CREAT)
}

/// What the host's link of a descriptor says, cut at the end of `to`.
pub(crate) fn link_of(fd: u64, to: &mut [u8]) -> Option<&[u8]> {
    const PREFIX: &[u8] = b"/proc/self/fd/";
    let mut link = [0u8; 32];
    link[..PREFIX.len()].copy_from_slice(PREFIX);
    let number = u64::from(host::uint_arg(fd));
    proc_path::write_number(number, &mut link[PREFIX.len()..31])?;
    host::readlink(&link, to).ok()
}

fn forget(process: &Process, fd: i32) {
    note_closed(process, fd);
    if process.remote.remove(fd) {
        let _ = ring(OP_REMOTE_FD, [host::fd_arg(fd), u64::MAX, 0, 0]);
    }
}

fn duplicate(process: &Process, number: u64, args: [u64; 6]) -> Answer {
    // SAFETY: duplicating does not wait.
    let result = unsafe { host::call(number, args) };
    if let Ok(new) = result {
        let (old, new) = (host::int_arg(args[0]), host::int_arg(new));
        if old != new {
            record_duplicate(process, old, new);
        }
    }
    result.into()
}

/// Opens a remote descriptor anew by its name: a duplicate that lives at the same home.
pub(crate) fn reopen(thread: &Thread, fd: i32, flags: u64) -> Answer {
    let command = if flags & host::O_CLOEXEC == 0 { F_DUPFD } else { F_DUPFD_CLOEXEC };
    duplicate(thread.process(), nr::FCNTL, [host::fd_arg(fd), command, 0, 0, 0, 0])
}

fn record_duplicate(process: &Process, old: i32, new: i32) {
    forget(process, new);
    for known in [&process.private, &process.signalfds, &process.watchable] {
        if known.has(old) {
            known.insert(new);
        }
    }
    if process.remote.has(old) {
        let _ = ring(OP_REMOTE_FD, [host::fd_arg(old), host::fd_arg(new), 0, 0]);
        process.remote.insert(new);
    }
}

fn fcntl(process: &Process, number: u64, mut args: [u64; 6]) -> Option<Answer> {
    match u64::from(host::uint_arg(args[1])) {
        F_DUPFD | F_DUPFD_CLOEXEC => Some(duplicate(process, number, args)),
        F_SETOWN => {
            let owner = host::int_arg(args[2]);
            if owner > 0 {
                match super::other::to_host(args[2]) {
                    Ok(host) => args[2] = host,
                    Err(error) => return Some(Answer::from(Err(error))),
                }
            } else {
                // A group of the fabric has no host number: the owner stands for it.
                args[2] = u64::from(host::getpid());
            }
            // SAFETY: sets the descriptor's owner.
            Some(unsafe { host::call(number, args) }.into())
        }
        F_GETOWN => {
            // SAFETY: only asks.
            let owner = unsafe { host::call(number, args) };
            Some(owner.map(|id| u64::from(super::other::from_host(host::uint_arg(id)))).into())
        }
        F_SETOWN_EX | F_GETOWN_EX => Some(Answer::from(Err(Errno::EINVAL))),
        _ => None,
    }
}
