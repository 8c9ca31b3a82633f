//! ptrace(2) of host threads, for the one thread that traces on behalf of guests.
//!
//! Invariant: a tracee is stopped when it is read, written or resumed; the kernel refuses with
//! [`crate::Errno::SRCH`] otherwise. Nothing here is believed: addresses are the kernel's to check.

use crate::{Result, check};
use core::ptr::{from_mut, null};

const PEEKDATA: u64 = 2;
const PEEKUSER: u64 = 3;
const POKEDATA: u64 = 5;
const POKEUSER: u64 = 6;
const CONT: u64 = 7;
const SINGLESTEP: u64 = 9;
const GETREGS: u64 = 12;
const SETREGS: u64 = 13;
const DETACH: u64 = 17;
const SYSCALL: u64 = 24;
const SETOPTIONS: u64 = 0x4200;
const GETEVENTMSG: u64 = 0x4201;
const GETSIGINFO: u64 = 0x4202;
const SETSIGINFO: u64 = 0x4203;
const GETREGSET: u64 = 0x4204;
const SETREGSET: u64 = 0x4205;
const SEIZE: u64 = 0x4206;
const INTERRUPT: u64 = 0x4207;
const LISTEN: u64 = 0x4208;
const PEEKSIGINFO: u64 = 0x4209;
const GETSIGMASK: u64 = 0x420a;
const SETSIGMASK: u64 = 0x420b;
const GET_SYSCALL_INFO: u64 = 0x420e;

/// Words of `struct user_regs_struct`.
pub const REGISTERS: usize = 27;
/// Bytes of `siginfo_t`.
pub const SIGINFO_BYTES: usize = 128;

/// `PTRACE_O_TRACESYSGOOD`.
pub const O_SYSGOOD: u64 = 1;
/// `PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE`.
pub const O_CHILDREN: u64 = 2 | 4 | 8;
/// `PTRACE_O_TRACEEXEC`.
pub const O_EXEC: u64 = 16;
/// `PTRACE_O_TRACEEXIT`.
pub const O_EXIT: u64 = 64;

/// How a tracee goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resume {
    /// Until a signal or an event.
    Continue,
    /// Until it enters or leaves a system call, too.
    ToCall,
    /// For one instruction.
    Step,
    /// Not at all, but hears of the end of a group stop.
    Listen,
    /// For good: it is no tracee any more.
    Detach,
}

/// A system-call stop, as `PTRACE_GET_SYSCALL_INFO` has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallStop {
    /// Before the call: its number and arguments.
    Entry { number: u64, arguments: [u64; 6] },
    /// After it.
    Exit,
    /// Another stop.
    None,
}

/// What a wait found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// A stop: the signal in the low byte, the event (`PTRACE_EVENT_*`) in the next.
    Stopped(u32),
    /// It called exit; its status.
    Exited(i32),
    /// A signal killed it; whether it left a core.
    Killed { signal: i32, core: bool },
}

/// # Safety
/// `address` and `data` are what the request takes.
unsafe fn call(request: u64, tid: u32, address: u64, data: u64) -> Result<i64> {
    // SAFETY: forwarded from the caller.
    check(unsafe { libc::syscall(libc::SYS_ptrace, request, u64::from(tid), address, data) })
}

/// Becomes the tracer of a thread, with `O_*` bits; it is not stopped.
pub fn seize(tid: u32, options: u64) -> Result<()> {
    // SAFETY: plain numbers.
    unsafe { call(SEIZE, tid, 0, options) }.map(drop)
}

/// Changes the `O_*` bits.
pub fn set_options(tid: u32, options: u64) -> Result<()> {
    // SAFETY: plain numbers.
    unsafe { call(SETOPTIONS, tid, 0, options) }.map(drop)
}

/// Stops a tracee soon.
pub fn interrupt(tid: u32) -> Result<()> {
    // SAFETY: plain numbers.
    unsafe { call(INTERRUPT, tid, 0, 0) }.map(drop)
}

