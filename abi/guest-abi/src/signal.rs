//! Signals that the daemon sends for others.
//!
//! A kernel lets no process queue a signal to another with a non-negative `si_code` or `SI_TKILL`.
//! The daemon therefore queues (`rt_sigqueueinfo`) with a private negative code, and the shim
//! restores the real one before a handler, `sigwaitinfo` or a signalfd shows it. `si_pid` and
//! `si_uid` (and `si_status` for SIGCHLD) are the fabric's already.

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

/// The signal (SIGSTKFLT) that makes a thread look at its slot: it parks if `SLOT_PARK` is set,
/// else nothing happens. Queued by the daemon to host threads with [`MOVE_CODE`]; the shim always
/// catches it and never lets it be blocked. One that a guest sends is the guest's: its `si_code` or
/// `si_pid` says so.
pub const MOVE_SIGNAL: u32 = 16;

/// `si_code` of the daemon's [`MOVE_SIGNAL`]. A plain tgkill would not do: it shows the daemon's own
/// number at the host, which may be that of a process in the fabric.
pub const MOVE_CODE: i32 = CODE_BASE - 0x400;

/// Whether a [`MOVE_SIGNAL`] with these fields is the daemon's, or a plain tgkill from outside the
/// process (guests' own carry the sender's fabric PID or another private code). A kernel whose queue
/// is full delivers it without its fields.
#[must_use]
pub const fn is_move(code: i32, sender_pid: u32, own_pid: u32) -> bool {
    code == MOVE_CODE || code == 0 && sender_pid == 0 || code == SI_TKILL && sender_pid != own_pid
}
