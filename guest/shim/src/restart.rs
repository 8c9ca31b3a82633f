//! Calls that a signal interrupted: how each goes on, so that a move signal never shows.
//!
//! ```text
//!              kernel's answer to the signal          without a guest signal     a guest signal came
//! NOT_BEGUN    it came before the call                issue                      as it came first
//! ANEW         ERESTARTSYS, put back                  issue                      EINTR, or anew (SA_RESTART)
//! EINTR        never restarted by the kernel          issue, with the time left  EINTR
//! other        done, or a part of it (`is_cut`)       the caller's to complete   the result
//! ```
//! The move signal restarts what can be restarted, so it tells the second row from the third. A
//! guest signal that comes after a move signal finds the gadget shut; it is accepted when the call is
//! issued again, and [`Earlier`] remembers that the call had begun. No loop here has a limit of its
//! own: each turn takes one signal of the daemon's.

use crate::arch::gadget::{self, ANEW, NOT_BEGUN, Request};
use crate::calls::limit::{self, Limit};
use crate::calls::remote::{self, Attempt};
use crate::calls::socket;
use crate::host;
use crate::park;
use crate::signal::deliver::{self, INTERRUPTED};
use crate::thread::Thread;
use dunix_shim_core::time::Time;

/// A span that a call may wait, kept as the instant of its end while the call is issued again.
#[derive(Clone, Copy)]
pub(crate) struct Timeout {
    /// Which argument points to the span.
    argument: usize,
    end: Time,
    left: Time,
}

impl Timeout {
    /// A wait of `span` that begins now.
    pub(crate) fn starting(argument: usize, span: Time) -> Timeout {
        Timeout { argument, end: host::now().plus(span), left: span }
    }

    /// What is left of a wait of `span` that began at `start`.
    pub(crate) fn since(argument: usize, span: Time, start: Time) -> Timeout {
        Timeout { argument, end: start.plus(span), left: Time::ZERO }.continued()
    }

    /// The same wait for a call that goes on where another one left off.
    pub(crate) fn continued(self) -> Timeout {
        Timeout { left: self.left(), ..self }
    }

    /// The rest of the wait.
    pub(crate) fn left(&self) -> Time {
        self.end.since(host::now())
    }
}

/// What move signals have done to a call so far.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Earlier {
    /// The call has not begun.
    Nothing,
    /// It waited and would have restarted.
    Restartable,
    /// It waited and would have ended with `EINTR`.
    Final,
}

impl Earlier {
    /// How the call ends for the guest, after a turn that no move signal ended.
    fn ends(self, thread: &Thread, result: i64) -> i64 {
        match (self, result) {
            (_, ANEW) | (Earlier::Restartable, NOT_BEGUN) => anew_or_interrupted(thread),
            (Earlier::Final, NOT_BEGUN) => INTERRUPTED,
            _ => result,
        }
    }
}

/// How a call ended.
pub(crate) struct End {
    /// Its result, or [`NOT_BEGUN`] if the guest is to make it again after its handler.
    pub(crate) result: i64,
    /// A move signal ended it: a count may be short of what it would have been.
    pub(crate) is_cut: bool,
}

/// Issues a call until it ends for other reasons than a move signal.
///
/// # Safety
/// As for [`gadget::once`].
pub(crate) unsafe fn keep(thread: &Thread, request: Request, timeout: Option<Timeout>) -> End {
    // SAFETY: forwarded from the caller.
    unsafe { keep_after(thread, request, timeout, Earlier::Nothing) }
}

/// The same for a call that has been issued before.
///
/// # Safety
/// As for [`gadget::once`].
pub(crate) unsafe fn keep_after(
    thread: &Thread,
    mut request: Request,
    mut timeout: Option<Timeout>,
    mut earlier: Earlier,
) -> End {
    loop {
        if remote::takes(thread, request.nr, &request.args) {
            // By a move since it was issued first: the object has stayed behind.
            match remote::attempt(thread, request.mask, request.nr, request.args) {
                Attempt::Ended(result) => return End { result, is_cut: false },
                // The kernel would count the object's own limit anew at each turn.
                Attempt::Here(0) => {
                    let fd = host::int_arg(request.args[0]);
                    if let (None, Limit::Some(span)) = (&timeout, limit::of(request.nr, fd)) {
                        let end = host::now().plus(span);
                        // SAFETY: forwarded from the caller.
                        return unsafe { limit::issue(thread, request, end, earlier) };
                    }
                }
                Attempt::Here(done) => return End { result: done.cast_signed(), is_cut: true },
            }
        }
        if let Some(timeout) = &mut timeout {
            if earlier != Earlier::Nothing {
                timeout.left = timeout.left();
            }
            request.args[timeout.argument] = &raw const timeout.left as u64;
        }
        // SAFETY: forwarded from the caller; the span lives until the call's end.
        let result = unsafe { gadget::once(&request) };
        // Before a move: what came here only stands for descriptors of other nodes.
        socket::received_here(thread, &request, result);
        if !thread.poked.replace(false) {
            return End { result: earlier.ends(thread, result), is_cut: false };
        }
        park::if_asked(thread);
        match result {
            NOT_BEGUN => {}
            ANEW => earlier = Earlier::Restartable,
            INTERRUPTED => earlier = Earlier::Final,
            _ => return End { result, is_cut: true },
        }
    }
}

/// A call that the kernel would restart: with `SA_RESTART` it begins anew after the handler.
pub(crate) fn anew_or_interrupted(thread: &Thread) -> i64 {
    if deliver::restarts(thread) { NOT_BEGUN } else { INTERRUPTED }
}
