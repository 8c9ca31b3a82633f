//! Copies between shim and guest memory, and exchanges in it; a fault ends them instead of the process.

use core::arch::global_asm;

unsafe extern "C" {
    fn dunix_copy(to: *mut u8, from: *const u8, bytes: usize) -> usize;
    static dunix_copy_fault_at: u8;
    static dunix_copy_fixup: u8;
    fn dunix_exchange(at: *mut u32, expected: u32, new: u32, found: *mut u32) -> u32;
    static dunix_exchange_fault_at: u8;
    static dunix_exchange_fixup: u8;
}

global_asm!(
    ".pushsection .text.copy,\"ax\",@progbits",
    ".globl dunix_copy",
    "dunix_copy:",
    "mov rcx, rdx",
    ".globl dunix_copy_fault_at",
    "dunix_copy_fault_at:",
    "rep movsb",
    ".globl dunix_copy_fixup",
    "dunix_copy_fixup:",
    "mov rax, rcx",
    "ret",
    ".globl dunix_exchange",
    "dunix_exchange:",
    "mov eax, esi",
    ".globl dunix_exchange_fault_at",
    "dunix_exchange_fault_at:",
    "lock cmpxchg dword ptr [rdi], edx",
    "mov dword ptr [rcx], eax",
    "xor eax, eax",
    "ret",
    ".globl dunix_exchange_fixup",
    "dunix_exchange_fixup:",
    "mov eax, 1",
    "ret",
    ".popsection",
);

/// Copies and returns how many bytes could not be copied because of a fault.
///
/// # Safety
/// One side is memory of the shim, valid for `bytes`; the other is any address of the guest's.
pub(crate) unsafe fn copy(to: *mut u8, from: *const u8, bytes: usize) -> usize {
    // SAFETY: forwarded from the caller; faults are caught by `fixup`.
    unsafe { dunix_copy(to, from, bytes) }
}

/// Puts `new` in the place of `expected`; returns what was there, `None` after a fault.
///
/// # Safety
/// `at` is an address of the guest's, a multiple of 4.
pub(crate) unsafe fn exchange(at: *mut u32, expected: u32, new: u32) -> Option<u32> {
    let mut found = 0;
    // SAFETY: forwarded from the caller; faults are caught by `fixup`.
    let fault = unsafe { dunix_exchange(at, expected, new, &raw mut found) };
    (fault == 0).then_some(found)
}

/// Where to go on after a fault at `instruction`, if it is one of those here.
pub(crate) fn fixup(instruction: u64) -> Option<u64> {
    let copy = (&raw const dunix_copy_fault_at as u64, &raw const dunix_copy_fixup as u64);
    let exchange =
        (&raw const dunix_exchange_fault_at as u64, &raw const dunix_exchange_fixup as u64);
    [copy, exchange].into_iter().find(|(at, _)| *at == instruction).map(|(_, go_on)| go_on)
}
