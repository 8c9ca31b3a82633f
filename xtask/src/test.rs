//! `cargo xtask test`: builds everything, runs every test, and ends with a line of figures.
//!
//! Skipped are tests marked `#[ignore]` (long ones, which `--full` runs).

use crate::{
    interrupt,
    packages::{self, CC, GDB, IP, MAKE, STRACE},
    watched,
    workspace::{self, cargo},
};
use anyhow::{Result, bail};
use std::time::Duration;

/// How long tests may print nothing. Of the long ones, one alone takes ten minutes.
const SILENCE: Duration = Duration::from_mins(8);
const SILENCE_FULL: Duration = Duration::from_mins(30);

/// What came out of test programs.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Figures {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Runs the tests; `full` includes the long ones.
pub(crate) fn run(full: bool) -> Result<()> {
    packages::ensure(&[MAKE, CC, IP, STRACE, GDB])?;
    workspace::build(&["dunix"])?;
    let mut arguments = vec!["test", "--release", "--workspace", "--no-fail-fast", "--color=never"];
    // Building says nothing to the standard output, and may take long.
    interrupt::run(cargo(&arguments).args(["--no-run", "--quiet"]))?;
    if full {
        arguments.extend(["--", "--include-ignored"]);
    }
    let silence = if full { SILENCE_FULL } else { SILENCE };
    let mut figures = Figures::default();
    let status = watched::run(&mut cargo(&arguments), silence, |line| figures.count(line))?;
    let succeeded = status.success();
    if !succeeded && figures.failed == 0 {
        // A test program that died, or did not compile, printed no result.
        figures.failed = 1;
    }
    println!("{} passed, {} failed, {} skipped", figures.passed, figures.failed, figures.skipped);
    if figures.failed > 0 || figures.passed == 0 {
        bail!("tests failed");
    }
    Ok(())
}

impl Figures {
    /// Adds what a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; ...` says.
    fn count(&mut self, line: &str) {
        let Some((_, figures)) =
            line.strip_prefix("test result: ").and_then(|result| result.split_once(". "))
        else {
            return;
        };
        for figure in figures.split("; ") {
            let Some((number, what)) = figure.split_once(' ') else { continue };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_add_up() {
        let mut figures = Figures::default();
        figures.count("running 3 tests");
        figures.count("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        figures.count("test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        assert_eq!(figures, Figures { passed: 5, failed: 1, skipped: 1 });
    }
}
