//! The scenarios, over a lab of three nodes.

mod scenarios;

use dunix_conformance::{Scenario, main as run};
use scenarios::{
    commands, datagrams, descriptors, drains, faults, named, privileges, processes, renames,
    scripts, strict, terminals, tracing,
};
use std::process::ExitCode;

const NODES: usize = 3;

/// Scenarios whose subject is not built yet, and what is missing.
const GAPS: [(&str, &str); 1] = [("identity_of_files", "one st_dev on every node")];

fn with_gap(mut scenario: Scenario) -> Scenario {
    scenario.gap = GAPS.iter().find(|(name, _)| *name == scenario.name).map(|(_, gap)| *gap);
    scenario
}

fn main() -> ExitCode {
    let groups = [
        scripts::SCENARIOS,
        descriptors::SCENARIOS,
        named::SCENARIOS,
        datagrams::SCENARIOS,
        privileges::SCENARIOS,
        processes::SCENARIOS,
        commands::SCENARIOS,
        terminals::SCENARIOS,
        strict::SCENARIOS,
        tracing::SCENARIOS,
        renames::SCENARIOS,
        drains::SCENARIOS,
        faults::SCENARIOS,
    ];
    let all: Vec<Scenario> = groups.into_iter().flatten().copied().map(with_gap).collect();
    run(&all, NODES)
}
