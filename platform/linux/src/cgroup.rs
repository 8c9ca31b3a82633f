//! Control groups, version 1 and 2: where they are mounted, making, limiting, emptying, removing.
//!
//! A [`Group`] is one directory in each hierarchy in use. In version 1 a group is made below the
//! caller's own in every hierarchy, so that the caller's own limits hold for it; in version 2 below
//! the root of the mount, because a version 2 group that has processes cannot have limited children.

use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The period of the processor quota, in us. Short, since a throttled group stands still until the
/// period's end.
pub const QUOTA_PERIOD_US: u64 = 10_000;
/// The least quota that the kernel takes, in us per period.
pub const QUOTA_US_MIN: u64 = 1_000;
/// The controllers that are used if the host has them.
pub const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// One mounted hierarchy, and the caller's place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// The directory below which the caller makes its groups.
    pub base: PathBuf,
    /// The controllers of [`CONTROLLERS`] that act here.
    pub controllers: Vec<&'static str>,
    /// Version 2.
    pub unified: bool,
}

/// Finds the hierarchies that have a controller of [`CONTROLLERS`].
///
/// # Errors
/// If `/proc/self/mountinfo` or `/proc/self/cgroup` cannot be read.
pub fn hierarchies() -> io::Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let mut found: Vec<Hierarchy> =
        mounts.lines().filter_map(|line| hierarchy_of_mount(line, &own)).collect();
    found.retain(|hierarchy| hierarchy.base.is_dir() && !hierarchy.controllers.is_empty());
    // One directory a hierarchy, even if it is mounted twice.
    found.sort_by(|a, b| a.controllers.cmp(&b.controllers));
    found.dedup_by(|a, b| a.controllers == b.controllers);
    Ok(found)
}

fn hierarchy_of_mount(line: &str, own: &str) -> Option<Hierarchy> {
    let (place, source) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (root, point) = (place.next()?, PathBuf::from(place.next()?));
    let mut source = source.split(' ');
    match source.next()? {
        "cgroup2" => {
            let present = fs::read_to_string(point.join("cgroup.controllers")).ok()?;
            let controllers = known(present.split_whitespace());
            Some(Hierarchy { base: point, controllers, unified: true })
        }
        "cgroup" => {
            let controllers = known(source.nth(1)?.split(','));
            let path = own_path(own, controllers.first()?)?;
            let below = Path::new(path).strip_prefix(root).ok()?;
            Some(Hierarchy { base: point.join(below), controllers, unified: false })
        }
        _ => None,
    }
}

fn known<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'static str> {
    let names: Vec<&str> = names.collect();
    CONTROLLERS.into_iter().filter(|name| names.contains(name)).collect()
}

/// The caller's group in the version 1 hierarchy of a controller (a line of `/proc/self/cgroup`).
fn own_path<'a>(own: &'a str, controller: &str) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let of = fields.next()?;
        of.split(',').any(|name| name == controller).then(|| fields.next())?
    })
}

/// A group: one directory a hierarchy.
#[derive(Clone, Debug)]
pub struct Group {
    directories: Vec<(PathBuf, Hierarchy)>,
}

impl Group {
    /// Makes a group, or takes an existing one, in each hierarchy.
    ///
    /// # Errors
    /// What mkdir reports, or enabling the controllers for the group (version 2).
    pub fn create(hierarchies: &[Hierarchy], name: &str) -> io::Result<Group> {
        let mut directories = Vec::new();
        for hierarchy in hierarchies {
            directories.push((make(&hierarchy.base, name, hierarchy)?, hierarchy.clone()));
        }
        Ok(Group { directories })
    }

    /// Makes a group inside this one.
    ///
    /// # Errors
    /// As [`Group::create`].
    pub fn child(&self, name: &str) -> io::Result<Group> {
        let mut directories = Vec::new();
        for (directory, hierarchy) in &self.directories {
            directories.push((make(directory, name, hierarchy)?, hierarchy.clone()));
        }
        Ok(Group { directories })
    }

    /// The group's directories.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.directories.iter().map(|(path, _)| path.as_path())
    }

    /// Moves a process into the group.
    ///
    /// # Errors
    /// `ESRCH` if it is gone; else what the host reports.
    pub fn add(&self, process: Pid) -> io::Result<()> {
        let pid = process.as_raw_nonzero().to_string();
        self.paths().try_for_each(|path| fs::write(path.join("cgroup.procs"), &pid))
    }

    /// Opens what a process writes `0` to in order to move itself into the group, one a hierarchy.
    /// The kernel checks the opener's rights, so whoever gets the descriptors may use them.
    ///
    /// # Errors
    /// What open reports.
    pub fn doors(&self) -> io::Result<Vec<OwnedFd>> {
        let open = |path: &Path| OpenOptions::new().write(true).open(path.join("cgroup.procs"));
        self.paths().map(|path| open(path).map(OwnedFd::from)).collect()
    }

    /// Limits the group to this many processors' worth of time.
    ///
    /// # Errors
    /// `Unsupported` if the host offers no cpu controller; else what the host reports.
    pub fn limit_cpus(&self, cpus: f64) -> io::Result<()> {
        let (path, hierarchy) = self
            .directories
            .iter()
            .find(|(_, hierarchy)| hierarchy.controllers.contains(&"cpu"))
            .ok_or_else(|| io::Error::new(ErrorKind::Unsupported, "no cpu controller"))?;
        let quota = quota_us(cpus);
        if hierarchy.unified {
            return fs::write(path.join("cpu.max"), format!("{quota} {QUOTA_PERIOD_US}"));
        }
        // The quota goes first back to none: with a shorter period the old one may be too much.
        fs::write(path.join("cpu.cfs_quota_us"), "-1")?;
        fs::write(path.join("cpu.cfs_period_us"), QUOTA_PERIOD_US.to_string())?;
        fs::write(path.join("cpu.cfs_quota_us"), quota.to_string())
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a float to integer cast saturates, and the period is small"
)]
fn quota_us(cpus: f64) -> u64 {
    ((cpus * QUOTA_PERIOD_US as f64).round() as u64).max(QUOTA_US_MIN)
}

