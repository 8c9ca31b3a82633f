//! Another process's memory (process_vm_readv(2)), as unvalidated bytes.
//!
//! Invariant: nothing here trusts an address or a length of a guest; a fault there is
//! [`Errno::FAULT`], a process that is gone [`Errno::SRCH`]. Strings and pointer lists have limits.

use crate::{Errno, Result, check};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Types of which every bit pattern is a value and which have no padding.
///
/// # Safety
/// The type is `repr(C)`, has no padding, no references, no niches.
pub unsafe trait Plain: Copy {}

// SAFETY: integers have no padding and no invalid pattern.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: an array of plain values is plain.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// The memory of the process that a host thread belongs to.
#[derive(Clone, Copy, Debug)]
pub struct GuestMemory {
    tid: i32,
}

/// Most ranges of one bulk call (`IOV_MAX`).
pub const RANGES_MAX: usize = 1024;

/// Bytes that one page holds; the unit in which strings are fetched.
const PAGE: usize = 4096;

impl GuestMemory {
    /// Names the memory of the process of the host thread `tid`; nothing is checked yet.
    #[must_use]
    pub fn of(tid: u32) -> GuestMemory {
        GuestMemory { tid: tid.cast_signed() }
    }

    /// Reads exactly `into.len()` bytes.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<()> {
        if self.read_some(address, into)? == into.len() { Ok(()) } else { Err(Errno::FAULT) }
    }

    /// Reads as many bytes as are mapped, at most `into.len()`.
    pub fn read_some(&self, address: u64, into: &mut [u8]) -> Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let remote = libc::iovec { iov_base: address as *mut _, iov_len: into.len() };
        // SAFETY: `local` is writable memory of `into`; the remote side is checked by the kernel.
        let done =
            check(unsafe { libc::process_vm_readv(self.tid, &local, 1, &remote, 1, 0) } as i64)?;
        usize::try_from(done).map_err(|_| Errno::FAULT)
    }

    /// Reads several ranges (at most [`RANGES_MAX`]), one after the other, into one buffer, and
    /// returns how many bytes came before the first that is not mapped or not readable.
    pub fn read_ranges(&self, ranges: &[Range<u64>], into: &mut [u8]) -> Result<usize> {
        let remote = remote_ranges(ranges, into.len())?;
        let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let count = remote.len() as libc::c_ulong;
        // SAFETY: `local` is writable memory of `into`; the remote side is checked by the kernel.
        let done =
            check(
                unsafe { libc::process_vm_readv(self.tid, &local, 1, remote.as_ptr(), count, 0) }
                    as i64,
            )?;
        usize::try_from(done).map_err(|_| Errno::FAULT)
    }

    /// Writes several ranges (at most [`RANGES_MAX`]), one after the other, from one buffer.
    pub fn write_ranges(&self, ranges: &[Range<u64>], from: &[u8]) -> Result<()> {
        let remote = remote_ranges(ranges, from.len())?;
        let local = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
        let count = remote.len() as libc::c_ulong;
        // SAFETY: the local side is only read and lives in `from`; the kernel checks the other.
        let done =
            check(
                unsafe { libc::process_vm_writev(self.tid, &local, 1, remote.as_ptr(), count, 0) }
                    as i64,
            )?;
        if usize::try_from(done) == Ok(from.len()) { Ok(()) } else { Err(Errno::FAULT) }
    }

    /// Writes all of `from`.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<()> {
        self.write_pieces(&[(address, from)])
    }

    /// Writes several pieces (at most 8) in one call.
    pub fn write_pieces(&self, pieces: &[(u64, &[u8])]) -> Result<()> {
        let mut local = [libc::iovec { iov_base: core::ptr::null_mut(), iov_len: 0 }; 8];
        let mut remote = local;
        if pieces.len() > local.len() {
            return Err(Errno::INVAL);
        }
        let mut bytes = 0;
        for (i, (address, from)) in pieces.iter().enumerate() {
            local[i] =
                libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
            remote[i] = libc::iovec { iov_base: *address as *mut _, iov_len: from.len() };
            bytes += from.len();
        }
        let count = pieces.len() as libc::c_ulong;
        // SAFETY: the local side is only read and lives in `pieces`; the kernel checks the other.
        let done = check(unsafe {
            libc::process_vm_writev(self.tid, local.as_ptr(), count, remote.as_ptr(), count, 0)
        } as i64)?;
        if usize::try_from(done) == Ok(bytes) { Ok(()) } else { Err(Errno::FAULT) }
    }

    /// Reads a plain structure.
    pub fn read_plain<T: Plain>(&self, address: u64) -> Result<T> {
        let mut value = MaybeUninit::<T>::zeroed();
        // SAFETY: the zeroed bytes of `value` are initialised and exclusively borrowed.
        let bytes = unsafe {
            core::slice::from_raw_parts_mut(value.as_mut_ptr().cast::<u8>(), size_of::<T>())
        };
        self.read(address, bytes)?;
        // SAFETY: `Plain` accepts every bit pattern, and all bytes are initialised.
        Ok(unsafe { value.assume_init() })
    }

    /// Writes a plain structure.
    pub fn write_plain<T: Plain>(&self, address: u64, value: &T) -> Result<()> {
        self.write(address, plain_bytes(value))
    }

    /// Reads a string up to its zero, which is not returned; [`Errno::NAMETOOLONG`] beyond `max`.
    pub fn read_string(&self, address: u64, max: usize) -> Result<Vec<u8>> {
        let mut string = Vec::new();
        let mut at = address;
        loop {
            let mut page = [0; PAGE];
            let in_page = to_page_end(at);
            let got = self.read_some(at, &mut page[..in_page])?;
            if let Some(end) = page[..got].iter().position(|&b| b == 0) {
                string.extend_from_slice(&page[..end]);
                return if string.len() < max { Ok(string) } else { Err(Errno::NAMETOOLONG) };
            }
            string.extend_from_slice(&page[..got]);
            if got < in_page {
                return Err(Errno::FAULT);
            }
            if string.len() >= max {
                return Err(Errno::NAMETOOLONG);
            }
            at = at.checked_add(got as u64).ok_or(Errno::FAULT)?;
        }
    }

    /// Reads a null-terminated list of strings, as execve(2) takes it; [`Errno::TOOBIG`] (`E2BIG`)
    /// if strings and pointers together exceed `max` bytes. A null list is an empty one.
    pub fn read_strings(&self, list: u64, max: usize) -> Result<Vec<Vec<u8>>> {
        let mut strings = Vec::new();
        if list == 0 {
            return Ok(strings);
        }
        let mut budget = max;
        for address in self.read_pointers(list, max / 8)? {
            budget = budget.checked_sub(9).ok_or(Errno::TOOBIG)?;
            let string = self.read_string(address, budget + 1).map_err(|e| match e {
                Errno::NAMETOOLONG => Errno::TOOBIG,
                other => other,
            })?;
            budget = budget.checked_sub(string.len()).ok_or(Errno::TOOBIG)?;
            strings.push(string);
        }
        Ok(strings)
    }

    fn read_pointers(&self, list: u64, max: usize) -> Result<Vec<u64>> {
        let mut pointers = Vec::new();
        let mut at = list;
        loop {
            let mut block = [0_u8; 512];
            let in_page = to_page_end(at).min(block.len());
            // A list that is not aligned to 8 may cross a page within a pointer.
            let want = if in_page < 8 { 8 } else { in_page & !7 };
            let got = self.read_some(at, &mut block[..want])? & !7;
            for bytes in block[..got].as_chunks::<8>().0 {
                match u64::from_ne_bytes(*bytes) {
                    0 => return Ok(pointers),
                    pointer => pointers.push(pointer),
                }
                if pointers.len() > max {
                    return Err(Errno::TOOBIG);
                }
            }
            if got < want {
                return Err(Errno::FAULT);
            }
            at = at.checked_add(got as u64).ok_or(Errno::FAULT)?;
        }
    }
}

