//! Receiving that waits for more than the first message: recvmmsg(2), and recvmsg(2) with `MSG_WAITALL`.
//!
//! A signal during such a wait leaves traces that cannot be taken back: the kernel keeps recvmmsg's
//! error for the socket's next call, and forgets how much room there was for control messages. So
//! these calls are made of ones that wait only for their first message or bytes.

use super::Answer;
use super::rest::Transfer;
use crate::arch::frame::Context;
use crate::arch::gadget::NOT_BEGUN;
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::process::has_daemon;
use crate::thread::Thread;
use dunix_shim_core::nr;
use dunix_shim_core::signal::SigSet;
use dunix_shim_core::time::Time;

const MSG_PEEK: u64 = 2;
const MSG_DONTWAIT: u64 = 0x40;
const MSG_WAITALL: u64 = 0x100;
const MSG_WAITFORONE: u64 = 0x1_0000;
/// Bytes of `struct mmsghdr`.
const MESSAGE_BYTES: u64 = 64;
/// Words of `struct msghdr`: the vector, its parts, control messages, their bytes, flags.
pub(super) const VECTOR_AT: usize = 2;
pub(super) const PARTS_AT: usize = 3;
pub(super) const CONTROL_AT: usize = 4;
pub(super) const CONTROL_BYTES_AT: usize = 5;
const FLAGS_AT: usize = 6;
/// Most parts of a vector (`UIO_MAXIOV`).
const PARTS_MAX: u64 = 1024;

/// Handles a call that waits for more than one message, or for all bytes of one.
pub(crate) fn try_handle(
    thread: &Thread,
    context: &Context,
    number: u64,
    args: [u64; 6],
) -> Option<Answer> {
    match number {
        nr::RECVMSG if wants_all(args[2]) => {
            // SAFETY: the guest's own call.
            unsafe { message(thread, context.mask, args) }.map(Answer::Return)
        }
        nr::RECVMMSG
            if args[3] & (MSG_DONTWAIT | MSG_WAITFORONE) == 0 && host::uint_arg(args[2]) > 1 =>
        {
            messages(thread, context.mask, args)
        }
        // What comes with messages is to be seen to.
        nr::RECVMMSG if has_daemon() => {
            Some(Answer::Return(issue(thread, context.mask, number, args)))
        }
        _ => None,
    }
}

/// Whether a flow of bytes is waited for until it fills the buffers.
pub(crate) fn wants_all(flags: u64) -> bool {
    flags & (MSG_WAITALL | MSG_DONTWAIT | MSG_PEEK) == MSG_WAITALL
}

fn issue(thread: &Thread, mask: SigSet, number: u64, args: [u64; 6]) -> i64 {
    let transfer = Transfer::new(thread, mask, number, args, host::now());
    // SAFETY: the guest's own call, or a part of it.
    unsafe { transfer.complete(NOT_BEGUN) }
}

/// recvmsg(2), with all the guest's bytes if it asks for all; `None` if the kernel is to refuse it.
///
/// # Safety
/// The call is the guest's own.
pub(crate) unsafe fn message(thread: &Thread, mask: SigSet, args: [u64; 6]) -> Option<i64> {
    let at = GuestAddr(args[1]);
    let before: [u64; 7] = guest::read(at).ok()?;
    let mut done = issue(thread, mask, nr::RECVMSG, args);
    if done <= 0 || !wants_all(args[2]) || !super::limit::is_stream(host::int_arg(args[0])) {
        return Some(done);
    }
    let mut skip = done.unsigned_abs();
    for index in 0..before[PARTS_AT].min(PARTS_MAX) {
        let part = guest::read::<[u64; 2]>(GuestAddr(before[VECTOR_AT]).plus(index * 16));
        let Ok([start, bytes]) = part else { break };
        let skipped = skip.min(bytes);
        skip -= skipped;
        let mut have = skipped;
        while have < bytes {
            let now: [u64; 7] = guest::read(at).ok()?;
            if now[CONTROL_BYTES_AT] != 0 || thread.first_noted().is_some() {
                return Some(done);
            }
            let vector = [start.wrapping_add(have), bytes - have];
            let room = [before[CONTROL_AT], before[CONTROL_BYTES_AT]];
            let mut more = [0, 0, vector.as_ptr() as u64, 1, room[0], room[1], 0];
            let rest = [args[0], more.as_mut_ptr() as u64, args[2], 0, 0, 0];
            let got = issue(thread, mask, nr::RECVMSG, rest);
            if got <= 0 {
                return Some(done);
            }
            let _ = guest::write(at.plus(8 * CONTROL_BYTES_AT as u64), &more[CONTROL_BYTES_AT]);
            let _ = guest::write(
                at.plus(8 * FLAGS_AT as u64),
                &host::uint_arg(more[FLAGS_AT] | now[FLAGS_AT]),
            );
            have += got.unsigned_abs();
            done += got;
        }
    }
    Some(done)
}

/// recvmmsg(2): as many messages as asked for; the span is looked at after each, as the kernel does.
fn messages(thread: &Thread, mask: SigSet, args: [u64; 6]) -> Option<Answer> {
    let wanted = u64::from(host::uint_arg(args[2])).min(PARTS_MAX);
    let span = match args[4] {
        0 => None,
        at => Some(Time::of_timespec(
            guest::read::<[u64; 2]>(GuestAddr(at)).ok()?.map(u64::cast_signed),
        )?),
    };
    let end = span.map(|span| host::now().plus(span));
    let mut done = 0;
    while done < wanted {
        let next = args[1].wrapping_add(done * MESSAGE_BYTES);
        let call = [args[0], next, wanted - done, args[3] | MSG_WAITFORONE, 0, 0];
        let got = issue(thread, mask, nr::RECVMMSG, call);
        if got <= 0 && done == 0 {
            return Some(Answer::Return(got));
        }
        done += got.max(0).unsigned_abs();
        let left = end.map(|end| end.since(host::now()));
        if let Some(left) = left {
            let _ = guest::write(
                GuestAddr(args[4]),
                &[left.seconds, left.nanos].map(i64::cast_unsigned),
            );
        }
        if got <= 0 || left.is_some_and(Time::is_zero) || thread.first_noted().is_some() {
            break;
        }
    }
    Some(Answer::Return(done.cast_signed()))
}
