//! What the host knows of a guest: `/proc` and descriptors, read as root of the node.

use dunix_linux::{Errno, Result};
use dunix_wire::processes::{Credentials, Rusage};
use rustix::process::{Pid as HostPid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::fs::File;
use std::io::Read;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// Takes a duplicate of a process's descriptor; the number is its allegation.
pub(crate) fn take_fd(host_pid: u32, number: RawFd) -> Result<OwnedFd> {
    if number < 0 {
        // The library asserts that there is none.
        return Err(Errno::BADF);
    }
    let pid = HostPid::from_raw(host_pid.cast_signed()).ok_or(Errno::SRCH)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    pidfd_getfd(process, number, PidfdGetfdFlags::empty())
}

/// Whether a host thread belongs to a host process.
pub(crate) fn has_thread(host_pid: u32, host_tid: u32) -> bool {
    std::fs::exists(format!("/proc/{host_pid}/task/{host_tid}")).unwrap_or(false)
}

/// [`MOVE_SIGNAL`](dunix_guest_abi::signal::MOVE_SIGNAL) in a set.
const MOVE_BIT: u64 = 1 << (dunix_guest_abi::signal::MOVE_SIGNAL - 1);

/// CAP_SYS_PTRACE in a set.
pub(crate) const TRACE_ANY: u64 = 1 << 19;

/// More bytes than a file of `/proc/PID` has here, `status` with 65,536 supplementary groups included.
const TEXT_BYTES: u64 = 1 << 20;
/// More than such a file has as a rule.
const FIRST_BYTES: usize = 4096;
/// Bytes of arguments that are shown.
const ARGUMENTS_BYTES: u64 = 4096;

/// The lines of `/proc/<pid>/status` that matter here, as the host says them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status {
    pub(crate) uids: [u32; 3],
    pub(crate) gids: [u32; 3],
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: u32,
    /// The effective ones, a bit each (capabilities(7)).
    pub(crate) capabilities: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) bounding: u64,
    pub(crate) ambient: u64,
    pub(crate) no_new_privs: bool,
    /// By which it looks at files.
    pub(crate) fs_ids: [u32; 2],
    /// Without the daemon's own move signal, which means the process where it is.
    pub(crate) signals_pending: u64,
    pub(crate) resident_bytes: u64,
}

impl Status {
    /// Reads a process's status, its ids as guests number them (`base` is their 0).
    pub(crate) fn of(host_pid: u32, base: u32) -> Result<Status> {
        let text = proc_text(host_pid, "status")
            .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::SRCH))?;
        Ok(Status::parse(&text, base))
    }

    fn parse(text: &str, base: u32) -> Status {
        let mut status = Status::default();
        for line in text.lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            let mask = || u64::from_str_radix(value.trim(), 16).unwrap_or(0);
            let ids = || value.split_whitespace().filter_map(|w| guest_id(w.parse().ok()?, base));
            match name {
                "Uid" => {
                    let slots = status.uids.iter_mut().chain(&mut status.fs_ids[..1]);
                    ids().zip(slots).for_each(|(id, slot)| *slot = id);
                }
                "Gid" => {
                    let slots = status.gids.iter_mut().chain(&mut status.fs_ids[1..]);
                    ids().zip(slots).for_each(|(id, slot)| *slot = id);
                }
                "Groups" => status.groups = ids().collect(),
                "Umask" => status.umask = u32::from_str_radix(value.trim(), 8).unwrap_or(0o22),
                "CapEff" => status.capabilities = mask(),
                "CapPrm" => status.permitted = mask(),
                "CapInh" => status.inheritable = mask(),
                "CapBnd" => status.bounding = mask(),
                "CapAmb" => status.ambient = mask(),
                "NoNewPrivs" => status.no_new_privs = value.trim() == "1",
                "SigPnd" | "ShdPnd" => status.signals_pending |= mask() & !MOVE_BIT,
                "VmRSS" => {
                    let kib = value.split_whitespace().next().and_then(|w| w.parse().ok());
                    status.resident_bytes = kib.unwrap_or(0_u64).saturating_mul(1024);
                }
                _ => {}
            }
        }
        status
    }

    /// The users of the process.
    pub(crate) fn credentials(&self) -> Credentials {
        let [uid, euid, suid] = self.uids;
        Credentials { uid, euid, suid }
    }
}

