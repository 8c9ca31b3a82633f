//! seccomp(2) and prctl(2): filters of the guest's own, and requests that would unseat the shim.
//!
//! A guest's filter is installed behind a prologue that lets the shim's calls pass, with verdicts that can be told
//! from those of the shim's filter ([`verdict`]). Strict mode is such a filter, too: the kernel's would end the
//! thread at the shim's next call, and cannot be had beside filters.

use super::Answer;
use crate::guest::{self, GuestAddr};
use crate::rewrite;
use crate::thread::Thread;
use crate::{filter, host};
use dunix_shim_core::bpf::{GUEST_PROLOGUE, INSTRUCTIONS_MAX, Instruction};
use dunix_shim_core::{Errno, nr, verdict};

const SET_MODE_STRICT: u64 = 0;
const SET_MODE_FILTER: u64 = 1;
const PR_GET_SECCOMP: u64 = 21;
const PR_SET_SECCOMP: u64 = 22;
const SECCOMP_MODE_STRICT: u64 = 1;
const SECCOMP_MODE_FILTER: u64 = 2;
const PR_SET_MM: u64 = 35;
const PR_SET_SYSCALL_USER_DISPATCH: u64 = 59;

/// seccomp(2).
pub(crate) fn seccomp(thread: &Thread, args: [u64; 6]) -> Answer {
    match u64::from(host::uint_arg(args[0])) {
        SET_MODE_STRICT if host::uint_arg(args[1]) != 0 || args[2] != 0 => {
            Answer::from(Err(Errno::EINVAL))
        }
        SET_MODE_STRICT => strict(thread).into(),
        SET_MODE_FILTER => install(nr::SECCOMP, args).into(),
        _ => Answer::PassOn,
    }
}

/// prctl(2).
pub(crate) fn prctl(thread: &Thread, args: [u64; 6]) -> Answer {
    match u64::from(host::uint_arg(args[0])) {
        // The shim's filters do not count, and who is in strict mode cannot ask.
        PR_GET_SECCOMP if filter::has_guests_filter() => Answer::from(Ok(SECCOMP_MODE_FILTER)),
        PR_GET_SECCOMP => Answer::from(Ok(0)),
        PR_SET_SECCOMP if args[1] == SECCOMP_MODE_STRICT => strict(thread).into(),
        PR_SET_SECCOMP if args[1] == SECCOMP_MODE_FILTER => install(nr::PRCTL, args).into(),
        PR_SET_SECCOMP | PR_SET_SYSCALL_USER_DISPATCH => Answer::from(Err(Errno::EINVAL)),
        PR_SET_MM => Answer::from(Err(Errno::EPERM)),
        _ => Answer::PassOn,
    }
}

/// Strict mode, for the calling thread.
fn strict(thread: &Thread) -> Result<u64, Errno> {
    if filter::has_guests_filter() {
        return Err(Errno::EINVAL);
    }
    // As for filters.
    rewrite::stop();
    filter::install_strict()?;
    thread.is_strict.set(true);
    Ok(0)
}

/// Installs the guest's program (the third argument in both calls) behind the prologue.
fn install(number: u64, mut args: [u64; 6]) -> Result<u64, Errno> {
    const BYTES: usize = size_of::<Instruction>();
    let [len, filter]: [u64; 2] = guest::read(GuestAddr(args[2]))?;
    let len = usize::from((host::uint_arg(len) & 0xffff) as u16);
    let total = len + GUEST_PROLOGUE.len();
    if len == 0 || total > INSTRUCTIONS_MAX {
        return Err(Errno::EINVAL);
    }
    let flags = host::MAP_PRIVATE | host::MAP_ANONYMOUS;
    let bytes = (total * BYTES) as u64;
    // SAFETY: a new mapping, anywhere.
    let at = unsafe { host::mmap(0, bytes, host::PROT_READ | host::PROT_WRITE, flags, -1, 0) }?;
    // SAFETY: the new mapping is zero and holds this many instructions.
    let program = unsafe { core::slice::from_raw_parts_mut(at as *mut Instruction, total) };
    program[..GUEST_PROLOGUE.len()].copy_from_slice(&GUEST_PROLOGUE);
    let rest = at + (GUEST_PROLOGUE.len() * BYTES) as u64;
    // SAFETY: the rest of the new mapping, seen as bytes.
    let rest = unsafe { core::slice::from_raw_parts_mut(rest as *mut u8, len * BYTES) };
    let result = guest::read_bytes(GuestAddr(filter), rest).and_then(|()| {
        for instruction in &mut program[GUEST_PROLOGUE.len()..] {
            *instruction = verdict::installed(*instruction);
        }
        let prog = [total as u64, at];
        args[2] = prog.as_ptr() as u64;
        // Rewritten sites would call from where no filter of the guest's looks.
        rewrite::stop();
        // SAFETY: reads the program.
        unsafe { host::call(number, args) }
    });
    // SAFETY: mapped above, and the kernel keeps its own copy.
    unsafe { host::munmap(at, bytes) };
    result
}
