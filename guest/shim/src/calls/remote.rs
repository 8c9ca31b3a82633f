//! Calls on descriptors whose object lives at another node: the home executes them (`OP_REMOTE`).

use super::Answer;
use crate::arch::frame::{Context, SigInfo};
use crate::doorbell::{ring_raw, ring_until_done};
use crate::signal::deliver;
use crate::thread::Thread;
use dunix_guest_abi::doorbell::{OP_REMOTE, OP_REMOTE_CANCEL, RemoteCall};
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

/// Lets the home execute a call on descriptor `fd`.
pub(crate) fn execute(
    thread: &Thread,
    context: &Context,
    number: u64,
    fd: i32,
    args: [u64; 6],
) -> Answer {
    let result = match ask_home(thread, context.mask, number, fd, args) {
        Outcome::Done(result) => result,
        Outcome::Interrupted => return Answer::Interrupted,
    };
    if result == EPIPE && matches!(number, nr::WRITE | nr::WRITEV) {
        broken_pipe(thread);
    }
    Answer::Return(result)
}

fn ask_home(thread: &Thread, mask: SigSet, number: u64, fd: i32, args: [u64; 6]) -> Outcome {
    let mut call = RemoteCall {
        ticket: 0,
        nr: crate::host::uint_arg(number),
        fd,
        args: [args[1], args[2], args[3], args[4]],
    };
    let at = [&raw mut call as u64, 0, 0, 0];
    match ring_until_done(thread, mask, OP_REMOTE, at) {
        Ok(value) => Outcome::Done(value.cast_signed()),
        Err(Some(error)) => Outcome::Done(error.as_result()),
        Err(None) => match ring_raw(OP_REMOTE_CANCEL, at) {
            deliver::INTERRUPTED => Outcome::Interrupted,
            result => Outcome::Done(result),
        },
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
    let args = [0, 0, u64::from(events), timeout_ms.cast_unsigned(), 0, 0];
    let Outcome::Done(result) = ask_home(thread, mask, nr::POLL, fd, args) else {
        return Err(Errno::EINTR);
    };
    Errno::check(result).map(crate::host::uint_arg)
}
