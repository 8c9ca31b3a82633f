//! execve(2) and execveat(2): the host executes the shim, which then loads the program.
//!
//! Everything that can fail is tried first, because after the host's exec nothing can be reported.
//! With a daemon the program travels as a ticket (`OP_EXEC`); solo, as a descriptor whose number
//! is the first of [`SOLO_ARGUMENTS`](crate::boot::SOLO_ARGUMENTS).

use super::{Answer, path};
use crate::arch::frame::Context;
use crate::arch::gadget::{self, Request};
use crate::boot::{MARK, SOLO_ARGUMENTS};
use crate::doorbell::ring;
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::load::Headers;
use crate::process::{SHIM_PATH, has_daemon};
use crate::thread::Thread;
use dunix_guest_abi::doorbell::{
    EXEC_GONE, EXEC_KEEPS_PROGRAM, EXEC_PLACE_LOCAL, EXEC_PLACE_PIN, EXEC_PLACE_SPREAD,
    ExecRequest, OP_EXEC, OP_EXEC_FAILED,
};
use dunix_guest_abi::signal::MOVE_SIGNAL;
use dunix_shim_core::signal::{SIGNAL_MAX, SigSet};
use dunix_shim_core::{Errno, nr, proc_path, script};

/// Most arguments of a program; Linux's limit is on bytes and lower in practice.
const ARGUMENTS_MAX: usize = 1 << 20;
/// Words added before the guest's arguments: solo's own, and two for each interpreter.
const PREFIX_MAX: usize = SOLO_ARGUMENTS + 2 * script::DEPTH_MAX + 1;
const F_SETFD: u64 = 2;
const O_NOFOLLOW: u64 = 0o400_000;
const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
const AT_EACCESS: u64 = 0x200;

/// What an exec was asked for.
struct Wanted {
    dir: u64,
    path: path::Path,
    flags: u64,
    argv: u64,
    envp: u64,
}

/// An interpreter line: two zero-terminated texts in one buffer.
struct Interpreter {
    name: [u8; script::HEAD_BYTES],
    name_len: usize,
    argument: [u8; script::HEAD_BYTES],
    has_argument: bool,
}

impl Interpreter {
    const NONE: Interpreter = Interpreter {
        name: [0; script::HEAD_BYTES],
        name_len: 0,
        argument: [0; script::HEAD_BYTES],
        has_argument: false,
    };

    fn set(&mut self, script: &script::Script<'_>) {
        self.name[..script.interpreter.len()].copy_from_slice(script.interpreter);
        self.name_len = script.interpreter.len();
        if let Some(argument) = script.argument {
            self.argument[..argument.len()].copy_from_slice(argument);
            self.has_argument = true;
        }
    }
}

/// A program that may be executed: the open file, and the interpreters that lead to it.
struct Target {
    fd: i32,
    interpreters: [Interpreter; script::DEPTH_MAX],
    depth: usize,
}

/// execve(2).
#[inline(never)] // Its path would be on the stack of every call.
pub(crate) fn execve(thread: &Thread, context: &mut Context, args: [u64; 6]) -> Answer {
    match path::for_exec(thread, GuestAddr(args[0])) {
        Ok(path) => {
            let wanted =
                Wanted { dir: host::AT_FDCWD, path, flags: 0, argv: args[1], envp: args[2] };
            exec(thread, context.mask, context, &wanted)
        }
        Err(error) => Answer::from(Err(error)),
    }
}

