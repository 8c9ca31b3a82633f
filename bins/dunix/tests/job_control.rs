//! An interactive shell in a lab, on a terminal: POSIX job control (XBD 11.1, XCU 2.11) with the jobs
//! beside the shell, and with every program on another node.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest wait for anything; a working lab needs a hundredth of it.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a key may go unheard before it is typed again.
const RETYPE: Duration = Duration::from_secs(1);
const PROMPT: &str = "ready> ";
/// One lab a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A lab with a shell on a terminal.
struct Shell {
    master: File,
    lab: Child,
    /// What was shown and not looked for yet.
    shown: String,
    _alone: MutexGuard<'static, ()>,
}

impl Shell {
    /// Starts it, or says why this host cannot.
    fn start(name: &str, options: &[&str]) -> Option<Shell> {
        let lacks = dunix_lab::check_host(2, false);
        if !lacks.is_empty() {
            eprintln!("skipped, this host lacks {lacks:?}");
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let (master, slave) = terminal();
        let name = format!("{name}-{}", std::process::id());
        // setsid(1) makes the terminal the controlling one.
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait", env!("CARGO_BIN_EXE_dunix"), "lab", "--nodes", "2"]);
        command.args(["--name", &name]).args(options).args(["--", "bash", "--norc", "-i"]);
        command.env("PS1", PROMPT).env("TERM", "dumb").env("HISTFILE", "");
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        let lab = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        let mut shell = Shell { master, lab, shown: String::new(), _alone: alone };
        shell.wait_for(PROMPT);
        Some(shell)
    }

    /// Reads until `text` is shown; forgets what was shown up to it.
    fn wait_for(&mut self, text: &str) {
        let shown = self.is_shown_within(text, PATIENCE);
        assert!(shown, "waited for {text:?}, shown is {:?}", self.shown);
    }

    fn is_shown_within(&mut self, text: &str, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        loop {
            if let Some(at) = self.shown.find(text) {
                self.shown.drain(..at + text.len());
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.read_within(left) {
                return false;
            }
        }
    }

    /// Reads something; `false` if nothing comes.
    fn read_within(&mut self, patience: Duration) -> bool {
        let mut ready = [PollFd::new(&self.master, PollFlags::IN)];
        let patience = Timespec::try_from(patience).unwrap();
        if poll(&mut ready, Some(&patience)).unwrap() == 0 {
            return false;
        }
        let mut buffer = [0; 4096];
        let length = self.master.read(&mut buffer).unwrap();
        self.shown.push_str(&String::from_utf8_lossy(&buffer[..length]));
        true
    }

    /// Types a line and waits for its output (not for its echo, which must not contain it).
    fn command(&mut self, line: &str, output: &str) {
        assert!(!line.contains(output));
        self.type_in(&format!("{line}\r"));
        self.wait_for(output);
    }

    /// Types a key until it has had its effect: one that comes between a shell's print-out and its
    /// hand-over of the terminal goes to the shell, which ignores it.
    fn key(&mut self, key: &str, effect: &str) {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            self.type_in(key);
            if self.is_shown_within(effect, RETYPE) {
                return;
            }
        }
        panic!("typed {key:?}, shown is {:?}", self.shown);
    }

    fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Reads to the end; returns the exit status.
    fn end(mut self) -> i32 {
        let mut buffer = [0; 4096];
        loop {
            match self.master.read(&mut buffer) {
                Ok(0) => break,
                Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => break,
                other => drop(other.unwrap()),
            }
        }
        self.lab.wait().unwrap().code().unwrap()
    }
}

fn terminal() -> (File, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let name = std::ffi::OsStr::from_bytes(name.as_bytes());
    let mut options = OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, 0o400);
    let slave = options.read(true).write(true).open(name).unwrap();
    (master.into(), slave.into())
}

/// What is typed, and what must be shown then.
enum Step {
    /// A line.
    Line(&'static str, &'static str),
    /// A key, typed again until it has its effect.
    Key(&'static str, &'static str),
}

const STEPS: [Step; 19] = {
    use Step::{Key, Line};
    [
        Line("echo $((6 * 7))", "42\r\n"),
        Line("sleep 1000 &", "[1] "),
        Line("jobs", "Running"),
        Line("fg", "sleep 1000\r\n"),
        Key("\x1a", "Stopped"),
        Line("bg", "[1]+ sleep"),
        Line("jobs", "Running"),
        // Not by wait: a shell that hears of the end before its wait says nothing of it.
        Line("kill %1; echo $((5 * 9))", "45\r\n"),
        Key("\r", "Terminated"),
        Line("cat &", "[1] "),
        // SIGTTIN, which the shell shows before its next prompt.
        Key("\r", "Stopped"),
        Line("kill %1; fg", "Terminated"),
        Line(
            "sh -c 'trap \"echo int $((6 * 7)); exit 9\" INT; echo begun $((6 * 8)); \
             while :; do sleep 1; done'",
            "begun 48",
        ),
        Key("\x03", "int 42"),
        Line("echo status $?", "status 9\r\n"),
        // A background write stops with TOSTOP (SIGTTOU), and the job goes on in the foreground.
        Line("stty tostop; echo $((6 * 7))", "42\r\n"),
        Line("/bin/echo $((7 * 7)) &", "[1] "),
        Key("\r", "Stopped"),
        Line("fg", "49\r\n"),
    ]
};

fn job_control(mut shell: Shell) {
    for step in STEPS {
        match step {
            Step::Line(line, output) => shell.command(line, output),
            Step::Key(key, effect) => shell.key(key, effect),
        }
    }
    shell.type_in("exit 7\r");
    assert_eq!(shell.end(), 7);
}

#[test]
fn jobs_beside_the_shell() {
    if let Some(shell) = Shell::start("jobs", &[]) {
        job_control(shell);
    }
}

#[test]
fn jobs_on_other_nodes() {
    if let Some(shell) = Shell::start("jobs-away", &["--spread"]) {
        job_control(shell);
    }
}
