//! What can be seen of a lab on the host, for tests that want to see it gone.
//!
//! Everything is read from outside: /proc, the mounts, the cgroups, the state directories.

use crate::state::{RUN_DIRECTORY, STORE_DIRECTORY, group_name};
use dunix_linux::cgroup;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The kinds of namespaces that a node has for itself.
pub const KINDS: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// What can be seen of a lab on the host.
pub struct Traces {
    name: String,
    /// The owner and all below it.
    pub processes: Vec<u32>,
    /// Processes that ran beside it. The kernel uses a namespace's number again, so one that came
    /// later and has such a number says nothing.
    others: Vec<u32>,
    /// The namespaces of the nodes and of the lab's own processes.
    pub namespaces: BTreeSet<String>,
}

impl Traces {
    /// Looks at the lab of this name and owner.
    #[must_use]
    pub fn of(name: &str, owner: u32) -> Traces {
        let processes = descendants(owner);
        let mut namespaces = BTreeSet::new();
        for pid in processes.iter().filter(|pid| **pid != owner) {
            namespaces.extend(KINDS.iter().filter_map(|kind| namespace(*pid, kind)));
        }
        for own in KINDS.iter().filter_map(|kind| namespace(std::process::id(), kind)) {
            namespaces.remove(&own);
        }
        let others = all_processes().into_iter().filter(|pid| !processes.contains(pid)).collect();
        Traces { name: name.to_owned(), processes, others, namespaces }
    }

    /// Waits until nothing of the lab is left, at most so long; returns what is.
    #[must_use]
    pub fn wait_until_gone(&self, limit: Duration) -> Vec<String> {
        let deadline = Instant::now() + limit;
        loop {
            let left = self.left();
            if left.is_empty() || Instant::now() >= deadline {
                return left;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn left(&self) -> Vec<String> {
        let alive = self.processes.iter().filter(|pid| is_alive(**pid));
        let mut left: Vec<String> = alive.map(|pid| format!("process {pid}")).collect();
        for pid in self.processes.iter().chain(&self.others).copied() {
            let held = KINDS.iter().filter_map(|kind| namespace(pid, kind));
            let held = held.filter(|name| self.namespaces.contains(name));
            left.extend(held.map(|name| format!("{name} of process {pid}")));
        }
        left.extend(self.paths().iter().map(|path| path.display().to_string()));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        left.extend(mounts.lines().filter(|m| m.contains(&self.name)).map(str::to_owned));
        left
    }

    /// The lab's directories that exist.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        let state =
            [RUN_DIRECTORY, STORE_DIRECTORY].map(|parent| Path::new(parent).join(&self.name));
        let mut found: Vec<PathBuf> = state.into_iter().collect();
        for hierarchy in cgroup::hierarchies().unwrap_or_default() {
            found.push(hierarchy.base.join(group_name(&self.name)));
        }
        found.retain(|path| path.exists());
        found
    }
}

fn all_processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The identity of a process's namespace of a kind, unless the process is gone.
#[must_use]
pub fn namespace(pid: u32, kind: &str) -> Option<String> {
    let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

fn stat_fields(pid: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// A process that is dead and not reaped yet is gone but for its number.
fn is_alive(pid: u32) -> bool {
    stat_fields(pid).is_some_and(|(state, _)| state != "Z" && state != "X")
}

/// The children of a process.
#[must_use]
pub fn children(of: u32) -> Vec<u32> {
    let is_child = |pid: &u32| stat_fields(*pid).is_some_and(|(_, parent)| parent == of);
    all_processes().into_iter().filter(is_child).collect()
}

/// A process and everything below it.
#[must_use]
pub fn descendants(of: u32) -> Vec<u32> {
    let mut found = vec![of];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        found.extend(children(pid));
        next += 1;
    }
    found
}