/// Lets a stopped tracee go on, with a signal or 0.
pub fn resume(tid: u32, how: Resume, signal: u8) -> Result<()> {
    let request = match how {
        Resume::Continue => CONT,
        Resume::ToCall => SYSCALL,
        Resume::Step => SINGLESTEP,
        Resume::Listen => LISTEN,
        Resume::Detach => DETACH,
    };
    // SAFETY: plain numbers.
    unsafe { call(request, tid, 0, u64::from(signal)) }.map(drop)
}

/// `struct user_regs_struct`.
pub fn registers(tid: u32) -> Result<[u64; REGISTERS]> {
    let mut words = [0; REGISTERS];
    // SAFETY: the kernel writes exactly this many words.
    unsafe { call(GETREGS, tid, 0, from_mut(&mut words) as u64) }?;
    Ok(words)
}

/// Replaces the registers.
pub fn set_registers(tid: u32, words: &[u64; REGISTERS]) -> Result<()> {
    // SAFETY: the kernel reads exactly this many words.
    unsafe { call(SETREGS, tid, 0, words.as_ptr() as u64) }.map(drop)
}

/// A word of the tracee's memory, whatever its protection.
pub fn peek(tid: u32, address: u64) -> Result<u64> {
    let mut word = 0_u64;
    // SAFETY: the raw call writes the word to `data`.
    unsafe { call(PEEKDATA, tid, address, from_mut(&mut word) as u64) }?;
    Ok(word)
}

/// Writes a word, whatever the protection.
pub fn poke(tid: u32, address: u64, word: u64) -> Result<()> {
    // SAFETY: plain numbers.
    unsafe { call(POKEDATA, tid, address, word) }.map(drop)
}

/// A word of `struct user`.
pub fn peek_user(tid: u32, offset: u64) -> Result<u64> {
    let mut word = 0_u64;
    // SAFETY: the raw call writes the word to `data`.
    unsafe { call(PEEKUSER, tid, offset, from_mut(&mut word) as u64) }?;
    Ok(word)
}

/// Writes a word of `struct user`.
pub fn poke_user(tid: u32, offset: u64, word: u64) -> Result<()> {
    // SAFETY: plain numbers.
    unsafe { call(POKEUSER, tid, offset, word) }.map(drop)
}

/// A set of registers (`NT_*`); returns its bytes.
pub fn register_set(tid: u32, kind: u64, into: &mut [u8]) -> Result<usize> {
    let mut range = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: the kernel writes at most the range, and its length.
    unsafe { call(GETREGSET, tid, kind, from_mut(&mut range) as u64) }?;
    Ok(range.iov_len.min(into.len()))
}

/// Replaces a set of registers; returns how many bytes were taken.
pub fn set_register_set(tid: u32, kind: u64, from: &[u8]) -> Result<usize> {
    let mut range = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
    // SAFETY: the kernel reads the range, and writes its length.
    unsafe { call(SETREGSET, tid, kind, from_mut(&mut range) as u64) }?;
    Ok(range.iov_len.min(from.len()))
}

/// The signal of a signal's stop.
pub fn signal_info(tid: u32) -> Result<[u8; SIGINFO_BYTES]> {
    let mut info = [0; SIGINFO_BYTES];
    // SAFETY: the kernel writes exactly this many bytes.
    unsafe { call(GETSIGINFO, tid, 0, from_mut(&mut info) as u64) }?;
    Ok(info)
}

/// Replaces it.
pub fn set_signal_info(tid: u32, info: &[u8; SIGINFO_BYTES]) -> Result<()> {
    // SAFETY: the kernel reads exactly this many bytes.
    unsafe { call(SETSIGINFO, tid, 0, info.as_ptr() as u64) }.map(drop)
}

/// The signal mask, bit `n - 1` for signal `n`.
pub fn signal_mask(tid: u32) -> Result<u64> {
    let mut mask = 0_u64;
    // SAFETY: the kernel writes these 8 bytes.
    unsafe { call(GETSIGMASK, tid, 8, from_mut(&mut mask) as u64) }?;
    Ok(mask)
}

/// Replaces the signal mask.
pub fn set_signal_mask(tid: u32, mask: u64) -> Result<()> {
    // SAFETY: the kernel reads these 8 bytes.
    unsafe { call(SETSIGMASK, tid, 8, core::ptr::from_ref(&mask) as u64) }.map(drop)
}

