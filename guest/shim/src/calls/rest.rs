//! The rest of a call that a move signal cut: bytes still to be moved, time still to be waited.
//!
//! What moved before counts. A guest signal during the rest ends the call with that count, or, if
//! nothing had moved, as signal(7) says. A limit of the object's own (`SO_RCVTIMEO`, `SO_SNDTIMEO`,
//! `VTIME`) holds for the call as a whole.

use super::limit::{self, Limit};
use crate::arch::gadget::{ANEW, NOT_BEGUN, Request};
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::restart::{self, Earlier, End};
use crate::signal::deliver::INTERRUPTED;
use crate::thread::Thread;
use dunix_shim_core::signal::SigSet;
use dunix_shim_core::time::Time;
use dunix_shim_core::{Errno, nr};

pub(crate) use super::limit::is_timed_by_terminal;

const MSG_PEEK: u64 = 2;
const MSG_WAITALL: u64 = 0x100;
/// Bytes of `struct mmsghdr`, and where the kernel counts a message's bytes.
const MESSAGE_BYTES: u64 = 64;
const MESSAGE_COUNT_AT: u64 = 56;
/// Most parts of a vector (`UIO_MAXIOV`).
const PARTS_MAX: u64 = 1024;

/// What of a call remains after a count.
enum Rest {
    /// Nothing: a short count is the call's own.
    Nothing,
    /// The same call from further on: which arguments are the address, if any, and the length.
    Onward(Option<usize>, usize),
    /// The parts of a vector, one at a time: its address and its number of parts.
    Parts(u64, u64),
    /// Further messages of sendmmsg(2).
    Messages,
    /// Everything: the count took nothing away.
    All,
}

/// A call that moves bytes, or waits under a limit of its object's.
pub(crate) struct Transfer<'a> {
    thread: &'a Thread,
    mask: SigSet,
    number: u64,
    args: [u64; 6],
    /// When the guest made the call.
    start: Time,
    /// The guest's vector, if it has one that the message does not lead to.
    vector: Option<(u64, u64)>,
}