/// Whether a process is its user's to look into (prctl(2), `PR_SET_DUMPABLE`); its files in `/proc` are
/// root's if not. One that ends is nobody's.
pub(crate) fn is_dumpable(host_pid: u32) -> bool {
    let owner = |name: &str| {
        let path = format!("/proc/{host_pid}/{name}");
        std::fs::symlink_metadata(path).ok().map(|found| found.uid())
    };
    // A folder that everybody may read is the user's in any case.
    matches!((owner("task"), owner("environ")), (Some(user), Some(owner)) if user == owner)
}

/// A guest's number for an id of the node; ids from outside show as the overflow id.
fn guest_id(id: u32, base: u32) -> Option<u32> {
    Some(id.checked_sub(base).unwrap_or(65534))
}

/// CPU time in microseconds and niceness (`/proc/<pid>/stat`).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    pub(crate) cpu_micros: u64,
    pub(crate) nice: i32,
}

/// Clock ticks a second in `/proc` (`USER_HZ`, fixed in the ABI of x86-64).
const TICKS: u64 = 100;

impl Times {
    pub(crate) fn of(host_pid: u32) -> Option<Times> {
        Times::parse(&proc_text(host_pid, "stat").ok()?)
    }

    fn parse(text: &str) -> Option<Times> {
        // The name in parentheses may hold anything: fields are counted from its end.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks: u64 =
            fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some(Times {
            cpu_micros: ticks.saturating_mul(1_000_000 / TICKS),
            nice: fields.get(16)?.parse().ok()?,
        })
    }
}

/// What a live process has used: CPU time, faults, and the greatest resident set.
pub(crate) fn usage_of(host_pid: u32) -> Rusage {
    let read = |name: &str| proc_text(host_pid, name).unwrap_or_default();
    usage(&read("stat"), &read("status"))
}

/// The time that a process's first thread has had a processor; zero if that cannot be read
/// (`/proc/PID/schedstat`).
pub(crate) fn processor_time_of(host_pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{host_pid}/schedstat")).unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// How long all threads of a process together have had a processor or waited for one; zero if that cannot be read
/// (`/proc/PID/task/TID/schedstat`).
pub(crate) fn wanted_time_of(host_pid: u32) -> Duration {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{host_pid}/task")) else {
        return Duration::ZERO;
    };
    threads.flatten().map(|thread| wanted_time(&thread.path().join("schedstat"))).sum()
}

fn wanted_time(path: &std::path::Path) -> Duration {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let nanos = text.split_whitespace().take(2).filter_map(|word| word.parse::<u64>().ok());
    Duration::from_nanos(nanos.sum())
}

/// The memory that a process holds, MiB; 0 if that cannot be read (`/proc/PID/statm`, second field).
pub(crate) fn resident_mib_of(host_pid: u32) -> u32 {
    const PAGES_PER_MIB: u64 = 256;
    let text = std::fs::read_to_string(format!("/proc/{host_pid}/statm")).unwrap_or_default();
    let pages = text.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok());
    u32::try_from(pages.unwrap_or(0) / PAGES_PER_MIB).unwrap_or(u32::MAX)
}

