//! Calls that wait for a span of time, and calls that wait under a mask of their own.
//!
//! The span is read once and kept as the instant of its end; whatever form the guest used (milliseconds, `struct timeval`),
//! the host gets a `struct timespec` with what is left. Spans that are absent or zero, and wrong
//! arguments, change nothing: those calls are passed on, and the kernel says what is wrong.

use super::Answer;
use crate::arch::frame::Context;
use crate::arch::gadget::{NOT_BEGUN, Request};
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::restart::{self, Earlier, Timeout};
use crate::signal::deliver::INTERRUPTED;
use crate::signal::mask;
use crate::thread::Thread;
use dunix_shim_core::signal::SigSet;
use dunix_shim_core::time::Time;
use dunix_shim_core::{Errno, nr};

const SIGSET_BYTES: u64 = 8;
const TIMER_ABSTIME: u64 = 1;
const CLOCK_REALTIME: u64 = 0;
const CLOCK_TAI: u64 = 11;

/// A wait that the guest asked for, in the host's terms.
struct Wait {
    number: u64,
    args: [u64; 6],
    /// The span, and which argument points to it.
    span: Option<(usize, Time)>,
    own_mask: Option<OwnMask>,
    /// Where the guest wants to see what is left.
    left: Option<Left>,
}

struct OwnMask {
    mask: SigSet,
    /// Which argument points to it: followed by its length, or (pselect6) to a pair of both.
    argument: usize,
    is_pair: bool,
}

/// Where what is left of a span is written.
#[derive(Clone, Copy)]
enum Left {
    Timespec(GuestAddr),
    Timeval(GuestAddr),
}

/// Whether the call is one of those that are looked at here.
pub(crate) fn is_timed(number: u64) -> bool {
    matches!(
        number,
        nr::POLL
            | nr::PPOLL
            | nr::SELECT
            | nr::PSELECT6
            | nr::EPOLL_WAIT
            | nr::EPOLL_PWAIT
            | nr::EPOLL_PWAIT2
            | nr::NANOSLEEP
            | nr::CLOCK_NANOSLEEP
            | nr::FUTEX
            | nr::SEMTIMEDOP
            | nr::IO_GETEVENTS
    )
}

/// Handles a call that waits for a span or under a mask; `None` if it may be passed on.
pub(crate) fn try_handle(
    thread: &Thread,
    context: &Context,
    number: u64,
    args: [u64; 6],
) -> Option<Answer> {
    match number {
        nr::NANOSLEEP => return sleep(thread, context, host::CLOCK_MONOTONIC, args[0], args[1]),
        nr::CLOCK_NANOSLEEP if args[1] & TIMER_ABSTIME == 0 => {
            return sleep(thread, context, u64::from(host::uint_arg(args[0])), args[2], args[3]);
        }
        nr::FUTEX => return futex(thread, context, args),
        nr::IO_GETEVENTS => return events(thread, context, args),
        _ => {}
    }
    match wait(number, args)? {
        Ok(wait) => Some(wait.run(thread, context)),
        Err(error) => Some(Answer::from(Err(error))),
    }
}

/// Whether the fast path passes on a call whose span [`complete`] would have to know the start of.
pub(crate) fn is_passed(number: u64) -> bool {
    matches!(number, nr::POLL | nr::EPOLL_WAIT | nr::EPOLL_PWAIT)
}

/// Whether what is left of a span is where the span was when a signal cuts a call that was passed on: its span
/// begins anew then.
pub(crate) fn is_counted_down(number: u64) -> bool {
    number == nr::PPOLL
}

/// Whether [`complete`] stands up for a span of this call.
pub(crate) fn has_span(number: u64, args: [u64; 6]) -> bool {
    span_of(number, args).is_some()
}

fn span_of(number: u64, args: [u64; 6]) -> Option<(Wait, usize, Time)> {
    if !is_passed(number) && !is_counted_down(number) {
        return None;
    }
    let wait = wait(number, args)?.ok()?;
    let (argument, span) = wait.span.filter(|_| wait.own_mask.is_none())?;
    Some((wait, argument, span))
}

/// Completes a wait that was passed on at `start`, and whose first turn a move signal ended with
/// `result`; `None` if it has no span.
///
/// # Safety
/// The call is the guest's own.
pub(crate) unsafe fn complete(
    thread: &Thread,
    mask: SigSet,
    number: u64,
    args: [u64; 6],
    start: Time,
    result: i64,
) -> Option<i64> {
    let (wait, argument, span) = span_of(number, args)?;
    let earlier = match result {
        NOT_BEGUN => Earlier::Nothing,
        INTERRUPTED => Earlier::Final,
        _ => return Some(result),
    };
    let timeout = Timeout::since(argument, span, start);
    let request = Request { mask, nr: wait.number, args: wait.args };
    // SAFETY: forwarded from the caller; the span is in the shim's memory.
    let result = unsafe { restart::keep_after(thread, request, Some(timeout), earlier) }.result;
    if let (Some(left), true) = (wait.left, result != NOT_BEGUN) {
        left.write(timeout.left());
    }
    Some(result)
}

