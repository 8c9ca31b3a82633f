//! epoll_ctl(2): files and folders cannot be watched.
//!
//! To the host's kernel a file of the tree is one of FUSE, which might answer poll: it would take it into
//! the set and call it ready for ever.

use crate::guest::{self, GuestAddr};
use crate::host;
use crate::thread::Thread;
use dunix_shim_core::{Errno, nr};

/// Bytes of `struct epoll_event`.
type Event = [u8; 12];
const EPOLL_CTL_ADD: u64 = 1;
const EPOLL_CTL_DEL: u64 = 2;

/// Whether the call adds a file of the tree. What is none is remembered until it is closed: programs take the same
/// descriptors out of a set and in again all the time.
pub(crate) fn is_refused(thread: &Thread, args: [u64; 6]) -> bool {
    let (watchable, fd) = (&thread.process().watchable, host::int_arg(args[2]));
    if u64::from(host::uint_arg(args[1])) != EPOLL_CTL_ADD || watchable.has(fd) {
        return false;
    }
    let is_file = is_file_of_tree(args[2]);
    if !is_file {
        watchable.insert(fd);
    }
    is_file
}

/// The error of adding a file of the tree; `None`: the call is the host's.
pub(crate) fn refused(thread: &Thread, args: [u64; 6]) -> Option<Errno> {
    if !is_refused(thread, args) {
        return None;
    }
    // What Linux finds first.
    if let Err(error) = guest::read::<Event>(GuestAddr(args[3])) {
        return Some(error);
    }
    // SAFETY: takes out what is in no set: tells only whether there is a descriptor.
    let result = unsafe { host::call(nr::EPOLL_CTL, [args[0], EPOLL_CTL_DEL, args[2], 0, 0, 0]) };
    Some(if result == Err(Errno::EBADF) { Errno::EBADF } else { Errno::EPERM })
}

fn is_file_of_tree(fd: u64) -> bool {
    const S_IFMT: u32 = 0o170_000;
    const S_IFDIR: u32 = 0o040_000;
    const S_IFREG: u32 = 0o100_000;
    const FUSE_SUPER_MAGIC: u64 = 0x6573_5546;
    let mut stat = [0u64; 18];
    // SAFETY: writes the structure only.
    let is_known = unsafe { host::call(nr::FSTAT, [fd, stat.as_mut_ptr() as u64, 0, 0, 0, 0]) };
    if is_known.is_err() || !matches!(host::uint_arg(stat[3]) & S_IFMT, S_IFDIR | S_IFREG) {
        return false;
    }
    let mut system = [0u64; 15];
    // SAFETY: writes the structure only.
    let is_known = unsafe { host::call(nr::FSTATFS, [fd, system.as_mut_ptr() as u64, 0, 0, 0, 0]) };
    is_known.is_ok() && system[0] == FUSE_SUPER_MAGIC
}
