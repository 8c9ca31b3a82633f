//! `cargo xtask demo`: one machine's programs over three nodes, compared with the machine alone.
//!
//! ```text
//! native build of zstd  ->  make -j6 in a lab of three nodes  ->  same objects? every node busy?
//! native pipeline       ->  the same pipeline in the lab      ->  same output?  several nodes?
//! native computation    ->  the same, moved while it runs     ->  same answer?
//! ```
//!
//! Exits with 0 only if every comparison holds, and leaves nothing behind in any case.

mod moved;
mod report;
mod watch;

use crate::{
    fabric::Fabric,
    interrupt,
    packages::{self, CC, IP, MAKE, PYTHON},
    source::{self, Scratch},
    workspace,
};
use anyhow::{Context, Result, bail};
use report::Report;
use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use watch::{Program, Watch};

const NODES: u32 = 3;
const JOBS: &str = "-j6";
/// Every node runs at least one in this many of the compilers.
const SHARE: usize = 5;
const PIPELINE: &str = "cat all.c | tr -cs A-Za-z '\\n' | sort | uniq -c | sort -rn | head -20";
/// The programs of [`PIPELINE`].
const STAGES: [&str; 5] = ["cat", "tr", "sort", "uniq", "head"];
const NUMBER_OF_STAGES: usize = 6;

/// Builds, compares, reports.
pub(crate) fn run() -> Result<()> {
    packages::ensure(&[MAKE, CC, IP, PYTHON])?;
    let binaries = workspace::build(&["dunix"])?;
    let scratch = Scratch::new("demo")?;
    let (native, inside) = (scratch.path().join("native"), scratch.path().join("fabric"));
    let files = source::unpack(&native)?;
    source::unpack(&inside)?;
    let all = source::concatenate(&native)?;
    source::add(&native, "all.c", &all)?;
    source::add(&inside, "all.c", &all)?;
    moved::prepare(&scratch)?;

    println!("native build of {files} C files, each twice (make {JOBS}) ...");
    let build = Instant::now();
    interrupt::output(&mut make(Command::new("make"), &native))?;
    let native_time = build.elapsed();
    println!("lab of {NODES} nodes, every program on the next node in turn ...");
    let fabric = Fabric::start(&binaries, "demo", NODES, &["--spread"])?;
    let watch = Watch::start(&fabric)?;

    let mut report = Report::new(&fabric)?;
    report.time("build, native", native_time);
    build_inside(&fabric, &inside, &scratch, &mut report)?;
    compare_objects(&fabric, &native, &inside, &mut report)?;
    compare_program(&fabric, &native, &inside, &mut report)?;
    let programs = watch.take()?;
    judge_build(&programs, &mut report);
    compare_pipeline(&fabric, &native, &inside, &mut report)?;
    let stages = watch.take()?;
    judge_pipeline(&stages, &mut report);
    moved::compare(&fabric, &scratch, &mut report)?;
    let all: Vec<Program> = programs.into_iter().chain(stages).collect();
    report.print(&fabric, &all)?;
    drop((watch, fabric, scratch));
    if report.holds() { Ok(()) } else { bail!("a comparison failed") }
}

fn make(mut make: Command, folder: &Path) -> Command {
    // The caller's make must not speak to this one.
    make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    make.arg("-C").arg(folder).arg(JOBS).stdin(Stdio::null());
    make
}

fn build_inside(
    fabric: &Fabric,
    inside: &Path,
    scratch: &Scratch,
    report: &mut Report,
) -> Result<()> {
    println!("dunix run -- make -C {} {JOBS}", inside.display());
    let log = scratch.path().join("make.log");
    let output = File::create(&log)?;
    let mut command = make(fabric.dunix(&["run", "--", "make"]), inside);
    command.stdout(output.try_clone()?).stderr(output);
    let start = Instant::now();
    let mut child = command.spawn().context("dunix run")?;
    let status = interrupt::wait(&mut child)?;
    report.time("build, fabric", start.elapsed());
    report.check(status.success(), format!("make in the fabric: {status}"));
    if !status.success() {
        eprintln!("{}", String::from_utf8_lossy(&fs::read(&log)?));
    }
    Ok(())
}

