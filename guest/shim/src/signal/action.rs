//! rt_sigaction(2) and sigaltstack(2).

use super::{ALWAYS_CAUGHT, kernel_action};
use crate::arch::frame::{AltStack, Context, SS_AUTODISARM, SS_DISABLE, SS_ONSTACK};
use crate::doorbell::ring;
use crate::guest::{self, GuestAddr};
use crate::host::{self, KernelAction};
use crate::process::{Action, Process, has_daemon};
use crate::thread::Thread;
use core::sync::atomic::Ordering;
use dunix_guest_abi::doorbell::{CHILDREN_REAPED, OP_CHILD_POLICY, STOPS_SILENT};
use dunix_guest_abi::signal::MOVE_SIGNAL;
use dunix_shim_core::Errno;
use dunix_shim_core::signal::{SIGCHLD, SIGKILL, SIGNAL_MAX, SIGSTOP, SigSet};

/// Least bytes of an alternate stack.
const MINSIGSTKSZ: u64 = 2048;
/// What no kernel keeps in an action's mask.
const NEVER_BLOCKED: SigSet = SigSet::EMPTY.with(SIGKILL).with(SIGSTOP);

/// Tells the kernel how to treat a signal, given the guest's action.
pub(crate) fn install(number: u32, action: &Action) {
    let is_plain = action.handler <= host::SIG_IGN;
    if is_plain && ALWAYS_CAUGHT.contains(&number) {
        return;
    }
    let kernel = if is_plain {
        KernelAction {
            handler: action.handler,
            flags: action.flags & super::SA_CHILD_BITS,
            restorer: 0,
            mask: SigSet::EMPTY,
        }
    } else if number == MOVE_SIGNAL {
        // The daemon's must interrupt nothing for good.
        kernel_action(action.flags | super::SA_RESTART)
    } else {
        kernel_action(action.flags)
    };
    let _ = host::set_action(number, &kernel);
}

/// rt_sigaction(2).
pub(crate) fn rt_sigaction(thread: &Thread, args: [u64; 6]) -> Result<u64, Errno> {
    let number = u32::try_from(args[0]).map_err(|_| Errno::EINVAL)?;
    let (new, old) = (GuestAddr(args[1]), GuestAddr(args[2]));
    if args[3] != 8 || number == 0 || number > SIGNAL_MAX {
        return Err(Errno::EINVAL);
    }
    let new = if new.is_null() { None } else { Some(guest::read::<Action>(new)?) };
    if new.is_some() && (number == SIGKILL || number == SIGSTOP) {
        return Err(Errno::EINVAL);
    }
    let previous = thread.process().with_action(number, |action| {
        let previous = *action;
        if let Some(new) = new {
            let is_same = new.handler == previous.handler
                && new.flags == previous.flags
                && new.restorer == previous.restorer;
            *action = Action { mask: new.mask.without(NEVER_BLOCKED), ..new };
            if !is_same {
                install(number, action);
            }
        }
        previous
    });
    if number == SIGCHLD && has_daemon() {
        tell_child_policy(thread.process());
    }
    if !old.is_null() {
        guest::write(old, &previous)?;
    }
    Ok(0)
}

/// Tells the daemon what SIGCHLD means to the process: it decides which children leave zombies.
fn tell_child_policy(process: &Process) {
    const SA_NOCLDSTOP: u64 = 1;
    const SA_NOCLDWAIT: u64 = 2;
    let action = process.action(SIGCHLD);
    let mut policy = 0;
    if action.handler == host::SIG_IGN || action.flags & SA_NOCLDWAIT != 0 {
        policy |= CHILDREN_REAPED;
    }
    if action.flags & SA_NOCLDSTOP != 0 {
        policy |= STOPS_SILENT;
    }
    if process.child_policy.swap(policy, Ordering::Relaxed) != policy {
        let _ = ring(OP_CHILD_POLICY, [policy, 0, 0, 0]);
    }
}

/// Takes over which signals are ignored, which an exec keeps: as the old image has said, or as the kernel knows.
pub(crate) fn inherit(process: &Process, known: Option<SigSet>) {
    let asked = |number| host::get_action(number).is_ok_and(|it| it.handler == host::SIG_IGN);
    for number in 1..=SIGNAL_MAX {
        if known.map_or_else(|| asked(number), |set| set.has(number)) {
            process.with_action(number, |action| action.handler = host::SIG_IGN);
        }
    }
    if has_daemon() {
        tell_child_policy(process);
    }
}

/// sigaltstack(2), for the guest's own stack; the kernel's is the shim's.
pub(crate) fn sigaltstack(
    thread: &Thread,
    context: &Context,
    args: [u64; 6],
) -> Result<u64, Errno> {
    let old = thread.altstack.get();
    let is_on = old.holds(context.regs.rsp);
    if args[0] != 0 {
        let new: AltStack = guest::read(GuestAddr(args[0]))?;
        if is_on {
            return Err(Errno::EPERM);
        }
        thread.altstack.set(checked(new)?);
    }
    if args[1] != 0 {
        let mut shown = old;
        if is_on {
            shown.flags |= SS_ONSTACK;
        }
        guest::write(GuestAddr(args[1]), &shown)?;
    }
    Ok(0)
}

fn checked(stack: AltStack) -> Result<AltStack, Errno> {
    let autodisarm = stack.flags & SS_AUTODISARM;
    match stack.flags & !SS_AUTODISARM {
        SS_DISABLE => Ok(AltStack::new(0, SS_DISABLE | autodisarm, 0)),
        0 | SS_ONSTACK if stack.bytes < MINSIGSTKSZ => Err(Errno::ENOMEM),
        0 | SS_ONSTACK => Ok(AltStack::new(stack.start, autodisarm, stack.bytes)),
        _ => Err(Errno::EINVAL),
    }
}

/// What returning from a handler does to the guest's alternate stack.
pub(crate) fn restore_altstack(thread: &Thread, stack: AltStack) {
    if let Ok(stack) = checked(stack) {
        thread.altstack.set(stack);
    }
}