fn make(parent: &Path, name: &str, hierarchy: &Hierarchy) -> io::Result<PathBuf> {
    if hierarchy.unified {
        for controller in &hierarchy.controllers {
            fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"))?;
        }
    }
    let path = parent.join(name);
    match fs::create_dir(&path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(path),
    }
}

/// Kills every process in a group's directory and below, and removes the directories; succeeds if
/// there is no such directory.
///
/// # Errors
/// `TimedOut` if processes are left at the deadline; else what the host reports.
pub fn kill_and_remove(path: &Path, deadline: Instant) -> io::Result<()> {
    loop {
        match kill_below(path).and_then(|()| remove_below(path)) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() != ErrorKind::ResourceBusy => return Err(error),
            Err(error) if Instant::now() >= deadline => {
                return Err(io::Error::new(ErrorKind::TimedOut, error));
            }
            // The kernel gives no notice of an emptied version 1 group: look again soon.
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Kills every process in a group's directory and below.
///
/// # Errors
/// `NotFound` if there is no such directory; else what the host reports.
pub fn kill_below(path: &Path) -> io::Result<()> {
    for below in directories_below(path)? {
        kill_below(&below)?;
    }
    for pid in fs::read_to_string(path.join("cgroup.procs"))?.lines() {
        if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
            // A process that is gone already is what was wanted.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    Ok(())
}

fn remove_below(path: &Path) -> io::Result<()> {
    for below in directories_below(path)? {
        remove_below(&below)?;
    }
    fs::remove_dir(path)
}

fn directories_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Moves the calling process through a door (see [`Group::doors`]).
///
/// # Errors
/// What the host reports.
pub fn enter(door: &OwnedFd) -> io::Result<()> {
    let mut file = fs::File::from(door.try_clone()?);
    file.write_all(b"0")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "5:memory:/a/b\n2:cpu,cpuacct:/c\n0::/d\n";

    #[test]
    fn version_1_lies_below_the_own_group() {
        let line = "40 30 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory";
        let found = hierarchy_of_mount(line, OWN).unwrap();
        assert_eq!(found.base, Path::new("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(found.controllers, ["memory"]);
        let line = "41 30 0:31 /c /mnt/cpu rw - cgroup cgroup rw,cpu,cpuacct";
        assert_eq!(hierarchy_of_mount(line, OWN).unwrap().base, Path::new("/mnt/cpu/"));
    }

    #[test]
    fn other_mounts_are_ignored() {
        assert_eq!(hierarchy_of_mount("40 30 0:30 / / rw - ext4 /dev/vda rw", OWN), None);
        let named = "40 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd";
        assert_eq!(hierarchy_of_mount(named, OWN), None);
        assert_eq!(hierarchy_of_mount("nonsense", OWN), None);
    }

    /// A version 2 hierarchy is imitated by plain directories: the files written are what counts.
    #[test]
    fn version_2_enables_controllers_from_the_root_down() {
        let base = std::env::temp_dir().join(format!("dunix-cgroup-{}", std::process::id()));
        fs::create_dir_all(&base).unwrap();
        fs::write(base.join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
        let line = format!("30 20 0:26 / {} rw - cgroup2 cgroup2 rw", base.display());
        let hierarchy = hierarchy_of_mount(&line, "0::/elsewhere\n").unwrap();
        assert_eq!((&hierarchy.base, hierarchy.unified), (&base, true));
        let lab = Group::create(&[hierarchy], "lab").unwrap();
        let guests = lab.child("n1").unwrap().child("guests").unwrap();
        guests.limit_cpus(1.5).unwrap();
        let wrote = |path: &str| fs::read_to_string(base.join(path)).unwrap();
        assert_eq!(wrote("lab/n1/guests/cpu.max"), "15000 10000");
        for parent in ["", "lab/", "lab/n1/"] {
            assert_eq!(wrote(&format!("{parent}cgroup.subtree_control")), "+pids");
        }
        assert!(!base.join("lab/n1/guests/cgroup.subtree_control").exists());
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn a_quota_is_a_share_of_the_short_period() {
        assert_eq!(quota_us(1.0), 10_000);
        assert_eq!(quota_us(0.25), 2_500);
        assert_eq!(quota_us(0.001), QUOTA_US_MIN);
    }
}
