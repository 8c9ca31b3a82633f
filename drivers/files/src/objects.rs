//! The store of file data: one object a file, named by its inode, in a directory on disk.
//!
//! A file without an object is empty. Owns: the directory `objects` below the upper. Refuses:
//! everything but data and their times; names, owners and modes are the tree's. Invariant: no object
//! is shared by two inodes, and none is left from an earlier life of the volume.

use crate::host::{errno, io_errno};
use dunix_ids::Ino;
use dunix_wire::files::{Errno, Statfs};
use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, Mode, OFlags, Stat},
};
use std::{fs::File, io, path::Path};

const SHARDS: u64 = 256;

pub(crate) struct Objects {
    root: OwnedFd,
}

impl Objects {
    /// Makes an empty store. What lies in `objects` from before is removed: this volume's names live
    /// in memory, so that it could not be reached any more.
    pub(crate) fn make(upper: &Path) -> io::Result<Objects> {
        let path = upper.join("objects");
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => std::fs::create_dir(&path)?,
        }
        for shard in 0..SHARDS {
            std::fs::create_dir(path.join(format!("{shard:02x}")))?;
        }
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Objects { root: rustix::fs::open(&path, flags, Mode::empty())? })
    }

    /// Opens the object of a file, if it has one.
    pub(crate) fn open(&self, ino: Ino) -> Result<Option<File>, Errno> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.root, name(ino), flags, Mode::empty()) {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(other) => Err(errno(other)),
        }
    }

    /// Makes the object of a file that has none.
    pub(crate) fn create(&self, ino: Ino) -> Result<File, Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.root, name(ino), flags, Mode::from_raw_mode(0o600));
        fd.map(File::from).map_err(errno)
    }

    /// Returns an object's attributes, if there is one.
    pub(crate) fn stat(&self, ino: Ino) -> Option<Stat> {
        rustix::fs::statat(&self.root, name(ino), AtFlags::SYMLINK_NOFOLLOW).ok()
    }

    /// Removes the object of a file that is no more; that it had none is no error.
    pub(crate) fn remove(&self, ino: Ino) {
        match rustix::fs::unlinkat(&self.root, name(ino), AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => tracing::warn!(?ino, %error, "an object stays behind"),
        }
    }

    pub(crate) fn sizes(&self) -> Result<Statfs, Errno> {
        let stat = rustix::fs::fstatvfs(&self.root).map_err(errno)?;
        Ok(Statfs {
            blocks: stat.f_blocks,
            blocks_free: stat.f_bfree,
            blocks_available: stat.f_bavail,
            files: stat.f_files,
            files_free: stat.f_ffree,
            block_bytes: u32::try_from(stat.f_frsize).unwrap_or(4096),
        })
    }
}

/// Copies all data of `from`; the host shares blocks if it can.
pub(crate) fn copy(mut from: &File, mut to: &File) -> Result<(), Errno> {
    io::copy(&mut from, &mut to).map(|_| ()).map_err(|error| io_errno(&error))
}

fn name(ino: Ino) -> String {
    format!("{:02x}/{:x}", ino.0 % SHARDS, ino.0)
}
