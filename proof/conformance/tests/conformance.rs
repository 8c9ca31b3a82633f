//! The scenarios, over a lab of three nodes.

mod scenarios;

use dunix_conformance::{Scenario, main as run};
use scenarios::{commands, faults, scripts, terminals};
use std::process::ExitCode;

const NODES: usize = 3;

fn main() -> ExitCode {
    let groups = [scripts::SCENARIOS, commands::SCENARIOS, terminals::SCENARIOS, faults::SCENARIOS];
    let all: Vec<Scenario> = groups.into_iter().flatten().copied().collect();
    run(&all, NODES)
}
