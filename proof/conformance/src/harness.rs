//! Runs scenarios one after the other over one lab, which is taken down whatever happens, and
//! prints what libtest would print.

use crate::Lab;
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

/// What a scenario finds.
pub type Verdict = Result<(), String>;

/// One thing that programs may expect.
#[derive(Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub run: fn(&Lab) -> Verdict,
    /// Why it is known to fail, if what it needs is not built: run only with `--include-ignored`.
    pub gap: Option<&'static str>,
}

impl Scenario {
    /// A scenario that always runs.
    #[must_use]
    pub const fn new(name: &'static str, run: fn(&Lab) -> Verdict) -> Scenario {
        Scenario { name, run, gap: None }
    }
}

/// Runs the scenarios whose names contain one of the arguments, or all of them.
pub fn main(scenarios: &[Scenario], nodes: usize) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| arguments.iter().any(|argument| argument == name);
    let filters: Vec<&String> = arguments.iter().filter(|text| !text.starts_with('-')).collect();
    let chosen = |s: &&Scenario| filters.is_empty() || filters.iter().any(|f| s.name.contains(*f));
    let chosen: Vec<&Scenario> = scenarios.iter().filter(chosen).collect();
    if flag("--list") {
        chosen.iter().for_each(|scenario| println!("{}: test", scenario.name));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let start = Instant::now();
    let lab = match Lab::start(nodes) {
        Ok(lab) => lab,
        Err(error) => {
            println!("no lab: {error}");
            return finish(0, chosen.len(), 0, start.elapsed());
        }
    };
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for scenario in chosen {
        if let Some(gap) = scenario.gap
            && !flag("--include-ignored")
        {
            println!("test {} ... ignored, {gap}", scenario.name);
            ignored += 1;
            continue;
        }
        match (scenario.run)(&lab) {
            Ok(()) => {
                println!("test {} ... ok", scenario.name);
                passed += 1;
            }
            Err(reason) => {
                println!("test {} ... FAILED\n    {reason}", scenario.name);
                failed += 1;
            }
        }
    }
    drop(lab);
    finish(passed, failed, ignored, start.elapsed())
}

fn finish(passed: usize, failed: usize, ignored: usize, time: Duration) -> ExitCode {
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; {ignored} ignored; \
         0 measured; 0 filtered out; finished in {:.2}s\n",
        time.as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
