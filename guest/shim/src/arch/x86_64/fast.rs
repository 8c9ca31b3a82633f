//! The fast path: from a rewritten call through the shim and back, with the guest's signals accepted all the way.
//!
//! ```text
//! stub (rcx = tail) -> dunix_fast: by number
//!    own numbers         answered                                    -> tail
//!    read, write ...     plain descriptor: time noted                -> pass-on stub -> tail
//!    other hot calls     registers saved on the shim's stack, quick  -> tail | pass-on stub | trap
//!    all others                                                      -> the slot's trap (SIGSYS)
//! ```
//! A signal on the way in finds nothing changed but rcx, r11 and the stack pointer, and one on the way out
//! finds all registers in the frame: [`leave`] makes the guest's context of either. One in between, in
//! Rust code, is kept by [`crate::fast`]. Flags are left alone on the way in, and put back on the way out.

use super::frame::{Context, Registers};
use super::gadget::NOT_BEGUN;
use crate::rewrite;
use crate::thread::Thread;
use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, Ordering};
use dunix_shim_core::rewrite::TRAP_FROM_TAIL;

/// Registers of the guest during Rust code.
#[repr(C, align(16))]
pub(crate) struct Frame {
    vectors: [[u64; 2]; 16],
    pub(crate) regs: Registers,
}

/// Calls that are traps: what no other class names, and everything while the fast path is off.
pub(crate) const CLASS_TRAP: u8 = 0;
/// read(2) and kin, passed on if the descriptor is plain.
pub(crate) const CLASS_TRANSFER: u8 = 1;
/// getpid(2).
pub(crate) const CLASS_PID: u8 = 2;
/// gettid(2).
pub(crate) const CLASS_TID: u8 = 3;
/// Calls that [`crate::fast::quick`] looks at.
pub(crate) const CLASS_QUICK: u8 = 4;

/// Numbers that have a class of their own; greater ones are [`CLASS_QUICK`].
pub(crate) const CLASSES: usize = 256;
/// Descriptors are told apart by so many bits.
const SPECIAL: usize = 1 << 16;

/// The class of each number.
#[unsafe(no_mangle)]
static dunix_fast_classes: [AtomicU8; CLASSES] = [const { AtomicU8::new(CLASS_TRAP) }; CLASSES];
/// Not 0: the descriptor is or was not plain.
#[unsafe(no_mangle)]
static dunix_fast_special: [AtomicU8; SPECIAL] = [const { AtomicU8::new(0) }; SPECIAL];

unsafe extern "C" {
    fn dunix_fast();
    fn dunix_quick(request: *const super::gadget::Request) -> i64;
    static dunix_fast_kept: u8;
    static dunix_fast_tsc: u8;
    static dunix_fast_tsc_end: u8;
    static dunix_fast_on_stack: u8;
    static dunix_fast_rust: u8;
    static dunix_fast_exit: u8;
    static dunix_fast_leave: u8;
    static dunix_quick_open: u8;
    static dunix_quick_call: u8;
    static dunix_quick_shut: u8;
}

/// A call that is sure to trap, for a way out that must be one.
pub(crate) const TRAPPED_NUMBER: u64 = dunix_shim_core::nr::RT_SIGRETURN;

