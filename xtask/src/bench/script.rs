//! Scripts that bash times itself, so that neither its own start nor a client's counts.

use crate::interrupt;
use anyhow::{Context, Result, ensure};
use std::process::{Command, Stdio};

/// Seconds that a script took.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) real: f64,
    /// Its own and those of all programs that it waited for.
    pub(super) user_and_system: f64,
}

/// Wraps a script for `bash -c`: its output is dropped, its times are the last line of standard error.
pub(super) fn timed(script: &str) -> String {
    format!("TIMEFORMAT='%3R %3U %3S'; time {{ {script}; }} > /dev/null")
}

/// Runs `bash -c SCRIPT`, with the timed part in it, by way of the command's own arguments.
pub(super) fn times(command: &mut Command, script: &str) -> Result<Times> {
    let output = command.args(["-c", script]).stdin(Stdio::null()).output()?;
    interrupt::check()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{script}: {}: {text}", output.status);
    let last = text.lines().next_back().unwrap_or_default();
    let times: Option<Vec<f64>> = last.split_whitespace().map(|time| time.parse().ok()).collect();
    let times = times.with_context(|| format!("bash's time: {text}"))?;
    let [real, user, system] = times[..] else { anyhow::bail!("bash's time: {text}") };
    Ok(Times { real, user_and_system: user + system })
}

/// Runs it on the host.
pub(super) fn natively(script: &str) -> Result<Times> {
    times(&mut Command::new("bash"), script)
}
