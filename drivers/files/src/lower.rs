//! The lower directory of a copy-on-write volume: read, never written, and taken to be at rest.
//!
//! Owns: the open root, what is hidden below it, how its owners and modes are shown. Refuses: symbolic
//! links on the way. Invariants: a path never leads out of the root; a set-id bit is shown only with the
//! file's true owner and group.
//!
//! Ids that this daemon's user namespace lacks look alike (65534), root's and everybody's: shown as root,
//! which lets nobody do more than before. A set-id bit would. So it is left out, unless somebody who can
//! tell has said whose the file is ([`LowerConfig::set_ids`]).

use crate::host::{errno, kind_of, time};
use dunix_ids::Ino;
use dunix_volume::{LowerEntry, LowerStat};
use dunix_wire::files::{Attr, Errno, Kind};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat},
};
use std::{fs::File, path::Path};

const PERMISSIONS: u32 = 0o1777;
const SET_IDS: u32 = 0o6000;
const OVERFLOW_UID: u32 = 65534;

/// What of the lower is shown.
#[derive(Clone, Debug)]
pub struct LowerConfig {
    /// Paths below the root, without leading slash, that do not exist in the volume.
    pub hidden: Vec<String>,
    /// Directories that are empty in the volume, for others to be mounted on.
    pub hollow: Vec<String>,
    /// Its programs that give their owner or group to who executes them; others are shown without
    /// their set-id bits.
    pub set_ids: Vec<SetIdProgram>,
}

/// A program with set-id bits, as whoever can tell owners apart saw it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetIdProgram {
    /// Below the lower's root, without leading slash.
    pub path: String,
    /// What stat(2) says of the file that was seen.
    pub device: u64,
    pub inode: u64,
    /// The set-id bits.
    pub bits: u32,
    /// Owner and group as guests number them.
    pub uid: u32,
    pub gid: u32,
}

impl Default for LowerConfig {
    fn default() -> LowerConfig {
        let list = |paths: &[&str]| paths.iter().map(|path| String::from(*path)).collect();
        LowerConfig {
            hidden: list(&["run/dunix", "var/lib/dunix"]),
            hollow: list(&["proc", "sys", "dev"]),
            set_ids: Vec::new(),
        }
    }
}

pub(crate) struct Lower {
    root: OwnedFd,
    config: LowerConfig,
}

impl Lower {
    pub(crate) fn open_root(root: &Path, config: LowerConfig) -> rustix::io::Result<Lower> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Lower { root: rustix::fs::open(root, flags, Mode::empty())?, config })
    }

    /// Lists a directory; one that this daemon may not read is shown empty, so that a guest's root
    /// can use its home though the host's is closed to it.
    pub(crate) fn list(&self, path: &[u8]) -> Result<Vec<LowerEntry>, Errno> {
        if self.config.hollow.iter().any(|hollow| hollow.as_bytes() == path) {
            return Ok(Vec::new());
        }
        let fd = match self.open_at(path, OFlags::DIRECTORY) {
            Ok(fd) => fd,
            Err(Errno::EACCES | Errno::ENOENT) => return Ok(Vec::new()),
            Err(other) => return Err(other),
        };
        let device = rustix::fs::fstat(&fd).map_err(errno)?.st_dev;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&fd).map_err(errno)? {
            let entry = entry.map_err(errno)?;
            let name = entry.file_name().to_bytes().to_vec();
            if name == b"." || name == b".." || self.hides(path, &name) {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => kind_at(&fd, &name),
                known => kind_of(known),
            };
            if let Some(kind) = kind {
                entries.push(LowerEntry { name, kind, id: (device, entry.ino()) });
            }
        }
        Ok(entries)
    }

    pub(crate) fn stat(&self, path: &[u8]) -> Result<LowerStat, Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        let stat = rustix::fs::statat(&self.root, path, flags).map_err(errno)?;
        let kind = kind_of(FileType::from_raw_mode(stat.st_mode)).ok_or(Errno::EIO)?;
        let target = if kind == Kind::Symlink {
            let target = rustix::fs::readlinkat(&self.root, path, Vec::new()).map_err(errno)?;
            target.into_bytes()
        } else {
            Vec::new()
        };
        let attr = self.with_set_ids(path, &stat, shown(&stat, kind));
        Ok(LowerStat { attr, target })
    }

    /// Adds the set-id bits of a program whose owner and group are known, and these.
    fn with_set_ids(&self, path: &[u8], stat: &Stat, attr: Attr) -> Attr {
        if stat.st_mode & SET_IDS == 0 || attr.kind != Kind::File {
            return attr;
        }
        let found = self.config.set_ids.iter().find(|known| known.path.as_bytes() == path);
        match found {
            // Something else may have taken its place.
            Some(known)
                if (known.device, known.inode, known.bits)
                    == (stat.st_dev, stat.st_ino, stat.st_mode & SET_IDS) =>
            {
                Attr { mode: attr.mode | known.bits, uid: known.uid, gid: known.gid, ..attr }
            }
            _ => attr,
        }
    }

    pub(crate) fn open(&self, path: &[u8]) -> Result<File, Errno> {
        self.open_at(path, OFlags::NONBLOCK).map(File::from)
    }

    fn open_at(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { &b"."[..] } else { path };
        let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let within =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), within).map_err(errno)
    }

    fn hides(&self, dir: &[u8], name: &[u8]) -> bool {
        self.config.hidden.iter().any(|hidden| match hidden.rsplit_once('/') {
            Some((above, last)) => above.as_bytes() == dir && last.as_bytes() == name,
            None => dir.is_empty() && hidden.as_bytes() == name,
        })
    }
}

