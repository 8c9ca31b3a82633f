//! Signals: the one handler that the kernel knows, and what happens from there.
//!
//! ```text
//! entry --SIGSYS of a filter----> calls::handle, or what the guest's own filter said
//!       --fault in a copy-------> fixup
//!       --fault in a jump-------> rewrite::repair
//!       --on the fast path------> fast::keep, or the guest as before or after its call (arch::fast)
//!       --move signal-----------> parks, or the interrupted call goes on (restart, calls::passed)
//!       --in the gadget---------> noted; the call ends; deliver::finish delivers
//!       --in guest code---------> deliver::to_guest
//! ```

pub(crate) mod action;
pub(crate) mod deliver;
pub(crate) mod mask;
pub(crate) mod restore;

use crate::arch::frame::{Context, SigInfo};
use crate::arch::gadget::{self, Place};
use crate::arch::{copy, fast, switch};
use crate::calls::other::from_host;
use crate::calls::passed;
use crate::guest::{self, GuestAddr};
use crate::host::{self, KernelAction};
use crate::park;
use crate::process::has_daemon;
use crate::rewrite;
use crate::thread::Thread;
use dunix_guest_abi::signal::MOVE_SIGNAL;
use dunix_shim_core::signal::{SHIM_MASK, SIGBUS, SIGILL, SIGSEGV, SIGSYS};
use dunix_shim_core::table::{self, Class};
use dunix_shim_core::verdict::{self, Verdict};
use dunix_shim_core::{Errno, nr};

/// `SA_SIGINFO`.
pub(crate) const SA_SIGINFO: u64 = 4;
/// `SA_ONSTACK`.
pub(crate) const SA_ONSTACK: u64 = 0x0800_0000;
/// `SA_RESTART`.
pub(crate) const SA_RESTART: u64 = 0x1000_0000;
/// `si_code` of the notice that a message has come (mq_notify(3)).
pub(crate) const SI_MESGQ: i32 = -3;
/// `SA_NODEFER`.
pub(crate) const SA_NODEFER: u64 = 0x4000_0000;
/// `SA_RESETHAND`.
pub(crate) const SA_RESETHAND: u64 = 0x8000_0000;
/// `SA_RESTORER`.
pub(crate) const SA_RESTORER: u64 = 0x0400_0000;
/// `SA_NOCLDSTOP | SA_NOCLDWAIT`.
pub(crate) const SA_CHILD_BITS: u64 = 3;

/// `si_code` of a SIGSYS that the filter raised.
const SYS_SECCOMP: i32 = 1;

/// Signals that always enter the shim, whatever the guest has set.
pub(crate) const ALWAYS_CAUGHT: [u32; 5] = [SIGSYS, SIGSEGV, SIGBUS, SIGILL, MOVE_SIGNAL];

/// The action that makes the kernel enter the shim; `guest_flags` that change its behaviour stay.
pub(crate) fn kernel_action(guest_flags: u64) -> KernelAction {
    KernelAction {
        handler: entry as *const () as u64,
        flags: SA_SIGINFO
            | SA_ONSTACK
            | SA_NODEFER
            | SA_RESTORER
            | guest_flags & (SA_RESTART | SA_CHILD_BITS),
        restorer: switch::restorer(),
        mask: SHIM_MASK,
    }
}

/// Installs what every process needs before guest code runs.
pub(crate) fn install() -> Result<(), Errno> {
    for signal in ALWAYS_CAUGHT {
        host::set_action(signal, &kernel_action(SA_RESTART))?;
    }
    Ok(())
}

/// Where every caught signal arrives, on the shim's stack.
extern "C" fn entry(signal: i32, info: *mut SigInfo, context: *mut Context) {
    let thread = Thread::current();
    // SAFETY: the kernel made both for this handler, on this stack.
    let (info, context) = unsafe { (&mut *info, &mut *context) };
    // The handler's mask is added to the one that it interrupts, and taken off at its end.
    thread.note_mask(context.mask);
    // A handler within another serves the same guest.
    let place = gadget::place(context.regs.rip);
    if matches!(place, Place::Guest | Place::PassBefore | Place::PassAfter) {
        thread.caught.set(&raw const *context as u64);
    }
    caught(thread, signal, info, context);
    thread.note_mask(context.mask);
}

fn caught(thread: &Thread, signal: i32, info: &mut SigInfo, context: &mut Context) {
    if signal.unsigned_abs() == SIGSYS && info.code == SYS_SECCOMP && trapped(thread, info, context)
    {
        return;
    }
    if let Some(go_on) = copy::fixup(context.regs.rip).filter(|_| is_fault(info)) {
        context.regs.rip = go_on;
        return;
    }
    if rewrite::repair(context, info) {
        return;
    }
    fast::leave(thread, context);
    if is_move(thread, info) {
        poked(thread, context);
        return;
    }
    restore_code(info);
    match gadget::place(context.regs.rip) {
        Place::Guest => {
            leave_native(thread, context, info);
            deliver::to_guest(thread, context, info);
        }
        Place::PassBefore => {
            leave_stub_before(thread, context, info);
            deliver::to_guest(thread, context, info);
        }
        Place::PassAfter => {
            context.regs.rip = thread.pass_return.get();
            deliver::to_guest(thread, context, info);
        }
        Place::Shim if is_fault(info) => die_of_fault(signal, context),
        Place::Shim if thread.is_fast.get() => crate::fast::keep(thread, context, Some(info)),
        place => {
            thread.note(*info);
            end_gadget(context, place);
        }
    }
}