/// What an event's stop is about: a new thread's host number, a status.
pub fn message(tid: u32) -> Result<u64> {
    let mut message = 0_u64;
    // SAFETY: the kernel writes this word.
    unsafe { call(GETEVENTMSG, tid, 0, from_mut(&mut message) as u64) }?;
    Ok(message)
}

/// Tells the two stops of a system call apart.
pub fn call_stop(tid: u32) -> Result<CallStop> {
    // op, architecture, ip, sp; then number and arguments, or the result.
    let mut words = [0_u64; 11];
    let bytes = size_of_val(&words) as u64;
    // SAFETY: the kernel writes at most this many bytes.
    unsafe { call(GET_SYSCALL_INFO, tid, bytes, from_mut(&mut words) as u64) }?;
    let arguments = [words[4], words[5], words[6], words[7], words[8], words[9]];
    Ok(match words[0] & 0xff {
        1 => CallStop::Entry { number: words[3], arguments },
        2 => CallStop::Exit,
        _ => CallStop::None,
    })
}

/// Whether a signal with this code waits for the thread itself.
pub fn has_pending(tid: u32, signal: i32, code: i32) -> Result<bool> {
    #[repr(C)]
    struct Wanted {
        offset: u64,
        flags: u32,
        count: i32,
    }
    const MOST: usize = 16;
    let mut found = [[0_i32; SIGINFO_BYTES / 4]; MOST];
    let wanted = Wanted { offset: 0, flags: 0, count: 16 };
    let at = core::ptr::from_ref(&wanted) as u64;
    // SAFETY: the kernel reads `wanted` and writes at most as many entries as it names.
    let count = unsafe { call(PEEKSIGINFO, tid, at, from_mut(&mut found) as u64) }?;
    let count = usize::try_from(count).unwrap_or(0);
    Ok(found.iter().take(count).any(|info| info[0] == signal && info[2] == code))
}

/// Waits for the next stop or the end of a tracee of any thread of this process.
///
/// # Errors
/// [`crate::Errno::CHILD`] if it is no tracee; [`crate::Errno::INTR`] after [`wake_waiter`].
pub fn wait(tid: u32) -> Result<Found> {
    let mut info = core::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WSTOPPED | libc::__WALL;
    // SAFETY: `info` has room for siginfo_t.
    check(unsafe {
        libc::syscall(
            libc::SYS_waitid,
            i64::from(libc::P_PID),
            i64::from(tid),
            info.as_mut_ptr(),
            i64::from(options),
            null::<u8>(),
        )
    })?;
    // SAFETY: zeroed is valid, and the kernel has filled it in.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid fills the SIGCHLD members.
    let status = unsafe { info.si_status() };
    Ok(match info.si_code {
        libc::CLD_EXITED => Found::Exited(status),
        libc::CLD_KILLED => Found::Killed { signal: status, core: false },
        libc::CLD_DUMPED => Found::Killed { signal: status, core: true },
        _ => Found::Stopped(status.cast_unsigned()),
    })
}

/// The signal that takes a thread out of [`wait`]: ignored by default, so that a late one does no harm.
const WAKE_SIGNAL: i32 = libc::SIGURG;

extern "C" fn woken(_signal: i32) {}

/// Lets [`wake_waiter`] work in this process.
pub fn prepare_waiters() -> Result<()> {
    // SAFETY: all-zero is a valid sigaction: no flags, nothing blocked.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    action.sa_sigaction = woken as *const () as usize;
    // SAFETY: the handler does nothing; without SA_RESTART a wait ends.
    let done = unsafe { libc::sigaction(WAKE_SIGNAL, &raw const action, core::ptr::null_mut()) };
    check(done.into())?;
    Ok(())
}

/// Interrupts the [`wait`] of a thread of this process, if it is in one now.
pub fn wake_waiter(own_tid: u32) -> Result<()> {
    crate::signal::send_to_thread(std::process::id(), own_tid, WAKE_SIGNAL)
}

/// The calling thread's number.
#[must_use]
pub fn own_tid() -> u32 {
    // SAFETY: no effect.
    unsafe { libc::gettid() }.cast_unsigned()
}
