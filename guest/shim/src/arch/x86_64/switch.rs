//! Leaving the shim for good: resuming a context, making threads, ending them.

use super::frame::Frame;
use core::arch::{asm, global_asm};
use core::sync::atomic::AtomicU64;
use dunix_guest_abi::moving::ParkRecord;

/// Bits of eflags that every context has: the reserved bit and interrupts.
pub(crate) const EFLAGS_INITIAL: u64 = 0x202;
/// cs, gs, fs, ss of user code.
pub(crate) const SELECTORS_INITIAL: u64 = 0x33 | 0x2b << 48;

unsafe extern "C" {
    fn dunix_clone(flags: u64, stack: u64, parent_tid: u64, child_tid: u64, tls: u64) -> i64;
    fn dunix_restorer();
    fn dunix_park(record: *mut ParkRecord, parked: extern "C" fn(*const ParkRecord));
    fn dunix_unpark(record: *const ParkRecord, resumed: extern "C" fn(*const ParkRecord)) -> !;
}

global_asm!(
    ".pushsection .text.switch,\"ax\",@progbits",
    ".globl dunix_restorer",
    "dunix_restorer:",
    "mov eax, 15",
    "syscall",
    "ud2",
    // The child finds its entry point and its argument on its stack.
    ".globl dunix_clone",
    "dunix_clone:",
    "mov r10, rcx",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jz 2f",
    "ret",
    "2:",
    "xor ebp, ebp",
    "pop rax",
    "pop rdi",
    "call rax",
    "ud2",
    // What a function's caller expects unchanged goes onto the stack, and the record says where.
    ".globl dunix_park",
    "dunix_park:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "sub rsp, 8",
    "mov [rdi + {stack_pointer}], rsp",
    "call rsi",
    "3:",
    "add rsp, 8",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".globl dunix_unpark",
    "dunix_unpark:",
    "mov rsp, [rdi + {stack_pointer}]",
    "call rsi",
    "jmp 3b",
    ".popsection",
    stack_pointer = const core::mem::offset_of!(ParkRecord, stack_pointer),
);

/// Address of the code that ends a signal handler.
pub(crate) fn restorer() -> u64 {
    dunix_restorer as *const () as u64
}

/// Arguments of [`clone_onto`].
pub(crate) struct Clone {
    pub(crate) flags: u64,
    pub(crate) parent_tid: u64,
    pub(crate) child_tid: u64,
    pub(crate) tls: u64,
}

/// clone(2) with the child on a stack of its own, where it runs `entry(argument)`.
///
/// # Safety
/// `stack_top` (16-byte aligned) ends an unused stack; `entry` never returns.
pub(crate) unsafe fn clone_onto(
    clone: &Clone,
    stack_top: u64,
    entry: extern "C" fn(u64) -> !,
    argument: u64,
) -> i64 {
    let words = (stack_top - 32) as *mut u64;
    // SAFETY: the stack is unused; the child pops exactly these two words.
    unsafe {
        words.write(entry as *const () as u64);
        words.add(1).write(argument);
        dunix_clone(clone.flags, words as u64, clone.parent_tid, clone.child_tid, clone.tls)
    }
}

/// Puts the caller's registers onto the stack, notes in `record` where, and calls `parked`.
///
/// # Safety
/// `record` is the thread's own. This comes back when `parked` does, or in another process with
/// the same memory when the function given to [`unpark`] does.
pub(crate) unsafe fn park(record: *mut ParkRecord, parked: extern "C" fn(*const ParkRecord)) {
    // SAFETY: forwarded from the caller.
    unsafe { dunix_park(record, parked) }
}

/// Goes on where the owner of `record` called [`park`], after `resumed` has come back.
///
/// # Safety
/// The stack is as it was when the owner parked, and nobody else runs on it.
pub(crate) unsafe fn unpark(
    record: *const ParkRecord,
    resumed: extern "C" fn(*const ParkRecord),
) -> ! {
    // SAFETY: forwarded from the caller.
    unsafe { dunix_unpark(record, resumed) }
}

/// Leaves the current stack for good and runs `entry(argument)` on another.
///
/// # Safety
/// `stack_top` (16-byte aligned) ends an unused stack; `entry` never returns.
pub(crate) unsafe fn call_on(stack_top: u64, entry: extern "C" fn(u64) -> !, argument: u64) -> ! {
    // SAFETY: forwarded from the caller.
    unsafe {
        asm!(
            "mov rsp, {top}",
            "xor ebp, ebp",
            "call {entry}",
            "ud2",
            top = in(reg) stack_top,
            entry = in(reg) entry,
            in("rdi") argument,
            options(noreturn),
        )
    }
}

/// Restores a context by rt_sigreturn; never comes back.
///
/// # Safety
/// The frame is complete, and its extended state is valid or 0.
pub(crate) unsafe fn resume(frame: *const Frame) -> ! {
    // SAFETY: the kernel takes everything from the frame, which lies 8 below the stack pointer.
    unsafe {
        asm!(
            "lea rsp, [{frame} + 8]",
            "mov eax, 15",
            "syscall",
            "ud2",
            frame = in(reg) frame,
            options(noreturn),
        )
    }
}

/// Ends the calling thread after giving its slot back, without touching the stack in between.
///
/// # Safety
/// `bitmap & !keep` frees only the caller's own slot; signals are blocked.
pub(crate) unsafe fn release_and_exit(bitmap: *const AtomicU64, keep: u64, status: u64) -> ! {
    // SAFETY: registers only after the slot is free; exit does not return.
    unsafe {
        asm!(
            "lock and qword ptr [{bitmap}], {keep}",
            "mov eax, 60",
            "syscall",
            "ud2",
            bitmap = in(reg) bitmap,
            keep = in(reg) keep,
            in("rdi") status,
            options(noreturn),
        )
    }
}