/// Reads the arguments; `None` if there is neither a span nor a mask to look after.
fn wait(number: u64, args: [u64; 6]) -> Option<Result<Wait, Errno>> {
    let [a, b, c, d, e, f] = args;
    let mut wait = Wait { number, args, span: None, own_mask: None, left: None };
    let millis = |arg: u64| Time::of_millis(i64::from(host::int_arg(arg)));
    match number {
        nr::POLL => {
            wait.number = nr::PPOLL;
            wait.args = [a, b, 0, 0, SIGSET_BYTES, 0];
            wait.span = Some((2, millis(c)));
        }
        nr::EPOLL_WAIT | nr::EPOLL_PWAIT => {
            let mask = if number == nr::EPOLL_PWAIT { e } else { 0 };
            if millis(d).is_zero() {
                wait.args[4] = mask;
            } else {
                wait.number = nr::EPOLL_PWAIT2;
                wait.args = [a, b, c, 0, mask, f];
                wait.span = Some((3, millis(d)));
            }
        }
        nr::EPOLL_PWAIT2 => wait.span = span_at(3, d)?,
        nr::SELECT => {
            let time = guest::read::<[u64; 2]>(GuestAddr(e)).ok()?.map(u64::cast_signed);
            wait.number = nr::PSELECT6;
            wait.args = [a, b, c, d, 0, 0];
            wait.span = Some((4, Time::of_timeval(time)?));
            wait.left = Some(Left::Timeval(GuestAddr(e)));
        }
        nr::PPOLL => {
            wait.span = span_at(2, c)?;
            wait.left = Some(Left::Timespec(GuestAddr(c)));
        }
        nr::PSELECT6 => {
            wait.span = span_at(4, e)?;
            wait.left = Some(Left::Timespec(GuestAddr(e)));
        }
        nr::SEMTIMEDOP => wait.span = span_at(3, d)?,
        _ => return None,
    }
    wait.span = wait.span.filter(|(_, span)| !span.is_zero());
    wait.own_mask = match own_mask(number, &wait.args) {
        Ok(mask) => mask,
        Err(error) => return Some(Err(error)),
    };
    (wait.span.is_some() || wait.own_mask.is_some()).then_some(Ok(wait))
}

/// Reads an optional `struct timespec`; `None` if the kernel is to refuse it.
fn span_at(argument: usize, at: u64) -> Option<Option<(usize, Time)>> {
    if at == 0 {
        return Some(None);
    }
    let words = guest::read::<[u64; 2]>(GuestAddr(at)).ok()?.map(u64::cast_signed);
    Some(Some((argument, Time::of_timespec(words)?)))
}

/// Reads the mask that a call sets for its own duration.
fn own_mask(number: u64, args: &[u64; 6]) -> Result<Option<OwnMask>, Errno> {
    let (argument, is_pair) = match number {
        nr::PPOLL => (3, false),
        nr::EPOLL_PWAIT | nr::EPOLL_PWAIT2 => (4, false),
        nr::PSELECT6 => (5, true),
        _ => return Ok(None),
    };
    let [at, bytes] = match (args[argument], is_pair) {
        (0, _) => return Ok(None),
        (at, false) => [at, args[argument + 1]],
        (at, true) => guest::read(GuestAddr(at))?,
    };
    if at == 0 {
        return Ok(None);
    }
    Ok(Some(OwnMask { mask: mask::guest_set(at, bytes)?, argument, is_pair }))
}

impl Wait {
    fn run(mut self, thread: &Thread, context: &Context) -> Answer {
        if let Some(result) = self.look() {
            if let (Some(left), Some((_, span))) = (self.left, self.span) {
                left.write(span);
            }
            return Answer::Return(result);
        }
        let timeout = self.span.map(|(argument, span)| Timeout::starting(argument, span));
        let mut pair = [0, SIGSET_BYTES];
        if let Some(own) = &self.own_mask {
            pair[0] = &raw const own.mask as u64;
            self.args[own.argument] = if own.is_pair { pair.as_ptr() as u64 } else { pair[0] };
        }
        let own_mask = self.own_mask.as_ref().map(|own| own.mask);
        // SAFETY: the guest's own call, with span and mask in the shim's memory.
        let result = unsafe {
            match own_mask {
                None => {
                    let request = Request { mask: context.mask, nr: self.number, args: self.args };
                    restart::keep(thread, request, timeout).result
                }
                Some(_) => mask::issue_under(thread, self.number, self.args, timeout),
            }
        };
        if let (Some(left), Some(timeout)) = (self.left, timeout)
            && result != NOT_BEGUN
        {
            left.write(timeout.left());
        }
        match own_mask {
            None => Answer::Return(result),
            Some(mask) => mask::answer_under(thread, context, result, mask),
        }
    }
}

