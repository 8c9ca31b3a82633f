//! A lab of stand-in nodes in a process of its own, and what of it can be seen from outside.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The kinds of namespaces that a node has for itself.
pub(crate) const KINDS: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
/// How long the end of a lab may take to complete.
pub(crate) const GONE_WITHIN: Duration = Duration::from_secs(2);
/// How long a change on the link may take to be noticed.
pub(crate) const CHANGED_WITHIN: Duration = Duration::from_secs(5);

/// Tells whether the tests can run here, and says so if not.
pub(crate) fn can_run() -> bool {
    let lacks = dunix_lab::check_host(3, true);
    for finding in &lacks {
        eprintln!("skipped, this host lacks {finding}");
    }
    lacks.is_empty()
}

/// A running lab.
pub(crate) struct Rig {
    pub(crate) name: String,
    pub(crate) owner: Child,
    /// Process 1 of each node.
    pub(crate) keepers: Vec<u32>,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    alone: Option<Alone>,
}

type Alone = MutexGuard<'static, ()>;

static ALONE: Mutex<()> = Mutex::new(());

impl Rig {
    /// Starts a lab whose name no other test uses.
    ///
    /// One lab a time: the numbers of namespaces, which tests compare, are used again.
    pub(crate) fn start(test: &str, nodes: u32) -> Rig {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Self::start_alone(alone, test, nodes)
    }

    /// Starts a lab when the previous one's owner has ended.
    pub(crate) fn start_after(mut previous: Rig, test: &str, nodes: u32) -> Rig {
        previous.owner.wait().unwrap();
        let alone = previous.alone.take().unwrap();
        Self::start_alone(alone, test, nodes)
    }

