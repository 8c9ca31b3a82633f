//! What the tests of protocol machines share: scenarios as text; chance that a seed repeats, what is
//! to happen, and the trace of what has happened.
//!
//! A scenario is a file of blocks. A block is one or more lines of commands (`#` begins a comment),
//! `----`, and the trace that they must leave, up to the next empty line. Environment variable
//! `DUNIX_WRITE_TRACES=1` writes the traces anew, for a person to review.
//!
//! Refuses: to know any machine. What a command does is the test's own.

mod queue;
mod rng;
mod trace;

pub use queue::Queue;
pub use rng::Rng;
pub use trace::Trace;

use std::{fmt::Write, fs, path::Path};

/// What a scenario's commands act on: some nodes with a machine each, and the links between them.
pub trait Stage: Default {
    /// Executes one line and appends what it leaves to the trace, in whole lines.
    fn command(&mut self, line: &str, trace: &mut String);
}

/// Plays every `.txt` of a folder, each from a fresh stage.
///
/// # Panics
/// If one leaves another trace than it says, or there are fewer than `least`.
pub fn play_folder<S: Stage>(folder: &Path, least: usize) {
    let mut count = 0;
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            check::<S>(&path);
            count += 1;
        }
    }
    assert!(count >= least, "only {count} scenarios were found");
}

fn check<S: Stage>(path: &Path) {
    let text = fs::read_to_string(path).expect("a scenario is text");
    let played = play::<S>(&text);
    if std::env::var_os("DUNIX_WRITE_TRACES").is_some() {
        fs::write(path, &played).expect("the folder can be written");
    } else {
        assert!(played == text, "{} leaves another trace:\n{played}", path.display());
    }
}

/// Plays a scenario and returns it with the traces it leaves.
fn play<S: Stage>(text: &str) -> String {
    let mut stage = S::default();
    let mut out = String::new();
    for block in text.split("\n\n").map(str::trim).filter(|block| !block.is_empty()) {
        let commands = block.split("\n----").next().unwrap_or_default();
        out.push_str(commands);
        let mut trace = None;
        for line in commands.lines().filter(|line| !line.starts_with('#')) {
            stage.command(line, trace.get_or_insert_default());
        }
        match trace {
            Some(trace) => write!(out, "\n----\n{trace}\n").expect("a string takes it"),
            // Comments alone.
            None => out.push_str("\n\n"),
        }
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Sum(u32);

    impl Stage for Sum {
        fn command(&mut self, line: &str, trace: &mut String) {
            self.0 += line.parse::<u32>().expect("a number");
            writeln!(trace, "{}", self.0).expect("a string takes it");
        }
    }

    #[test]
    fn a_right_trace_stays_as_it_is() {
        let text = "# Adds.\n\n1\n2\n----\n1\n3\n\n# And goes on.\n4\n----\n7\n";
        assert_eq!(play::<Sum>(text), text);
    }

    #[test]
    fn a_wrong_or_missing_trace_is_replaced() {
        assert_eq!(play::<Sum>("1\n----\n2\n\n2\n"), "1\n----\n1\n\n2\n----\n3\n");
    }
}