/// A call of the guest's, from a site or from the slot of a rewritten one. `false` if a filter of the guest's
/// wants the signal.
fn trapped(thread: &Thread, info: &mut SigInfo, context: &mut Context) -> bool {
    let tail = rewrite::tail_of_trap(context.regs.rip);
    if let Some(tail) = tail {
        context.regs.rip = tail;
        if crate::fast::end(thread, context) {
            return true;
        }
    }
    match verdict::of(info.errno) {
        Verdict::Result(result) => context.set_result(result),
        Verdict::Signal(data) => {
            info.errno = data;
            return false;
        }
        Verdict::End => crate::calls::exit::end_strictly(thread),
        Verdict::Shim if !is_trapped_class(context) => return false,
        Verdict::Shim => {
            if tail.is_none() {
                rewrite::trapped(thread, context);
            }
            crate::calls::handle(thread, context);
        }
    }
    true
}

/// Whether the signal is the daemon's, to make the thread look at its slot.
fn is_move(thread: &Thread, info: &SigInfo) -> bool {
    info.signal.unsigned_abs() == MOVE_SIGNAL
        && dunix_guest_abi::signal::is_move(
            info.code,
            host::uint_arg(info.fields[0]),
            thread.process().pid(),
        )
}

/// The daemon asks the thread to look at its slot. The guest must not notice.
fn poked(thread: &Thread, context: &mut Context) {
    match gadget::place(context.regs.rip) {
        Place::Guest => park::if_asked(thread),
        Place::PassBefore => passed::before(thread, context),
        Place::PassAfter => passed::after(thread, context),
        Place::Shim if thread.is_fast.get() => crate::fast::keep(thread, context, None),
        Place::Shim => {}
        place => {
            thread.poked.set(true);
            end_gadget(context, place);
        }
    }
}

/// Whether the call is one that the shim's own filter traps; else a filter of the guest's did.
fn is_trapped_class(context: &Context) -> bool {
    let number = context.call().0;
    if crate::filter::is_wide() && table::WIDE.contains(&number) {
        return true;
    }
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    !matches!(table::class(number), Class::Native | Class::Refuse(_))
}

/// Whether the processor raised it here and now, rather than a sender.
pub(crate) fn is_fault(info: &SigInfo) -> bool {
    info.code > 0 && matches!(info.signal.unsigned_abs(), SIGSEGV | SIGBUS | 4 | 5 | 8)
}

/// Lets a context in the stub, before its call, look as if it were on the guest's own call, or
/// behind it if the signal ends the call that waited.
fn leave_stub_before(thread: &Thread, context: &mut Context, info: &SigInfo) {
    let has_waited = gadget::has_waited(context);
    context.regs.rip = thread.pass_return.get();
    if gadget::wants_rest(context) || has_waited && !deliver::is_restarting(thread, info) {
        context.set_result(deliver::INTERRUPTED);
    } else {
        context.rewind_call();
    }
}

/// A native wait for a futex that the kernel put back because a move signal, which restarts, came
/// first: the guest's own signal ends it as signal(7) says.
fn leave_native(thread: &Thread, context: &mut Context, info: &SigInfo) {
    if !is_fault(info) && is_waiting_for_futex(context) && !deliver::is_restarting(thread, info) {
        context.regs.rip += CALL.len() as u64;
        context.set_result(deliver::INTERRUPTED);
    }
}

/// The call instruction.
const CALL: [u8; 2] = [0x0f, 0x05];

fn is_waiting_for_futex(context: &Context) -> bool {
    let at = context.regs.rip;
    // A call leaves the address behind it in rcx.
    context.regs.rax == nr::FUTEX
        && context.regs.rcx == at.wrapping_add(CALL.len() as u64)
        && (guest::read(GuestAddr(at)) == Ok(CALL) || rewrite::is_call(at))
}

/// Makes the gadget end with what became of its call.
fn end_gadget(context: &mut Context, place: Place) {
    let result = match place {
        Place::GadgetBefore if gadget::wants_rest(context) => deliver::INTERRUPTED,
        Place::GadgetBefore if gadget::has_waited(context) => gadget::ANEW,
        Place::GadgetBefore => gadget::NOT_BEGUN,
        Place::GadgetResult => context.regs.rax.cast_signed(),
        Place::GadgetKept => context.regs.r12.cast_signed(),
        // Elsewhere in the shim a signal is only noted.
        _ => return,
    };
    context.regs.r12 = result.cast_unsigned();
    context.regs.rip = gadget::shut();
    context.mask = SHIM_MASK;
}

/// Shows the real `si_code` of a signal that the daemon sent for somebody.
pub(crate) fn restore_code(info: &mut SigInfo) {
    if let Some(real) = dunix_guest_abi::signal::decode(info.code) {
        info.code = real;
    }
}

/// A message queue's notice (mq_notify(3)) with its sender in the fabric's numbers; `None` of other signals. The kernel names
/// the process that sent the message.
pub(crate) fn with_sender(info: &SigInfo) -> Option<SigInfo> {
    /// `si_pid` is the low half of this word, `si_uid` the other.
    const SENDER: usize = 0;
    if info.code != SI_MESGQ || !has_daemon() {
        return None;
    }
    let mut named = *info;
    let [host, user] = words(info.fields[SENDER]);
    named.fields[SENDER] = u64::from(from_host(host)) | u64::from(user) << 32;
    Some(named)
}

fn words(of: u64) -> [u32; 2] {
    [host::uint_arg(of), host::uint_arg(of >> 32)]
}

fn die_of_fault(signal: i32, context: &Context) -> ! {
    crate::report::line("signal", "address", context.regs.cr2);
    crate::report::line(
        "signal",
        "instruction - text",
        context.regs.rip - dunix_guest_abi::layout::TEXT_START,
    );
    crate::report::fatal("fault in the shim", "signal", u64::from(signal.unsigned_abs()))
}
