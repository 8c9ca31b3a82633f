//! Delivery: from a signal that the kernel handed over to the guest's handler.

use super::{SA_NODEFER, SA_ONSTACK, SA_RESETHAND, SA_RESTART, is_fault};
use crate::arch::frame::{self, AltStack, Context, Handler, SS_AUTODISARM, SigInfo};
use crate::host;
use crate::process::Action;
use crate::rewrite;
use crate::thread::Thread;
use dunix_shim_core::signal::{self, SIGSEGV, SIGSTOP};
use dunix_shim_core::{Errno, nr};

/// Makes `context`, which is in guest code, enter the guest's handler for a signal.
pub(crate) fn to_guest(thread: &Thread, context: &mut Context, info: &SigInfo) {
    let named = super::with_sender(info);
    let info = named.as_ref().unwrap_or(info);
    let number = info.signal.unsigned_abs();
    context.regs.rip = rewrite::shown(context.regs.rip);
    let action = take_action(thread, number);
    match action.handler {
        host::SIG_DFL => by_default(thread, context, info),
        host::SIG_IGN if is_fault(info) => by_default(thread, context, info),
        host::SIG_IGN => {}
        _ => {
            let handler = describe(thread, context, &action, number);
            if frame::enter_handler(context, info, &handler).is_err() {
                overflow(thread, context, number);
            } else if handler.stack.is_some_and(|s| s.flags & SS_AUTODISARM != 0) {
                thread.altstack.set(AltStack::NONE);
            }
        }
    }
}

/// Reads the action; a one-shot handler is reset.
fn take_action(thread: &Thread, number: u32) -> Action {
    thread.process().with_action(number, |action| {
        let taken = *action;
        if taken.handler > host::SIG_IGN && taken.flags & SA_RESETHAND != 0 {
            action.handler = host::SIG_DFL;
            super::action::install(number, action);
        }
        taken
    })
}

fn describe(thread: &Thread, context: &Context, action: &Action, number: u32) -> Handler {
    let saved_stack = thread.altstack.get();
    let is_usable = saved_stack.flags & frame::SS_DISABLE == 0 && saved_stack.bytes > 0;
    let own = if action.flags & SA_NODEFER == 0 {
        signal::SigSet::EMPTY.with(number)
    } else {
        signal::SigSet::EMPTY
    };
    Handler {
        address: action.handler,
        restorer: action.restorer,
        stack: (action.flags & SA_ONSTACK != 0 && is_usable).then_some(saved_stack),
        saved_stack,
        saved_mask: thread.saved_mask.take().unwrap_or(context.mask),
        mask: context.mask.union(action.mask).union(own).for_kernel(),
    }
}

/// Only signals that the shim always catches come here without a handler of the guest's.
fn by_default(thread: &Thread, context: &mut Context, info: &SigInfo) {
    let number = info.signal.unsigned_abs();
    if signal::default_action(number) == signal::Default::Ignore {
        return;
    }
    let plain = host::KernelAction {
        handler: host::SIG_DFL,
        flags: 0,
        restorer: 0,
        mask: signal::SigSet::EMPTY,
    };
    let _ = host::set_action(number, &plain);
    // A fault happens again by itself; anything else is sent again. Both meet the default action
    // as soon as this handler returns.
    if !is_fault(info) {
        context.mask = context.mask.without(signal::SigSet::EMPTY.with(number));
        send_self(thread, info);
    }
}

/// Queues a signal to the calling thread, with all that it carried.
pub(crate) fn send_self(_thread: &Thread, info: &SigInfo) {
    let args = [
        u64::from(host::getpid()),
        u64::from(host::gettid()),
        u64::from(info.signal.unsigned_abs()),
        &raw const *info as u64,
        0,
        0,
    ];
    // SAFETY: reads `info`; to oneself every code is allowed.
    let _ = unsafe { host::call(nr::RT_TGSIGQUEUEINFO, args) };
}

/// The handler's frame does not fit: SIGSEGV, and if that was it, the end (as in the kernel).
fn overflow(thread: &Thread, context: &mut Context, number: u32) {
    let info =
        SigInfo { signal: SIGSEGV.cast_signed(), errno: 0, code: 128, pad: 0, fields: [0; 14] };
    if number == SIGSEGV || context.mask.has(SIGSEGV) {
        let mut sent = info;
        sent.code = 0;
        by_default(thread, context, &sent);
        return;
    }
    // Only one level deep: the second time it is SIGSEGV itself that does not fit.
    to_guest(thread, context, &info);
}

/// Ends an emulated or gadget call: its result, then the signals that were noted meanwhile.
pub(crate) fn finish(thread: &Thread, context: &mut Context) {
    let noted = thread.take_noted();
    let mut is_first = true;
    for info in noted.into_iter().flatten() {
        let number = info.signal.unsigned_abs();
        if is_first || !context.mask.has(number) || number == SIGSTOP {
            to_guest(thread, context, &info);
        } else {
            send_self(thread, &info);
        }
        is_first = false;
    }
}

/// Whether the call that a noted signal interrupted begins anew after the handler (signal(7)).
pub(crate) fn restarts(thread: &Thread) -> bool {
    thread.first_noted().is_none_or(|info| is_restarting(thread, &info))
}

/// Whether a call begins anew after this signal's handler, if calls of its kind do.
pub(crate) fn is_restarting(thread: &Thread, info: &SigInfo) -> bool {
    let action = thread.process().action(info.signal.unsigned_abs());
    action.handler <= host::SIG_IGN || action.flags & SA_RESTART != 0
}

/// The result of an interrupted call that never restarts.
pub(crate) const INTERRUPTED: i64 = Errno::EINTR.as_result();
