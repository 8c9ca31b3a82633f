//! The two places where a guest signal may find the shim: the gadget and the pass-on stub.
//!
//! The *gadget* accepts the guest's signals, issues one call, and refuses signals again. A signal inside
//! it is noted, and the gadget ends early or with the call's result. The *pass-on stub* issues a
//! trapped call unchanged in the guest's own context; a signal there sees the guest as if it were at its own call.
//! What a signal did to the call, and how it goes on, is for [`crate::restart`] to say.

use super::frame::Context;
use core::arch::global_asm;
use dunix_shim_core::nr;
use dunix_shim_core::signal::SigSet;

/// What the gadget reads; the offsets are known to the code below.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Request {
    /// Accepted signals are all but these.
    pub(crate) mask: SigSet,
    /// Number of the call.
    pub(crate) nr: u64,
    /// Its arguments.
    pub(crate) args: [u64; 6],
}

/// The gadget's result if a signal came before the call had any effect; no errno has this value.
pub(crate) const NOT_BEGUN: i64 = -5000;
/// The gadget's result if the call waited, and the kernel wants it anew because the signal that
/// came restarts calls (`ERESTARTSYS` of signal(7)).
pub(crate) const ANEW: i64 = -5001;
/// Offset of [`crate::thread::Thread::pass_return`] from the GS base.
pub(crate) const PASS_RETURN_OFFSET: usize = 8;

unsafe extern "C" {
    fn dunix_gadget(request: *const Request) -> i64;
    static dunix_gadget_open: u8;
    static dunix_gadget_call: u8;
    static dunix_gadget_done: u8;
    static dunix_gadget_kept: u8;
    static dunix_gadget_shut: u8;
    static dunix_pass_call: u8;
    static dunix_pass_done: u8;
}

global_asm!(
    ".pushsection .text.gadget,\"ax\",@progbits",
    ".balign 8",
    "dunix_shim_mask: .quad {shim_mask}",
    ".globl dunix_gadget",
    "dunix_gadget:",
    "push rbx",
    "push r12",
    "mov rbx, rdi",
    "mov eax, 14",
    "mov edi, 2",
    "mov rsi, rbx",
    "xor edx, edx",
    "mov r10d, 8",
    "syscall",
    ".globl dunix_gadget_open",
    "dunix_gadget_open:",
    "mov rax, [rbx + 8]",
    "mov rdi, [rbx + 16]",
    "mov rsi, [rbx + 24]",
    "mov rdx, [rbx + 32]",
    "mov r10, [rbx + 40]",
    "mov r8, [rbx + 48]",
    "mov r9, [rbx + 56]",
    ".globl dunix_gadget_call",
    "dunix_gadget_call:",
    "syscall",
    ".globl dunix_gadget_done",
    "dunix_gadget_done:",
    "mov r12, rax",
    ".globl dunix_gadget_kept",
    "dunix_gadget_kept:",
    "mov eax, 14",
    "mov edi, 2",
    "lea rsi, [rip + dunix_shim_mask]",
    "xor edx, edx",
    "mov r10d, 8",
    "syscall",
    ".globl dunix_gadget_shut",
    "dunix_gadget_shut:",
    "mov rax, r12",
    "pop r12",
    "pop rbx",
    "ret",
    ".balign 16",
    ".globl dunix_pass_call",
    "dunix_pass_call:",
    "syscall",
    ".globl dunix_pass_done",
    "dunix_pass_done:",
    "jmp qword ptr gs:[{pass_return}]",
    ".popsection",
    // At layout::TRACE_POINTS.
    ".pushsection .points,\"a\",@progbits",
    ".quad dunix_pass_call, dunix_pass_done, dunix_gadget_open, dunix_gadget_shut",
    ".popsection",
    shim_mask = const dunix_shim_core::signal::SHIM_MASK.0.cast_signed(),
    pass_return = const PASS_RETURN_OFFSET,
);

/// Issues a call with the request's mask, once; see [`NOT_BEGUN`] and [`ANEW`]. A move signal, too,
/// ends it: [`crate::thread::Thread::poked`].
///
/// # Safety
/// As for [`super::syscall`]; all signals but the synchronous ones are blocked, and the caller
/// delivers what [`crate::thread::Thread::pending`] holds afterwards.
pub(crate) unsafe fn once(request: &Request) -> i64 {
    // SAFETY: forwarded from the caller.
    unsafe { dunix_gadget(request) }
}

/// Issues a call with the request's mask until it ends for other reasons than a move signal. The
/// result may be [`NOT_BEGUN`].
///
/// # Safety
/// As for [`once`].
pub(crate) unsafe fn interruptible(request: &Request) -> i64 {
    // SAFETY: forwarded from the caller.
    unsafe { crate::restart::keep(crate::thread::Thread::current(), *request, None).result }
}

/// Address of the pass-on stub.
pub(crate) fn pass_stub() -> u64 {
    &raw const dunix_pass_call as u64
}

/// Where a signal found the shim.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not in shim code.
    Guest,
    /// In the stub, before the call (or the kernel wants it again).
    PassBefore,
    /// In the stub, after the call.
    PassAfter,
    /// In the gadget, before the call (or the kernel wants it again).
    GadgetBefore,
    /// In the gadget, the result is in rax.
    GadgetResult,
    /// In the gadget, the result is kept in r12.
    GadgetKept,
    /// Anywhere else in the shim.
    Shim,
}

/// Tells where an instruction is.
pub(crate) fn place(rip: u64) -> Place {
    use dunix_guest_abi::layout;
    if !(layout::TEXT_START..layout::TEXT_END).contains(&rip) {
        return Place::Guest;
    }
    let open = &raw const dunix_gadget_open as u64;
    let call = &raw const dunix_gadget_call as u64;
    let done = &raw const dunix_gadget_done as u64;
    let kept = &raw const dunix_gadget_kept as u64;
    let shut = &raw const dunix_gadget_shut as u64;
    match rip {
        _ if rip == pass_stub() => Place::PassBefore,
        _ if rip == &raw const dunix_pass_done as u64 => Place::PassAfter,
        _ if (open..=call).contains(&rip) => Place::GadgetBefore,
        _ if rip == done => Place::GadgetResult,
        _ if (kept..=shut).contains(&rip) => Place::GadgetKept,
        _ => Place::Shim,
    }
}

/// Whether a context before a call of the gadget's or the stub's has been in it: the kernel put it back.
pub(crate) fn has_waited(context: &Context) -> bool {
    // A call leaves the address behind it in rcx; what the guest or the gadget has there before is another.
    let after = context.regs.rip + CALL_BYTES;
    context.regs.rcx == after && place(context.regs.rip) != Place::Guest
}

/// The kernel wants to go on with a call whose rest it keeps itself (poll, nanosleep after a stop).
pub(crate) fn wants_rest(context: &Context) -> bool {
    context.regs.rax == nr::RESTART_SYSCALL
}

/// Bytes of the call instruction.
const CALL_BYTES: u64 = 2;

/// Where the gadget goes on after a signal.
pub(crate) fn shut() -> u64 {
    &raw const dunix_gadget_shut as u64
}
