//! Scenarios as text: each file in this folder is a list of commands with the trace that they
//! must leave. `DUNIX_REWRITE=1` writes the traces anew, for a person to review.
//!
//! A block is one or more lines of commands, `----`, and the trace up to the next empty line.

mod fabric;

use fabric::Fabric;
use std::{fmt::Write, fs, path::Path};

#[test]
fn every_scenario_leaves_its_trace() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut count = 0;
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            check(&path);
            count += 1;
        }
    }
    assert!(count >= 8, "only {count} scenarios were found");
}

fn check(path: &Path) {
    let text = fs::read_to_string(path).expect("a scenario is text");
    let played = play(&text);
    if std::env::var_os("DUNIX_REWRITE").is_some() {
        fs::write(path, &played).expect("the folder can be written");
    } else {
        assert!(played == text, "{} leaves another trace:\n{played}", path.display());
    }
}

/// Plays a scenario and returns it with the traces it leaves.
fn play(text: &str) -> String {
    let mut fabric = Fabric::default();
    let mut out = String::new();
    for block in text.split("\n\n").map(str::trim).filter(|block| !block.is_empty()) {
        let commands = block.split("\n----").next().unwrap_or_default();
        out.push_str(commands);
        let mut trace = String::new();
        for line in commands.lines().filter(|line| !line.starts_with('#')) {
            fabric.command(line, &mut trace);
        }
        let has_commands = commands.lines().any(|line| !line.starts_with('#'));
        if has_commands {
            write!(out, "\n----\n{trace}").expect("a string takes it");
        } else {
            out.push('\n');
        }
        out.push('\n');
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}
