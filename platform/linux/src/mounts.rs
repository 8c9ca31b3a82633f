//! Mounts: detached copies of trees and their attributes.

use crate::clone::as_errno;
use rustix::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Makes a detached tree of mounts, and all below it, read-only, without device nodes and set-uid
/// programs, and cut off from the propagation of other mounts.
///
/// # Errors
/// What mount_setattr(2) reports.
pub fn restrict_recursively(tree: BorrowedFd<'_>) -> io::Result<()> {
    let restrictions = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    set_recursively(tree, restrictions, None)
}

/// Cuts a detached tree of mounts off from the propagation of other mounts.
///
/// # Errors
/// What mount_setattr(2) reports.
pub fn make_private_recursively(tree: BorrowedFd<'_>) -> io::Result<()> {
    set_recursively(tree, 0, None)
}

/// Shows the files of a detached tree of mounts with the ids that those on its file systems have in this
/// user namespace (an idmapped mount); one that it does not map shows as nobody's. For good.
///
/// # Errors
/// What mount_setattr(2) reports: `EINVAL` for a file system that cannot be mounted so.
pub fn map_ids_recursively(tree: BorrowedFd<'_>, users: BorrowedFd<'_>) -> io::Result<()> {
    set_recursively(tree, libc::MOUNT_ATTR_IDMAP, Some(users))
}

fn set_recursively(
    tree: BorrowedFd<'_>,
    attributes: u64,
    users: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let users = users.map_or(0, |users| u64::try_from(users.as_raw_fd()).unwrap_or_default());
    let attributes = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: users,
    };
    // SAFETY: the empty path is zero-terminated, the structure is initialised and its size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(as_errno(std::io::Error::last_os_error())) }
}
