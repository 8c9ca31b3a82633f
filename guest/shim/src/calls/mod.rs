//! Trapped system calls: one file per subject, one place that chooses.
//!
//! What is not named here is passed on: issued unchanged in the guest's own context.

mod copy;
pub(crate) mod cpu_time;
mod descriptor;
mod entries;
mod epoll;
pub(crate) mod exec;
pub(crate) mod exit;
mod fifo;
pub(crate) mod flock;
mod fork;
mod group;
mod ids;
mod ipc;
mod kill;
pub(crate) mod limit;
mod lock;
mod memory;
pub(crate) mod other;
pub(crate) mod passed;
mod path;
mod pidfd;
mod poll;
mod priority;
mod proc_text;
pub(crate) mod quick;
mod receive;
pub(crate) mod remote;
mod rest;
mod robust;
mod seccomp;
mod signalfd;
pub(crate) mod socket;
mod status;
mod terminal;
mod timed;
mod trace;
mod unix;
mod wait;

use crate::arch::frame::Context;
use crate::arch::gadget;
use crate::host;
use crate::park;
use crate::process::has_daemon;
use crate::signal::{action, deliver, mask, restore};
use crate::thread::Thread;
use dunix_shim_core::signal::SigSet;
use dunix_shim_core::{Errno, nr};

/// How a trapped call ends.
pub(crate) enum Answer {
    /// The guest sees this result; [`gadget::NOT_BEGUN`] makes the call anew after the handler.
    Return(i64),
    /// The call is issued unchanged from the stub.
    PassOn,
    /// A signal came while the shim waited for the daemon: signal(7) decides.
    Interrupted,
    /// The call ran under this mask, and signals that it let in are noted.
    UnderMask(i64, SigSet),
}

impl From<Result<u64, Errno>> for Answer {
    fn from(result: Result<u64, Errno>) -> Answer {
        Answer::Return(match result {
            Ok(value) => value.cast_signed(),
            Err(error) => error.as_result(),
        })
    }
}

/// Handles the call that trapped in `context`.
pub(crate) fn handle(thread: &Thread, context: &mut Context) {
    let (number, args) = context.call();
    let parks = park::count();
    match dispatch(thread, context, number, args) {
        Answer::PassOn => passed::pass_on(thread, context),
        Answer::Return(gadget::NOT_BEGUN) => context.rewind_call(),
        Answer::Return(result) => context.set_result(result),
        Answer::Interrupted if deliver::restarts(thread) => context.rewind_call(),
        Answer::Interrupted => context.set_result(deliver::INTERRUPTED),
        Answer::UnderMask(result, mask) => {
            context.set_result(result);
            context.mask = mask;
        }
    }
    // The move signal may have come where it ended nothing.
    park::if_asked(thread);
    passed::leave_if_remote(thread, context, parks);
    deliver::finish(thread, context);
    if let Some(original) = thread.saved_mask.take() {
        context.mask = original;
    }
}

/// Issues a call with the guest's signals accepted, and changed arguments.
///
/// # Safety
/// As for a plain system call.
pub(crate) unsafe fn blocking(context: &Context, nr: u64, args: [u64; 6]) -> Answer {
    let request = gadget::Request { mask: context.mask, nr, args };
    // SAFETY: forwarded from the caller.
    Answer::Return(unsafe { gadget::interruptible(&request) })
}

fn dispatch(thread: &Thread, context: &mut Context, number: u64, args: [u64; 6]) -> Answer {
    match number {
        nr::RT_SIGACTION => action::rt_sigaction(thread, args).into(),
        nr::RT_SIGPROCMASK => mask::rt_sigprocmask(context, args).into(),
        nr::RT_SIGRETURN => {
            restore::rt_sigreturn(thread, context);
            Answer::Return(Errno::EFAULT.as_result())
        }
        nr::SIGALTSTACK => action::sigaltstack(thread, context, args).into(),
        nr::RT_SIGSUSPEND => mask::rt_sigsuspend(thread, context, args),
        nr::POLL | nr::PPOLL | nr::SELECT | nr::PSELECT6
            if has_daemon() && !thread.process().remote.is_empty() =>
        {
            poll::try_handle(thread, context, number, args)
                .or_else(|| timed::try_handle(thread, context, number, args))
                .unwrap_or(Answer::PassOn)
        }
        nr::FUTEX if has_daemon() => priority::try_handle(thread, context, args)
            .or_else(|| timed::try_handle(thread, context, number, args))
            .unwrap_or(Answer::PassOn),
        _ if timed::is_timed(number) => {
            timed::try_handle(thread, context, number, args).unwrap_or(Answer::PassOn)
        }
        nr::RECVMMSG if !thread.process().remote.has(host::int_arg(args[0])) => {
            receive::try_handle(thread, context, number, args).unwrap_or(Answer::PassOn)
        }
        nr::RECVMSG if !has_daemon() => {
            receive::try_handle(thread, context, number, args).unwrap_or(Answer::PassOn)
        }
        nr::RT_SIGTIMEDWAIT => mask::rt_sigtimedwait(thread, context, args),
        nr::SIGNALFD | nr::SIGNALFD4 => signalfd::open(thread, number, args).into(),
        nr::CLONE => fork::clone(thread, context, args).into(),
        nr::FORK => fork::clone(thread, context, [fork::SIGCHLD, 0, 0, 0, 0, 0]).into(),
        nr::VFORK => fork::clone(thread, context, [fork::VFORK_FLAGS, 0, 0, 0, 0, 0]).into(),
        nr::EXECVE => exec::execve(thread, context, args),
        nr::EXECVEAT => exec::execveat(thread, context, args),
        nr::EXIT => exit::exit(thread, args[0]),
        nr::EXIT_GROUP => exit::exit_group(thread, args[0]),
        nr::GETPID => Answer::Return(i64::from(thread.process().pid())),
        nr::GETTID => Answer::Return(i64::from(thread.tid.get())),
        nr::PTRACE => trace::ptrace(thread, args).into(),
        nr::RSEQ => rseq(thread, args).into(),
        nr::SECCOMP => seccomp::seccomp(thread, args),
        nr::PRCTL => seccomp::prctl(thread, args),
        nr::ARCH_PRCTL => arch_prctl(args),
        nr::MMAP
        | nr::MUNMAP
        | nr::MPROTECT
        | nr::PKEY_MPROTECT
        | nr::MADVISE
        | nr::MREMAP
        | nr::REMAP_FILE_PAGES
        | nr::SHMAT => memory::try_handle(number, args).unwrap_or(Answer::PassOn),
        nr::FSTAT | nr::STAT | nr::LSTAT | nr::NEWFSTATAT | nr::STATX if has_daemon() => {
            status::handle(thread, context, number, args)
        }
        _ => path::try_handle(thread, context, number, args)
            .or_else(|| has_daemon().then(|| with_daemon(thread, context, number, args))?)
            .unwrap_or(Answer::PassOn),
    }
}