/// Every object has the same SHA-256, native and in the fabric, whose files only the fabric sees.
fn compare_objects(
    fabric: &Fabric,
    native: &Path,
    inside: &Path,
    report: &mut Report,
) -> Result<()> {
    let sums = "find . -name '*.o' | sort | xargs sha256sum";
    let expected = interrupt::output(&mut shell(native, sums))?;
    let found = in_fabric(fabric, inside, sums)?;
    let same = expected.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let same = same.filter(|line| found.split(|b| *b == b'\n').any(|other| other == *line)).count();
    let count = expected.split(|b| *b == b'\n').filter(|line| !line.is_empty()).count();
    let holds = expected == found && count > 0;
    report.check(holds, format!("{same} of {count} objects are identical (SHA-256)"));
    Ok(())
}

fn compare_program(
    fabric: &Fabric,
    native: &Path,
    inside: &Path,
    report: &mut Report,
) -> Result<()> {
    let run = "./program < all.c";
    let expected = interrupt::output(&mut shell(native, run))?;
    let found = in_fabric(fabric, inside, run)?;
    let text = String::from_utf8_lossy(&found).trim().to_owned();
    report.check(expected == found, format!("the program linked in the fabric runs: {text}"));
    Ok(())
}

fn compare_pipeline(
    fabric: &Fabric,
    native: &Path,
    inside: &Path,
    report: &mut Report,
) -> Result<()> {
    println!("dunix run -- bash -c \"{PIPELINE}\"");
    let start = Instant::now();
    let expected = interrupt::output(&mut shell(native, PIPELINE))?;
    report.time("pipeline, native", start.elapsed());
    let start = Instant::now();
    let found = in_fabric(fabric, inside, PIPELINE)?;
    report.time("pipeline, fabric", start.elapsed());
    let same = expected == found && expected.split(|b| *b == b'\n').count() == 21;
    report.check(same, "the pipeline's output is identical".to_owned());
    Ok(())
}

fn shell(folder: &Path, script: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", script]).current_dir(folder).env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// What a script prints in the fabric; a failure is shown and gives what came before it.
fn in_fabric(fabric: &Fabric, folder: &Path, script: &str) -> Result<Vec<u8>> {
    let mut command = fabric.dunix(&["run", "--env", "LC_ALL=C", "--cwd"]);
    let output = command.arg(folder).args(["--", "bash", "-c", script]).output()?;
    interrupt::check()?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        eprintln!("in the fabric: {script}: {}\n{}", output.status, error.trim_end());
    }
    Ok(output.stdout)
}

fn judge_build(programs: &[Program], report: &mut Report) {
    let on = |node| programs.iter().filter(|p| p.name == "cc1" && p.node == node).count();
    let counts: Vec<usize> = (1..=u64::from(NODES)).map(on).collect();
    let total: usize = counts.iter().sum();
    let holds = total > 0 && counts.iter().all(|count| count * SHARE >= total);
    let message = format!("every node ran a fifth of the {total} compilers or more: {counts:?}");
    report.check(holds, message);
}

fn judge_pipeline(stages: &[Program], report: &mut Report) {
    let stages: Vec<&Program> =
        stages.iter().filter(|stage| STAGES.contains(&stage.name.as_str())).collect();
    let shown: Vec<String> =
        stages.iter().map(|stage| format!("{} on n{}", stage.name, stage.node)).collect();
    let nodes =
        (1..=u64::from(NODES)).filter(|node| stages.iter().any(|s| s.node == *node)).count();
    let holds = stages.len() == NUMBER_OF_STAGES && nodes == NODES as usize;
    report.check(holds, format!("the stages sit on {nodes} nodes: {}", shown.join(", ")));
}

/// Seconds, for people.
fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