/// execveat(2).
#[inline(never)] // Its path would be on the stack of every call.
pub(crate) fn execveat(thread: &Thread, context: &mut Context, args: [u64; 6]) -> Answer {
    if args[4] & !(host::AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0 {
        return Answer::from(Err(Errno::EINVAL));
    }
    match path::for_exec(thread, GuestAddr(args[1])) {
        Ok(path) => {
            let wanted =
                Wanted { dir: args[0], path, flags: args[4], argv: args[2], envp: args[3] };
            exec(thread, context.mask, context, &wanted)
        }
        Err(error) => Answer::from(Err(error)),
    }
}

/// The first program of a solo tree; comes back only with an error.
pub(crate) fn start_solo(thread: &Thread, mask: SigSet, path: u64, argv: u64, envp: u64) -> Errno {
    // SAFETY: plain integers; only the mask is read.
    let mut context: Context = unsafe { core::mem::zeroed() };
    context.mask = mask.for_kernel();
    match path::for_exec(thread, GuestAddr(path)) {
        Err(error) => error,
        Ok(path) => {
            let wanted = Wanted { dir: host::AT_FDCWD, path, flags: 0, argv, envp };
            match exec(thread, mask, &mut context, &wanted) {
                Answer::Return(result) => Errno::check(result).err().unwrap_or(Errno::EIO),
                _ => Errno::EIO,
            }
        }
    }
}

fn exec(thread: &Thread, mask: SigSet, context: &mut Context, wanted: &Wanted) -> Answer {
    let outcome = find(wanted).and_then(|target| {
        let result = match arguments(thread, wanted, &target) {
            Err(error) => Err(error),
            Ok(argv) if has_daemon() => with_ticket(thread, mask, &target, wanted, argv),
            Ok(argv) => solo(context, &target, wanted, argv),
        };
        host::close(target.fd);
        thread.free_scratch();
        result
    });
    match outcome {
        Ok(result) => Answer::Return(result),
        Err(error) => Answer::from(Err(error)),
    }
}

/// Opens and checks the program, following `#!` lines.
fn find(wanted: &Wanted) -> Result<Target, Errno> {
    let mut target = Target {
        fd: open(wanted)?,
        interpreters: [const { Interpreter::NONE }; script::DEPTH_MAX],
        depth: 0,
    };
    loop {
        match check(target.fd) {
            Ok(None) => return Ok(target),
            Ok(Some(_)) if target.depth == script::DEPTH_MAX => {
                host::close(target.fd);
                return Err(Errno::ELOOP);
            }
            Ok(Some(next)) => {
                host::close(target.fd);
                target.fd =
                    host::openat(host::AT_FDCWD, &next.name[..=next.name_len], host::O_CLOEXEC)?;
                target.interpreters[target.depth] = next;
                target.depth += 1;
            }
            Err(error) => {
                host::close(target.fd);
                return Err(error);
            }
        }
    }
}

fn open(wanted: &Wanted) -> Result<i32, Errno> {
    let path = wanted.path.with_zero();
    if path.len() == 1 {
        if wanted.flags & host::AT_EMPTY_PATH == 0 {
            return Err(Errno::ENOENT);
        }
        let mut link = [0u8; 32];
        link[..14].copy_from_slice(b"/proc/self/fd/");
        let used = proc_path::write_number(wanted.dir & 0x7fff_ffff, &mut link[14..31]);
        return host::openat(host::AT_FDCWD, &link[..=14 + used.unwrap_or(0)], host::O_CLOEXEC);
    }
    let follow = if wanted.flags & AT_SYMLINK_NOFOLLOW == 0 { 0 } else { O_NOFOLLOW };
    // O_NONBLOCK: a FIFO must be refused, not waited for.
    host::openat(wanted.dir, path, host::O_CLOEXEC | follow | O_NONBLOCK)
}

const O_NONBLOCK: u64 = 0o4000;

/// Checks that the file may be executed; returns its interpreter if it is a script.
fn check(fd: i32) -> Result<Option<Interpreter>, Errno> {
    // st_mode is the 32-bit word at offset 24 of `struct stat`.
    let mut stat = [0u64; 18];
    // SAFETY: writes the structure only.
    unsafe { host::call(nr::FSTAT, [host::fd_arg(fd), stat.as_mut_ptr() as u64, 0, 0, 0, 0]) }?;
    if stat[3] & 0o170_000 != 0o100_000 {
        return Err(Errno::EACCES);
    }
    let empty = 0u8;
    let flags = host::AT_EMPTY_PATH | AT_EACCESS;
    let args = [host::fd_arg(fd), &raw const empty as u64, 1, flags, 0, 0];
    // SAFETY: reads an empty path.
    unsafe { host::call(nr::FACCESSAT2, args) }?;
    let mut head = [0u8; script::HEAD_BYTES];
    let got = host::pread(fd, &mut head, 0)?;
    if head[..got].starts_with(b"#!") {
        let line = script::parse(&head[..got]).ok_or(Errno::ENOEXEC)?;
        let mut interpreter = Interpreter::NONE;
        interpreter.set(&line);
        return Ok(Some(interpreter));
    }
    let headers = Headers::read(fd)?;
    if let Some(fd) = headers.open_interpreter(fd)? {
        host::close(fd);
    }
    Ok(None)
}

/// Returns the address of the argument list that the host's exec gets: solo's own words, the
/// interpreters', the guest's.
fn arguments(thread: &Thread, wanted: &Wanted, target: &Target) -> Result<u64, Errno> {
    if has_daemon() && target.depth == 0 && wanted.argv != 0 {
        return Ok(wanted.argv);
    }
    let count = count(wanted.argv)?;
    let bytes = ((count + PREFIX_MAX + 2) * 8) as u64;
    let flags = host::MAP_PRIVATE | host::MAP_ANONYMOUS;
    // SAFETY: a new mapping, anywhere.
    let list = unsafe { host::mmap(0, bytes, host::PROT_READ | host::PROT_WRITE, flags, -1, 0) }?;
    thread.scratch.set((list, bytes));
    // SAFETY: the new mapping holds this many words.
    let list = unsafe { core::slice::from_raw_parts_mut(list as *mut u64, count + PREFIX_MAX + 2) };
    let mut at = if has_daemon() { 0 } else { SOLO_ARGUMENTS };
    for interpreter in target.interpreters[..target.depth].iter().rev() {
        list[at] = interpreter.name.as_ptr() as u64;
        at += 1;
        if interpreter.has_argument {
            list[at] = interpreter.argument.as_ptr() as u64;
            at += 1;
        }
    }
    let skipped = usize::from(target.depth > 0);
    if skipped == 1 {
        list[at] = wanted.path.with_zero().as_ptr() as u64;
        at += 1;
    }
    for index in skipped..count {
        list[at] = guest::read(GuestAddr(wanted.argv + index as u64 * 8))?;
        at += 1;
    }
    if count == 0 && skipped == 0 {
        // As Linux does since 5.18: a program always has a name.
        list[at] = EMPTY.as_ptr() as u64;
    }
    Ok(list.as_ptr() as u64)
}

static EMPTY: [u8; 1] = [0];

/// Counts a list of pointers.
fn count(list: u64) -> Result<usize, Errno> {
    if list == 0 {
        return Ok(0);
    }
    for index in 0..ARGUMENTS_MAX {
        if guest::read::<u64>(GuestAddr(list + index as u64 * 8))? == 0 {
            return Ok(index);
        }
    }
    Err(Errno::E2BIG)
}

/// Executes the shim by its path, with the program's descriptor left open.
fn solo(context: &Context, target: &Target, wanted: &Wanted, argv: u64) -> Result<i64, Errno> {
    let mut number = [0u8; 12];
    let _ = proc_path::write_number(u64::from(target.fd.unsigned_abs()), &mut number);
    // SAFETY: `arguments` left room for these words at the start of its list.
    let list = unsafe { core::slice::from_raw_parts_mut(argv as *mut u64, SOLO_ARGUMENTS) };
    list[0] = MARK.as_ptr() as u64;
    list[1] = number.as_ptr() as u64;
    list[2] = EMPTY.as_ptr() as u64;
    list[3] = wanted.path.with_zero().as_ptr() as u64;
    // SAFETY: a flag of the shim's own descriptor.
    unsafe { host::call(nr::FCNTL, [host::fd_arg(target.fd), F_SETFD, 0, 0, 0, 0]) }?;
    let shim = SHIM_PATH.with_zero().as_ptr() as u64;
    // SAFETY: replaces the image, or fails without effect.
    Ok(unsafe { issue(context.mask, nr::EXECVE, [shim, argv, wanted.envp, 0, 0, 0]) })
}

/// Executes the descriptor that the daemon gives for the program.
fn with_ticket(
    thread: &Thread,
    mask: SigSet,
    target: &Target,
    wanted: &Wanted,
    argv: u64,
) -> Result<i64, Errno> {
    let keeps = thread.has_own_files();
    let request = ExecRequest {
        exe_fd: target.fd,
        flags: placement(wanted.envp) | if keeps { EXEC_KEEPS_PROGRAM } else { 0 },
        exec_fn: wanted.path.with_zero().as_ptr() as u64,
        argv,
        envp: wanted.envp,
        signals_ignored: ignored(thread).0,
        signals_blocked: mask.0,
        private_fds: thread.process().private.words(),
        securebits: securebits(),
        reserved: 0,
    };
    let granted = ring(OP_EXEC, [&raw const request as u64, 0, 0, 0])?;
    if granted.cast_signed() == EXEC_GONE {
        host::exit_group(0);
    }
    let granted = host::int_arg(granted);
    if keeps {
        // SAFETY: a flag of the shim's own descriptor.
        let _ = unsafe { host::call(nr::FCNTL, [host::fd_arg(target.fd), F_SETFD, 0, 0, 0, 0]) };
    }
    let result = execute_shim(mask, granted, argv, wanted.envp);
    host::close(granted);
    let _ = ring(OP_EXEC_FAILED, [0; 4]);
    Ok(result)
}

/// Executes a shim by its descriptor; comes back only with an error.
pub(crate) fn execute_shim(mask: SigSet, shim: i32, argv: u64, envp: u64) -> i64 {
    let empty = 0u8;
    let empty = &raw const empty as u64;
    let args = [host::fd_arg(shim), empty, argv, envp, host::AT_EMPTY_PATH, 0];
    // SAFETY: replaces the image, or fails without effect.
    unsafe { issue(mask, nr::EXECVEAT, args) }
}

/// Issues the host's exec under the guest's mask, which the new image inherits. The move signal
/// waits until that has the shim's handlers; [`crate::boot`] takes it out of the mask again.
///
/// # Safety
/// As for a plain system call.
unsafe fn issue(mask: SigSet, nr: u64, args: [u64; 6]) -> i64 {
    // SAFETY: forwarded from the caller.
    unsafe { gadget::interruptible(&Request { mask: mask.with(MOVE_SIGNAL), nr, args }) }
}

/// What root and changes of users mean for the process's capabilities (capabilities(7)).
fn securebits() -> u32 {
    const PR_GET_SECUREBITS: u64 = 27;
    // SAFETY: only asks.
    let bits = unsafe { host::call(nr::PRCTL, [PR_GET_SECUREBITS, 0, 0, 0, 0, 0]) };
    bits.map_or(0, host::uint_arg)
}

/// What the new environment says of the program's place, as bits of the request.
fn placement(envp: u64) -> u32 {
    const NAME: &[u8; 12] = b"DUNIX_PLACE=";
    if envp == 0 {
        return 0;
    }
    for index in 0..ARGUMENTS_MAX as u64 {
        let Ok(entry @ 1..) = guest::read::<u64>(GuestAddr(envp + index * 8)) else { break };
        let mut name = [0; NAME.len()];
        // Shorter entries are others; one that cannot be read fails the exec itself.
        if guest::read_bytes(GuestAddr(entry), &mut name).is_err() || name != *NAME {
            continue;
        }
        let mut value = [0; 8];
        return match guest::read_str(GuestAddr(entry).plus(NAME.len() as u64), &mut value) {
            Ok(b"local") => EXEC_PLACE_LOCAL,
            Ok(b"spread") => EXEC_PLACE_SPREAD,
            Ok(b"pin") => EXEC_PLACE_PIN,
            _ => 0,
        };
    }
    0
}

/// The signals that the process ignores; they stay ignored.
fn ignored(thread: &Thread) -> SigSet {
    (1..=SIGNAL_MAX).fold(SigSet::EMPTY, |set, signal| {
        if thread.process().action(signal).handler == host::SIG_IGN {
            set.with(signal)
        } else {
            set
        }
    })
}
