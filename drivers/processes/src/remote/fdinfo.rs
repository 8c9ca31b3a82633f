//! What `/proc/<pid>/fdinfo` tells of descriptors (proc_pid_fdinfo(5)).

use super::capture::Unmovable;
use dunix_linux::Errno;
use dunix_wire::processes::image::EpollMember;

/// One descriptor of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Descriptor {
    pub(super) number: i32,
    /// Its status flags, and `O_CLOEXEC`.
    pub(super) flags: u32,
}

/// The descriptors of a process in the order of their numbers, at most `max`.
pub(super) fn descriptors(host_pid: u32, max: usize) -> Result<Vec<Descriptor>, Unmovable> {
    let gone = |_| Unmovable::Host(Errno::SRCH);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{host_pid}/fdinfo")).map_err(gone)? {
        let entry = entry.map_err(gone)?;
        let Some(number) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let Ok(info) = std::fs::read_to_string(entry.path()) else { continue };
        found.push(Descriptor { number, flags: flags(&info) });
        if found.len() > max {
            return Err(Unmovable::TooMany);
        }
    }
    found.sort_unstable_by_key(|descriptor| descriptor.number);
    Ok(found)
}

/// All that is told of one descriptor.
pub(super) fn of(host_pid: u32, number: i32) -> Result<String, Errno> {
    std::fs::read_to_string(format!("/proc/{host_pid}/fdinfo/{number}"))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::BADF))
}

/// The descriptor's status flags, and `O_CLOEXEC`.
pub(super) fn flags(info: &str) -> u32 {
    octal(info, "flags:").unwrap_or(0)
}

/// A number behind a name: decimal.
pub(super) fn number(info: &str, name: &str) -> Option<u64> {
    line(info, name)?.parse().ok()
}

/// A number behind a name: octal.
pub(super) fn octal(info: &str, name: &str) -> Option<u32> {
    u32::from_str_radix(line(info, name)?, 8).ok()
}

/// A number behind a name: hexadecimal.
pub(super) fn hexadecimal(info: &str, name: &str) -> Option<u64> {
    u64::from_str_radix(line(info, name)?, 16).ok()
}

/// Seconds and nanoseconds behind a name, in nanoseconds.
pub(super) fn time_ns(info: &str, name: &str) -> Option<u64> {
    let (seconds, rest) =
        line(info, name)?.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    let seconds: u64 = seconds.trim().parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(rest.trim().parse().ok()?)
}

/// The members of an epoll set, each with the inode of what it watches.
pub(super) fn epoll_members(info: &str) -> Option<Vec<(EpollMember, u64)>> {
    let lines = info.lines().filter(|line| line.starts_with("tfd:"));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let mut value = |name: &str| {
                let word = words.next()?;
                if word == name { words.next() } else { word.strip_prefix(name) }
            };
            let fd = value("tfd:")?.parse().ok()?;
            let events = u32::from_str_radix(value("events:")?, 16).ok()?;
            let data = u64::from_str_radix(value("data:")?, 16).ok()?;
            value("pos:")?;
            let inode = u64::from_str_radix(value("ino:")?, 16).ok()?;
            Some((EpollMember { fd, events, data }, inode))
        })
        .collect()
}

fn line<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    Some(info.lines().find_map(|line| line.strip_prefix(name))?.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        let info = "pos:\t0\nflags:\t02004002\nmnt_id:\t15\nino:\t1053\nclockid: 1\nticks: 2\n\
                    settime flags: 00\nit_value: (3, 250)\nit_interval: (1, 0)\n";
        assert_eq!(flags(info), 0o2_004_002);
        assert_eq!(number(info, "clockid:"), Some(1));
        assert_eq!(number(info, "ticks:"), Some(2));
        assert_eq!(time_ns(info, "it_value:"), Some(3_000_000_250));
        assert_eq!(octal(info, "settime flags:"), Some(0));
        assert_eq!(time_ns(info, "missing:"), None);
        assert_eq!(hexadecimal("sigmask:\t0000000000000200\n", "sigmask:"), Some(0x200));
    }

    #[test]
    fn members_of_a_set_are_read() {
        let info = "pos:\t0\nflags:\t02\n\
            tfd:        4 events:       19 data:      fffffffff00000004  pos:0 ino:1d sdev:e\n";
        assert_eq!(epoll_members(info), None, "more bits than data has");
        let info = "tfd:        4 events: 80000019 data: ffffffff00000004  pos:0 ino:1d sdev:e\n";
        let member = EpollMember { fd: 4, events: 0x8000_0019, data: 0xffff_ffff_0000_0004 };
        assert_eq!(epoll_members(info), Some(vec![(member, 0x1d)]));
    }
}