global_asm!(
    ".pushsection .text.fast,\"ax\",@progbits",
    ".balign 64",
    ".globl dunix_fast",
    "dunix_fast:",
    "mov gs:[{ret}], rcx",
    ".globl dunix_fast_kept",
    "dunix_fast_kept:",
    "mov gs:[{number}], rax",
    "mov ecx, dword ptr gs:[{number} + 1]",
    "jrcxz 2f",
    "jmp dunix_fast_save",
    "2:",
    "movzx ecx, al",
    "lea r11, [rip + dunix_fast_classes]",
    "movzx ecx, byte ptr [r11 + rcx]",
    "lea r11, [rip + dunix_fast_table]",
    "jmp qword ptr [r11 + rcx * 8]",
    "dunix_fast_trap:",
    "mov rcx, gs:[{ret}]",
    "lea rcx, [rcx + {trap}]",
    "jmp rcx",
    "dunix_fast_pid:",
    "mov rcx, gs:[{process}]",
    "mov eax, [rcx + {pid}]",
    "jmp qword ptr gs:[{ret}]",
    "dunix_fast_tid:",
    "mov eax, gs:[{tid}]",
    "jmp qword ptr gs:[{ret}]",
    ".balign 16",
    "dunix_fast_transfer:",
    "mov r11, gs:[{slot_flags}]",
    "mov ecx, [r11]",
    "jrcxz 3f",
    "jmp dunix_fast_save",
    "3:",
    "movzx ecx, di",
    "lea r11, [rip + dunix_fast_special]",
    "movzx ecx, byte ptr [r11 + rcx]",
    "jrcxz 4f",
    "jmp dunix_fast_save",
    "4:",
    "mov gs:[{rdx}], rdx",
    ".globl dunix_fast_tsc",
    "dunix_fast_tsc:",
    "rdtsc",
    "mov gs:[{tsc}], eax",
    "mov gs:[{tsc} + 4], edx",
    "mov qword ptr gs:[{start}], -1",
    "mov rax, gs:[{number}]",
    "mov rdx, gs:[{rdx}]",
    ".globl dunix_fast_tsc_end",
    "dunix_fast_tsc_end:",
    "jmp dunix_pass_call",
    ".balign 16",
    "dunix_fast_save:",
    "mov gs:[{guest_rsp}], rsp",
    "mov rsp, gs:[{frame}]",
    ".globl dunix_fast_on_stack",
    "dunix_fast_on_stack:",
    "mov [rsp + {r8}], r8",
    "mov [rsp + {r9}], r9",
    "mov [rsp + {r10}], r10",
    "mov [rsp + {r12}], r12",
    "mov [rsp + {r13}], r13",
    "mov [rsp + {r14}], r14",
    "mov [rsp + {r15}], r15",
    "mov [rsp + {rdi}], rdi",
    "mov [rsp + {rsi}], rsi",
    "mov [rsp + {rbp}], rbp",
    "mov [rsp + {rbx}], rbx",
    "mov [rsp + {rdx_at}], rdx",
    "mov [rsp + {rax}], rax",
    "mov rcx, gs:[{guest_rsp}]",
    "mov [rsp + {rsp_at}], rcx",
    "pushfq",
    "pop qword ptr [rsp + {eflags}]",
    "movaps [rsp], xmm0",
    "movaps [rsp + 16], xmm1",
    "movaps [rsp + 32], xmm2",
    "movaps [rsp + 48], xmm3",
    "movaps [rsp + 64], xmm4",
    "movaps [rsp + 80], xmm5",
    "movaps [rsp + 96], xmm6",
    "movaps [rsp + 112], xmm7",
    "movaps [rsp + 128], xmm8",
    "movaps [rsp + 144], xmm9",
    "movaps [rsp + 160], xmm10",
    "movaps [rsp + 176], xmm11",
    "movaps [rsp + 192], xmm12",
    "movaps [rsp + 208], xmm13",
    "movaps [rsp + 224], xmm14",
    "movaps [rsp + 240], xmm15",
    "cld",
    "mov byte ptr gs:[{is_open}], 1",
    ".globl dunix_fast_rust",
    "dunix_fast_rust:",
    "mov rdi, rsp",
    "call {quick}",
    "movaps xmm0, [rsp]",
    "movaps xmm1, [rsp + 16]",
    "movaps xmm2, [rsp + 32]",
    "movaps xmm3, [rsp + 48]",
    "movaps xmm4, [rsp + 64]",
    "movaps xmm5, [rsp + 80]",
    "movaps xmm6, [rsp + 96]",
    "movaps xmm7, [rsp + 112]",
    "movaps xmm8, [rsp + 128]",
    "movaps xmm9, [rsp + 144]",
    "movaps xmm10, [rsp + 160]",
    "movaps xmm11, [rsp + 176]",
    "movaps xmm12, [rsp + 192]",
    "movaps xmm13, [rsp + 208]",
    "movaps xmm14, [rsp + 224]",
    "movaps xmm15, [rsp + 240]",
    ".globl dunix_fast_exit",
    "dunix_fast_exit:",
    "mov byte ptr gs:[{is_open}], 0",
    "cmp byte ptr gs:[{is_kept}], 0",
    "je 5f",
    // Signals are blocked: the way out is a trap, which delivers them.
    "mov qword ptr [rsp + {rax}], {trapped}",
    "mov rcx, gs:[{ret}]",
    "add rcx, {trap}",
    "mov gs:[{target}], rcx",
    "5:",
    "push qword ptr [rsp + {eflags}]",
    "popfq",
    "mov r8, [rsp + {r8}]",
    "mov r9, [rsp + {r9}]",
    "mov r10, [rsp + {r10}]",
    "mov r12, [rsp + {r12}]",
    "mov r13, [rsp + {r13}]",
    "mov r14, [rsp + {r14}]",
    "mov r15, [rsp + {r15}]",
    "mov rdi, [rsp + {rdi}]",
    "mov rsi, [rsp + {rsi}]",
    "mov rbp, [rsp + {rbp}]",
    "mov rbx, [rsp + {rbx}]",
    "mov rdx, [rsp + {rdx_at}]",
    "mov rax, [rsp + {rax}]",
    "mov rsp, [rsp + {rsp_at}]",
    ".globl dunix_fast_leave",
    "dunix_fast_leave:",
    "jmp qword ptr gs:[{target}]",
    ".balign 16",
    ".globl dunix_quick",
    "dunix_quick:",
    "mov rax, [rdi + 8]",
    "mov rsi, [rdi + 24]",
    "mov rdx, [rdi + 32]",
    "mov r10, [rdi + 40]",
    "mov r8, [rdi + 48]",
    "mov r9, [rdi + 56]",
    "mov rdi, [rdi + 16]",
    // A call leaves the address behind it in rcx: what an earlier one left must not be taken for this one's.
    "xor ecx, ecx",
    ".globl dunix_quick_open",
    "dunix_quick_open:",
    "cmp byte ptr gs:[{is_kept}], 0",
    "jne 6f",
    ".globl dunix_quick_call",
    "dunix_quick_call:",
    "syscall",
    ".globl dunix_quick_shut",
    "dunix_quick_shut:",
    "ret",
    "6:",
    "mov rax, {not_begun}",
    "ret",
    ".popsection",
    ".pushsection .rodata.fast,\"a\",@progbits",
    ".balign 8",
    "dunix_fast_table:",
    ".quad dunix_fast_trap, dunix_fast_transfer, dunix_fast_pid, dunix_fast_tid, dunix_fast_save",
    ".popsection",
    ret = const offset_of!(Thread, pass_return),
    number = const offset_of!(Thread, pass_number),
    start = const offset_of!(Thread, pass_start),
    tsc = const offset_of!(Thread, pass_tsc),
    process = const Thread::PROCESS_OFFSET,
    pid = const offset_of!(crate::process::Process, pid),
    tid = const offset_of!(Thread, tid),
    slot_flags = const offset_of!(Thread, slot_flags),
    guest_rsp = const offset_of!(Thread, guest_rsp),
    rdx = const offset_of!(Thread, guest_rdx),
    frame = const offset_of!(Thread, fast_frame),
    target = const offset_of!(Thread, fast_target),
    is_open = const offset_of!(Thread, is_fast),
    is_kept = const offset_of!(Thread, has_kept),
    trap = const TRAP_FROM_TAIL,
    trapped = const TRAPPED_NUMBER,
    not_begun = const NOT_BEGUN,
    quick = sym crate::fast::quick,
    r8 = const offset_of!(Frame, regs) + offset_of!(Registers, r8),
    r9 = const offset_of!(Frame, regs) + offset_of!(Registers, r9),
    r10 = const offset_of!(Frame, regs) + offset_of!(Registers, r10),
    r12 = const offset_of!(Frame, regs) + offset_of!(Registers, r12),
    r13 = const offset_of!(Frame, regs) + offset_of!(Registers, r13),
    r14 = const offset_of!(Frame, regs) + offset_of!(Registers, r14),
    r15 = const offset_of!(Frame, regs) + offset_of!(Registers, r15),
    rdi = const offset_of!(Frame, regs) + offset_of!(Registers, rdi),
    rsi = const offset_of!(Frame, regs) + offset_of!(Registers, rsi),
    rbp = const offset_of!(Frame, regs) + offset_of!(Registers, rbp),
    rbx = const offset_of!(Frame, regs) + offset_of!(Registers, rbx),
    rdx_at = const offset_of!(Frame, regs) + offset_of!(Registers, rdx),
    rax = const offset_of!(Frame, regs) + offset_of!(Registers, rax),
    rsp_at = const offset_of!(Frame, regs) + offset_of!(Registers, rsp),
    eflags = const offset_of!(Frame, regs) + offset_of!(Registers, eflags),
);

