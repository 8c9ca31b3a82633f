//! Home: calls that wait for an object, each until it has its effect, is cancelled, or the object's
//! own time-out is over. A call is tried before it waits, and without waiting again whenever the
//! object is ready: whoever else uses the object may be faster.

use super::homes::Object;
use super::pump::watch;
use dunix_linux::waiting_call::WaitingCall;
use dunix_linux::{Errno, Result};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::net::sockopt::{Timeout, socket_timeout};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::Interest;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// Most calls that wait on threads of their own; at the limit it is `ENFILE`.
const THREADS_MAX: usize = 1024;
static THREADS: AtomicUsize = AtomicUsize::new(0);
/// How often such a call is interrupted until it ends: it may not have begun when it is given up.
const INTERRUPT_EVERY: Duration = Duration::from_millis(2);

/// Makes a call that may wait in the kernel for ever, on a thread of its own.
///
/// # Errors
/// The call's, which is `EINTR` if it was cancelled while it waited.
pub(super) async fn until_cancelled<T: Send + 'static>(
    call: impl FnOnce() -> Result<T> + Send + 'static,
    cancelled: &Notify,
) -> Result<T> {
    struct Turn;
    impl Drop for Turn {
        fn drop(&mut self) {
            THREADS.fetch_sub(1, Ordering::AcqRel);
        }
    }
    let before = THREADS.fetch_add(1, Ordering::AcqRel);
    let turn = Turn;
    if before >= THREADS_MAX {
        return Err(Errno::NFILE);
    }
    let (answer, mut result) = oneshot::channel();
    let waiting = WaitingCall::start(call, move |result| {
        drop(turn);
        // Who asked waits until the thread has ended, or its node is ending.
        let _ = answer.send(result);
    })?;
    tokio::select! {
        result = &mut result => return result.unwrap_or(Err(Errno::IO)),
        () = cancelled.notified() => {}
    }
    loop {
        waiting.interrupt();
        tokio::select! {
            result = &mut result => return result.unwrap_or(Err(Errno::IO)),
            () = tokio::time::sleep(INTERRUPT_EVERY) => {}
        }
    }
}

/// A call that may wait.
pub(super) struct Waiting<'a> {
    pub(super) object: &'a Arc<Object>,
    pub(super) cancelled: &'a Notify,
    waits: bool,
    interest: Interest,
    deadline: Option<Instant>,
}

/// Longer than any process lives.
const FOREVER: Duration = Duration::from_secs(365 * 86400);

impl<'a> Waiting<'a> {
    /// A call that waits to read, as the description's flags want it.
    pub(super) fn to_read(object: &'a Arc<Object>, cancelled: &'a Notify) -> Waiting<'a> {
        Waiting::new(object, cancelled, Interest::READABLE)
    }

    /// A call that waits to write, as the description's flags want it.
    pub(super) fn to_write(object: &'a Arc<Object>, cancelled: &'a Notify) -> Waiting<'a> {
        Waiting::new(object, cancelled, Interest::WRITABLE)
    }

    fn new(object: &'a Arc<Object>, cancelled: &'a Notify, interest: Interest) -> Waiting<'a> {
        let flags = fcntl_getfl(&object.original).unwrap_or(OFlags::NONBLOCK);
        let waits = !flags.contains(OFlags::NONBLOCK);
        Waiting { object, cancelled, waits, interest, deadline: None }
    }

    /// It does not wait, whatever the flags say.
    pub(super) fn at_once(self) -> Waiting<'a> {
        Waiting { waits: false, ..self }
    }

    /// It waits no longer than this.
    pub(super) fn within(self, span: Duration) -> Waiting<'a> {
        Waiting { deadline: Some(Instant::now() + span), ..self }
    }

    pub(super) fn waits(&self) -> bool {
        self.waits
    }

    /// It waits no longer than the socket's time-out (`SO_RCVTIMEO`, `SO_SNDTIMEO`).
    pub(super) fn for_socket(self) -> Waiting<'a> {
        let which = if self.interest.is_readable() { Timeout::Recv } else { Timeout::Send };
        let timeout = socket_timeout(&self.object.original, which).ok().flatten();
        Waiting { deadline: timeout.map(|timeout| Instant::now() + timeout), ..self }
    }

    /// Makes attempts, which answer `EAGAIN` while it is too early, until one has an outcome.
    ///
    /// # Errors
    /// The attempt's, `EINTR` if it is cancelled, `EAGAIN` if it must not wait or its time is over.
    pub(super) async fn until_done<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let mut attempt = || loop {
            match attempt() {
                Err(Errno::INTR) => {}
                other => return other,
            }
        };
        match attempt() {
            Err(Errno::AGAIN) if self.waits => {}
            other => return other,
        }
        let copy = rustix::io::fcntl_dupfd_cloexec(&self.object.original, 0)?;
        let queue = watch(copy, self.interest).map_err(|_| Errno::IO)?;
        let wait = async {
            loop {
                let Ok(mut ready) = queue.ready(self.interest).await else { return Err(Errno::IO) };
                match attempt() {
                    Err(Errno::AGAIN) => ready.clear_ready(),
                    other => return other,
                }
            }
        };
        let deadline = self.deadline.unwrap_or_else(|| Instant::now() + FOREVER);
        tokio::select! {
            biased;
            outcome = wait => outcome,
            () = self.cancelled.notified() => Err(Errno::INTR),
            () = tokio::time::sleep_until(deadline) => Err(Errno::AGAIN),
        }
    }
}
