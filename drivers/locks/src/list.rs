//! What the kernel tells of locks and of the files that descriptors are open on (proc(5)).

use dunix_ids::Ino;
use dunix_wire::locks::LockKind;
use std::{iter, path::PathBuf};

/// A file system's number: major, minor.
pub(crate) type Device = (u32, u32);

/// The last byte of a lock to the end of the file.
const LAST: u64 = i64::MAX.cast_unsigned();

/// Who has a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holder {
    /// A process, by its number on this host.
    Process(u32),
    /// An open file description, of a part of the file.
    Description,
    /// An open file description, of the whole file (flock(2)).
    Flock,
}

/// A lock that somebody has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) holder: Holder,
    pub(crate) kind: LockKind,
    pub(crate) device: Device,
    pub(crate) ino: Ino,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// The locks in `/proc/locks`; those that somebody waits for are not among them.
pub(crate) fn entries(text: &str) -> impl Iterator<Item = Entry> {
    text.lines().filter_map(entry)
}

/// Whether `/proc/locks` is complete. In a PID namespace of its own a node's kernel leaves out what is held for a description
/// by a process that has ended (flock(2) by a program of that name, in a script).
pub(crate) fn is_complete() -> bool {
    /// The inode of the first PID namespace (`PROC_PID_INIT_INO`).
    const FIRST: &str = "pid:[4026531836]";
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|name| name.as_os_str() == FIRST)
}

/// What descriptors of this host's processes have locked by flock(2), as lines of `/proc/locks`: slow, but complete but for
/// descriptors on their way in a message between programs.
pub(crate) fn by_descriptors() -> String {
    let mut lines = String::new();
    let own = || PathBuf::from("/proc/self");
    let Ok(processes) = std::fs::read_dir("/proc") else { return lines };
    // In this order: programs come and go meanwhile, and leave a description with this process or take it from it.
    let others = processes.flatten().map(|process| process.path());
    for process in iter::once(own()).chain(others).chain(iter::once_with(own)) {
        let Ok(descriptors) = std::fs::read_dir(process.join("fdinfo")) else { continue };
        for descriptor in descriptors.flatten() {
            let info = std::fs::read_to_string(descriptor.path()).unwrap_or_default();
            let locks = info.lines().filter_map(|line| line.strip_prefix("lock:"));
            for line in locks.filter(|line| line.contains(" FLOCK ")) {
                lines.push_str(line.trim_start());
                lines.push('\n');
            }
        }
    }
    lines
}

fn entry(line: &str) -> Option<Entry> {
    let mut words = line.split_whitespace().skip(1);
    // A lock that waits has an arrow here.
    let sort = words.next().filter(|sort| ["POSIX", "OFDLCK", "FLOCK"].contains(sort))?;
    let kind = match words.nth(1)? {
        "READ" => LockKind::Read,
        "WRITE" => LockKind::Write,
        _ => return None,
    };
    let pid = words.next()?;
    let holder = match sort {
        "POSIX" => Holder::Process(pid.parse().ok()?),
        "OFDLCK" => Holder::Description,
        _ => Holder::Flock,
    };
    let mut file = words.next()?.split(':');
    let major = u32::from_str_radix(file.next()?, 16).ok()?;
    let minor = u32::from_str_radix(file.next()?, 16).ok()?;
    let ino = Ino(file.next()?.parse().ok()?);
    let first = words.next()?.parse().ok()?;
    let last = match words.next()? {
        "EOF" => LAST,
        last => last.parse().ok()?,
    };
    Some(Entry { holder, kind, device: (major, minor), ino, first, last })
}

/// The file of the tree that a descriptor of a process is open on, and the tree's number there. Asks
/// nobody who might wait for the tree.
pub(crate) fn file_of(host_pid: u32, descriptor: i32) -> Option<(Device, Ino)> {
    let read = |name: String| std::fs::read_to_string(format!("/proc/{host_pid}/{name}")).ok();
    let info = read(format!("fdinfo/{descriptor}"))?;
    let value = |name: &str| info.lines().find_map(|line| line.strip_prefix(name));
    let ino = Ino(value("ino:")?.trim().parse().ok()?);
    let mount = value("mnt_id:")?.trim();
    Some((device_of(&read("mountinfo".to_owned())?, mount)?, ino))
}

/// The number of the file system of a mount, if that is the tree.
fn device_of(mounts: &str, mount: &str) -> Option<Device> {
    let line = mounts.lines().find(|line| line.split(' ').next() == Some(mount))?;
    let (before, after) = line.split_once(" - ")?;
    if !after.starts_with("fuse.dunix ") {
        return None;
    }
    let (major, minor) = before.split(' ').nth(2)?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_is_read() {
        let text = "1: POSIX  ADVISORY  WRITE 17 00:2d:5678901234567 0 EOF\n\
            1: -> POSIX  ADVISORY  WRITE 18 00:2d:5678901234567 0 EOF\n\
            2: FLOCK  ADVISORY  WRITE 12633 fe:00:10010647 0 EOF\n\
            3: OFDLCK ADVISORY  READ  -1 00:2d:9 10 19\n\
            4: LEASE  ACTIVE    READ  5 00:2d:9 0 EOF\n\
            nonsense\n";
        let found: Vec<Entry> = entries(text).collect();
        let (device, ino, kind) = ((0, 0x2d), Ino(5_678_901_234_567), LockKind::Write);
        let write = Entry { holder: Holder::Process(17), kind, device, ino, first: 0, last: LAST };
        let (holder, device, ino) = (Holder::Flock, (0xfe, 0), Ino(10_010_647));
        let whole = Entry { holder, kind, device, ino, first: 0, last: LAST };
        let (holder, device, ino, kind) = (Holder::Description, (0, 0x2d), Ino(9), LockKind::Read);
        let read = Entry { holder, kind, device, ino, first: 10, last: 19 };
        assert_eq!(found, [write, whole, read]);
    }

    #[test]
    fn the_tree_is_told_from_other_mounts() {
        let mounts = "36 1 0:45 / / rw,nosuid - fuse.dunix dunix rw,user_id=0\n\
            37 36 0:5 / /dev rw - tmpfs dunix rw\n\
            38 36 0:6 / /mnt rw - fuse other rw\n";
        assert_eq!(device_of(mounts, "36"), Some((0, 45)));
        assert_eq!(device_of(mounts, "37"), None);
        assert_eq!(device_of(mounts, "38"), None, "a guest's own");
        assert_eq!(device_of(mounts, "3"), None);
    }
}
