//! Guest memory, which may be absent, wrong or hostile: every access is an allegation until copied.
//!
//! Refuses: addresses in the reserved range, so that a stray pointer of the guest cannot make the
//! shim change itself.

use crate::arch::copy;
use crate::host;
use crate::thread::Thread;
use core::mem::MaybeUninit;
use core::sync::atomic::AtomicU32;
use dunix_guest_abi::layout;
use dunix_shim_core::{Errno, nr};

const PAGE_BYTES: u64 = 4096;

/// An address that the guest gave.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct GuestAddr(pub(crate) u64);

impl GuestAddr {
    pub(crate) const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The address `bytes` further on.
    pub(crate) const fn plus(self, bytes: u64) -> GuestAddr {
        GuestAddr(self.0.wrapping_add(bytes))
    }

    fn check(self, bytes: usize) -> Result<(), Errno> {
        let end = self.0.checked_add(bytes as u64).ok_or(Errno::EFAULT)?;
        if self.0 < layout::END && end > layout::BASE { Err(Errno::EFAULT) } else { Ok(()) }
    }
}

/// Copies bytes from the guest.
///
/// # Errors
/// `EFAULT`.
pub(crate) fn read_bytes(from: GuestAddr, to: &mut [u8]) -> Result<(), Errno> {
    match read_some(from, to)? {
        read if read == to.len() => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

/// Copies as many bytes as are there; returns how many.
fn read_some(from: GuestAddr, to: &mut [u8]) -> Result<usize, Errno> {
    from.check(to.len())?;
    // SAFETY: `to` is the shim's; faults on the guest's side end the copy.
    Ok(to.len() - unsafe { fetch(to.as_mut_ptr(), from, to.len()) })
}

/// Copies from the guest; returns how many bytes are missing.
///
/// # Safety
/// `to` is the shim's, writable for `bytes`.
unsafe fn fetch(to: *mut u8, from: GuestAddr, bytes: usize) -> usize {
    if Thread::has_faults_blocked() && !is_there(from, bytes, can_read) {
        // SAFETY: forwarded from the caller.
        return bytes - unsafe { by_kernel(nr::PROCESS_VM_READV, to as u64, from, bytes) };
    }
    // SAFETY: forwarded from the caller; faults on the guest's side end the copy.
    unsafe { copy::copy(to, from.0 as *const u8, bytes) }
}

/// Whether the first and the last byte can be used, and with them all between, on two pages at most. Only a thread that
/// takes memory away which another is just giving to a call could make that wrong.
fn is_there(at: GuestAddr, bytes: usize, can_use: fn(u64) -> bool) -> bool {
    const WORD: u64 = 8;
    let last = at.0.wrapping_add((bytes as u64).saturating_sub(1));
    let (first, last) = (at.0 & !(WORD - 1), last & !(WORD - 1));
    let is_one_page = first / PAGE_BYTES == last / PAGE_BYTES;
    bytes <= host::to_usize(PAGE_BYTES) && can_use(first) && (is_one_page || can_use(last))
}

/// Whether eight bytes can be read: rt_sigprocmask(2) reads a set before it finds that it is to do nothing.
fn can_read(word: u64) -> bool {
    const NO_CHANGE: u64 = 99;
    // SAFETY: changes nothing.
    let asked = unsafe { host::call(nr::RT_SIGPROCMASK, [NO_CHANGE, word, 0, 8, 0, 0]) };
    asked == Err(Errno::EINVAL)
}

/// Whether eight bytes can be written: a futex operation `or`s nothing into them, and wakes nobody there.
fn can_write(word: u64) -> bool {
    const WAKE_OP_PRIVATE: u64 = 5 | 128;
    const OP_OR: u64 = 2 << 28;
    /// Would wake somebody only behind a word of this value.
    const NEVER: u64 = 0x7ff;
    static NOBODY: AtomicU32 = AtomicU32::new(0);
    let args = [NOBODY.as_ptr() as u64, WAKE_OP_PRIVATE, 0, 0, word, OP_OR | NEVER];
    // SAFETY: changes nothing.
    unsafe { host::call(nr::FUTEX, args) }.is_ok()
}

/// Lets the kernel copy, which says how much it cannot reach: a fault here would end the process while it
/// blocks SIGSEGV or SIGBUS. Returns how many bytes were copied.
///
/// # Safety
/// `own` is the shim's, valid for `bytes`.
unsafe fn by_kernel(number: u64, own: u64, guest: GuestAddr, bytes: usize) -> usize {
    let (own, other) = ([own, bytes as u64], [guest.0, bytes as u64]);
    let pid = u64::from(host::getpid());
    let args = [pid, own.as_ptr() as u64, 1, other.as_ptr() as u64, 1, 0];
    // SAFETY: forwarded from the caller; the other side is checked by the kernel.
    let copied = unsafe { host::call(number, args) }.unwrap_or(0);
    host::to_usize(copied).min(bytes)
}

/// Copies bytes to the guest.
///
/// # Errors
/// `EFAULT`.
pub(crate) fn write_bytes(to: GuestAddr, from: &[u8]) -> Result<(), Errno> {
    to.check(from.len())?;
    let (own, bytes) = (from.as_ptr(), from.len());
    let missing = if Thread::has_faults_blocked() && !is_there(to, bytes, can_write) {
        // SAFETY: `from` is the shim's.
        bytes - unsafe { by_kernel(nr::PROCESS_VM_WRITEV, own as u64, to, bytes) }
    } else {
        // SAFETY: `from` is the shim's; faults on the guest's side end the copy.
        unsafe { copy::copy(to.0 as *mut u8, own, bytes) }
    };
    if missing == 0 { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Plain data that may be copied byte by byte.
///
/// # Safety
/// Every bit pattern is a value, and the type has no padding that matters.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: integers.
unsafe impl Plain for u8 {}
// SAFETY: integers.
unsafe impl Plain for u32 {}
// SAFETY: integers.
unsafe impl Plain for i32 {}
// SAFETY: integers.
unsafe impl Plain for u64 {}
// SAFETY: an array of plain data.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}
// SAFETY: integers only.
unsafe impl Plain for crate::arch::frame::AltStack {}
// SAFETY: integers only.
unsafe impl Plain for crate::arch::frame::SigInfo {}
// SAFETY: integers only.
unsafe impl Plain for crate::arch::frame::Context {}
// SAFETY: integers only.
unsafe impl Plain for crate::arch::frame::Frame {}
// SAFETY: one integer.
unsafe impl Plain for dunix_shim_core::signal::SigSet {}
// SAFETY: integers only.
unsafe impl Plain for crate::process::Action {}

/// Reads a value.
///
/// # Errors
/// `EFAULT`.
pub(crate) fn read<T: Plain>(from: GuestAddr) -> Result<T, Errno> {
    let mut value = MaybeUninit::<T>::uninit();
    from.check(size_of::<T>())?;
    // SAFETY: the destination is ours and large enough.
    let missing = unsafe { fetch(value.as_mut_ptr().cast(), from, size_of::<T>()) };
    // SAFETY: all bytes were copied, and every bit pattern of plain data is a value.
    if missing == 0 { Ok(unsafe { value.assume_init() }) } else { Err(Errno::EFAULT) }
}

/// Writes a value.
///
/// # Errors
/// `EFAULT`.
pub(crate) fn write<T: Plain>(to: GuestAddr, value: &T) -> Result<(), Errno> {
    // SAFETY: plain data may be seen as bytes.
    let bytes = unsafe { core::slice::from_raw_parts((&raw const *value).cast(), size_of::<T>()) };
    write_bytes(to, bytes)
}

/// Puts `new` in the place of `expected`, as one step for all threads; returns what was there.
///
/// # Errors
/// `EFAULT`; `EINVAL` if the address is no multiple of 4.
pub(crate) fn exchange(at: GuestAddr, expected: u32, new: u32) -> Result<u32, Errno> {
    at.check(size_of::<u32>())?;
    if !at.0.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    // SAFETY: the guest's and aligned, as was checked just now.
    unsafe { copy::exchange(at.0 as *mut u32, expected, new) }.ok_or(Errno::EFAULT)
}

/// Reads a zero-terminated string, without the zero.
///
/// # Errors
/// `EFAULT`; `ENAMETOOLONG` if it and its zero do not fit into `buffer`.
pub(crate) fn read_str(from: GuestAddr, buffer: &mut [u8]) -> Result<&[u8], Errno> {
    let mut have = 0;
    while have < buffer.len() {
        // Never reads past a page that may be the last one mapped.
        let at = from.plus(have as u64);
        let page_rest = 4096 - (at.0 % 4096) as usize;
        let want = page_rest.min(buffer.len() - have).min(256);
        let got = read_some(at, &mut buffer[have..have + want])?;
        if let Some(zero) = buffer[have..have + got].iter().position(|&b| b == 0) {
            return Ok(&buffer[..have + zero]);
        }
        if got < want {
            return Err(Errno::EFAULT);
        }
        have += got;
    }
    Err(Errno::ENAMETOOLONG)
}
