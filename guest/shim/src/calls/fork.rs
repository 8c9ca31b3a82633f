//! clone(2), fork(2), vfork(2): new processes and threads.
//!
//! A child with its own memory goes on in the copied handler. One that shares memory starts on a
//! slot of its own by resuming a copy of the parent's context. A vfork parent waits here, with all
//! signals blocked as in the kernel, for the word that the kernel clears at the child's exec or exit.

use super::pidfd;
use crate::arch::frame::Context;
use crate::arch::switch::{self, Clone};
use crate::arch::syscall;
use crate::children::Fork;
use crate::doorbell::ring;
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::park;
use crate::process::has_daemon;
use crate::rewrite;
use crate::thread::Thread;
use core::sync::atomic::Ordering;
use dunix_guest_abi::doorbell::{
    ChildInfo, FORK_RINGS, FORK_SLOT_SHIFT, OP_FORK_CHILD, OP_FORK_DONE, OP_FORK_PREPARE,
    OP_THREAD_DONE, OP_THREAD_PREPARE, REMOTE_FD_WORDS,
};
use dunix_shim_core::{Errno, nr};

/// Exit signal of fork(2).
pub(crate) const SIGCHLD: u64 = 17;
/// Flags of vfork(2).
pub(crate) const VFORK_FLAGS: u64 = CLONE_VM | CLONE_VFORK | SIGCHLD;

/// The byte of the flags that is the exit signal.
const EXIT_SIGNAL: u64 = 0xff;
const CLONE_VM: u64 = 0x100;
const CLONE_FILES: u64 = 0x400;
const CLONE_SIGHAND: u64 = 0x800;
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_PTRACE: u64 = 0x2000;
const CLONE_VFORK: u64 = 0x4000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_THREAD: u64 = 0x1_0000;
const CLONE_PARENT_SETTID: u64 = 0x10_0000;
const CLONE_DETACHED: u64 = 0x40_0000;
const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;
const CLONE_CHILD_SETTID: u64 = 0x100_0000;
const SETTID_FLAGS: u64 = CLONE_PARENT_SETTID | CLONE_CHILD_SETTID;

/// clone(2)'s arguments.
#[derive(Clone, Copy)]
struct Wanted {
    flags: u64,
    stack: u64,
    parent_tid: GuestAddr,
    child_tid: GuestAddr,
    tls: u64,
}

impl Wanted {
    /// The word that the kernel clears at the child's end, or 0.
    fn cleared_tid(&self) -> u64 {
        if self.flags & CLONE_CHILD_CLEARTID == 0 { 0 } else { self.child_tid.0 }
    }
}

/// clone(2).
pub(crate) fn clone(thread: &Thread, context: &mut Context, args: [u64; 6]) -> Result<u64, Errno> {
    let wanted = Wanted {
        flags: args[0] & !CLONE_PTRACE,
        stack: args[1],
        parent_tid: GuestAddr(args[2]),
        child_tid: GuestAddr(args[3]),
        tls: args[4],
    };
    if has_daemon() && wanted.flags & CLONE_PIDFD != 0 {
        return with_pidfd(thread, context, &wanted);
    }
    dispatch(thread, context, &wanted)
}

/// A child and a descriptor for it, which clone(2) stores where it would store the TID.
fn with_pidfd(thread: &Thread, context: &mut Context, wanted: &Wanted) -> Result<u64, Errno> {
    let forbidden = CLONE_THREAD | CLONE_PARENT_SETTID | CLONE_DETACHED;
    if wanted.flags & forbidden != 0 {
        return Err(Errno::EINVAL);
    }
    guest::read::<i32>(wanted.parent_tid)?;
    let plain = Wanted { flags: wanted.flags & !CLONE_PIDFD, ..*wanted };
    let child = dispatch(thread, context, &plain)?;
    if child != 0 {
        // A child of one that ignores SIGCHLD may have gone without a trace: then there is none.
        let fd = pidfd::open_for(host::uint_arg(child), 0).map_or(-1, host::int_arg);
        let _ = guest::write(wanted.parent_tid, &fd);
    }
    Ok(child)
}

fn dispatch(thread: &Thread, context: &mut Context, wanted: &Wanted) -> Result<u64, Errno> {
    if wanted.flags & (CLONE_FILES | CLONE_THREAD) == CLONE_FILES {
        Thread::share_files();
    }
    if wanted.flags & CLONE_THREAD != 0 {
        if wanted.flags & (CLONE_VM | CLONE_SIGHAND) != CLONE_VM | CLONE_SIGHAND {
            return Err(Errno::EINVAL);
        }
        new_thread(thread, context, wanted)
    } else if wanted.flags & CLONE_VM != 0 {
        sharing_child(thread, context, wanted)
    } else {
        fork(thread, context, wanted)
    }
}

/// What the host is asked for: with a daemon, children are the keeper's and TIDs the fabric's.
fn host_flags(flags: u64) -> u64 {
    let flags = flags & !CLONE_VFORK;
    if !has_daemon() {
        flags
    } else if flags & CLONE_THREAD != 0 {
        flags & !SETTID_FLAGS
    } else {
        flags & !SETTID_FLAGS | CLONE_PARENT
    }
}