impl Wait {
    /// What is ready already needs no wait, and so no signals accepted, which costs two calls. A
    /// set of select(2) is not looked at: its members that are not ready would be gone.
    fn look(&self) -> Option<i64> {
        let none = Time::ZERO;
        let none = &raw const none as u64;
        let [a, b, c, ..] = self.args;
        let (number, args) = match self.number {
            nr::PPOLL => (nr::PPOLL, [a, b, none, 0, SIGSET_BYTES, 0]),
            nr::EPOLL_PWAIT2 => (nr::EPOLL_WAIT, [a, b, c, 0, 0, 0]),
            _ => return None,
        };
        // SAFETY: the guest's own call, which does not wait.
        match unsafe { host::call(number, args) } {
            Ok(0) => None,
            result => Some(result.map_or_else(Errno::as_result, u64::cast_signed)),
        }
    }
}

impl Left {
    /// As the kernel does, without an error if the guest cannot take it.
    fn write(self, left: Time) {
        let _ = match self {
            Left::Timespec(at) => {
                guest::write(at, &[left.seconds, left.nanos].map(i64::cast_unsigned))
            }
            Left::Timeval(at) => guest::write(at, &left.as_timeval().map(i64::cast_unsigned)),
        };
    }
}

/// nanosleep(2), and clock_nanosleep(2) for a span: sleeps until the instant of its end.
fn sleep(thread: &Thread, context: &Context, clock: u64, span: u64, left: u64) -> Option<Answer> {
    let (_, span) = span_at(0, span)??;
    // A span is not changed when somebody sets the clock, so it is measured on one that nobody sets.
    let clock =
        if matches!(clock, CLOCK_REALTIME | CLOCK_TAI) { host::CLOCK_MONOTONIC } else { clock };
    let end = host::clock(clock).ok()?.plus(span);
    let args = [clock, TIMER_ABSTIME, &raw const end as u64, 0, 0, 0];
    let request = Request { mask: context.mask, nr: nr::CLOCK_NANOSLEEP, args };
    // SAFETY: reads `end` only.
    let result = unsafe { restart::keep(thread, request, None) }.result;
    if result != INTERRUPTED {
        return Some(Answer::Return(result));
    }
    let rest = end.since(host::clock(clock).ok()?);
    if rest.is_zero() {
        return Some(Answer::Return(0));
    }
    let words = [rest.seconds, rest.nanos].map(i64::cast_unsigned);
    if left != 0
        && let Err(error) = guest::write(GuestAddr(left), &words)
    {
        return Some(Answer::from(Err(error)));
    }
    Some(Answer::Return(INTERRUPTED))
}

/// futex(2): a wait for a span becomes one until an instant.
fn futex(thread: &Thread, context: &Context, args: [u64; 6]) -> Option<Answer> {
    const FUTEX_WAIT: u64 = 0;
    const FUTEX_WAIT_BITSET: u64 = 9;
    const FUTEX_PRIVATE: u64 = 128;
    const ANY_BIT: u64 = 0xffff_ffff;
    let operation = u64::from(host::uint_arg(args[1]));
    if operation & !FUTEX_PRIVATE != FUTEX_WAIT {
        return None;
    }
    let (_, span) = span_at(3, args[3])??;
    let end = host::now().plus(span);
    let args = [
        args[0],
        FUTEX_WAIT_BITSET | operation & FUTEX_PRIVATE,
        args[2],
        &raw const end as u64,
        0,
        ANY_BIT,
    ];
    let request = Request { mask: context.mask, nr: nr::FUTEX, args };
    // SAFETY: the guest's own call, its end in the shim's memory.
    Some(Answer::Return(unsafe { restart::keep(thread, request, None) }.result))
}

/// io_getevents(2): a move signal may cut it below the number that the guest waits for.
fn events(thread: &Thread, context: &Context, mut args: [u64; 6]) -> Option<Answer> {
    const EVENT_BYTES: u64 = 32;
    let span = span_at(4, args[4])?;
    let timeout = span.map(|(argument, span)| Timeout::starting(argument, span));
    let mut done = 0;
    loop {
        let request = Request { mask: context.mask, nr: nr::IO_GETEVENTS, args };
        // SAFETY: the guest's own call, its span in the shim's memory.
        let end = unsafe { restart::keep(thread, request, timeout.map(Timeout::continued)) };
        if end.result <= 0 {
            return Some(Answer::Return(if done > 0 { done } else { end.result }));
        }
        done += end.result;
        let count = end.result.unsigned_abs();
        if !end.is_cut || count >= args[1] {
            return Some(Answer::Return(done));
        }
        args[1] -= count;
        args[2] -= count;
        args[3] += count * EVENT_BYTES;
    }
}
