//! The witness itself: on the host it finds nothing wrong, and each of its checks can fail.

use dunix_conformance::{Outcome, run_within, witness};
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    thread,
    time::Duration,
};

/// How long a run may take beyond what it was asked for.
const LIMIT: Duration = Duration::from_secs(60);
/// How long it watches, in milliseconds: a fault is injected at its 60th tick.
const WATCHES: &str = "500";
/// Runs at the same time; each is asleep for most of it.
const SIDE_BY_SIDE: usize = 4;

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("witness");
        witness::build(&path).unwrap();
        path
    })
}

fn run(arguments: &[&str]) -> Outcome {
    let mut command = Command::new(program());
    command.args(arguments).current_dir(env!("CARGO_TARGET_TMPDIR"));
    run_within(&mut command, LIMIT).unwrap()
}

fn checks() -> Vec<String> {
    run(&["--list"]).stdout.lines().map(str::to_owned).collect()
}

#[test]
fn all_is_well_on_the_host() {
    let outcome = run(&["1500"]);
    assert_eq!(outcome.status, 0, "{outcome}");
    let fine = outcome.stdout.lines().filter(|line| line.ends_with(" ok")).count();
    assert_eq!(fine, checks().len(), "{outcome}");
}

#[test]
fn each_check_notices_its_fault_and_no_other_does() {
    let checks = checks();
    assert!(checks.len() > 10);
    for some in checks.chunks(SIDE_BY_SIDE) {
        thread::scope(|scope| {
            for check in some {
                scope.spawn(move || notices(check));
            }
        });
    }
}

fn notices(check: &str) {
    let outcome = run(&[WATCHES, "--inject", check]);
    assert_eq!(outcome.status, 1, "{check}: {outcome}");
    let failed = outcome.stdout.lines().filter(|line| line.contains("FAILED"));
    let failed: Vec<&str> = failed.filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(failed, [check], "{outcome}");
}