/// The calls that differ only if there is a fabric.
fn with_daemon(thread: &Thread, context: &Context, number: u64, args: [u64; 6]) -> Option<Answer> {
    match number {
        nr::READ | nr::READV | nr::WRITE | nr::WRITEV | nr::LSEEK => {
            return transfer(thread, context, number, args);
        }
        nr::IOCTL => return Some(terminal::ioctl(thread, context, args)),
        nr::SENDFILE => return copy::send_file(thread, context, args),
        nr::CONNECT if unix::Name::of(args).is_some() => {
            return Some(unix::connect(thread, context, args));
        }
        _ if remote::takes(thread, number, &args) => {
            return Some(remote::execute(thread, context, number, args));
        }
        nr::FLOCK => return Some(flock::handle(thread, context, args)),
        nr::EPOLL_CTL => return epoll::refused(thread, args).map(|error| Answer::from(Err(error))),
        nr::GETDENTS64 => return Some(entries::getdents64(args)),
        nr::SET_ROBUST_LIST => return Some(robust::set_robust_list(thread, args).into()),
        _ if descriptor::is_open(number) => {
            return Some(descriptor::opened(thread, context, number, args));
        }
        _ if remote::is_refused(thread, number, args) => {
            return Some(Answer::Return(Errno::EINVAL.as_result()));
        }
        _ => {}
    }
    lock::try_handle(thread, context, number, args)
        .or_else(|| descriptor::try_handle(thread, number, args))
        .or_else(|| ids::try_handle(thread, number, args))
        .or_else(|| kill::try_handle(thread, number, args))
        .or_else(|| pidfd::try_handle(thread, context, number, args))
        .or_else(|| wait::try_handle(thread, context, number, args))
        .or_else(|| cpu_time::try_handle(thread, number, args))
        .or_else(|| socket::try_handle(thread, context, number, args))
        .or_else(|| ipc::try_handle(number, args))
        .or_else(|| other::try_handle(thread, number, args))
}

/// read(2), write(2) and their kin.
fn transfer(thread: &Thread, context: &Context, number: u64, args: [u64; 6]) -> Option<Answer> {
    let fd = host::int_arg(args[0]);
    let stopped = match number {
        nr::READ | nr::READV => terminal::stopped_read(thread, context, fd),
        nr::WRITE | nr::WRITEV => terminal::stopped_write(thread, context, fd),
        _ => None,
    };
    if stopped.is_some() {
        return stopped;
    }
    if number == nr::READ && thread.process().signalfds.has(fd) {
        return Some(signalfd::read(context, args));
    }
    let is_remote = thread.process().remote.has(fd);
    is_remote.then(|| remote::execute(thread, context, number, args))
}

/// rseq(2): the kernel's, with what it registers noted for a move.
fn rseq(thread: &Thread, args: [u64; 6]) -> Result<u64, Errno> {
    const RSEQ_FLAG_UNREGISTER: u64 = 1;
    // SAFETY: the guest's own call.
    let result = unsafe { host::call(nr::RSEQ, args) }?;
    let is_gone = args[2] & RSEQ_FLAG_UNREGISTER != 0;
    let area = (args[0], host::uint_arg(args[1]), host::uint_arg(args[3]));
    thread.rseq.set(if is_gone { (0, 0, 0) } else { area });
    Ok(result)
}

/// GS belongs to the shim.
fn arch_prctl(args: [u64; 6]) -> Answer {
    const ARCH_SET_GS: u64 = 0x1001;
    const ARCH_GET_GS: u64 = 0x1004;
    match args[0] {
        ARCH_SET_GS | ARCH_GET_GS => Answer::Return(Errno::EPERM.as_result()),
        _ => Answer::PassOn,
    }
}
