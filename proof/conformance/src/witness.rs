//! The witness: a program that watches from inside whether it is being moved (`guest/programs`).

use std::{fs, path::Path, process::Command};

/// The folder of its sources.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest/programs/witness");

/// Builds the witness.
pub fn build(program: &Path) -> Result<(), String> {
    let entries = fs::read_dir(SOURCES).map_err(|error| format!("{SOURCES}: {error}"))?;
    let sources = entries.flatten().map(|entry| entry.path());
    let sources = sources.filter(|path| path.extension().is_some_and(|extension| extension == "c"));
    let mut compile = Command::new("cc");
    compile.args(["-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"]).arg(program);
    let output = compile.args(sources).output().map_err(|error| format!("cc: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("the witness does not compile:\n{}", String::from_utf8_lossy(&output.stderr)))
}
