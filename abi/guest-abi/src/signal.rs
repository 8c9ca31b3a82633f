//! Signals that the daemon sends for others.
//!
//! A kernel lets no process queue a signal to another with a non-negative `si_code` or `SI_TKILL`. The daemon
//! therefore queues (`rt_sigqueueinfo`) with a private negative code, and the shim restores the
//! real one before a handler, `sigwaitinfo` or a signalfd shows it. `si_pid` and `si_uid` (and
//! `si_status` for SIGCHLD) are the fabric's already.

/// `si_code` on the wire is `CODE_BASE - real` for a real `si_code` in `SI_TKILL..=SI_KERNEL`.
pub const CODE_BASE: i32 = -0x4400;

/// Sent by tgkill(2).
pub const SI_TKILL: i32 = -6;
/// Sent by the kernel.
pub const SI_KERNEL: i32 = 128;

/// Turns a real `si_code` that a kernel refuses into the private one.
#[must_use]
pub const fn encode(real: i32) -> i32 {
    CODE_BASE - real
}

/// Turns a private `si_code` back into the real one, or `None` if it is not private.
#[must_use]
pub const fn decode(code: i32) -> Option<i32> {
    if code <= encode(SI_TKILL) && code >= encode(SI_KERNEL) {
        Some(CODE_BASE - code)
    } else {
        None
    }
}
