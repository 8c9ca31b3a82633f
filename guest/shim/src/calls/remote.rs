//! Calls on descriptors whose object lives at another node: the home executes them (`OP_REMOTE`).

use super::{Answer, terminal};
use crate::arch::frame::{Context, SigInfo};
use crate::doorbell::{Wake, ring_raw, slot, wait_event};
use crate::park;
use crate::signal::deliver;
use crate::thread::Thread;
use core::sync::atomic::Ordering;
use dunix_guest_abi::doorbell::{OP_REMOTE, OP_REMOTE_CANCEL, REMOTE_BACKGROUND, RemoteCall};
use dunix_shim_core::signal::{SIGPIPE, SigSet};
use dunix_shim_core::{Errno, nr};

/// `EPIPE`, after which a writer also gets SIGPIPE.
const EPIPE: i64 = -32;

/// Whether the call moves bytes inside the kernel, which cannot reach another node's descriptor;
/// programs fall back to read and write on `EINVAL`.
pub(crate) fn is_refused(thread: &Thread, number: u64, args: [u64; 6]) -> bool {
    let remote = &thread.process().remote;
    let is = |index: usize| remote.has(crate::host::int_arg(args[index]));
    match number {
        nr::SENDFILE | nr::TEE => is(0) || is(1),
        nr::SPLICE | nr::COPY_FILE_RANGE => is(0) || is(2),
        nr::VMSPLICE => is(0),
        _ => false,
    }
}

/// How a call at the home ended.
enum Outcome {
    /// With this raw result.
    Done(i64),
    /// A signal came before it had any effect.
    Interrupted,
}

/// Lets the home execute a call on descriptor `fd`. A write that comes short goes on with its rest.
pub(crate) fn execute(
    thread: &Thread,
    context: &Context,
    number: u64,
    fd: i32,
    mut args: [u64; 6],
) -> Answer {
    args[4] = terminal::deafness(thread, context);
    let mut written = 0;
    let result = loop {
        let result = match ask_home(thread, context.mask, number, fd, args) {
            Outcome::Done(result) => result,
            Outcome::Interrupted if written > 0 => break written,
            Outcome::Interrupted => return Answer::Interrupted,
        };
        if result == REMOTE_BACKGROUND && written == 0 {
            return terminal::stop_for(thread, number);
        }
        if number != nr::WRITE || result <= 0 {
            break if written > 0 { written } else { result };
        }
        written += result;
        args[1] = args[1].wrapping_add(result.unsigned_abs());
        args[2] = args[2].saturating_sub(result.unsigned_abs());
        if args[2] == 0 {
            break written;
        }
    };
    if result == EPIPE && matches!(number, nr::WRITE | nr::WRITEV) {
        broken_pipe(thread);
    }
    Answer::Return(result)
}

/// Rings until the home has answered. The daemon gives a call in flight a ticket and takes it away
/// with the answer, so that the object's own `EAGAIN` is not mistaken for 'not yet'.
fn ask_home(thread: &Thread, mask: SigSet, number: u64, fd: i32, args: [u64; 6]) -> Outcome {
    let mut call = RemoteCall {
        ticket: 0,
        nr: crate::host::uint_arg(number),
        fd,
        args: [args[1], args[2], args[3], args[4]],
    };
    let call = &raw mut call;
    let at = [call as u64, 0, 0, 0];
    loop {
        let seen = event(thread);
        let result = ring_raw(OP_REMOTE, at);
        if result != Errno::EAGAIN.as_result() || !is_in_flight(call) {
            return Outcome::Done(result);
        }
        match wait_event(thread, mask, seen) {
            Wake::Event => {}
            Wake::Signal => return cancel(thread, call),
            Wake::Move if !park::is_asked(thread) => {}
            // No answer can find the process while it moves: the call begins anew where it is then.
            Wake::Move => match cancel(thread, call) {
                Outcome::Interrupted => {
                    park::if_asked(thread);
                    // SAFETY: our structure, of which the daemon knows nothing any more.
                    unsafe { (&raw mut (*call).ticket).write_volatile(0) };
                }
                done => return done,
            },
        }
    }
}

/// Whether the daemon has taken the call and not answered yet.
fn is_in_flight(call: *const RemoteCall) -> bool {
    // SAFETY: our structure; volatile, because the daemon writes it behind the compiler's back.
    unsafe { (&raw const (*call).ticket).read_volatile() != 0 }
}

/// Gives up a call in flight, unless it took effect.
fn cancel(thread: &Thread, call: *mut RemoteCall) -> Outcome {
    loop {
        let seen = event(thread);
        match ring_raw(OP_REMOTE_CANCEL, [call as u64, 0, 0, 0]) {
            result if result == Errno::EAGAIN.as_result() && is_in_flight(call) => {
                // The home's last word is on its way; guest signals wait that long.
                crate::host::futex_wait(&slot(thread.process()).event_seq, seen);
            }
            deliver::INTERRUPTED => return Outcome::Interrupted,
            result => return Outcome::Done(result),
        }
    }
}

fn event(thread: &Thread) -> u32 {
    slot(thread.process()).event_seq.load(Ordering::Acquire)
}

/// fstat(2) at the home: the words of `struct stat`.
///
/// # Errors
/// `EINTR` if a signal was noted, or what the home says.
pub(crate) fn status(thread: &Thread, mask: SigSet, fd: i32) -> Result<[u64; 18], Errno> {
    let mut words = [0u64; 18];
    let args = [0, words.as_mut_ptr() as u64, 0, 0, 0, 0];
    match ask_home(thread, mask, nr::FSTAT, fd, args) {
        Outcome::Done(result) => Errno::check(result).map(|_| words),
        Outcome::Interrupted => Err(Errno::EINTR),
    }
}

/// The kernel would have sent SIGPIPE; it comes when the guest's mask is back.
fn broken_pipe(thread: &Thread) {
    let mut fields = [0u64; 14];
    fields[0] = u64::from(thread.process().pid());
    let info = SigInfo { signal: SIGPIPE.cast_signed(), errno: 0, code: 0, pad: 0, fields };
    deliver::send_self(thread, &info);
}

/// Asks the home what is ready on a remote descriptor: poll(2)'s `revents`. Waits up to
/// `timeout_ms` (negative: without end).
///
/// # Errors
/// `EINTR` if a signal was noted, or what the home says.
pub(crate) fn poll(
    thread: &Thread,
    mask: SigSet,
    fd: i32,
    events: u32,
    timeout_ms: i64,
) -> Result<u32, Errno> {
    let args = [0, u64::from(events), timeout_ms.cast_unsigned(), 0, 0, 0];
    let Outcome::Done(result) = ask_home(thread, mask, nr::POLL, fd, args) else {
        return Err(Errno::EINTR);
    };
    Errno::check(result).map(crate::host::uint_arg)
}
