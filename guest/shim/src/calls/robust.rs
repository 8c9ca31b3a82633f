//! Robust futexes: their words hold TIDs of the fabric, so the shim, not the kernel, marks the
//! owner's death (`Documentation/locking/robust-futex-ABI.rst`).

use crate::guest::{self, GuestAddr};
use crate::host;
use crate::thread::Thread;
use dunix_shim_core::{Errno, nr};

pub(super) const FUTEX_WAITERS: u32 = 0x8000_0000;
pub(super) const FUTEX_OWNER_DIED: u32 = 0x4000_0000;
pub(super) const FUTEX_TID_MASK: u32 = 0x3fff_ffff;
/// As the kernel's `ROBUST_LIST_LIMIT`.
const ENTRIES_MAX: usize = 2048;
/// Bytes of `struct robust_list_head`.
const HEAD_BYTES: u64 = 24;

/// set_robust_list(2).
pub(crate) fn set_robust_list(thread: &Thread, args: [u64; 6]) -> Result<u64, Errno> {
    if args[1] != HEAD_BYTES {
        return Err(Errno::EINVAL);
    }
    thread.robust.set((args[0], args[1]));
    Ok(0)
}

/// Marks every robust futex that the ending thread holds, and wakes one waiter each.
pub(crate) fn release(thread: &Thread) {
    let (head, _) = thread.robust.replace((0, 0));
    if head == 0 {
        return;
    }
    let Ok([first, offset, pending]) = guest::read::<[u64; 3]>(GuestAddr(head)) else { return };
    let mut entry = first & !1;
    for _ in 0..ENTRIES_MAX {
        if entry == head {
            break;
        }
        // The next entry is read before the mark lets others change this one.
        let next = guest::read::<u64>(GuestAddr(entry));
        if entry != pending & !1 {
            mark(thread, entry.wrapping_add(offset));
        }
        let Ok(next) = next else { return };
        entry = next & !1;
    }
    if pending & !1 != 0 {
        mark(thread, (pending & !1).wrapping_add(offset));
    }
}

fn mark(thread: &Thread, at: u64) {
    let at = GuestAddr(at);
    let Ok(mut value) = guest::read::<u32>(at) else { return };
    while value & FUTEX_TID_MASK == thread.tid.get() {
        let dead = value & FUTEX_WAITERS | FUTEX_OWNER_DIED;
        match guest::exchange(at, value, dead) {
            Ok(found) if found == value => {
                if value & FUTEX_WAITERS != 0 {
                    // SAFETY: wakes one waiter of a word, shared or not.
                    let _ = unsafe { host::call(nr::FUTEX, [at.0, 1, 1, 0, 0, 0]) };
                }
                return;
            }
            Ok(found) => value = found,
            Err(_) => return,
        }
    }
}
