//! Calls in the pass-on stub that a move signal finds there: each goes on as if none had come.
//!
//! ```text
//! stub --move signal--> not begun, or put back by the kernel: the stub issues it (again)
//!                       whole result:                         the guest has it
//!                       EINTR, or a count cut short:          the gadget does the rest (`rest`)
//! ```

use super::rest::{Transfer, is_timed_by_terminal};
use super::timed;
use crate::arch;
use crate::arch::frame::Context;
use crate::arch::gadget::{self, ANEW, NOT_BEGUN};
use crate::fast;
use crate::host;
use crate::park;
use crate::signal::deliver;
use crate::thread::Thread;
use dunix_shim_core::nr;
use dunix_shim_core::time::Time;

/// Seconds of a start that is a time stamp; machine code writes them.
const STAMPED: i64 = -1;

/// Lets the guest's context go on in the stub.
pub(crate) fn pass_on(thread: &Thread, context: &mut Context) {
    let number = context.regs.rax;
    thread.pass_number.set(number);
    thread.pass_start.set(if may_have_limit(number) { host::now() } else { Time::ZERO });
    thread.pass_return.set(context.regs.rip);
    context.regs.rip = gadget::pass_stub();
}

/// Notes when a call of the fast path begins, as a time stamp: it costs less.
pub(crate) fn note_stamp(thread: &Thread, number: u64) {
    if may_have_limit(number) || timed::is_passed(number) {
        thread.pass_tsc.set(arch::fast::ticks());
        thread.pass_start.set(Time { seconds: STAMPED, nanos: 0 });
    } else {
        thread.pass_start.set(Time::ZERO);
    }
}

/// Whether the object of a call may limit how long it waits: `SO_RCVTIMEO`, `SO_SNDTIMEO`, `VTIME`.
fn may_have_limit(number: u64) -> bool {
    matches!(
        number,
        nr::READ
            | nr::READV
            | nr::WRITE
            | nr::WRITEV
            | nr::RECVFROM
            | nr::RECVMSG
            | nr::RECVMMSG
            | nr::SENDTO
            | nr::SENDMSG
            | nr::SENDMMSG
            | nr::ACCEPT
            | nr::ACCEPT4
            | nr::CONNECT
    )
}

/// The fast path notes a time stamp instead of the time, which is of use on this machine only.
fn settle_start(thread: &Thread) {
    if timed::is_counted_down(thread.pass_number.get()) {
        thread.pass_start.set(host::now());
    } else if thread.pass_start.get().seconds == STAMPED {
        thread.pass_start.set(fast::time_of(thread.pass_tsc.get()));
    }
}

/// A move signal found the stub before its call.
pub(crate) fn before(thread: &Thread, context: &mut Context) {
    settle_start(thread);
    if gadget::wants_rest(context) {
        // The kernel keeps the rest of the wait only until a handler has run.
        go_on(thread, context, deliver::INTERRUPTED);
        return;
    }
    let parks = park::count();
    park::if_asked(thread);
    let number = context.regs.rax;
    if timed::has_span(number, context.call().1) {
        // The time that the move took counts.
        go_on(thread, context, NOT_BEGUN);
        return;
    }
    if leave_if_remote(thread, context, parks) {
        return;
    }
    let is_read = matches!(number, nr::READ | nr::READV);
    if is_read
        && gadget::has_waited(context)
        && is_timed_by_terminal(host::int_arg(context.regs.rdi))
    {
        go_on(thread, context, ANEW);
    }
}

/// Takes a call out of the stub whose object has stayed behind in a move since `parks` was
/// [counted](park::count): it is no call for this node's kernel any more. The guest makes it anew.
pub(crate) fn leave_if_remote(thread: &Thread, context: &mut Context, parks: u64) -> bool {
    let remote = &thread.process().remote;
    let [first, second, third, ..] = context.call().1;
    // sendfile(2) and kin have two descriptors. Who only looks like one is made anew in vain.
    let is_left = park::count() != parks
        && context.regs.rip == gadget::pass_stub()
        && [first, second, third].iter().any(|arg| remote.has(host::int_arg(*arg)));
    if is_left {
        context.regs.rip = thread.pass_return.get();
        context.rewind_call();
    }
    is_left
}

/// A move signal found the stub after its call.
pub(crate) fn after(thread: &Thread, context: &mut Context) {
    settle_start(thread);
    park::if_asked(thread);
    go_on(thread, context, context.regs.rax.cast_signed());
}

/// Completes the call, which ended with `result` because of a move signal.
fn go_on(thread: &Thread, context: &mut Context, result: i64) {
    let number = thread.pass_number.get();
    context.regs.rax = number;
    let (_, args) = context.call();
    let start = thread.pass_start.get();
    // SAFETY: the guest's own call.
    let result = unsafe {
        timed::complete(thread, context.mask, number, args, start, result).unwrap_or_else(|| {
            Transfer::new(thread, context.mask, number, args, start).complete(result)
        })
    };
    context.regs.rip = thread.pass_return.get();
    if result == NOT_BEGUN {
        context.rewind_call();
    } else {
        context.set_result(result);
    }
    deliver::finish(thread, context);
}