    fn start_alone(alone: Alone, test: &str, nodes: u32) -> Rig {
        let name = format!("{test}-{}", std::process::id());
        let mut owner = Command::new(env!("CARGO_BIN_EXE_lab-placeholder"))
            .args(["lab", &name, &nodes.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = owner.stdin.take();
        let output = BufReader::new(owner.stdout.take().unwrap());
        let alone = Some(alone);
        let mut rig = Rig { name, owner, keepers: Vec::new(), input, output, alone };
        loop {
            let line = rig.line();
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["keeper", _, pid] => rig.keepers.push(pid.parse().unwrap()),
                ["ready"] => return rig,
                _ => panic!("{} said {line:?} instead of ready", rig.name),
            }
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Gives the lab's owner a command.
    pub(crate) fn command(&mut self, command: &str) {
        writeln!(self.input.as_ref().unwrap(), "{command}").unwrap();
        assert_eq!(self.line(), "done", "{command}");
    }

    /// Tells the owner to end the lab.
    pub(crate) fn close_input(&mut self) {
        self.input = None;
    }

    /// The numbers of the nodes that a node hears on the link, itself included.
    pub(crate) fn heard(&self, node: u32) -> Vec<String> {
        let socket = format!("/run/dunix/{}/n{node}.sock", self.name);
        let mut line = String::new();
        BufReader::new(UnixStream::connect(socket).unwrap()).read_line(&mut line).unwrap();
        line.split_whitespace().map(str::to_owned).collect()
    }

    /// Waits until something is true of the lab; panics after [`CHANGED_WITHIN`].
    pub(crate) fn wait_until(&self, is_true: impl Fn(&Rig) -> bool) {
        let deadline = Instant::now() + CHANGED_WITHIN;
        while !is_true(self) {
            assert!(Instant::now() < deadline, "not within {CHANGED_WITHIN:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What the owner says until it ends.
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        rest
    }

    /// The owner's number.
    pub(crate) fn owner_pid(&self) -> u32 {
        self.owner.id()
    }

    /// The lab's own helper of this role.
    pub(crate) fn helper(&self, role: &str) -> u32 {
        let is_it = |pid: &u32| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.split(|b| *b == 0).any(|word| word == role.as_bytes()))
        };
        let found: Vec<u32> = children(self.owner_pid()).into_iter().filter(is_it).collect();
        let [pid] = found[..] else { panic!("{} helpers of role {role}", found.len()) };
        pid
    }

    /// The processes of a node.
    pub(crate) fn node_processes(&self, node: usize) -> Vec<u32> {
        descendants(self.keepers[node - 1])
    }

    /// What must be gone when the lab is.
    pub(crate) fn traces(&self) -> Traces {
        let processes = descendants(self.owner_pid());
        let mut namespaces = BTreeSet::new();
        for pid in processes.iter().filter(|pid| **pid != self.owner_pid()) {
            namespaces.extend(KINDS.iter().filter_map(|kind| namespace(*pid, kind)));
        }
        for kind in KINDS {
            namespaces.remove(&namespace(std::process::id(), kind).unwrap());
        }
        assert!(namespaces.len() >= self.keepers.len() * KINDS.len());
        let others = all_processes().into_iter().filter(|pid| !processes.contains(pid)).collect();
        Traces { name: self.name.clone(), processes, others, namespaces }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // A lab that a failed test left is ended by its owner's death.
        let _ = self.owner.kill();
        let _ = self.owner.wait();
    }
}

/// What can be seen of a lab on the host.
pub(crate) struct Traces {
    name: String,
    pub(crate) processes: Vec<u32>,
    /// Processes that ran beside it. The kernel uses a namespace's number again, so one that came
    /// later and has such a number says nothing.
    others: Vec<u32>,
    namespaces: BTreeSet<String>,
}

impl Traces {
    /// Waits until nothing of the lab is left; panics naming what is, after [`GONE_WITHIN`].
    pub(crate) fn assert_gone(&self) {
        let deadline = Instant::now() + GONE_WITHIN;
        loop {
            let left = self.left();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left after {GONE_WITHIN:?}: {left:#?}");
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
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(mounts.lines().filter(|m| m.contains(&self.name)).map(str::to_owned));
        left
    }

    /// The lab's directories that exist.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let state =
            ["/run/dunix", "/var/lib/dunix"].map(|parent| Path::new(parent).join(&self.name));
        let mut found: Vec<PathBuf> = state.into_iter().filter(|path| path.exists()).collect();
        for hierarchy in dunix_linux::cgroup::hierarchies().unwrap() {
            found.push(hierarchy.base.join(format!("dunix-{}", self.name)));
        }
        found.retain(|path| path.exists());
        found
    }
}

pub(crate) fn all_processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The identity of a process's namespace of a kind.
pub(crate) fn namespace(pid: u32, kind: &str) -> Option<String> {
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

fn children(of: u32) -> Vec<u32> {
    let is_child = |pid: &u32| stat_fields(*pid).is_some_and(|(_, parent)| parent == of);
    all_processes().into_iter().filter(is_child).collect()
}

/// A process and everything below it.
pub(crate) fn descendants(of: u32) -> Vec<u32> {
    let mut found = vec![of];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        found.extend(children(pid));
        next += 1;
    }
    found
}

/// Descriptor numbers of a process.
pub(crate) fn descriptors(pid: u32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// What a descriptor refers to: device and inode.
pub(crate) fn identity(pid: u32, descriptor: i32) -> (u64, u64) {
    let metadata = fs::metadata(format!("/proc/{pid}/fd/{descriptor}")).unwrap();
    (metadata.dev(), metadata.ino())
}

/// The files that a process maps, as device and inode.
pub(crate) fn mapped(pid: u32) -> BTreeSet<(String, String)> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let files = maps.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(3);
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    });
    files.filter(|(_, inode)| inode != "0").collect()
}

/// The mounts that a process sees: device, mount point, options.
pub(crate) fn mounts(pid: u32) -> Vec<(String, String, String)> {
    let info = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields[2].to_owned(), fields[4].to_owned(), fields[5].to_owned())
    };
    info.lines().map(parse).collect()
}