/// Where stubs find the address that they jump to, from the GS base.
pub(crate) const ENTRY_OFFSET: u32 = 16;
const _: () = assert!(offset_of!(Thread, fast_entry) == ENTRY_OFFSET as usize);

/// Where stubs jump to.
pub(crate) fn entry() -> u64 {
    dunix_fast as *const () as u64
}

/// Gives a number its class.
pub(crate) fn set_class(number: usize, class: u8) {
    if let Some(entry) = dunix_fast_classes.get(number) {
        entry.store(class, Ordering::Relaxed);
    }
}

/// From now on calls on the descriptor are looked at.
pub(crate) fn note_special(fd: i32) {
    if let Some(entry) = usize::try_from(fd).ok().and_then(|fd| dunix_fast_special.get(fd)) {
        entry.store(1, Ordering::Relaxed);
    }
}

/// The time stamp counter.
pub(crate) fn ticks() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Issues a call from Rust code of the fast path, under the guest's own mask. [`NOT_BEGUN`] if a
/// signal came first: the guest is to make the call anew.
///
/// # Safety
/// As for [`super::syscall`].
pub(crate) unsafe fn call(nr: u64, args: [u64; 6]) -> i64 {
    let mask = dunix_shim_core::signal::SigSet::EMPTY;
    // SAFETY: forwarded from the caller.
    unsafe { dunix_quick(&super::gadget::Request { mask, nr, args }) }
}

