//! A python3 computation with threads and files, moved while it runs.

use super::report::Report;
use crate::{fabric::Fabric, interrupt, source::Scratch};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const PROGRAM: &str = include_str!("../../demo/compute.py");
const FILE: &str = "compute.py";
/// The system's own: one in a home folder is not for every user, and so not in the fabric.
const PYTHON: &str = "/usr/bin/python3";
/// Hashes of each thread: a few seconds of work.
const ROUNDS: &str = "2000000";
/// Where it goes while it computes; it starts at n1.
const JOURNEY: [&str; 2] = ["n2", "n3"];
/// How long it computes between moves.
const STAY: Duration = Duration::from_millis(400);

/// Puts the program where a fabric that starts later sees it.
pub(super) fn prepare(scratch: &Scratch) -> Result<()> {
    Ok(std::fs::write(scratch.path().join(FILE), PROGRAM)?)
}

/// Runs it natively, then moved from node to node; the answers must be equal.
pub(super) fn compare(fabric: &Fabric, scratch: &Scratch, report: &mut Report) -> Result<()> {
    let program = scratch.path().join(FILE);
    let start = Instant::now();
    let mut native = Command::new(PYTHON);
    arguments(&mut native, &program, &scratch.path().join("parts"));
    let expected = interrupt::output(native.stdin(Stdio::null()))?;
    report.time("computation, native", start.elapsed());
    let expected = answer(&String::from_utf8_lossy(&expected)).context("no answer natively")?;

    println!("dunix run -- {PYTHON} compute.py, moved to {}", JOURNEY.join(" and "));
    let start = Instant::now();
    let mut command = fabric.dunix(&["run", "--node", "n1", "--", PYTHON]);
    // A folder that only the fabric has.
    arguments(&mut command, &program, &scratch.path().join("parts-in-fabric"));
    let mut child = command.stdout(Stdio::piped()).spawn().context("dunix run")?;
    let mut output = BufReader::new(child.stdout.take().context("no output")?);
    let mut pid = String::new();
    output.read_line(&mut pid)?;
    for node in JOURNEY {
        interrupt::sleep(STAY)?;
        let moved = go(fabric, pid.trim(), node);
        let holds = moved.is_ok();
        report.check(holds, moved.unwrap_or_else(|error| format!("{error:#}")));
    }
    let mut rest = String::new();
    output.read_to_string(&mut rest)?;
    let status = interrupt::wait(&mut child)?;
    report.time("computation, moved", start.elapsed());
    let same = status.success() && answer(&(pid + &rest)) == Some(expected);
    report.check(same, format!("the moved computation's answer is the native one's: {status}"));
    Ok(())
}

fn arguments(command: &mut Command, program: &Path, folder: &Path) {
    command.arg(program).arg(folder).arg(ROUNDS);
}

/// The line after the PID.
fn answer(output: &str) -> Option<String> {
    output.lines().nth(1).map(str::to_owned)
}

/// Moves the process and tells how long it stood still.
fn go(fabric: &Fabric, pid: &str, node: &str) -> Result<String> {
    let output = fabric.dunix(&["move", "--json", pid, node]).output()?;
    interrupt::check()?;
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let Some(frozen) = outcome["Moved"]["frozen_us"].as_f64() else {
        bail!(
            "python3 does not move to {node}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    };
    Ok(format!("python3 with 4 threads moved to {node}, frozen for {:.1} ms", frozen / 1000.0))
}
