//! The raw system call, issued from the shim's text.

use core::arch::asm;

/// Issues a system call and returns the kernel's raw result.
///
/// # Safety
/// The caller answers for what the call does to memory and to the process.
#[inline(always)]
pub(crate) unsafe fn syscall(nr: u64, args: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: the kernel clobbers rax, rcx and r11 only; the effects are the caller's to justify.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") nr.cast_signed() => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}