/// Takes a context out of the fast path's machine code, to where the guest is or makes its call anew.
pub(crate) fn leave(thread: &Thread, context: &mut Context) {
    let at = |label: *const u8| label as u64;
    let rip = context.regs.rip;
    if (entry()..at(&raw const dunix_fast_rust)).contains(&rip) {
        enter_anew(thread, context);
    } else if (at(&raw const dunix_fast_exit)..at(&raw const dunix_fast_leave)).contains(&rip) {
        // SAFETY: between these labels the frame of this thread holds the guest's registers.
        let saved = unsafe { &(*(thread.fast_frame.get() as *const Frame)).regs };
        let reserved = Registers { ..context.regs };
        context.regs = Registers {
            selectors: reserved.selectors,
            err: reserved.err,
            trapno: reserved.trapno,
            oldmask: reserved.oldmask,
            cr2: reserved.cr2,
            fpstate: reserved.fpstate,
            reserved: reserved.reserved,
            r11: reserved.r11,
            rcx: reserved.rcx,
            rip: thread.fast_target.get(),
            ..*saved
        };
        thread.is_fast.set(false);
    } else if rip == at(&raw const dunix_fast_leave) {
        context.regs.rip = thread.fast_target.get();
    }
}

/// A signal before Rust code: the guest makes the call anew.
fn enter_anew(thread: &Thread, context: &mut Context) {
    let at = |label: *const u8| label as u64;
    let rip = context.regs.rip;
    let tail = if rip == entry() { context.regs.rcx } else { thread.pass_return.get() };
    if rip > at(&raw const dunix_fast_kept) {
        context.regs.rax = thread.pass_number.get();
    }
    if (at(&raw const dunix_fast_tsc)..=at(&raw const dunix_fast_tsc_end)).contains(&rip) {
        context.regs.rdx = thread.guest_rdx.get();
    }
    if rip >= at(&raw const dunix_fast_on_stack) {
        context.regs.rsp = thread.guest_rsp.get();
    }
    context.regs.rip = rewrite::before(tail);
}

/// Ends [`call`] if the context is in it before its system call; `waited` tells its result if it had begun.
pub(crate) fn end_call(context: &mut Context, waited: impl FnOnce(&Context) -> i64) {
    let (open, call) = (&raw const dunix_quick_open as u64, &raw const dunix_quick_call as u64);
    if (open..=call).contains(&context.regs.rip) {
        let has_waited = super::gadget::has_waited(context);
        context.set_result(if has_waited { waited(context) } else { NOT_BEGUN });
        context.regs.rip = &raw const dunix_quick_shut as u64;
    }
}
