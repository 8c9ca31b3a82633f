//! Programs that are moved from node to node while they run do what they do on the host: the same
//! output, the same status.
//!
//! A seed is one lab of three nodes in which every process is moved each 50 ms on average, and in
//! it one run of each program. One seed runs always, twenty with `cargo xtask test --full`.

use dunix_conformance::{
    Lab, Outcome, Scratch,
    storm::{Report, in_lab},
    witness,
};
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, OnceLock},
    time::Duration,
};

const NODES: usize = 3;
/// Time between two moves of a process on average.
const EVERY: &str = "50ms";
/// Of the moves that are asked for and possible, so many in a hundred are done.
const DONE_PERCENT: u64 = 90;
/// How long one program may take under the storm.
const LIMIT: Duration = Duration::from_secs(180);
/// Where the reasons of refusals are explained.
const MANUAL: &str = include_str!("../../../../docs/MOVING.md");
const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// A program and what it does on the host.
struct Program {
    name: &'static str,
    script: String,
    expected: Outcome,
}

/// What all seeds share: the folder of what is run, and what it does on the host.
struct Programs {
    /// A copy for the lab, which shows it as it was when the lab first looked.
    inside: PathBuf,
    all: Vec<Program>,
    _scratch: Scratch,
}

impl Programs {
    fn make() -> Result<Programs, String> {
        let scratch = Scratch::new()?;
        let (native, inside) = (scratch.path().join("native"), scratch.path().join("inside"));
        for folder in [&native, &inside] {
            furnish(folder)?;
        }
        let scripts = [
            ("bash", "mkdir bash; cd bash; bash ../session.sh 2>/dev/null"),
            ("python", "mkdir python; cd python; python3 ../session.py sockets"),
            ("descriptors", SHARING),
            (WITNESS, "mkdir witnessed; cd witnessed; ../witness 4000 --without sockets"),
            // Not of a description on its way in a message: its lock is overlooked once its locker has moved away and back.
            (LOCKS, "mkdir locks; cd locks; WITHOUT=sends python3 ../flock.py"),
            ("make", BUILD),
            ("privileges", PRIVILEGES),
            (CONNECTIONS, "mkdir sockets; cd sockets; ../witness 2000 --only sockets"),
        ];
        let mut all = Vec::new();
        for (name, script) in scripts {
            let run = format!("cd {}; {script}", native.display());
            let expected = scratch.script(&run)?;
            if expected.stdout.is_empty() {
                return Err(format!("{name} shows nothing on the host: {expected}"));
            }
            all.push(Program { name, script: script.to_owned(), expected });
        }
        Ok(Programs { inside, all, _scratch: scratch })
    }
}

/// The program that shares descriptors with its children.
const SHARING: &str = "mkdir descriptors; cd descriptors; python3 ../descriptors.py \
    pipes stream messages tcp counters files waits copies rights between discarded names";
const DESCRIPTORS: &str = "descriptors.py";
/// The program that watches from inside.
const WITNESS: &str = "witness";
/// The program that locks files.
const LOCKS: &str = "locks";
/// The program that makes TCP connections to itself.
const CONNECTIONS: &str = "sockets";
/// Programs that have more than who executes them, and others that they execute.
const PRIVILEGES: &str = "mkdir privileges; cd privileges
give() { cp ../p $1; chown $2 $1; chmod $3 $1; }
give p 0:0 755; give root 0:0 4755; give both 7:8 6755
as='setpriv --reuid 1000 --regid 1000 --groups 5,6'
for i in 1 2 3; do for p in p root both; do $as ./$p often 60 ./p > $i.$p & done; done
$as ./root odd > odd & $as ./root swap > swap & $as ./root drop ./root > drop & $as ./both x ./root > both.root &
wait; tail -n +1 ?.* odd swap drop both.root";
/// Part of the library, once; then what was made of it, to the byte.
const BUILD: &str = "cd zstd && env -u MAKEFLAGS make -s -j4 \
    $(ls lib/common/*.c lib/decompress/*.c lib/legacy/zstd_v0[12].c | sed 's/c$/o/'); \
    echo $?; sha256sum lib/*/*.o";

