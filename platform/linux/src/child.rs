//! Forking and reaping: fork of a single-threaded process, execveat, waitid with resource usage.

use crate::{Errno, Result, check};
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Which side of a fork runs.
#[derive(Debug, PartialEq, Eq)]
pub enum Fork {
    /// The new process.
    Child,
    /// The old process; the child's host PID.
    Parent(u32),
}

/// Forks a process that has one thread only; [`Errno::DEADLK`] if it has more (the child could
/// then find any lock held for ever).
pub fn fork_single_threaded() -> Result<Fork> {
    if threads()? != 1 {
        return Err(Errno::DEADLK);
    }
    // SAFETY: with one thread the child's memory is consistent: no other thread held a lock.
    let pid = check(unsafe { libc::fork() }.into())?;
    match u32::try_from(pid) {
        Ok(0) => Ok(Fork::Child),
        Ok(pid) => Ok(Fork::Parent(pid)),
        Err(_) => Err(Errno::INVAL),
    }
}

fn threads() -> Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|e| host(&e))?;
    let line = status.lines().find_map(|l| l.strip_prefix("Threads:")).ok_or(Errno::NOSYS)?;
    line.trim().parse().map_err(|_| Errno::NOSYS)
}

fn host(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Ends a forked child at once, running no destructor or exit handler.
pub fn exit_child(status: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) }
}

/// Replaces this process's program by an open file (execveat(2) with `AT_EMPTY_PATH`).
///
/// Returns only on failure.
#[must_use]
pub fn exec_fd(program: BorrowedFd<'_>, argv: &[CString], envp: &[CString]) -> Errno {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([core::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(argv), pointers(envp));
    // SAFETY: both lists end in null and their strings outlive the call.
    let result = check(unsafe {
        libc::syscall(
            libc::SYS_execveat,
            i64::from(program.as_raw_fd()),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            i64::from(libc::AT_EMPTY_PATH),
        )
    });
    result.err().unwrap_or(Errno::INVAL)
}

/// What a child did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It called exit; its status.
    Exited(i32),
    /// A signal killed it; whether it left a core.
    Killed { signal: i32, core: bool },
    /// A signal stopped it.
    Stopped(i32),
    /// It runs again.
    Continued,
}

/// One report of waitid(2).
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// The child's host PID.
    pub pid: u32,
    /// What it did.
    pub change: Change,
    /// `struct rusage`, as eighteen words.
    pub usage: [u64; 18],
}

/// Takes the next change of any child, reaping it if it has ended; `None` if there is none now.
pub fn next_change() -> Result<Option<Report>> {
    let mut info = core::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut usage = [0_u64; 18];
    let options = libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG | libc::__WALL;
    // SAFETY: `info` has room for siginfo_t and `usage` the size of struct rusage (144 bytes).
    let result = check(unsafe {
        libc::syscall(
            libc::SYS_waitid,
            i64::from(libc::P_ALL),
            0_i64,
            info.as_mut_ptr(),
            i64::from(options),
            usage.as_mut_ptr(),
        )
    });
    match result {
        Err(Errno::CHILD) => return Ok(None),
        other => other?,
    };
    // SAFETY: zeroed is valid, and the kernel has filled it in.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid fills the SIGCHLD members; zero where there was nothing to report.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    let change = match info.si_code {
        libc::CLD_EXITED => Change::Exited(status),
        libc::CLD_KILLED => Change::Killed { signal: status, core: false },
        libc::CLD_DUMPED => Change::Killed { signal: status, core: true },
        libc::CLD_STOPPED | libc::CLD_TRAPPED => Change::Stopped(status),
        _ => Change::Continued,
    };
    Ok(u32::try_from(pid).ok().filter(|&pid| pid != 0).map(|pid| Report { pid, change, usage }))
}

/// Makes `number` a descriptor of the same description, without `O_CLOEXEC` (dup2(2)).
///
/// Whatever `number` named is closed: for a child between fork and exec, which owns its table.
pub fn dup_onto(fd: BorrowedFd<'_>, number: i32) -> Result<()> {
    if fd.as_raw_fd() == number {
        return Err(Errno::INVAL);
    }
    // SAFETY: dup2 takes plain numbers; the caller is a forked child that gives up `number`.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into())?;
    Ok(())
}
