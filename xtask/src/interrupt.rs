//! Interruption by signal: chores notice it, clean up by dropping what they hold, and fail.
//!
//! Invariant: nothing here waits without looking at the flag.

use anyhow::{Context, Result, bail};
use signal_hook::{consts, flag};
use std::{
    process::{Child, Command, ExitStatus},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

const POLL_PAUSE: Duration = Duration::from_millis(5);

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on SIGINT, SIGTERM and SIGHUP only set a flag.
pub(crate) fn listen() -> Result<()> {
    let interrupted = INTERRUPTED.get_or_init(Arc::default);
    for signal in [consts::SIGINT, consts::SIGTERM, consts::SIGHUP] {
        flag::register(signal, Arc::clone(interrupted)).context("cannot catch signals")?;
    }
    Ok(())
}

/// Fails once a signal has come.
pub(crate) fn check() -> Result<()> {
    if INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
        bail!("interrupted");
    }
    Ok(())
}

/// Waits for a child; an interruption kills it.
pub(crate) fn wait(child: &mut Child) -> Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait().context("wait")? {
            check()?;
            return Ok(status);
        }
        if let Err(interrupted) = check() {
            // It may have ended by itself meanwhile.
            let _ = child.kill();
            child.wait().context("wait")?;
            return Err(interrupted);
        }
        thread::sleep(POLL_PAUSE);
    }
}

/// Sleeps, unless interrupted.
pub(crate) fn sleep(time: Duration) -> Result<()> {
    check()?;
    thread::sleep(time);
    check()
}

/// Runs a command with the caller's standard streams; fails unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let mut child = command.spawn().with_context(|| shown.clone())?;
    let status = wait(&mut child)?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}

/// Runs a command and returns what it printed; fails unless it succeeds.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let shown = show(command);
    let output = command.output().with_context(|| shown.clone())?;
    check()?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{shown}: {}\n{}", output.status, error.trim_end());
    }
    Ok(output.stdout)
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
