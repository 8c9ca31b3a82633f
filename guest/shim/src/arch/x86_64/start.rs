//! The entry point that the kernel jumps to, and the system calls behind the vDSO on hosts without one.

use core::arch::global_asm;

unsafe extern "C" {
    static dunix_plain_clock_gettime: u8;
    static dunix_plain_gettimeofday: u8;
    static dunix_plain_time: u8;
    static dunix_plain_getcpu: u8;
    static dunix_plain_clock_getres: u8;
}

global_asm!(
    ".pushsection .text.start,\"ax\",@progbits",
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rbx, rsp",
    "and rsp, -16",
    // The shim runs on a stack of its own from here on: it rebuilds the one the kernel made.
    "call {first_stack}",
    "mov rsp, rax",
    "mov rdi, rbx",
    "call {boot}",
    "ud2",
    ".globl dunix_plain_clock_gettime",
    "dunix_plain_clock_gettime:",
    "mov eax, 228",
    "syscall",
    "ret",
    ".globl dunix_plain_gettimeofday",
    "dunix_plain_gettimeofday:",
    "mov eax, 96",
    "syscall",
    "ret",
    ".globl dunix_plain_time",
    "dunix_plain_time:",
    "mov eax, 201",
    "syscall",
    "ret",
    ".globl dunix_plain_getcpu",
    "dunix_plain_getcpu:",
    "mov eax, 309",
    "syscall",
    "ret",
    ".globl dunix_plain_clock_getres",
    "dunix_plain_clock_getres:",
    "mov eax, 229",
    "syscall",
    "ret",
    ".popsection",
    first_stack = sym crate::boot::first_stack,
    boot = sym crate::boot::boot,
);

/// The functions of [`dunix_shim_core::vdso::FUNCTIONS`] as plain system calls.
pub(crate) fn plain_time_calls() -> [u64; 5] {
    [
        &raw const dunix_plain_clock_gettime as u64,
        &raw const dunix_plain_gettimeofday as u64,
        &raw const dunix_plain_time as u64,
        &raw const dunix_plain_getcpu as u64,
        &raw const dunix_plain_clock_getres as u64,
    ]
}