/// A child with memory of its own.
fn fork(thread: &Thread, context: &mut Context, wanted: &Wanted) -> Result<u64, Errno> {
    let process = thread.process();
    let birth = process.children.begin_fork();
    let named = prepare(wanted, thread)?;
    // The child's offsets are shared from here on.
    process.private.set_words(&[0; REMOTE_FD_WORDS]);
    process.acting().lock.acquire();
    rewrite::LOCK.acquire();
    let args =
        [host_flags(wanted.flags), 0, wanted.parent_tid.0, wanted.child_tid.0, wanted.tls, 0];
    // SAFETY: the child gets a copy of this stack and goes on like the parent.
    let result = unsafe { syscall(nr::CLONE, args) };
    rewrite::LOCK.release();
    process.acting().lock.release();
    if result != 0 {
        return finish_parent(thread, wanted, &birth, named.pid, result);
    }
    thread.forget_others();
    thread.spent.reset();
    process.spent.reset();
    thread.clear_tid.set(wanted.cleared_tid());
    start_child(thread, wanted, named);
    if wanted.stack != 0 {
        context.regs.rsp = wanted.stack;
    }
    Ok(0)
}

/// What a child is called before there is one; zeros when solo.
#[derive(Clone, Copy, Default)]
struct Named {
    pid: u32,
    slot: u32,
    /// It is to tell the daemon that it is there.
    rings: bool,
}

/// Asks the daemon for the child's PID, and writes the fork word, which the child finds in `keeper`.
fn prepare(wanted: &Wanted, keeper: &Thread) -> Result<Named, Errno> {
    if !has_daemon() {
        return Ok(Named::default());
    }
    let answer = ring(OP_FORK_PREPARE, [wanted.flags, keeper.fork_word.as_ptr() as u64, 0, 0])?;
    let word = answer & !FORK_RINGS;
    keeper.fork_word.set(word);
    let slot = host::uint_arg(word >> FORK_SLOT_SHIFT);
    Ok(Named { pid: host::uint_arg(word), slot, rings: answer != word })
}

/// The parent's side after the host's clone.
fn finish_parent(
    thread: &Thread,
    wanted: &Wanted,
    birth: &Fork,
    pid: u32,
    result: i64,
) -> Result<u64, Errno> {
    let outcome = Errno::check(result);
    if !has_daemon() {
        return outcome;
    }
    let _ = ring(OP_FORK_DONE, [u64::from(pid), outcome.unwrap_or(0), 0, 0]);
    outcome?;
    thread.process().children.end_fork(birth, pid, wanted.flags & EXIT_SIGNAL == SIGCHLD);
    if wanted.flags & CLONE_PARENT_SETTID != 0 {
        let _ = guest::write(wanted.parent_tid, &pid);
    }
    Ok(u64::from(pid))
}

/// The child's side: its names, before any guest code.
fn start_child(thread: &Thread, wanted: &Wanted, named: Named) {
    let process = thread.process();
    if !has_daemon() {
        let pid = host::getpid();
        process.pid.store(pid, Ordering::Relaxed);
        thread.tid.set(pid);
        return;
    }
    let pid = named.pid;
    let mut info = ChildInfo { slot: named.slot, flags: 0 };
    if named.rings && ring(OP_FORK_CHILD, [u64::from(pid), &raw mut info as u64, 0, 0]).is_err() {
        // The parent is gone and never named this child: nobody knows it.
        host::exit_group(128 + 9);
    }
    process.slot.store(info.slot, Ordering::Relaxed);
    thread.note_slot();
    process.pid.store(pid, Ordering::Relaxed);
    thread.tid.set(pid);
    // SAFETY: the child has one thread.
    unsafe { *process.children_usage.get() = [0; 18] };
    process.children.reset();
    if wanted.flags & CLONE_CHILD_SETTID != 0 {
        let _ = guest::write(wanted.child_tid, &pid);
    }
}

/// What a thread or sharing child needs before its first guest instruction.
fn prepare_context(child: &Thread, context: &Context, wanted: &Wanted) -> Result<(), Errno> {
    // SAFETY: the slot is the child's, which does not run yet.
    unsafe {
        let kept = child.resumable.get();
        context.copy_to(kept)?;
        let context = &mut (*kept).frame.context;
        context.set_result(0);
        child.note_mask(context.mask);
        context.stack = child.shim_stack();
        if wanted.stack != 0 {
            context.regs.rsp = wanted.stack;
        }
    }
    Ok(())
}

fn stack_top(child: &Thread) -> u64 {
    let stack = child.shim_stack();
    stack.start + stack.bytes
}