/// The descriptors of a process that are sockets, or objects of its kernel such as epoll sets (`/proc/PID/fd`).
pub(crate) fn objects_of(host_pid: u32) -> impl Iterator<Item = i32> {
    let numbers = std::fs::read_dir(format!("/proc/{host_pid}/fd")).into_iter().flatten().flatten();
    let is_object = |link: &std::path::Path| {
        let link = link.as_os_str().as_encoded_bytes();
        link.starts_with(b"socket:") || link.starts_with(b"anon_inode:")
    };
    numbers
        .filter(move |entry| std::fs::read_link(entry.path()).is_ok_and(|link| is_object(&link)))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn usage(stat: &str, status: &str) -> Rusage {
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let field = |at: usize| fields.get(at).and_then(|word| word.parse().ok()).unwrap_or(0);
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    let mut used = [0_u64; 18];
    for (at, ticks) in [(0, field(11)), (2, field(12))] {
        used[at] = ticks / TICKS;
        used[at + 1] = ticks % TICKS * (1_000_000 / TICKS);
    }
    used[4] = peak;
    // ru_minflt and ru_majflt come after three that Linux does not keep.
    (used[8], used[9]) = (field(7), field(9));
    Rusage(used)
}

/// The processes that this one sees.
pub(crate) fn all_processes() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// The time of day, in seconds since the epoch.
pub(crate) fn unix_seconds() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// The target of one of a process's magic links (`cwd`, `root`, `fd/3`).
pub(crate) fn link(host_pid: u32, name: &str) -> Result<Vec<u8>> {
    let target = rustix::fs::readlink(format!("/proc/{host_pid}/{name}"), Vec::new())?;
    Ok(target.into_bytes())
}

/// Whether a process maps anything of the file system that `path`, as the process sees it, is on.
pub(crate) fn maps_file_of(host_pid: u32, path: &str) -> bool {
    let Ok(stat) = rustix::fs::stat(format!("/proc/{host_pid}/root{path}")) else { return false };
    let maps = std::fs::read_to_string(format!("/proc/{host_pid}/maps")).unwrap_or_default();
    maps_device(&maps, stat.st_dev)
}

fn maps_device(maps: &str, device: u64) -> bool {
    let device = format!("{:02x}:{:02x}", rustix::fs::major(device), rustix::fs::minor(device));
    maps.lines().any(|line| line.split_ascii_whitespace().nth(3) == Some(device.as_str()))
}

/// Reads the first `most` bytes of a file of `/proc/PID`, as a rule in one call.
fn read_proc(host_pid: u32, name: &str, most: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(format!("/proc/{host_pid}/{name}"))?;
    let mut bytes = vec![0; FIRST_BYTES.min(usize::try_from(most).unwrap_or(FIRST_BYTES))];
    let first = file.read(&mut bytes)?;
    let is_full = first == bytes.len();
    bytes.truncate(first);
    // What is shorter than was asked for is all: these files are written for each reader as a whole.
    if is_full {
        file.take(most.saturating_sub(first as u64)).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

fn proc_text(host_pid: u32, name: &str) -> std::io::Result<String> {
    read_proc(host_pid, name, TEXT_BYTES).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Arguments for display, at most 4 KiB of them.
pub(crate) fn arguments(host_pid: u32) -> Vec<String> {
    // One that has ended meanwhile has none.
    let bytes = read_proc(host_pid, "cmdline", ARGUMENTS_BYTES).unwrap_or_default();
    let words = bytes.split(|&b| b == 0).map(|w| String::from_utf8_lossy(w).into_owned());
    let mut words: Vec<String> = words.collect();
    if words.last().is_some_and(String::is_empty) {
        words.pop();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read_in_guest_numbers() {
        let text = "Name:\tx\nUmask:\t0027\nUid:\t65536\t66536\t65537\t65536\n\
                    Gid:\t65536\t65536\t5\t65536\nGroups:\t65536 65540 \nVmRSS:\t   12 kB\n\
                    SigPnd:\t0000000000008001\nShdPnd:\t0000000000000200\n";
        let status = Status::parse(text, 65536);
        assert_eq!(status.uids, [0, 1000, 1]);
        assert_eq!(status.gids, [0, 0, 65534]);
        assert_eq!(status.groups, [0, 4]);
        assert_eq!((status.umask, status.resident_bytes), (0o27, 12288));
        assert_eq!(status.signals_pending, 0x201);
        assert_eq!(status.fs_ids, [0, 0]);
    }

    #[test]
    fn mappings_are_found_by_their_device() {
        let maps = "7f00-7f01 rw-s 00000000 00:2b 3                          /dev/shm/sem.x\n\
                    7f02-7f03 rw-p 00000000 00:00 0 \n";
        assert!(maps_device(maps, rustix::fs::makedev(0, 0x2b)));
        assert!(!maps_device(maps, rustix::fs::makedev(0, 0x2c)));
        assert!(!maps_device("", 0));
    }

    #[test]
    fn usage_is_read_as_rusage_has_it() {
        let stat = "7 (a) R 1 2 3 4 5 6 70 8 9 10 150 50 0 0 20 5 1 0 4242 0 0 0";
        let used = usage(stat, "VmPeak:\t 99 kB\nVmHWM:\t  12 kB\n").0;
        assert_eq!(used[..5], [1, 500_000, 0, 500_000, 12]);
        assert_eq!((used[8], used[9]), (70, 9));
        assert_eq!(usage("", "").0, [0; 18]);
    }

    #[test]
    fn stat_with_a_hostile_name_is_read() {
        let mut text = "7 (a) b) R 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 5 1 0 4242 0".to_owned();
        text.push_str(" 0 0");
        let times = Times::parse(&text).unwrap();
        assert_eq!((times.cpu_micros, times.nice), (2_000_000, 5));
    }
}