fn furnish(folder: &Path) -> Result<(), String> {
    std::fs::create_dir(folder).map_err(|error| error.to_string())?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/storm");
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    std::fs::copy(programs.join(DESCRIPTORS), folder.join(DESCRIPTORS))
        .map_err(|error| error.to_string())?;
    for name in ["session.sh", "session.py", "../scenarios/flock.py"] {
        let name = Path::new(name);
        let to = folder.join(name.file_name().unwrap_or_default());
        std::fs::copy(here.join(name), to).map_err(|error| error.to_string())?;
    }
    witness::build(&folder.join("witness"))?;
    let mut compile = Command::new("cc");
    compile.args(["-w", "-o"]).arg(folder.join("p"));
    compile.arg(Path::new(WORKSPACE).join("guest/programs/privileges.c"));
    if !compile.status().map_err(|error| error.to_string())?.success() {
        return Err("cc: privileges.c".into());
    }
    let mut unpack = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    unpack.args(["xtask", "unpack"]).arg(folder.join("zstd")).current_dir(WORKSPACE);
    let output = unpack.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("cargo xtask unpack: {}", String::from_utf8_lossy(&output.stderr)))
}

fn programs() -> &'static Mutex<Result<Programs, String>> {
    static PROGRAMS: OnceLock<Mutex<Result<Programs, String>>> = OnceLock::new();
    PROGRAMS.get_or_init(|| Mutex::new(Programs::make()))
}

/// Runs the chosen programs under these seeds and tells all that differs.
fn storm(seeds: std::ops::RangeInclusive<u64>, chosen: fn(&Program) -> bool) -> Result<(), String> {
    // One lab at a time: the machine is busy with one.
    let programs = programs().lock().map_err(|error| error.to_string())?;
    let programs = programs.as_ref().map_err(Clone::clone)?;
    let wrong: Vec<String> = seeds.flat_map(|seed| under(seed, programs, chosen)).collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

fn under(seed: u64, programs: &Programs, chosen: fn(&Program) -> bool) -> Vec<String> {
    let lab = match Lab::start_storm(NODES, EVERY, seed) {
        Ok(lab) => lab,
        Err(error) => return vec![format!("seed {seed}: no lab: {error}")],
    };
    let mut wrong = Vec::new();
    for program in programs.all.iter().filter(|program| chosen(program)) {
        let Program { name, script, expected } = program;
        match in_lab(&lab, &programs.inside, script, LIMIT) {
            Ok(found) if found.agrees_with(expected) => {}
            Ok(found) => wrong.push(format!("{name}: {}", difference(&found, expected))),
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
        if let Err(lost) = lab.check_nodes(NODES) {
            wrong.push(format!("after {name}: {lost}"));
            break;
        }
    }
    let said = lab.end();
    let judged = Report::find(&said).and_then(|report| {
        println!("seed {seed}: {report}");
        report.judge(DONE_PERCENT, &is_documented)
    });
    wrong.extend(judged.err());
    wrong.into_iter().map(|what| format!("seed {seed}: {what}")).collect()
}

/// The first line that differs, and all that was said besides.
fn difference(found: &Outcome, expected: &Outcome) -> String {
    let mut lines = found.stdout.lines().zip(expected.stdout.lines());
    let line = lines.find(|(found, expected)| found != expected);
    format!(
        "status {}, on the host {}; first difference {line:?}; {} lines, on the host {}; stderr {:?}",
        found.status,
        expected.status,
        found.stdout.lines().count(),
        expected.stdout.lines().count(),
        found.stderr,
    )
}

fn is_documented(reason: &str) -> bool {
    MANUAL.lines().any(|line| line.starts_with(&format!("| `{reason}` |")))
}

#[test]
fn a_storm_shows_to_no_program() -> Result<(), String> {
    storm(1..=1, |program| ![CONNECTIONS, WITNESS, LOCKS].contains(&program.name))
}

#[test]
fn a_storm_shows_to_no_witness() -> Result<(), String> {
    storm(1..=1, |program| program.name == WITNESS)
}

#[test]
#[ignore = "takes minutes: part of `cargo xtask test --full`"]
fn twenty_storms_show_to_no_program() -> Result<(), String> {
    storm(2..=21, |_| true)
}

#[test]
fn locks_hold_in_a_storm() -> Result<(), String> {
    storm(1..=1, |program| program.name == LOCKS)
}

#[test]
fn connections_are_made_in_a_storm() -> Result<(), String> {
    storm(1..=1, |program| program.name == CONNECTIONS)
}
