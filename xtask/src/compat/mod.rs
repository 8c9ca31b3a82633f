//! `cargo xtask compat`: public test suites, natively and in a fabric, compared case by case.
//!
//! ```text
//! module --> natively, as root of a user namespace  --> verdict of each case
//!        --> in a fresh lab of one node             --> verdict of each case
//!        --> in a fresh lab of three, spread        --> verdict of each case
//! ```
//!
//! A case that passes natively must pass in the fabric. Exempt is only one that fails natively as well
//! in one of [`TRIES`] further runs. A case of the fabric is never tried again.

mod cpython;
mod daily;
mod debian;
mod golang;
mod native;
mod results;
mod shells;
mod stress;

use crate::{
    fabric::Fabric,
    interrupt,
    packages::{self, Tool},
    source::Scratch,
    workspace,
};
use anyhow::{Context, Result, bail};
use results::Results;
use std::{
    collections::BTreeSet,
    fs::File,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Further native runs of a case that differs.
const TRIES: usize = 5;
/// Lines of a run's own output that are shown when it did not end as natively.
const LOG_LINES: usize = 15;
/// How long after its own limit a run may take to be over.
const GRACE: Duration = Duration::from_secs(60);

/// Some cases that run in one go.
pub(super) struct Module {
    pub(super) name: String,
    /// How long one run may take, in seconds.
    pub(super) seconds: u64,
    /// For bash, in a fresh folder: appends lines to `$RESULTS` as [`Results`] reads them. `$CASES`
    /// names the cases to run; empty: all.
    pub(super) script: String,
}

/// A suite.
struct Suite {
    name: &'static str,
    /// How the names of its modules begin.
    prefix: &'static str,
    /// Makes sure that it is there, puts what it needs into the folder, and tells its modules.
    prepare: fn(&Path) -> Result<Vec<Module>>,
}

const SUITES: [Suite; 5] = [
    Suite { name: "python", prefix: "test_", prepare: cpython::prepare },
    Suite { name: "go", prefix: "go-", prepare: golang::prepare },
    Suite { name: "stress", prefix: "stress-", prepare: stress::prepare },
    Suite { name: "shells", prefix: "shells-", prepare: shells::prepare },
    Suite { name: "daily", prefix: "daily", prepare: daily::prepare },
];

/// Where modules run in the fabric.
#[derive(Clone, Copy)]
struct Place {
    name: &'static str,
    nodes: u32,
    lab: &'static [&'static str],
}

const LOCAL: Place = Place { name: "local", nodes: 1, lab: &[] };
const SPREAD: Place = Place { name: "spread", nodes: 3, lab: &["--spread"] };
const STORM: Place = Place { name: "storm", nodes: 3, lab: &["--spread", "--storm", "50ms"] };

/// What one place of one module came to.
struct Line {
    module: String,
    place: &'static str,
    native: usize,
    passed: usize,
    differences: Vec<String>,
    /// Cases that fail natively as well, at least at times.
    exempt: Vec<String>,
}

/// Runs suites or modules, all if none is named; `--local`, `--spread` and `--storm` choose places
/// (the first two if none is chosen).
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let (flags, names): (Vec<&str>, Vec<&str>) =
        arguments.iter().partition(|argument| argument.starts_with("--"));
    let places = places(&flags)?;
    let binaries = workspace::build(&["dunix"])?;
    packages::ensure(&[packages::IP, Tool { program: "setpriv", package: "util-linux" }])?;
    let scratch = Scratch::new("compat")?;
    let modules = modules(&names, scratch.path())?;
    let mut lines = Vec::new();
    for module in &modules {
        let native = run_natively(module, &[], scratch.path())?;
        for place in &places {
            let line = compare(module, place, &native, &binaries, scratch.path())?;
            println!("{line}");
            lines.push(line);
        }
    }
    report(&lines)
}

fn places(flags: &[&str]) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    for flag in flags {
        places.push(match *flag {
            "--local" => LOCAL,
            "--spread" => SPREAD,
            "--storm" => STORM,
            _ => bail!("{flag}: unknown option"),
        });
    }
    Ok(if places.is_empty() { vec![LOCAL, SPREAD] } else { places })
}

fn modules(names: &[&str], folder: &Path) -> Result<Vec<Module>> {
    let mut chosen = Vec::new();
    for suite in &SUITES {
        let is_named = names.is_empty() || names.contains(&suite.name);
        if !is_named && !names.iter().any(|name| name.starts_with(suite.prefix)) {
            continue;
        }
        let of_suite = (suite.prepare)(folder).with_context(|| suite.name)?;
        let wanted = |module: &Module| is_named || names.contains(&module.name.as_str());
        chosen.extend(of_suite.into_iter().filter(wanted));
    }
    if chosen.is_empty() {
        bail!("no such suite or module: {}", names.join(" "));
    }
    Ok(chosen)
}