impl<'a> Transfer<'a> {
    pub(crate) fn new(
        thread: &'a Thread,
        mask: SigSet,
        number: u64,
        args: [u64; 6],
        start: Time,
    ) -> Transfer<'a> {
        Transfer { thread, mask, number, args, start, vector: None }
    }

    /// Names the guest's vector behind a message that lies in the shim's memory.
    pub(crate) fn with_vector(self, vector: u64, parts: u64) -> Transfer<'a> {
        Transfer { vector: Some((vector, parts)), ..self }
    }

    fn fd(&self) -> i32 {
        host::int_arg(self.args[0])
    }

    /// Completes the call, whose first turn a move signal ended with `result`.
    ///
    /// # Safety
    /// The call is the guest's own.
    pub(crate) unsafe fn complete(mut self, result: i64) -> i64 {
        let mut end = End { result, is_cut: true };
        let mut done = 0;
        loop {
            // SAFETY: forwarded from the caller.
            end = unsafe { self.until_begun(end) };
            if end.result <= 0 {
                return if done > 0 { done } else { end.result };
            }
            let count = end.result.unsigned_abs();
            done += end.result;
            if !end.is_cut {
                return done;
            }
            match self.rest(count) {
                Rest::Nothing => return done,
                Rest::All => done = 0,
                Rest::Onward(address, length) => {
                    if let Some(address) = address {
                        self.args[address] = self.args[address].wrapping_add(count);
                    }
                    self.args[length] = self.args[length].saturating_sub(count);
                    if self.args[length] == 0 {
                        return done;
                    }
                }
                Rest::Parts(vector, parts) => {
                    // SAFETY: forwarded from the caller.
                    return done + unsafe { self.parts(vector, parts, count) };
                }
                // SAFETY: forwarded from the caller.
                Rest::Messages => match unsafe { self.message_done(count) } {
                    true => {}
                    false => return done,
                },
            }
            // SAFETY: forwarded from the caller.
            end = unsafe { self.issue(Earlier::Nothing) };
        }
    }

    /// Issues the call anew as long as nothing but a move signal ended it.
    ///
    /// # Safety
    /// As for [`Transfer::complete`].
    unsafe fn until_begun(&self, end: End) -> End {
        let earlier = match end.result {
            _ if !end.is_cut => return end,
            INTERRUPTED if self.number == nr::CLOSE => return End { result: 0, is_cut: false },
            INTERRUPTED => Earlier::Final,
            ANEW => Earlier::Restartable,
            NOT_BEGUN => Earlier::Nothing,
            _ => return end,
        };
        // SAFETY: forwarded from the caller.
        unsafe { self.issue(earlier) }
    }

    /// # Safety
    /// As for [`Transfer::complete`].
    unsafe fn issue(&self, earlier: Earlier) -> End {
        let request = Request { mask: self.mask, nr: self.number, args: self.args };
        match limit::of(self.number, self.fd()) {
            Limit::None => {
                // SAFETY: forwarded from the caller.
                unsafe { restart::keep_after(self.thread, request, None, earlier) }
            }
            Limit::Some(span) => {
                let end = self.start.plus(span);
                // SAFETY: forwarded from the caller.
                unsafe { limit::issue(self.thread, request, end, earlier) }
            }
        }
    }

    /// What remains of the call after `count` bytes (or messages).
    fn rest(&self, count: u64) -> Rest {
        let [_, second, third, fourth, ..] = self.args;
        match self.number {
            nr::WRITE if takes_all(self.fd()) => Rest::Onward(Some(1), 2),
            nr::SENDTO => Rest::Onward(Some(1), 2),
            nr::WRITEV | nr::PWRITEV2 if takes_all(self.fd()) => Rest::Parts(second, third),
            nr::SENDMSG => match self.vector.or_else(|| vector_of(second)) {
                Some((vector, parts)) => Rest::Parts(vector, parts),
                None => Rest::Nothing,
            },
            nr::SENDMMSG => Rest::Messages,
            nr::READ if gives_all(self.fd()) => Rest::Onward(Some(1), 2),
            nr::READV | nr::PREADV2 if gives_all(self.fd()) => Rest::Parts(second, third),
            nr::GETRANDOM => Rest::Onward(Some(0), 1),
            nr::RECVFROM if fourth & MSG_WAITALL != 0 && limit::is_stream(self.fd()) => {
                if fourth & MSG_PEEK == 0 {
                    Rest::Onward(Some(1), 2)
                } else if count < third {
                    Rest::All
                } else {
                    Rest::Nothing
                }
            }
            // The kernel itself moves the offsets that these point to. What a pipe has no room for
            // is not waited for.
            nr::SENDFILE if kind(self.fd()).0 != S_IFIFO => Rest::Onward(None, 3),
            nr::COPY_FILE_RANGE => Rest::Onward(None, 4),
            _ => Rest::Nothing,
        }
    }

    /// Moves what a vector holds behind its first `skip` bytes; returns how much that was.
    ///
    /// # Safety
    /// As for [`Transfer::complete`].
    unsafe fn parts(&self, vector: u64, parts: u64, mut skip: u64) -> i64 {
        let mut done = 0;
        for index in 0..parts.min(PARTS_MAX) {
            let Ok([start, bytes]) = guest::read::<[u64; 2]>(GuestAddr(vector).plus(index * 16))
            else {
                break;
            };
            let skipped = skip.min(bytes);
            skip -= skipped;
            let left = bytes - skipped;
            if left == 0 {
                continue;
            }
            // SAFETY: forwarded from the caller.
            let moved = unsafe { self.part(start.wrapping_add(skipped), left) };
            done += moved.max(0);
            if moved < left.cast_signed() {
                break;
            }
        }
        done
    }

    /// # Safety
    /// As for [`Transfer::complete`].
    unsafe fn part(&self, start: u64, bytes: u64) -> i64 {
        let (number, flags) = match self.number {
            nr::SENDMSG => (nr::SENDTO, self.args[2]),
            nr::SENDMMSG => (nr::SENDTO, self.args[3]),
            nr::READV | nr::PREADV2 => (nr::READ, 0),
            _ => (nr::WRITE, 0),
        };
        let args = [self.args[0], start, bytes, flags, 0, 0];
        let part = Transfer::new(self.thread, self.mask, number, args, self.start);
        // SAFETY: forwarded from the caller.
        unsafe { part.complete(NOT_BEGUN) }
    }

    /// After `count` messages: completes the last of them and makes the call one for the others.
    /// Returns whether there are any.
    ///
    /// # Safety
    /// As for [`Transfer::complete`].
    unsafe fn message_done(&mut self, count: u64) -> bool {
        let last = GuestAddr(self.args[1]).plus((count - 1) * MESSAGE_BYTES);
        let sent = guest::read::<u32>(last.plus(MESSAGE_COUNT_AT)).unwrap_or(0);
        if let Some((vector, parts)) = vector_of(last.0) {
            // SAFETY: forwarded from the caller.
            let more = unsafe { self.parts(vector, parts, u64::from(sent)) };
            let total = sent.saturating_add(u32::try_from(more).unwrap_or(0));
            let _ = guest::write(last.plus(MESSAGE_COUNT_AT), &total);
        }
        self.args[1] += count * MESSAGE_BYTES;
        self.args[2] -= count;
        self.args[2] > 0 && self.thread.first_noted().is_none()
    }
}

/// Address and number of the parts of a `struct msghdr`.
fn vector_of(message: u64) -> Option<(u64, u64)> {
    let words: [u64; 4] = guest::read(GuestAddr(message)).ok()?;
    Some((words[2], words[3]))
}

const S_IFMT: u64 = 0o170_000;
const S_IFIFO: u64 = 0o010_000;
const S_IFCHR: u64 = 0o020_000;
const S_IFSOCK: u64 = 0o140_000;

/// Kind and device number of a descriptor's object.
fn kind(fd: i32) -> (u64, u64) {
    let mut stat = [0u64; 18];
    // SAFETY: writes the structure only.
    let result =
        unsafe { host::call(nr::FSTAT, [host::fd_arg(fd), stat.as_mut_ptr() as u64, 0, 0, 0, 0]) };
    if result == Err(Errno::EBADF) { (0, 0) } else { (stat[3] & S_IFMT, stat[5]) }
}

/// Whether a write waits until all bytes are taken, unless a signal comes.
fn takes_all(fd: i32) -> bool {
    matches!(kind(fd).0, S_IFIFO | S_IFSOCK | S_IFCHR)
}

/// Whether a read fills its buffer, unless a signal comes: `/dev/zero`, `/dev/urandom` and kin.
fn gives_all(fd: i32) -> bool {
    const MEMORY_MAJOR: u64 = 1;
    let (kind, device) = kind(fd);
    kind == S_IFCHR && device >> 8 & 0xfff == MEMORY_MAJOR
}
