//! The host's set-id programs and their true owners, for the node that shows the host's root.
//!
//! That node sees ids that its user namespace lacks as one and the same. It could be given another view of
//! the host's files, with their ids mapped; but what it owns there it could read, too. So it is told.

use crate::config::GUEST_IDS;
use crate::error::LabError;
use rustix::fs::{StatVfsMountFlags, statvfs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where the node that shows the host's root finds them, in JSON.
pub const SET_IDS_FILE: &str = "/set-ids";
/// Most of them; what is found after is shown without its bits.
const SET_IDS_MAX: usize = 1024;
/// Where programs are looked for, but not below.
const FOLDERS: [&str; 6] =
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin", "/usr/local/sbin"];
const SET_IDS: u32 = 0o6000;

/// A program of the host that gives its owner or group to who executes it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SetIdProgram {
    /// Below the host's root, without leading slash or links.
    pub path: String,
    pub device: u64,
    pub inode: u64,
    /// The set-id bits.
    pub bits: u32,
    /// The host's numbers, which guests have as well.
    pub uid: u32,
    pub gid: u32,
}

/// Looks for them, as the host's root.
pub(crate) fn find() -> Vec<SetIdProgram> {
    let folders: BTreeSet<PathBuf> =
        FOLDERS.iter().filter_map(|f| fs::canonicalize(f).ok()).collect();
    let folders = folders.iter().filter(|folder| lets_set_ids(folder));
    folders.flat_map(|folder| programs_in(folder)).take(SET_IDS_MAX).collect()
}

/// Tells the node whose root is there.
pub(crate) fn write(root: &str, programs: &[SetIdProgram]) -> Result<(), LabError> {
    let path = format!("{root}{SET_IDS_FILE}");
    let text = serde_json::to_vec(programs).map_err(std::io::Error::from);
    text.and_then(|text| fs::write(&path, text)).map_err(LabError::state(&path))?;
    fs::set_permissions(&path, Permissions::from_mode(0o644)).map_err(LabError::state(&path))
}

fn programs_in(folder: &Path) -> Vec<SetIdProgram> {
    // What cannot be read has no programs for anybody.
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| program(&entry.path())).collect()
}

fn program(path: &Path) -> Option<SetIdProgram> {
    let found = fs::symlink_metadata(path).ok()?;
    let is_shown =
        found.is_file() && found.mode() & SET_IDS != 0 && found.uid().max(found.gid()) < GUEST_IDS;
    is_shown.then_some(())?;
    Some(SetIdProgram {
        path: path.strip_prefix("/").ok()?.to_str()?.to_owned(),
        device: found.dev(),
        inode: found.ino(),
        bits: found.mode() & SET_IDS,
        uid: found.uid(),
        gid: found.gid(),
    })
}

/// Whether set-id programs have their effect where a path leads.
fn lets_set_ids(path: &Path) -> bool {
    statvfs(path).is_ok_and(|found| !found.f_flag.contains(StatVfsMountFlags::NOSUID))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_with_their_owners() {
        let folder = std::env::temp_dir().join(format!("dunix-set-ids-{}", std::process::id()));
        fs::create_dir_all(folder.join("below")).unwrap();
        for (name, mode) in [("plain", 0o755), ("user", 0o4755), ("group", 0o2755)] {
            fs::write(folder.join(name), "").unwrap();
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        std::os::unix::fs::symlink("user", folder.join("link")).unwrap();
        fs::set_permissions(folder.join("below"), fs::Permissions::from_mode(0o2755)).unwrap();
        let mut found = programs_in(&folder);
        found.sort_by(|a, b| a.path.cmp(&b.path));
        let own = rustix::process::geteuid().as_raw();
        let shown: Vec<_> = found.iter().map(|p| (p.path.rsplit('/').next(), p.bits)).collect();
        assert_eq!(shown, [(Some("group"), 0o2000), (Some("user"), 0o4000)]);
        assert!(found.iter().all(|p| p.uid == own && !p.path.starts_with('/')));
        fs::remove_dir_all(folder).unwrap();
    }
}
