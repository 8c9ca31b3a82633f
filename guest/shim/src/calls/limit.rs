//! Limits that an object sets to how long calls on it wait: a socket's `SO_RCVTIMEO` and
//! `SO_SNDTIMEO` (socket(7)), a terminal's `VTIME` (termios(3)).
//!
//! The kernel starts the limit anew with each call, so a call that is issued again waits by ppoll(2) for what is
//! left, and is then issued so that it does not wait.

use crate::arch::gadget::{NOT_BEGUN, Request};
use crate::host;
use crate::restart::{self, Earlier, End, Timeout};
use crate::signal::deliver::INTERRUPTED;
use crate::thread::Thread;
use dunix_shim_core::time::Time;
use dunix_shim_core::{Errno, nr};

const SOL_SOCKET: u64 = 1;
const SO_TYPE: u64 = 3;
const SO_RCVTIMEO: u64 = 20;
const SO_SNDTIMEO: u64 = 21;
const SOCK_STREAM: u32 = 1;
const MSG_DONTWAIT: u64 = 0x40;
const POLLIN: u32 = 1;
const POLLOUT: u32 = 4;
const TCGETS: u64 = 0x5401;
const ICANON: u32 = 2;

/// How long an object lets a call wait.
pub(crate) enum Limit {
    /// Without end.
    None,
    /// That long.
    Some(Time),
}

/// The limit of a call on `fd`.
pub(crate) fn of(number: u64, fd: i32) -> Limit {
    let option = match number {
        nr::READ | nr::READV => match terminal_span(fd) {
            Some(span) => return Limit::Some(span),
            None => SO_RCVTIMEO,
        },
        nr::RECVFROM | nr::RECVMSG | nr::RECVMMSG | nr::ACCEPT | nr::ACCEPT4 => SO_RCVTIMEO,
        nr::WRITE | nr::WRITEV | nr::SENDTO | nr::SENDMSG | nr::SENDMMSG | nr::CONNECT => {
            SO_SNDTIMEO
        }
        _ => return Limit::None,
    };
    match socket_span(fd, option) {
        Some(span) if !span.is_zero() => Limit::Some(span),
        _ => Limit::None,
    }
}

fn option<T: Copy>(fd: i32, name: u64, mut value: T) -> Option<T> {
    let mut bytes = u32::try_from(size_of::<T>()).unwrap_or(0);
    let (at, bytes) = (&raw mut value as u64, &raw mut bytes as u64);
    // SAFETY: writes the value only.
    unsafe { host::call(nr::GETSOCKOPT, [host::fd_arg(fd), SOL_SOCKET, name, at, bytes, 0]) }
        .ok()?;
    Some(value)
}

fn socket_span(fd: i32, name: u64) -> Option<Time> {
    Time::of_timeval(option(fd, name, [0i64; 2])?)
}

/// Whether `fd` is a socket that carries a stream of bytes.
pub(crate) fn is_stream(fd: i32) -> bool {
    option(fd, SO_TYPE, 0u32) == Some(SOCK_STREAM)
}

/// `VTIME` of a terminal that lets reads wait for it (termios(3): `MIN` is 0, `TIME` is not).
fn terminal_span(fd: i32) -> Option<Time> {
    /// `struct termios` of the kernel: four words of flags, the line, the characters.
    const LOCAL_AT: usize = 3;
    const CHARACTERS_AT: usize = 17;
    const VTIME: usize = 5;
    const VMIN: usize = 6;
    let mut words = [0u32; 16];
    // SAFETY: writes the structure, which is shorter.
    unsafe {
        host::call(nr::IOCTL, [host::fd_arg(fd), TCGETS, words.as_mut_ptr() as u64, 0, 0, 0])
    }
    .ok()?;
    let character = |index: usize| {
        let at = CHARACTERS_AT + index;
        words[at / 4].to_le_bytes()[at % 4]
    };
    let is_timed = words[LOCAL_AT] & ICANON == 0 && character(VMIN) == 0 && character(VTIME) > 0;
    is_timed.then(|| Time::of_millis(i64::from(character(VTIME)) * 100))
}

/// Whether a read of `fd` waits for the terminal's `VTIME`.
pub(crate) fn is_timed_by_terminal(fd: i32) -> bool {
    terminal_span(fd).is_some()
}

