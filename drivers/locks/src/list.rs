//! What the kernel tells of locks and of the files that descriptors are open on (proc(5)).

use dunix_ids::Ino;
use dunix_wire::locks::LockKind;

/// A file system's number: major, minor.
pub(crate) type Device = (u32, u32);

/// The last byte of a lock to the end of the file.
const LAST: u64 = i64::MAX.cast_unsigned();

/// A lock that somebody has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// The process on this host; `None`: an open file description.
    pub(crate) host_pid: Option<u32>,
    pub(crate) kind: LockKind,
    pub(crate) device: Device,
    pub(crate) ino: Ino,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// The locks of parts of files in `/proc/locks`; those that somebody waits for are not among them.
pub(crate) fn entries(text: &str) -> impl Iterator<Item = Entry> {
    text.lines().filter_map(entry)
}

fn entry(line: &str) -> Option<Entry> {
    let mut words = line.split_whitespace().skip(1);
    // A lock that waits has an arrow here.
    let is_description = match words.next()? {
        "POSIX" => false,
        "OFDLCK" => true,
        _ => return None,
    };
    let kind = match words.nth(1)? {
        "READ" => LockKind::Read,
        "WRITE" => LockKind::Write,
        _ => return None,
    };
    let pid = words.next()?;
    let host_pid = if is_description { None } else { Some(pid.parse().ok()?) };
    let mut file = words.next()?.split(':');
    let major = u32::from_str_radix(file.next()?, 16).ok()?;
    let minor = u32::from_str_radix(file.next()?, 16).ok()?;
    let ino = Ino(file.next()?.parse().ok()?);
    let first = words.next()?.parse().ok()?;
    let last = match words.next()? {
        "EOF" => LAST,
        last => last.parse().ok()?,
    };
    Some(Entry { host_pid, kind, device: (major, minor), ino, first, last })
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
        let (device, ino) = ((0, 0x2d), Ino(5_678_901_234_567));
        let write =
            Entry { host_pid: Some(17), kind: LockKind::Write, device, ino, first: 0, last: LAST };
        let (kind, ino) = (LockKind::Read, Ino(9));
        let read = Entry { host_pid: None, kind, device, ino, first: 10, last: 19 };
        assert_eq!(found, [write, read]);
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