fn kind_at(dir: impl AsFd, name: &[u8]) -> Option<Kind> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    kind_of(FileType::from_raw_mode(stat.st_mode))
}

/// An owner that is not mapped into our user namespace is the host's: root, to the guests.
fn owner(id: u32) -> u32 {
    if id == OVERFLOW_UID { 0 } else { id }
}

#[expect(clippy::unnecessary_cast, reason = "the field's types differ between architectures")]
fn shown(stat: &Stat, kind: Kind) -> Attr {
    Attr {
        ino: Ino(0),
        kind,
        mode: stat.st_mode & PERMISSIONS,
        nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        uid: owner(stat.st_uid),
        gid: owner(stat.st_gid),
        rdev: u32::try_from(stat.st_rdev).unwrap_or(0),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
        atime: time(stat.st_atime as i64, stat.st_atime_nsec as i64),
        mtime: time(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        ctime: time(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        // Those of the lower are not shown.
        xattrs: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Who cannot tell root from somebody else shows no bit that makes somebody root.
    #[test]
    fn set_id_bits_are_shown_of_known_programs_only() {
        let dir = std::env::temp_dir().join(format!("dunix-lower-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for name in ["known", "unknown"] {
            std::fs::write(dir.join(name), "").unwrap();
            let mode = std::fs::Permissions::from_mode(0o6755);
            std::fs::set_permissions(dir.join(name), mode).unwrap();
        }
        let stat = rustix::fs::stat(dir.join("known")).unwrap();
        let known = SetIdProgram {
            path: "known".into(),
            device: stat.st_dev,
            inode: stat.st_ino,
            bits: 0o6000,
            uid: 7,
            gid: 8,
        };
        let shown = |name: &str, set_ids: &[SetIdProgram]| {
            let config = LowerConfig { set_ids: set_ids.to_vec(), ..LowerConfig::default() };
            let attr = Lower::open_root(&dir, config).unwrap().stat(name.as_bytes()).unwrap().attr;
            (attr.mode, attr.uid, attr.gid)
        };
        let plain = shown("known", &[]);
        assert_eq!(plain.0, 0o755);
        assert_eq!(shown("known", std::slice::from_ref(&known)), (0o6755, 7, 8));
        assert_eq!(shown("unknown", std::slice::from_ref(&known)), plain);
        let other = SetIdProgram { inode: known.inode + 1, ..known.clone() };
        assert_eq!(shown("known", &[other]), plain, "another file");
        let other = SetIdProgram { bits: 0o4000, ..known };
        assert_eq!(shown("known", &[other]), plain, "it had other bits");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
