//! Mapping calls that name memory of the reserved range, which is not the guest's: it cannot be unmapped, and to the
//! guest nothing is mapped there.

use super::Answer;
use crate::guest::{self, GuestAddr};
use crate::host;
use dunix_shim_core::memory::outside;
use dunix_shim_core::{Errno, nr};

/// Handles a call of [`Class::Mapping`](dunix_shim_core::table::Class::Mapping),
/// [`Class::Remapping`](dunix_shim_core::table::Class::Remapping) or
/// [`Class::Attaching`](dunix_shim_core::table::Class::Attaching).
pub(crate) fn try_handle(number: u64, args: [u64; 6]) -> Option<Answer> {
    let result = match number {
        nr::MMAP => outside(args[0] & !0xfff, args[1]).map(|_| map(args))?,
        nr::MUNMAP => on_parts(number, args, outside(args[0], args[1])?),
        nr::MPROTECT | nr::PKEY_MPROTECT | nr::MADVISE => {
            on_parts(number, args, outside(args[0], args[1])?).and(Err(Errno::ENOMEM))
        }
        nr::REMAP_FILE_PAGES => outside(args[0], args[1]).and(Some(Err(Errno::EINVAL)))?,
        nr::MREMAP => remap(args)?,
        nr::SHMAT => {
            outside(args[1] & !0xfff, segment_bytes(args[0])?).and(Some(Err(Errno::EINVAL)))?
        }
        _ => return None,
    };
    Some(result.into())
}

/// process_madvise(2) of the caller itself, with the advices that there are for others. Ends at what fails; returns for how
/// many bytes it counted.
pub(crate) fn advise_own(parts: GuestAddr, count: u64, advice: u64) -> Result<u64, Errno> {
    /// `UIO_MAXIOV`.
    const PARTS_MAX: u64 = 1024;
    /// `MADV_WILLNEED`, `MADV_COLD`, `MADV_PAGEOUT`, `MADV_COLLAPSE`.
    const ADVICES: [u64; 4] = [3, 20, 21, 25];
    if count > PARTS_MAX {
        return Err(Errno::EINVAL);
    }
    let part = |index| guest::read::<[u64; 2]>(GuestAddr(parts.0.wrapping_add(16 * index)));
    for index in 0..count {
        part(index)?;
    }
    if !ADVICES.contains(&advice) {
        return Err(Errno::EINVAL);
    }
    let mut done = 0u64;
    for index in 0..count {
        let [start, bytes] = part(index)?;
        let args = [start, bytes, advice, 0, 0, 0];
        let result = match outside(start, bytes) {
            Some(parts) => on_parts(nr::MADVISE, args, parts).and(Err(Errno::ENOMEM)),
            // SAFETY: the guest's own memory, which loses nothing by these advices.
            None => unsafe { host::call(nr::MADVISE, args) },
        };
        match result {
            Ok(_) => done += bytes,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// A range around the reserved one has a hole there: what comes first is done.
fn on_parts(number: u64, args: [u64; 6], parts: [Option<(u64, u64)>; 2]) -> Result<u64, Errno> {
    for (start, length) in parts.into_iter().flatten() {
        let of_part = [start, length, args[2], args[3], args[4], args[5]];
        // SAFETY: the guest's own call, on memory that is not the shim's.
        unsafe { host::call(number, of_part) }?;
        // mprotect(2) ends at the first hole.
        if matches!(number, nr::MPROTECT | nr::PKEY_MPROTECT) {
            break;
        }
    }
    Ok(0)
}

fn map(mut args: [u64; 6]) -> Result<u64, Errno> {
    const MAP_FIXED: u64 = 0x10;
    const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;
    match args[3] {
        flags if flags & MAP_FIXED_NOREPLACE != 0 => Err(Errno::EEXIST),
        flags if flags & MAP_FIXED != 0 => Err(Errno::ENOMEM),
        _ => {
            // Only a wish.
            args[0] = 0;
            // SAFETY: the guest's own call, placed by the host where nothing is.
            unsafe { host::call(nr::MMAP, args) }
        }
    }
}

fn remap(args: [u64; 6]) -> Option<Result<u64, Errno>> {
    const MREMAP_FIXED: u64 = 2;
    if outside(args[0], args[1].max(1)).is_some() {
        return Some(Err(Errno::EFAULT));
    }
    let to = args[3] & MREMAP_FIXED != 0 && outside(args[4], args[2]).is_some();
    to.then_some(Err(Errno::EINVAL))
}

/// The size of a segment of System V; `None` if it cannot be attached anyway.
fn segment_bytes(id: u64) -> Option<u64> {
    const IPC_STAT: u64 = 2;
    /// Words of `struct shmid64_ds`, and which is the size.
    const WORDS: usize = 14;
    const BYTES_AT: usize = 6;
    let mut status = [0u64; WORDS];
    // SAFETY: writes the structure only.
    unsafe { host::call(nr::SHMCTL, [id, IPC_STAT, status.as_mut_ptr() as u64, 0, 0, 0]) }.ok()?;
    Some(status[BYTES_AT])
}
