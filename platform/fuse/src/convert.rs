//! Between the library's plain types and ours.

use dunix_ids::Ino;
use dunix_wire::files::{Attr, Errno, Kind, Lease, Name, OpenMode, SetTime, Time};
use fuser::{FileAttr, FileType, FopenFlags, INodeNo, OpenAccMode, OpenFlags, TimeOrNow};
use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const O_EXCL: i32 = 0o200;
const O_TRUNC: i32 = 0o1000;
pub(crate) const O_APPEND: i32 = 0o2000;

/// For how long the kernel keeps what is leased: it is recalled, it does not run out.
const LEASE: Duration = Duration::from_secs(1 << 30);
/// Large, so that the C library's streams make few requests; no power above 64 KiB helps.
const BLOCK_BYTES: u32 = 64 << 10;

pub(crate) fn ino(ino: INodeNo) -> Ino {
    Ino(ino.0)
}

pub(crate) fn name(name: &OsStr) -> Name {
    Name(name.as_bytes().to_vec())
}

/// What stands for a user or group that the fabric does not have.
const NOBODY: u32 = 65_534;

pub(crate) fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(i32::from(errno.0))
}

pub(crate) fn kind(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// Returns the times to live of attributes and of the name.
pub(crate) fn lives(lease: Lease, names_can_be_recalled: bool) -> (Duration, Duration) {
    let life = |leased| if leased { LEASE } else { Duration::ZERO };
    (life(lease.attr), life(lease.entry && names_can_be_recalled))
}

/// Returns what stands for the attributes of no inode.
pub(crate) fn no_attr() -> FileAttr {
    let nothing = Attr {
        ino: Ino(0),
        kind: Kind::File,
        mode: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        atime: Time::default(),
        mtime: Time::default(),
        ctime: Time::default(),
        xattrs: false,
    };
    attr(&nothing, 0)
}

/// Returns a guest's id of the kernel's, whose namespace has the guests' 0 at `id_first`; ids below
/// are no guest's.
pub(crate) fn guest_id(id: u32, id_first: u32) -> u32 {
    id.checked_sub(id_first).unwrap_or(NOBODY)
}

/// Returns the kernel's id of a guest's.
pub(crate) fn kernel_id(id: u32, id_first: u32) -> u32 {
    id.saturating_add(id_first)
}

pub(crate) fn attr(attr: &Attr, id_first: u32) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: kind(attr.kind),
        perm: u16::try_from(attr.mode & 0o7777).unwrap_or(0),
        nlink: attr.nlink,
        uid: kernel_id(attr.uid, id_first),
        gid: kernel_id(attr.gid, id_first),
        rdev: attr.rdev,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

pub(crate) fn open_mode(flags: OpenFlags) -> OpenMode {
    let mode = flags.acc_mode();
    OpenMode {
        read: mode != OpenAccMode::O_WRONLY,
        write: mode != OpenAccMode::O_RDONLY,
        truncate: flags.0 & O_TRUNC != 0,
        exclusive: flags.0 & O_EXCL != 0,
    }
}

pub(crate) fn open_flags(cached: bool) -> FopenFlags {
    if cached { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::FOPEN_DIRECT_IO }
}

pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(our_time(time)),
    }
}

fn our_time(time: SystemTime) -> Time {
    let parts =
        |span: Duration| (i64::try_from(span.as_secs()).unwrap_or(i64::MAX), span.subsec_nanos());
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => {
            let (secs, nanos) = parts(after);
            Time { secs, nanos }
        }
        Err(before) => match parts(before.duration()) {
            (secs, 0) => Time { secs: -secs, nanos: 0 },
            (secs, nanos) => Time { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
        },
    }
}

fn system_time(time: Time) -> SystemTime {
    let whole = Duration::from_secs(time.secs.unsigned_abs());
    let base =
        if time.secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    base.and_then(|base| base.checked_add(Duration::from_nanos(time.nanos.into())))
        .unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_both_ways() {
        for time in [
            Time { secs: 0, nanos: 0 },
            Time { secs: 1_700_000_000, nanos: 999_999_999 },
            Time { secs: -1, nanos: 1 },
            Time { secs: -5, nanos: 0 },
        ] {
            assert_eq!(our_time(system_time(time)), time);
        }
    }
}
