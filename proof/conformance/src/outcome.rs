//! What came of a command: its output and how it ended.

use std::{
    io::Read,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const POLL_PAUSE: Duration = Duration::from_millis(5);

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
    let deadline = Instant::now() + limit;
    let mut hung = false;
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if Instant::now() > deadline && !hung => {
                hung = true;
                // Its readers of our pipes go with it.
                let group = rustix::process::Pid::from_child(&child);
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            None => thread::sleep(POLL_PAUSE),
        }
    };
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
