//! Making a mount, for whoever sets a node up.

use rustix::{
    fd::{AsRawFd, BorrowedFd, OwnedFd},
    fs::{Mode, OFlags},
    io,
    mount::{MountFlags, mount},
};
use std::{ffi::CString, path::Path};

/// The most bytes that the kernel asks for in one read.
pub const MAX_READ_BYTES: u32 = 1 << 20;

/// Returns the options of mount(2) for an open `/dev/fuse`, for a tree that several users share and
/// whose permissions the kernel checks.
#[must_use]
pub fn mount_options(device: BorrowedFd<'_>) -> String {
    let fd = device.as_raw_fd();
    format!(
        "fd={fd},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,\
         max_read={MAX_READ_BYTES}"
    )
}

/// Opens `/dev/fuse` and mounts it at `path`, without set-uid effect and devices.
///
/// # Errors
/// The host's: no permission to mount, no `/dev/fuse`.
pub fn mount_at(path: &Path, source: &str) -> io::Result<OwnedFd> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let options = {
        use rustix::fd::AsFd;
        CString::new(mount_options(device.as_fd())).map_err(|_| io::Errno::INVAL)?
    };
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount(source, path, "fuse.dunix", flags, Some(options.as_c_str()))?;
    Ok(device)
}
