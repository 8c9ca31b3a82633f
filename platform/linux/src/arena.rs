//! Memory that this process writes and others may only read: a sealed memfd with a mapping.
//!
//! Invariant: after [`Arena::new`] nobody can write, map writable, shrink or grow the file except
//! through the one mapping that the arena holds, whatever descriptor he has.

use crate::Result;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

/// A shared, zero-initialised array of 32-bit words.
#[derive(Debug)]
pub struct Arena {
    fd: OwnedFd,
    words: NonNull<AtomicU32>,
    bytes: usize,
}

// SAFETY: the memory is only reached through atomics.
unsafe impl Send for Arena {}
// SAFETY: the memory is only reached through atomics.
unsafe impl Sync for Arena {}

impl Arena {
    /// Makes an arena of `bytes` bytes (rounded down to whole words).
    pub fn new(name: &str, bytes: usize) -> Result<Arena> {
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, bytes as u64)?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let address =
            unsafe { mmap(core::ptr::null_mut(), bytes, prot, MapFlags::SHARED, &fd, 0) }?;
        fcntl_add_seals(
            &fd,
            SealFlags::FUTURE_WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
        )?;
        let read_only =
            std::fs::File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd)));
        // Without /proc the seals alone keep readers from writing.
        let fd = read_only.map_or(fd, OwnedFd::from);
        let words = NonNull::new(address.cast()).ok_or(crate::Errno::NOMEM)?;
        Ok(Arena { fd, words, bytes })
    }

    /// The word at `index`, or `None` beyond the end.
    #[must_use]
    pub fn word(&self, index: usize) -> Option<&AtomicU32> {
        if index >= self.bytes / size_of::<u32>() {
            return None;
        }
        // SAFETY: the index is inside the mapping, which lives as long as `self` and is aligned to
        // a page; zeroes are a valid AtomicU32.
        Some(unsafe { self.words.add(index).as_ref() })
    }
}

/// The descriptor that may be given to readers.
impl AsFd for Arena {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference outlives `self`.
        let _ = unsafe { munmap(self.words.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn readers_see_and_cannot_write() {
        let arena = Arena::new("test", 4096).unwrap();
        arena.word(3).unwrap().store(9, Ordering::Release);
        let mut bytes = [0; 4];
        assert_eq!(rustix::io::pread(&arena, &mut bytes, 12), Ok(4));
        assert_eq!(u32::from_ne_bytes(bytes), 9);
        assert!(arena.word(1024).is_none());
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&arena.as_fd()));
        if let Ok(file) = std::fs::OpenOptions::new().write(true).open(path) {
            assert_eq!(rustix::io::pwrite(&file, b"x", 0), Err(crate::Errno::PERM));
        }
    }
}
