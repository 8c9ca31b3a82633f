//! Signals that the daemon sends for others.
//!
//! A kernel lets no process queue a signal to another with a non-negative `si_code`. The daemon
//! therefore queues (`rt_sigqueueinfo`) with a private negative code, and the shim restores the
//! real one before a handler, `sigwaitinfo` or a signalfd shows it. `si_pid` and `si_uid` (and
//! `si_status` for SIGCHLD) are the fabric's already.

/// `si_code` on the wire is `CODE_BASE - real` for a real `si_code` in `0..=127`.
pub const CODE_BASE: i32 = -0x4400;

/// Turns a real, non-negative `si_code` into the private one.
#[must_use]
pub const fn encode(real: i32) -> i32 {
    CODE_BASE - real
}

/// Turns a private `si_code` back into the real one, or `None` if it is not private.
#[must_use]
pub const fn decode(code: i32) -> Option<i32> {
    if code <= CODE_BASE && code >= CODE_BASE - 127 { Some(CODE_BASE - code) } else { None }
}
