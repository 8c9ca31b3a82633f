//! Looks for what two parties of a lab share although they should not: nodes with one another, a node
//! with the lab's owner. For tests.
//!
//! Each function returns what is shared, in words; nothing is what a test wants.

use crate::traces::{KINDS, namespace};
use dunix_linux::kcmp::same_description_of;
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

/// A node, or the lab's owner with its helpers.
#[derive(Clone, Debug)]
pub struct Party {
    /// Its name in reports.
    pub name: String,
    /// The host's numbers of its processes.
    pub processes: Vec<u32>,
    /// Mount points of file systems that it is given from the owner's, read-only but for `/upper`.
    pub given: Vec<&'static str>,
}

/// Returns what any two of the parties share.
#[must_use]
pub fn shared(parties: &[Party]) -> Vec<String> {
    let mut found = Vec::new();
    for (at, a) in parties.iter().enumerate() {
        for b in &parties[at + 1..] {
            let who = format!("{} and {}", a.name, b.name);
            let between = shared_by(a, b);
            found.extend(between.into_iter().map(|what| format!("{who}: {what}")));
        }
    }
    found
}

fn shared_by(a: &Party, b: &Party) -> Vec<String> {
    let mut found = Vec::new();
    for &a in &a.processes {
        for &b in &b.processes {
            let both =
                KINDS.iter().filter_map(|kind| Some((namespace(a, kind)?, namespace(b, kind)?)));
            found.extend(both.filter(|(a, b)| a == b).map(|(name, _)| format!("namespace {name}")));
            found.extend(shared_descriptions(a, b));
            let (a, b) = (mapped(a), mapped(b));
            found.extend(a.intersection(&b).map(|file| format!("mapped file {file:?}")));
        }
    }
    let (files_a, files_b) = (open_files(a), open_files(b));
    found.extend(files_a.intersection(&files_b).map(|file| format!("open file {file:?}")));
    let (mounts_a, mounts_b) = (file_systems(a), file_systems(b));
    found.extend(mounts_a.intersection(&mounts_b).map(|device| format!("file system {device}")));
    found
}

fn shared_descriptions(a: u32, b: u32) -> Vec<String> {
    let (all_a, all_b) = (descriptors(a), descriptors(b));
    let pairs = all_a.iter().flat_map(|a| all_b.iter().map(move |b| (*a, *b)));
    // A descriptor that is closed meanwhile is not shared.
    let same =
        |(fd_a, fd_b): &(i32, i32)| same_description_of((a, *fd_a), (b, *fd_b)).unwrap_or(false);
    pairs.filter(same).map(|(a, b)| format!("description of descriptors {a} and {b}")).collect()
}

/// Descriptor numbers of a process.
#[must_use]
pub fn descriptors(process: u32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The files that a process maps, as device and inode; programs and libraries included.
#[must_use]
pub fn mapped(process: u32) -> BTreeSet<(String, String)> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
    let files = maps.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(3);
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    });
    files.filter(|(_, inode)| inode != "0").collect()
}

/// Device and inode of what a party has open, but for what is no shared object although it has one
/// number: eventfds and the like lie on one inode of the kernel's, and the owner and a node hold the
/// two ends of the node's lifeline.
fn open_files(party: &Party) -> BTreeSet<(u64, u64)> {
    let anonymous = anonymous_inode();
    let each = party.processes.iter().flat_map(|process| {
        descriptors(*process).into_iter().filter_map(move |fd| identity(*process, fd))
    });
    each.filter(|file| Some(*file) != anonymous && !is_lifeline(party, *file)).collect()
}

/// The owner's ends of pipes are not looked at by inode: their other ends are the nodes'.
fn is_lifeline(party: &Party, file: (u64, u64)) -> bool {
    party.name == OWNER && party.processes.iter().any(|process| is_pipe(*process, file))
}

/// The name of the owner's party.
pub const OWNER: &str = "owner";

fn is_pipe(process: u32, file: (u64, u64)) -> bool {
    descriptors(process).into_iter().any(|fd| {
        identity(process, fd) == Some(file)
            && fs::read_link(format!("/proc/{process}/fd/{fd}"))
                .is_ok_and(|link| link.to_string_lossy().starts_with("pipe:"))
    })
}

/// `None` for a descriptor that is closed meanwhile, and for a file of a tree: only members of the
/// node's user namespace may ask for its attributes, and its file system is told by its mounts.
fn identity(process: u32, descriptor: i32) -> Option<(u64, u64)> {
    match fs::metadata(format!("/proc/{process}/fd/{descriptor}")) {
        Ok(metadata) => Some((metadata.dev(), metadata.ino())),
        Err(error) => {
            debug_assert!(matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::PermissionDenied
            ));
            None
        }
    }
}

fn anonymous_inode() -> Option<(u64, u64)> {
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).ok()?;
    identity(std::process::id(), event.as_raw_fd())
}

/// The devices of the file systems that a party sees mounted, but for what it is given.
fn file_systems(party: &Party) -> BTreeSet<String> {
    let mut devices = BTreeSet::new();
    for process in &party.processes {
        let info = fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap_or_default();
        for line in info.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let [_, _, device, _, point, options, ..] = fields[..] else { continue };
            let is_given = party.given.iter().any(|given| is_under(point, given));
            let may_write = point != "/upper" && !options.split(',').any(|option| option == "ro");
            if !is_given || may_write {
                devices.insert(device.to_owned());
            }
        }
    }
    devices
}

fn is_under(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two parties of one process each, which share all that processes can.
    #[test]
    fn what_is_shared_is_found() {
        let this = |name: &str| Party {
            name: name.into(),
            processes: vec![std::process::id()],
            given: Vec::new(),
        };
        let found = shared(&[this("a"), this("b")]);
        for what in ["namespace", "description", "mapped file", "open file", "file system"] {
            let is_it = |line: &String| line.starts_with(&format!("a and b: {what}"));
            assert!(found.iter().any(is_it), "{what} in {found:?}");
        }
    }
}
