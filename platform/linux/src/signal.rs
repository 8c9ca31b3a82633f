//! Signals with a payload (rt_sigqueueinfo(2)) and the handful of dispositions the keeper sets.

use crate::{Result, check};

/// What a queued signal carries.
#[derive(Clone, Copy, Debug, Default)]
pub struct Payload {
    /// `si_code`; must be negative and not `SI_TKILL`, or the kernel refuses (`EPERM`).
    pub code: i32,
    /// `si_pid`: taken as it is.
    pub pid: u32,
    /// `si_uid`: of the sender's user namespace; the kernel maps it into the receiver's.
    pub uid: u32,
    /// `si_value`.
    pub value: u64,
}

/// The `_rt` form of `siginfo_t` on a 64-bit machine.
#[repr(C)]
struct Info {
    signal: i32,
    errno: i32,
    code: i32,
    padding: i32,
    pid: u32,
    uid: u32,
    value: u64,
    rest: [u64; 12],
}

fn info(signal: i32, payload: &Payload) -> Info {
    let Payload { code, pid, uid, value } = *payload;
    Info { signal, errno: 0, code, padding: 0, pid, uid, value, rest: [0; 12] }
}

/// Queues a signal to a process.
pub fn queue_to_process(pid: u32, signal: i32, payload: &Payload) -> Result<()> {
    let info = info(signal, payload);
    let pid = libc::c_long::from(pid);
    // SAFETY: `info` is 128 readable bytes, the size of siginfo_t.
    check(unsafe {
        libc::syscall(libc::SYS_rt_sigqueueinfo, pid, i64::from(signal), &raw const info)
    })?;
    Ok(())
}

/// Queues a signal to one thread of a process.
pub fn queue_to_thread(pid: u32, tid: u32, signal: i32, payload: &Payload) -> Result<()> {
    let info = info(signal, payload);
    let (pid, tid) = (libc::c_long::from(pid), libc::c_long::from(tid));
    // SAFETY: `info` is 128 readable bytes, the size of siginfo_t.
    check(unsafe {
        libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, tid, i64::from(signal), &raw const info)
    })?;
    Ok(())
}

/// Sends a plain signal to one thread of a process (tgkill(2)).
pub fn send_to_thread(pid: u32, tid: u32, signal: i32) -> Result<()> {
    let (pid, tid) = (libc::c_long::from(pid), libc::c_long::from(tid));
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, i64::from(signal)) })?;
    Ok(())
}

/// Ignores the signals of `ignored` (bit `n - 1` for signal `n`) and resets all others.
///
/// Replaces every handler of the process: for a child between fork and exec only.
pub fn reset_dispositions(ignored: u64) {
    for signal in 1..=64 {
        let action = if ignored & (1 << (signal - 1)) == 0 { libc::SIG_DFL } else { libc::SIG_IGN };
        // SAFETY: both dispositions are valid for every signal and run no code of ours; refusals
        // (KILL, STOP, the C library's own) are harmless.
        unsafe { libc::signal(signal, action) };
    }
}

/// Sends this process each of the signals, bit `n - 1` for signal `n`: blocked ones stay pending.
pub fn raise(signals: u64) {
    for signal in (1..=64).filter(|signal| signals & (1 << (signal - 1)) != 0) {
        // SAFETY: kill takes plain numbers; the caller asked for what its dispositions do.
        unsafe { libc::kill(libc::getpid(), signal) };
    }
}

/// Sets the calling thread's signal mask, bit `n - 1` for signal `n`.
pub fn set_mask(mask: u64) -> Result<()> {
    // The raw call: the C library would leave its own signals out.
    // SAFETY: the kernel reads 8 bytes at the pointer.
    check(unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            i64::from(libc::SIG_SETMASK),
            &raw const mask,
            core::ptr::null_mut::<u64>(),
            8_i64,
        )
    })?;
    Ok(())
}

/// Blocks SIGCHLD in the calling thread and returns a non-blocking descriptor that shows it.
pub fn child_signals() -> Result<std::os::fd::OwnedFd> {
    descriptor(1 << (libc::SIGCHLD - 1))
}

/// Blocks SIGHUP, SIGINT, SIGQUIT and SIGTERM in the calling thread, and those that it starts, and
/// returns a non-blocking descriptor that shows them (see [`take_signal`]).
pub fn termination_signals() -> Result<std::os::fd::OwnedFd> {
    let ending = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];
    descriptor(ending.into_iter().map(|signal| 1 << (signal - 1)).sum())
}

/// Takes the next signal from a descriptor that shows signals; `None` if there is none now.
pub fn take_signal(signals: std::os::fd::BorrowedFd<'_>) -> Result<Option<i32>> {
    // struct signalfd_siginfo: 128 bytes, the signal's number first.
    let mut info = [0_u8; 128];
    match rustix::io::read(signals, &mut info) {
        Ok(_) => Ok(Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))),
        Err(crate::Errno::AGAIN) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets the calling thread's signal mask and returns a non-blocking descriptor that shows the
/// signals of `mask`, bit `n - 1` for signal `n`.
pub(crate) fn descriptor(mask: u64) -> Result<std::os::fd::OwnedFd> {
    use std::os::fd::{FromRawFd, OwnedFd, RawFd};
    set_mask(mask)?;
    let flags = i64::from(libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
    // SAFETY: the kernel reads 8 bytes at the pointer; -1 makes a new descriptor.
    let fd = check(unsafe {
        libc::syscall(libc::SYS_signalfd4, -1_i64, &raw const mask, 8_i64, flags)
    })?;
    let fd = RawFd::try_from(fd).map_err(|_| crate::Errno::BADF)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
