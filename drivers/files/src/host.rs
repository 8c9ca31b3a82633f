//! Small translations between the host's types and the fabric's.

use dunix_wire::files::{Errno, Kind, Time};
use rustix::fs::FileType;
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) fn errno(host: rustix::io::Errno) -> Errno {
    Errno(u16::try_from(host.raw_os_error()).unwrap_or(Errno::EIO.0))
}

pub(crate) fn io_errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().and_then(|raw| u16::try_from(raw).ok()).map_or(Errno::EIO, Errno)
}

pub(crate) fn kind_of(file_type: FileType) -> Option<Kind> {
    Some(match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Unknown => return None,
    })
}

pub(crate) fn time(secs: i64, nanos: i64) -> Time {
    Time { secs, nanos: u32::try_from(nanos).unwrap_or(0) }
}

pub(crate) fn now() -> Time {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => Time {
            secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: since.subsec_nanos(),
        },
        Err(_) => Time::default(),
    }
}
