//! The signals that a line discipline raises (pty(7), tty_ioctl(4)), read instead of handled.
//!
//! All else that terminals need rustix offers safely.

use crate::{Result, signal};
use std::os::fd::OwnedFd;

/// What a line discipline raises, `TIOCSIG` included: SIGHUP, SIGINT, SIGQUIT, SIGCONT, SIGTSTP,
/// SIGWINCH; bit `n - 1` for signal `n`.
const LINE_SIGNALS: u64 = bit(libc::SIGHUP)
    | bit(libc::SIGINT)
    | bit(libc::SIGQUIT)
    | bit(libc::SIGCONT)
    | bit(libc::SIGTSTP)
    | bit(libc::SIGWINCH);

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Blocks the line's signals in the calling thread and returns a non-blocking descriptor that
/// shows them. The process must have one thread, or another would take them.
///
/// # Errors
/// What signalfd(2) reports.
pub fn line_signals() -> Result<OwnedFd> {
    signal::descriptor(LINE_SIGNALS)
}
