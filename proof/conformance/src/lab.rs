//! A lab for the tests, and folders for native runs.

use crate::{Outcome, run_within, wait_within};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    fs,
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long one command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// How long a node that is there may not answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const POLL_PAUSE: Duration = Duration::from_millis(50);

/// Where labs keep their nodes' logs.
const LOGS: &str = "/var/lib/dunix";
/// What a line of a log contains that a lost node may be explained by.
const TROUBLE: [&str; 5] = [" WARN ", " ERROR ", "peer is down", "panicked", "dunix:"];
const TROUBLE_LINES_MAX: usize = 20;
const LAST_LINES: usize = 5;

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A running lab; dropped, it is taken down.
pub struct Lab {
    pub name: String,
    process: Child,
    /// What it writes to standard error, if that is collected.
    said: Option<JoinHandle<String>>,
}

/// The binary under test, beside the test's own.
fn binary() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("DUNIX_BINARY") {
        return Ok(path.into());
    }
    let test = std::env::current_exe().map_err(|error| error.to_string())?;
    let path = test.ancestors().nth(2).map(|folder| folder.join("dunix"));
    path.filter(|path| path.exists())
        .ok_or_else(|| "no dunix binary: build the workspace first".to_owned())
}

impl Lab {
    /// Starts a lab and waits until every node is up.
    pub fn start(nodes: usize) -> Result<Lab, String> {
        Lab::start_with(nodes, &[], Stdio::inherit())
    }

    /// Starts a lab whose processes are moved each after `mean` (such as `50ms`) on average; its
    /// report comes with [`Lab::end`].
    pub fn start_storm(nodes: usize, mean: &str, seed: u64) -> Result<Lab, String> {
        let options = ["--storm", mean, "--seed", &seed.to_string(), "--json"];
        Lab::start_with(nodes, &options, Stdio::piped())
    }

    fn start_with(nodes: usize, options: &[&str], stderr: Stdio) -> Result<Lab, String> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("test{}-{serial}", std::process::id());
        let mut command = Command::new(binary()?);
        command.args(["lab", "--nodes", &nodes.to_string(), "--name", &name]).args(options);
        command.stdin(Stdio::null()).stderr(stderr).process_group(0);
        let mut process = command.spawn().map_err(|error| error.to_string())?;
        let said = process.stderr.take().map(|mut stderr| {
            thread::spawn(move || {
                let mut bytes = Vec::new();
                // What was read before an error still counts.
                let _ = stderr.read_to_end(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            })
        });
        let mut lab = Lab { name, process, said };
        let deadline = Instant::now() + START_LIMIT;
        while lab.nodes_up() != nodes {
            if let Ok(Some(status)) = lab.process.try_wait() {
                return Err(format!("the lab ended at its start: {status}"));
            }
            if Instant::now() > deadline {
                return Err(format!("the lab is not up after {} s", START_LIMIT.as_secs()));
            }
            thread::sleep(POLL_PAUSE);
        }
        Ok(lab)
    }

    /// The command line, with this lab chosen.
    pub fn command(&self, arguments: &[&str]) -> Command {
        // The binary was there when the lab was started.
        let mut command = Command::new(binary().unwrap_or_default());
        command.args(["--fabric", &self.name]).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs a command of dunix to its end.
    pub fn dunix(&self, arguments: &[&str]) -> Result<Outcome, String> {
        run_within(&mut self.command(arguments), COMMAND_LIMIT)
    }

    /// Runs a script in the fabric, in a folder that exists only there.
    pub fn script(&self, placement: &str, script: &str) -> Result<Outcome, String> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let folder = format!("/var/tmp/{}-{serial}", self.name);
        let script = format!("mkdir {folder}; cd {folder}\n{script}");
        let mut arguments = vec!["run", "--cwd", "/", "--env", "LC_ALL=C"];
        arguments.extend(placement.split_whitespace());
        arguments.extend(["--", "bash", "-c", &script]);
        self.dunix(&arguments)
    }

    /// `dunix nodes --json` or `dunix ps --json`.
    pub fn list(&self, what: &str) -> Result<Vec<Value>, String> {
        let outcome = self.dunix(&[what, "--json"])?;
        if outcome.status != 0 {
            return Err(format!("dunix {what}: {outcome}"));
        }
        serde_json::from_str(&outcome.stdout).map_err(|error| format!("dunix {what}: {error}"))
    }

    /// Checks that every one of so many nodes is there still.
    ///
    /// # Errors
    /// One is lost; with what the nodes' logs say of it.
    pub fn check_nodes(&self, nodes: usize) -> Result<(), String> {
        let asked = Instant::now();
        let mut up = self.nodes_up();
        // A list has those that answer in time. A busy one does so later, a lost one never.
        while up < nodes && asked.elapsed() < ANSWER_LIMIT {
            thread::sleep(POLL_PAUSE);
            up = self.nodes_up();
        }
        if up == nodes {
            return Ok(());
        }
        let logs: Vec<String> = (1..=nodes).map(|node| self.complaints(node)).collect();
        Err(format!("{up} of {nodes} nodes are left\n{}", logs.join("\n")))
    }

    /// What a node's log has of trouble, and its last lines.
    fn complaints(&self, node: usize) -> String {
        let log = Path::new(LOGS).join(&self.name).join(format!("n{node}.log"));
        let text = match fs::read(&log) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => return format!("n{node}: {}: {error}", log.display()),
        };
        let lines: Vec<&str> = text.lines().collect();
        let is_trouble = |line: &&str| TROUBLE.iter().any(|word| line.contains(word));
        let (early, last) = lines.split_at(lines.len().saturating_sub(LAST_LINES));
        let trouble = early.iter().copied().filter(is_trouble).take(TROUBLE_LINES_MAX);
        let shown: Vec<&str> = trouble.chain(last.iter().copied()).collect();
        format!("n{node}:\n  {}", shown.join("\n  "))
    }

    fn nodes_up(&self) -> usize {
        let nodes = self.list("nodes").unwrap_or_default();
        nodes.iter().filter(|node| node["state"] == "up").count()
    }

    /// The process that holds the lab.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Lab {
    /// Takes the lab down; returns what it wrote to standard error, if that was collected.
    pub fn end(mut self) -> String {
        self.stop();
        self.said.take().and_then(|said| said.join().ok()).unwrap_or_default()
    }

    fn stop(&mut self) {
        // It may have ended already.
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        if !matches!(wait_within(&mut self.process, STOP_LIMIT), Ok(None)) {
            return;
        }
        eprintln!("lab {} did not end: killed", self.name);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            self.stop();
        }
    }
}

/// A folder for native runs, removed when dropped. Anyone may read it.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes a fresh folder.
    pub fn new() -> Result<Scratch, String> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/var/tmp/dunix-test-{}-{serial}", std::process::id()));
        fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Scratch(path))
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Runs a script on the host.
    pub fn script(&self, script: &str) -> Result<Outcome, String> {
        let mut command = Command::new("bash");
        command.args(["-c", script]).current_dir(&self.0).env("LC_ALL", "C");
        run_within(command.stdin(Stdio::null()), COMMAND_LIMIT)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}
