//! Running a command natively and under the shim, and comparing output, errors and status.
//!
//! What a machine lacks (a compiler, Go) is skipped, and the test says so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};

/// Writes the shim once, to a file of this test run.
pub(crate) fn shim() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let (bytes, path) = (scratch().join("shim.bytes"), scratch().join("shim"));
        std::fs::write(&bytes, dunix_shim_image::SHIM).expect("the scratch folder is writable");
        // Another process writes what will be executed: a descriptor of this one's could be open in
        // the child of another test at that time (ETXTBSY).
        let written = Command::new("install").args(["-m", "755"]).arg(&bytes).arg(&path).status();
        assert!(written.expect("install can be started").success());
        path
    })
}

/// A folder of cargo's for this crate's tests.
pub(crate) fn scratch() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("solo");
    std::fs::create_dir_all(&path).expect("cargo's folder for tests is writable");
    path
}

pub(crate) fn run(mut command: Command) -> Output {
    command.env("LC_ALL", "C").current_dir(scratch()).stdin(Stdio::null());
    command.output().expect("the command can be started")
}

pub(crate) fn native(words: &[&str]) -> Output {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    run(command)
}

pub(crate) fn under_shim(words: &[&str]) -> Output {
    let mut command = Command::new(shim());
    command.args(words);
    run(command)
}

pub(crate) fn under_shim_without_rewriting(words: &[&str]) -> Output {
    let mut command = Command::new(shim());
    command.args(words).env("DUNIX_REWRITE", "0");
    run(command)
}

/// Runs a command both ways and checks that nothing tells them apart; returns the output.
#[track_caller]
pub(crate) fn same(words: &[&str]) -> String {
    compare(words, &native(words), &under_shim(words))
}

/// Checks that two runs of a command cannot be told apart; returns the output.
#[track_caller]
pub(crate) fn compare(words: &[&str], expected: &Output, found: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(
        text(&found.stdout),
        text(&expected.stdout),
        "output of {words:?}: {}",
        text(&found.stderr)
    );
    assert_eq!(text(&found.stderr), text(&expected.stderr), "errors of {words:?}");
    assert_eq!(found.status, expected.status, "status of {words:?}");
    text(&found.stdout)
}

#[track_caller]
pub(crate) fn same_script(script: &str) -> String {
    same(&["/bin/bash", "-c", script])
}

pub(crate) fn has(program: &str) -> bool {
    let found = native(&["/bin/sh", "-c", &format!("command -v {program}")]).status.success();
    if !found {
        eprintln!("skipped: no {program} here");
    }
    found
}

/// Builds one of the checkers in `guest/programs`, once: tests that run at the same time share it.
pub(crate) fn checker(name: &str) -> Option<String> {
    static BUILT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if !has("gcc") {
        return None;
    }
    let source = format!("{}/../programs/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let program = scratch().join(name).display().to_string();
    let mut built = BUILT.lock().expect("no test panics while it builds");
    if built.insert(name.into()) {
        let gcc = ["/usr/bin/env", "gcc", "-O1", "-w", "-pthread"];
        let found = native(&[&gcc[..], &["-o", &program, &source, "-lutil"]].concat());
        assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    }
    Some(program)
}

/// The interpreter itself, if there is one, behind whatever `python3` is.
pub(crate) fn python() -> Option<String> {
    if !has("python3") {
        return None;
    }
    let found = native(&["/bin/sh", "-c", "python3 -c 'import sys; print(sys.executable)'"]);
    Some(String::from_utf8_lossy(&found.stdout).trim().to_owned())
}