/// Ranges as the kernel takes them; [`Errno::INVAL`] unless they are as long as the buffer.
fn remote_ranges(ranges: &[Range<u64>], bytes: usize) -> Result<Vec<libc::iovec>> {
    let mut total = 0_usize;
    let mut remote = Vec::with_capacity(ranges.len());
    for range in ranges {
        let length = range.end.checked_sub(range.start).ok_or(Errno::INVAL)?;
        let iov_len = usize::try_from(length).map_err(|_| Errno::INVAL)?;
        total = total.checked_add(iov_len).ok_or(Errno::INVAL)?;
        remote.push(libc::iovec { iov_base: range.start as *mut _, iov_len });
    }
    if ranges.len() > RANGES_MAX || total != bytes {
        return Err(Errno::INVAL);
    }
    Ok(remote)
}

/// Bytes from an address to the end of its page, at least 1.
fn to_page_end(address: u64) -> usize {
    PAGE - usize::try_from(address % PAGE as u64).unwrap_or(0)
}

/// The bytes of a plain structure.
pub fn plain_bytes<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `Plain` has no padding, so that every byte is initialised; the borrow lives as long.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(value).cast(), size_of::<T>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> GuestMemory {
        GuestMemory::of(std::process::id())
    }

    #[test]
    fn strings_and_lists_come_back_and_limits_hold() {
        let (a, b) = (c"one", c"twenty");
        let list = [a.as_ptr() as u64, b.as_ptr() as u64, 0];
        let strings = own().read_strings(list.as_ptr() as u64, 4096).unwrap();
        assert_eq!(strings, [b"one".to_vec(), b"twenty".to_vec()]);
        assert_eq!(own().read_strings(list.as_ptr() as u64, 20), Err(Errno::TOOBIG));
        assert_eq!(own().read_string(b.as_ptr() as u64, 6), Err(Errno::NAMETOOLONG));
        assert_eq!(own().read_string(b.as_ptr() as u64, 7).unwrap(), b"twenty");
        assert!(own().read_strings(0, 16).unwrap().is_empty());
    }

    #[test]
    fn wild_addresses_fault() {
        assert_eq!(own().read_plain::<u64>(8), Err(Errno::FAULT));
        assert_eq!(own().write(8, b"x"), Err(Errno::FAULT));
        assert_eq!(own().read_string(u64::MAX, 9), Err(Errno::FAULT));
        assert_eq!(own().read_strings(16, 4096), Err(Errno::FAULT));
    }

    #[test]
    fn ranges_are_read_and_written_in_bulk() {
        let (source, mut target) = ([1_u8, 2, 3, 4, 5, 6, 7, 8], [0_u8; 8]);
        let at = source.as_ptr() as u64;
        let ranges = [at..at + 2, at + 5..at + 8];
        let mut bytes = [0; 5];
        assert_eq!(own().read_ranges(&ranges, &mut bytes), Ok(5));
        assert_eq!(bytes, [1, 2, 6, 7, 8]);
        assert_eq!(own().read_ranges(&ranges, &mut [0; 4]), Err(Errno::INVAL));
        assert_eq!(own().read_ranges(&[at..at + 2, 8..11], &mut bytes), Ok(2));
        let to = (&raw mut target) as u64;
        own().write_ranges(&[to + 6..to + 8, to..to + 1], &[9, 8, 7]).unwrap();
        assert_eq!(target, [7, 0, 0, 0, 0, 0, 9, 8]);
        assert_eq!(own().write_ranges(&[to..to + 1, 8..9], &[9, 8]), Err(Errno::FAULT));
    }

    #[test]
    fn plain_values_are_written_and_read() {
        let mut value = 7_u64;
        let address = (&raw mut value) as u64;
        own().write_plain(address, &0x0102_u64).unwrap();
        assert_eq!(own().read_plain::<u64>(address).unwrap(), 0x0102);
    }
}
