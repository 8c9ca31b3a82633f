//! Pseudo-terminals of one devpts: which one a descriptor belongs to, and making new ones.

use dunix_job_control::TerminalId;
use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid, fchown, fcntl_getfl, fstat, major, minor};
use rustix::io::Errno;
use rustix::pty::{grantpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Device number (major) of the slaves of a devpts (Linux `Documentation/admin-guide/devices.txt`).
const SLAVE_MAJOR: u32 = 136;
/// Device number of `/dev/ptmx`.
const MASTER: (u32, u32) = (5, 2);

/// Which side of a pseudo-terminal a descriptor is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Master,
    Slave,
}

/// The directory of a devpts: the home of its terminals.
#[derive(Debug)]
pub(crate) struct Devpts {
    directory: PathBuf,
    device: u64,
}

impl Devpts {
    pub(crate) fn open(directory: &Path) -> Result<Self, Errno> {
        let device = rustix::fs::stat(directory)?.st_dev;
        Ok(Self { directory: directory.to_owned(), device })
    }

    /// Tells which terminal a descriptor belongs to; `ENOTTY` if to none of this devpts.
    pub(crate) fn identify(&self, fd: BorrowedFd<'_>) -> Result<(TerminalId, Side), Errno> {
        let stat = fstat(fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
            return Err(Errno::NOTTY);
        }
        match (major(stat.st_rdev), minor(stat.st_rdev)) {
            (SLAVE_MAJOR, number) if stat.st_dev == self.device => {
                Ok((TerminalId(number), Side::Slave))
            }
            MASTER => Ok((master_number(fd)?, Side::Master)),
            _ => Err(Errno::NOTTY),
        }
    }

    /// Opens a slave by number.
    pub(crate) fn open_slave(&self, id: TerminalId, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = self.directory.join(id.0.to_string());
        rustix::fs::openat(CWD, path, flags | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
    }

    /// Makes a new pair, master first, with the slave owned by `owner`.
    pub(crate) fn new_pair(
        &self,
        size: Winsize,
        owner: Option<(u32, u32)>,
    ) -> Result<(OwnedFd, OwnedFd), Errno> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let master = rustix::fs::openat(CWD, self.directory.join("ptmx"), flags, Mode::empty())?;
        grantpt(&master)?;
        unlockpt(&master)?;
        // By name: TIOCGPTPEER would leave O_CLOEXEC among the flags of the description, where
        // `/proc/<pid>/fdinfo` shows it for descriptors that are kept at an exec.
        let slave = self.open_slave(master_number(master.as_fd())?, OFlags::RDWR)?;
        if let Some((uid, gid)) = owner
            && let Err(error) = fchown(&slave, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        {
            tracing::warn!(uid, gid, %error, "a new terminal keeps the daemon for owner");
        }
        tcsetwinsize(&master, size)?;
        Ok((master, slave))
    }

    /// Returns a descriptor of the slave that TIOCSCTTY accepts: open for reading and writing.
    pub(crate) fn slave_for_anchor(
        &self,
        id: TerminalId,
        side: Side,
        fd: BorrowedFd<'_>,
    ) -> Result<OwnedFd, Errno> {
        if side == Side::Slave && is_readable(fd)? {
            return rustix::io::fcntl_dupfd_cloexec(fd, 0);
        }
        self.open_slave(id, OFlags::RDWR)
    }
}

fn master_number(fd: BorrowedFd<'_>) -> Result<TerminalId, Errno> {
    let name = ptsname(fd, Vec::new())?;
    let digits = name.to_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    number.map(TerminalId).ok_or(Errno::NOTTY)
}

/// Tells whether a descriptor is open for reading.
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(fcntl_getfl(fd)? & OFlags::RWMODE != OFlags::WRONLY)
}

/// Tells whether background writes stop (`TOSTOP`).
pub(crate) fn has_tostop(fd: impl AsFd) -> Result<bool, Errno> {
    Ok(tcgetattr(fd)?.local_modes.contains(LocalModes::TOSTOP))
}
