//! The host's system calls, as the shim uses them for itself.
//!
//! Each function issues one call from the shim's text, which the filter lets through.

use crate::arch::{frame::AltStack, syscall};
use core::sync::atomic::{AtomicU64, Ordering};
use dunix_shim_core::signal::SigSet;
use dunix_shim_core::time::Time;
use dunix_shim_core::{Errno, nr};

/// `PROT_READ`.
pub(crate) const PROT_READ: u64 = 1;
/// `PROT_WRITE`.
pub(crate) const PROT_WRITE: u64 = 2;
/// `PROT_EXEC`.
pub(crate) const PROT_EXEC: u64 = 4;
/// `PROT_GROWSDOWN`.
pub(crate) const PROT_GROWSDOWN: u64 = 0x0100_0000;
/// `MAP_SHARED`.
pub(crate) const MAP_SHARED: u64 = 1;
/// `MAP_PRIVATE`.
pub(crate) const MAP_PRIVATE: u64 = 2;
/// `MAP_FIXED`.
pub(crate) const MAP_FIXED: u64 = 0x10;
/// `MAP_ANONYMOUS`.
pub(crate) const MAP_ANONYMOUS: u64 = 0x20;
/// `MAP_NORESERVE`.
pub(crate) const MAP_NORESERVE: u64 = 0x4000;
/// `MAP_FIXED_NOREPLACE`.
pub(crate) const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;

/// `AT_FDCWD`.
pub(crate) const AT_FDCWD: u64 = -100i64 as u64;
/// `AT_EMPTY_PATH`.
pub(crate) const AT_EMPTY_PATH: u64 = 0x1000;
/// `O_CLOEXEC`.
pub(crate) const O_CLOEXEC: u64 = 0o2_000_000;
/// `SIG_DFL`.
pub(crate) const SIG_DFL: u64 = 0;
/// `SIG_IGN`.
pub(crate) const SIG_IGN: u64 = 1;

/// Issues any call and splits its result.
///
/// # Safety
/// As for [`syscall`].
pub(crate) unsafe fn call(nr: u64, args: [u64; 6]) -> Result<u64, Errno> {
    // SAFETY: forwarded from the caller.
    Errno::check(unsafe { syscall(nr, args) })
}

/// Descriptor numbers as system-call arguments (sign-extended).
pub(crate) fn fd_arg(fd: i32) -> u64 {
    i64::from(fd).cast_unsigned()
}

/// The low half of an argument, as the kernel reads an `int`.
#[expect(clippy::cast_possible_truncation, reason = "the kernel reads 32 bits of the register")]
pub(crate) fn int_arg(arg: u64) -> i32 {
    arg as i32
}

/// The low half of an argument, as the kernel reads an `unsigned int`.
#[expect(clippy::cast_possible_truncation, reason = "the kernel reads 32 bits of the register")]
pub(crate) fn uint_arg(arg: u64) -> u32 {
    arg as u32
}

/// Lengths and addresses as indices: the shim exists for 64-bit machines only.
#[expect(clippy::cast_possible_truncation, reason = "u64 and usize have the same width here")]
pub(crate) const fn to_usize(value: u64) -> usize {
    const _: () = assert!(usize::BITS == 64);
    value as usize
}

pub(crate) fn exit_group(status: i32) -> ! {
    loop {
        // SAFETY: ends the process.
        let _ = unsafe { syscall(nr::EXIT_GROUP, [fd_arg(status), 0, 0, 0, 0, 0]) };
    }
}

/// Writes all bytes as far as the descriptor takes them; errors are nobody's to handle.
pub(crate) fn write_all(fd: i32, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        // SAFETY: reads `bytes` only.
        let wrote = unsafe {
            call(nr::WRITE, [fd_arg(fd), bytes.as_ptr() as u64, bytes.len() as u64, 0, 0, 0])
        };
        match wrote {
            Ok(wrote) if wrote > 0 => bytes = &bytes[to_usize(wrote).min(bytes.len())..],
            _ => return,
        }
    }
}

/// mmap(2).
///
/// # Safety
/// A fixed mapping replaces what is there.
pub(crate) unsafe fn mmap(
    at: u64,
    bytes: u64,
    prot: u64,
    flags: u64,
    fd: i32,
    offset: u64,
) -> Result<u64, Errno> {
    // SAFETY: forwarded from the caller.
    unsafe { call(nr::MMAP, [at, bytes, prot, flags, fd_arg(fd), offset]) }
}

/// munmap(2).
///
/// # Safety
/// Nobody uses the range any more.
pub(crate) unsafe fn munmap(at: u64, bytes: u64) {
    // SAFETY: forwarded from the caller.
    let _ = unsafe { call(nr::MUNMAP, [at, bytes, 0, 0, 0, 0]) };
}

/// mprotect(2).
///
/// # Safety
/// The range is not the shim's own, or the shim can bear the change.
pub(crate) unsafe fn mprotect(at: u64, bytes: u64, prot: u64) -> Result<u64, Errno> {
    // SAFETY: forwarded from the caller.
    unsafe { call(nr::MPROTECT, [at, bytes, prot, 0, 0, 0]) }
}

pub(crate) fn close(fd: i32) {
    // SAFETY: the shim closes only what it opened.
    let _ = unsafe { call(nr::CLOSE, [fd_arg(fd), 0, 0, 0, 0, 0]) };
}

