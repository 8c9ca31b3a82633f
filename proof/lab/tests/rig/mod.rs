//! A lab of stand-in nodes in a process of its own, and what of it can be seen from outside.

use dunix_lab::traces::{KINDS, Traces, children, descendants};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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
        let traces = Traces::of(&self.name, self.owner_pid());
        assert!(traces.namespaces.len() >= self.keepers.len() * KINDS.len());
        traces
    }
}

/// Waits until nothing of a lab is left; panics naming what is, after [`GONE_WITHIN`].
pub(crate) fn assert_gone(traces: &Traces) {
    let left = traces.wait_until_gone(GONE_WITHIN);
    assert!(left.is_empty(), "left after {GONE_WITHIN:?}: {left:#?}");
}

impl Drop for Rig {
    fn drop(&mut self) {
        // A lab that a failed test left is ended by its owner's death.
        let _ = self.owner.kill();
        let _ = self.owner.wait();
    }
}