/// Issues a call again that may wait until `end`.
///
/// # Safety
/// The call is the guest's own.
pub(crate) unsafe fn issue(thread: &Thread, request: Request, end: Time, earlier: Earlier) -> End {
    let whole = |result| End { result, is_cut: false };
    let now = host::now();
    if now >= end {
        return whole(when_over(&request));
    }
    let ready = wait_ready(thread, &request, end.since(now), earlier);
    match ready.result {
        0 => return whole(when_over(&request)),
        NOT_BEGUN => return whole(INTERRUPTED),
        1.. => {}
        error => return whole(error),
    }
    let mut direct = Direct { request, vector: [0; 2], message: [0; 7] };
    let request = direct.without_waiting();
    // SAFETY: forwarded from the caller; what the request points to outlives the call.
    let done = unsafe { restart::keep_after(thread, request, None, earlier) };
    match done.result {
        result if result == EALREADY && request.nr == nr::CONNECT => whole(when_over(&request)),
        result if result == Errno::EAGAIN.as_result() => {
            // Ready, and yet not for this caller: another was faster, or poll cannot tell (a full
            // queue of datagrams). The kernel's own wait is the better one then.
            // SAFETY: forwarded from the caller.
            unsafe { restart::keep_after(thread, direct.request, None, earlier) }
        }
        // Not waiting may have cut it: the caller looks whether there is a rest.
        result => End { result, is_cut: done.is_cut || result > 0 },
    }
}

const EALREADY: i64 = -114;
const EINPROGRESS: i64 = -115;

/// What the call answers when its time is over.
fn when_over(request: &Request) -> i64 {
    match request.nr {
        nr::CONNECT => EINPROGRESS,
        nr::READ | nr::READV if is_timed_by_terminal(host::int_arg(request.args[0])) => 0,
        _ => Errno::EAGAIN.as_result(),
    }
}

fn wait_ready(thread: &Thread, request: &Request, span: Time, earlier: Earlier) -> End {
    let events = match request.nr {
        nr::WRITE | nr::WRITEV | nr::SENDTO | nr::SENDMSG | nr::SENDMMSG | nr::CONNECT => POLLOUT,
        _ => POLLIN,
    };
    let mut member = [host::uint_arg(request.args[0]), events];
    let args = [member.as_mut_ptr() as u64, 1, 0, 0, 8, 0];
    let poll = Request { mask: request.mask, nr: nr::PPOLL, args };
    // SAFETY: reads and writes the member only.
    unsafe { restart::keep_after(thread, poll, Some(Timeout::starting(2, span)), earlier) }
}

/// A call on a socket, and what its form that does not wait needs.
struct Direct {
    request: Request,
    vector: [u64; 2],
    message: [u64; 7],
}

impl Direct {
    /// The same call with `MSG_DONTWAIT`; calls without such a form stay as they are.
    fn without_waiting(&mut self) -> Request {
        let mut request = self.request;
        let [fd, at, length, flags, ..] = request.args;
        let is_socket = option(host::int_arg(fd), SO_TYPE, 0u32).is_some();
        match request.nr {
            nr::RECVFROM | nr::SENDTO | nr::RECVMMSG | nr::SENDMMSG => {
                request.args[3] = flags | MSG_DONTWAIT;
            }
            nr::RECVMSG | nr::SENDMSG => request.args[2] = length | MSG_DONTWAIT,
            nr::READ | nr::WRITE if is_socket => {
                self.vector = [at, length];
                request = self.as_message(fd, self.vector.as_ptr() as u64, 1);
            }
            nr::READV | nr::WRITEV if is_socket => request = self.as_message(fd, at, length),
            _ => {}
        }
        request
    }

    fn as_message(&mut self, fd: u64, vector: u64, parts: u64) -> Request {
        self.message = [0, 0, vector, parts, 0, 0, 0];
        let is_read = matches!(self.request.nr, nr::READ | nr::READV);
        let nr = if is_read { nr::RECVMSG } else { nr::SENDMSG };
        let args = [fd, self.message.as_ptr() as u64, MSG_DONTWAIT, 0, 0, 0];
        Request { mask: self.request.mask, nr, args }
    }
}
