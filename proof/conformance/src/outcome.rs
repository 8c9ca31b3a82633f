//! What came of a command: its output and how it ended.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::{
    io::{self, Read},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// What a command printed and its status as a shell gives it.
#[derive(Clone, PartialEq, Eq)]
pub struct Outcome {
    pub stdout: String,
    pub stderr: String,
    pub status: i32,
}

impl Outcome {
    /// Whether both did the same, as far as a program can tell.
    #[must_use]
    pub fn agrees_with(&self, other: &Outcome) -> bool {
        self.stdout == other.stdout && self.status == other.status
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let head: String = self.stdout.chars().take(400).collect();
        write!(f, "status {}, stdout {head:?}", self.status)?;
        if self.stderr.is_empty() { Ok(()) } else { write!(f, ", stderr {:?}", self.stderr) }
    }
}

/// Runs a command to its end; one that takes longer than `limit` is killed with its process group.
pub fn run_within(command: &mut Command, limit: Duration) -> Result<Outcome, String> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let ended = wait_within(&mut child, limit).map_err(|error| error.to_string())?;
    let hung = ended.is_none();
    if hung {
        // Its readers of our pipes go with it.
        let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let text = |thread: thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&thread.join().unwrap_or_default()).into_owned()
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    if hung {
        return Err(format!(
            "hung for {} s; stdout {stdout:?}, stderr {stderr:?}",
            limit.as_secs()
        ));
    }
    let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(Outcome { stdout, stderr, status })
}

/// Waits for a child, at most so long; `None`: it has not ended.
///
/// # Errors
/// The host's, of pidfd_open(2), poll(2) or wait(2).
pub fn wait_within(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let ends = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&ends, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(None),
            Ok(_) => return child.wait().map(Some),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn collect(source: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut source) = source {
            // What was read before an error still counts.
            let _ = source.read_to_end(&mut bytes);
        }
        bytes
    })
}