/// A process that shares memory: vfork(2) and posix_spawn(3).
fn sharing_child(parent: &Thread, context: &Context, wanted: &Wanted) -> Result<u64, Errno> {
    Thread::free_left();
    let child = Thread::allocate(parent.process())?;
    child.detach_process(parent.process(), wanted.flags & CLONE_SIGHAND != 0);
    child.altstack.set(parent.altstack.get());
    let birth = parent.process().children.begin_fork();
    let named = match prepare_context(child, context, wanted).and_then(|()| prepare(wanted, child))
    {
        Ok(named) => named,
        Err(error) => {
            child.free();
            return Err(error);
        }
    };
    child.tid.set(named.pid);
    child.vfork_word.store(1, Ordering::Release);
    parent.process().private.set_words(&[0; REMOTE_FD_WORDS]);
    let clone = Clone {
        flags: host_flags(wanted.flags & !SETTID_FLAGS) | CLONE_CHILD_CLEARTID,
        parent_tid: 0,
        child_tid: child.vfork_word.as_ptr() as u64,
        tls: wanted.tls,
    };
    let start = SharedStart { thread: child, wanted: *wanted, named };
    // SAFETY: the child's stack is unused; `start` lives until the child has read it, because the
    // parent waits below (without CLONE_VFORK: for the mark that the child sets).
    let result = unsafe {
        switch::clone_onto(&clone, stack_top(child), sharing_child_main, &raw const start as u64)
    };
    if result < 0 {
        child.free();
        return finish_parent(parent, wanted, &birth, named.pid, result);
    }
    let result = finish_parent(parent, wanted, &birth, named.pid, result);
    let until = if wanted.flags & CLONE_VFORK != 0 { 0 } else { 2 };
    loop {
        let word = child.vfork_word.load(Ordering::Acquire);
        if word == until || word == 0 {
            break;
        }
        host::futex_wait(&child.vfork_word, word);
    }
    if wanted.flags & CLONE_VFORK != 0 {
        child.free();
        rewrite::take_left(parent);
    } else {
        child.is_left.store(true, Ordering::Release);
    }
    result
}

struct SharedStart {
    thread: *const Thread,
    wanted: Wanted,
    named: Named,
}

extern "C" fn sharing_child_main(start: u64) -> ! {
    // SAFETY: the parent keeps it alive until the word below changes.
    let start = unsafe { &*(start as *const SharedStart) };
    // SAFETY: the slot that the parent allocated for this thread.
    let thread = unsafe { &*start.thread };
    thread.install_gs();
    start_child(thread, &start.wanted, start.named);
    if start.wanted.flags & CLONE_VFORK == 0 {
        thread.vfork_word.store(2, Ordering::Release);
        wake(&thread.vfork_word);
    }
    // SAFETY: prepared by the parent.
    unsafe { switch::resume(&raw const (*thread.resumable.get()).frame) }
}

fn wake(word: &core::sync::atomic::AtomicU32) {
    // SAFETY: wakes waiters of a live word.
    let _ = unsafe {
        host::call(nr::FUTEX, [word.as_ptr() as u64, 1, u64::from(u32::MAX >> 1), 0, 0, 0])
    };
}

/// A thread of the same process.
fn new_thread(parent: &Thread, context: &Context, wanted: &Wanted) -> Result<u64, Errno> {
    let child = Thread::allocate(parent.process())?;
    let tid = match prepare_context(child, context, wanted).and_then(|()| prepare_thread()) {
        Ok(tid) => tid,
        Err(error) => {
            child.free();
            return Err(error);
        }
    };
    child.tid.set(tid);
    child.clear_tid.set(wanted.cleared_tid());
    if has_daemon() {
        if wanted.flags & CLONE_PARENT_SETTID != 0 {
            let _ = guest::write(wanted.parent_tid, &tid);
        }
        if wanted.flags & CLONE_CHILD_SETTID != 0 {
            let _ = guest::write(wanted.child_tid, &tid);
        }
    }
    let clone = Clone {
        flags: host_flags(wanted.flags),
        parent_tid: wanted.parent_tid.0,
        child_tid: wanted.child_tid.0,
        tls: wanted.tls,
    };
    // SAFETY: the child's stack is unused, and its slot is its own until it exits.
    let result = unsafe {
        switch::clone_onto(&clone, stack_top(child), thread_main, &raw const *child as u64)
    };
    let outcome = Errno::check(result);
    if outcome.is_err() {
        child.free();
    }
    if !has_daemon() {
        return outcome;
    }
    let _ = ring(OP_THREAD_DONE, [u64::from(tid), outcome.unwrap_or(0), 0, 0]);
    outcome.map(|_| u64::from(tid))
}

fn prepare_thread() -> Result<u32, Errno> {
    if has_daemon() { ring(OP_THREAD_PREPARE, [0; 4]).map(host::uint_arg) } else { Ok(0) }
}

extern "C" fn thread_main(thread: u64) -> ! {
    // SAFETY: the slot that the parent allocated for this thread.
    let thread = unsafe { &*(thread as *const Thread) };
    thread.install_gs();
    if !has_daemon() {
        thread.tid.set(host::gettid());
    }
    // A freeze may have counted the threads before this one began.
    park::if_asked(thread);
    // SAFETY: prepared by the parent.
    unsafe { switch::resume(&raw const (*thread.resumable.get()).frame) }
}