/// openat(2) of a path that ends in a zero byte.
pub(crate) fn openat(dir: u64, path: &[u8], flags: u64) -> Result<i32, Errno> {
    debug_assert!(path.ends_with(&[0]));
    // SAFETY: reads the terminated path only.
    let fd = unsafe { call(nr::OPENAT, [dir, path.as_ptr() as u64, flags, 0, 0, 0]) }?;
    Ok(int_arg(fd))
}

pub(crate) fn pread(fd: i32, to: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let args = [fd_arg(fd), to.as_mut_ptr() as u64, to.len() as u64, offset, 0, 0];
    // SAFETY: writes `to` only.
    unsafe { call(nr::PREAD64, args) }.map(to_usize)
}

/// readlink(2) of a zero-terminated path.
pub(crate) fn readlink<'a>(path: &[u8], to: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    let args = [AT_FDCWD, path.as_ptr() as u64, to.as_mut_ptr() as u64, to.len() as u64, 0, 0];
    // SAFETY: reads the terminated path, writes `to` only.
    let bytes = to_usize(unsafe { call(nr::READLINKAT, args) }?);
    Ok(&to[..bytes])
}

/// The kernel's `struct sigaction`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct KernelAction {
    pub(crate) handler: u64,
    pub(crate) flags: u64,
    pub(crate) restorer: u64,
    pub(crate) mask: SigSet,
}

pub(crate) fn set_action(signal: u32, action: &KernelAction) -> Result<u64, Errno> {
    let args = [u64::from(signal), &raw const *action as u64, 0, 8, 0, 0];
    // SAFETY: reads `action`; the handler is the shim's own entry, or none.
    unsafe { call(nr::RT_SIGACTION, args) }
}

pub(crate) fn get_action(signal: u32) -> Result<KernelAction, Errno> {
    let mut action = KernelAction { handler: 0, flags: 0, restorer: 0, mask: SigSet::EMPTY };
    let args = [u64::from(signal), 0, &raw mut action as u64, 8, 0, 0];
    // SAFETY: writes `action` only.
    unsafe { call(nr::RT_SIGACTION, args) }?;
    Ok(action)
}

/// Replaces the thread's signal mask and returns the old one.
pub(crate) fn set_mask(mask: SigSet) -> SigSet {
    let mut old = SigSet::EMPTY;
    let args = [2, &raw const mask as u64, &raw mut old as u64, 8, 0, 0];
    // SAFETY: reads and writes two words of ours.
    let _ = unsafe { call(nr::RT_SIGPROCMASK, args) };
    old
}

pub(crate) fn set_altstack(stack: &AltStack) -> Result<u64, Errno> {
    // SAFETY: the stack is the thread's own.
    unsafe { call(nr::SIGALTSTACK, [&raw const *stack as u64, 0, 0, 0, 0, 0]) }
}

/// The host's clock_gettime(2) without a system call; set at start if the host has it.
static CLOCK_GETTIME: AtomicU64 = AtomicU64::new(0);
/// `CLOCK_MONOTONIC`.
pub(crate) const CLOCK_MONOTONIC: u64 = 1;

/// Notes where the host's fast clock_gettime(2) is.
pub(crate) fn set_clock(address: u64) {
    CLOCK_GETTIME.store(address, Ordering::Relaxed);
}

/// The time on the monotonic clock.
pub(crate) fn now() -> Time {
    let mut time = Time::ZERO;
    let to: *mut Time = &raw mut time;
    match CLOCK_GETTIME.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: writes `time` only.
            let _ = unsafe { call(nr::CLOCK_GETTIME, [CLOCK_MONOTONIC, to as u64, 0, 0, 0, 0]) };
        }
        address => {
            // SAFETY: the kernel's function of this signature, in the host's own vDSO.
            let clock: extern "C" fn(u64, *mut Time) -> i32 =
                unsafe { core::mem::transmute(address) };
            clock(CLOCK_MONOTONIC, to);
        }
    }
    time
}

/// The time on any clock.
///
/// # Errors
/// What clock_gettime(2) reports.
pub(crate) fn clock(id: u64) -> Result<Time, Errno> {
    let mut time = Time::ZERO;
    // SAFETY: writes `time` only.
    unsafe { call(nr::CLOCK_GETTIME, [id, &raw mut time as u64, 0, 0, 0, 0]) }?;
    Ok(time)
}

pub(crate) fn getpid() -> u32 {
    // SAFETY: no effect.
    uint_arg(unsafe { call(nr::GETPID, [0; 6]) }.unwrap_or(0))
}

pub(crate) fn gettid() -> u32 {
    // SAFETY: no effect.
    uint_arg(unsafe { call(nr::GETTID, [0; 6]) }.unwrap_or(0))
}

/// futex(2) wait on a word while it holds `expected`; wakes early for no reason are the caller's.
pub(crate) fn futex_wait(word: &core::sync::atomic::AtomicU32, expected: u32) {
    // SAFETY: the word is alive during the call.
    let _ = unsafe { call(nr::FUTEX, [word.as_ptr() as u64, 0, u64::from(expected), 0, 0, 0]) };
}

pub(crate) fn yield_now() {
    // SAFETY: no effect on memory.
    let _ = unsafe { call(nr::SCHED_YIELD, [0; 6]) };
}
