//! Copies between shim and guest memory; a fault ends the copy instead of the process.

use core::arch::global_asm;

unsafe extern "C" {
    fn dunix_copy(to: *mut u8, from: *const u8, bytes: usize) -> usize;
    static dunix_copy_fault_at: u8;
    static dunix_copy_fixup: u8;
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

/// Where to go on after a fault at `instruction`, if it is the copy's.
pub(crate) fn fixup(instruction: u64) -> Option<u64> {
    let at = &raw const dunix_copy_fault_at as u64;
    (instruction == at).then_some(&raw const dunix_copy_fixup as u64)
}
