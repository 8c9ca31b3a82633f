//! Scenarios as text: each file in this folder is a list of commands with the trace that they
//! must leave. `DUNIX_REWRITE=1` writes the traces anew, for a person to review.
//!
//! A block is one or more lines of commands, `----`, and the trace up to the next empty line. Moves
//! are named by their source and epoch, as in `n1.1`.

mod pair;

use pair::Nodes;
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
    assert!(count >= 4, "only {count} scenarios were found");
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
    let mut nodes = Nodes::default();
    let mut out = String::new();
    for block in text.split("\n\n").map(str::trim).filter(|block| !block.is_empty()) {
        let commands = block.split("\n----").next().unwrap_or_default();
        out.push_str(commands);
        let mut trace = String::new();
        let lines = || commands.lines().filter(|line| !line.starts_with('#'));
        for line in lines() {
            nodes.command(line, &mut trace);
        }
        if lines().next().is_some() {
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