/// Runs a module in a lab of its own and compares.
fn compare(
    module: &Module,
    place: &Place,
    native: &Results,
    binaries: &Path,
    folder: &Path,
) -> Result<Line> {
    let fabric = Fabric::start(binaries, "compat", place.nodes, place.lab)?;
    let mut command = fabric.dunix(&["run", "--cwd", "/", "--", "bash", "-c", WRAPPER]);
    let found = run_one(&mut command, module, &[], folder)?;
    drop(fabric);
    let mut line = Line {
        module: module.name.clone(),
        place: place.name,
        native: native.passed(),
        passed: found.passed(),
        differences: Vec::new(),
        exempt: native.failed(),
    };
    let suspects = native.differences(&found);
    let cases: Vec<&str> = suspects.iter().map(|(case, _)| *case).collect();
    let exempt = if cases.is_empty() { BTreeSet::new() } else { unsteady(module, &cases, folder)? };
    for (case, what) in &suspects {
        if exempt.contains(*case) {
            line.exempt.push((*case).to_owned());
        } else {
            line.differences.push(format!("{case}: {what}"));
        }
    }
    let is_clean = line.differences.is_empty() && line.exempt.is_empty();
    if native.status == 0 && found.status != 0 && is_clean {
        line.differences.push("no case differs, but the run failed".to_owned());
    }
    if found.status != native.status && !line.differences.is_empty() {
        line.differences.push(format!("status {}, natively {}", found.status, native.status));
        line.differences.extend(found.last_words(LOG_LINES).map(|word| format!("| {word}")));
    }
    Ok(line)
}

/// Which of the cases that passed natively fail there as well when they are tried again.
fn unsteady(module: &Module, cases: &[&str], folder: &Path) -> Result<BTreeSet<String>> {
    let mut failed = BTreeSet::new();
    for _ in 0..TRIES {
        let again = run_natively(module, cases, folder)?;
        failed.extend(cases.iter().filter(|case| !again.has_passed(case)).map(ToString::to_string));
    }
    Ok(failed)
}

fn run_natively(module: &Module, cases: &[&str], folder: &Path) -> Result<Results> {
    let mut native = native::Native::command();
    native.args(["bash", "-c", WRAPPER]);
    run_one(&mut native, module, cases, folder)
}

/// Runs a module in a folder of its own, within its time, and shows what came of it.
const WRAPPER: &str = r#"
folder=$(mktemp -d /var/tmp/compat-XXXXXX) && mkdir "$folder/work" && cd "$folder/work" || exit
export TMPDIR=$PWD RESULTS=$folder/results HOME=$PWD
: > "$RESULTS"
timeout --signal ABRT --kill-after 10 "$LIMIT" bash -c "$SCRIPT" > ../log 2>&1 < /dev/null
echo "status $?"
cat "$RESULTS"
echo log
tail -c 20000 ../log
cd / && rm -rf "$folder"
"#;

fn run_one(
    command: &mut Command,
    module: &Module,
    cases: &[&str],
    folder: &Path,
) -> Result<Results> {
    interrupt::check()?;
    let output = folder.join("output");
    // The lab sees this machine's files, and the environment of whoever asks.
    command.env("SCRIPT", &module.script).env("LIMIT", module.seconds.to_string());
    command.env("CASES", cases.join(" ")).env("LC_ALL", "C.UTF-8");
    command.env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    command.stdout(File::create(&output)?).stderr(Stdio::inherit());
    let mut child = native::started(command)?;
    let deadline = Instant::now() + Duration::from_secs(module.seconds) + GRACE;
    while child.try_wait()?.is_none() {
        if interrupt::sleep(Duration::from_millis(50)).is_err() || Instant::now() > deadline {
            // It may have ended by itself meanwhile.
            let _ = child.kill();
        }
    }
    interrupt::check()?;
    Ok(Results::parse(&String::from_utf8_lossy(&std::fs::read(&output)?)))
}

fn report(lines: &[Line]) -> Result<()> {
    println!("\n{:<28} {:<7} {:>7} {:>7} differences", "module", "place", "native", "dunix");
    lines.iter().for_each(|line| println!("{}", line.row()));
    let differences: usize = lines.iter().map(|line| line.differences.len()).sum();
    if differences > 0 { bail!("programs behave otherwise in a fabric") } else { Ok(()) }
}

impl Line {
    fn row(&self) -> String {
        format!(
            "{:<28} {:<7} {:>7} {:>7} {}",
            self.module,
            self.place,
            self.native,
            self.passed,
            self.differences.iter().filter(|line| !line.starts_with('|')).count(),
        )
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.row())?;
        for difference in &self.differences {
            write!(f, "\n    {difference}")?;
        }
        if !self.exempt.is_empty() {
            write!(f, "\n    exempt, as they fail natively: {}", self.exempt.join(", "))?;
        }
        Ok(())
    }
}
