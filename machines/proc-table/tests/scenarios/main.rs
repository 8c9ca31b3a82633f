//! Scenarios as text: each file in this folder is a list of commands with the trace that they must
//! leave (`proof/scenarios`).

mod fabric;

use dunix_scenarios::play_folder;
use fabric::Fabric;
use std::path::Path;

#[test]
fn every_scenario_leaves_its_trace() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    play_folder::<Fabric>(&folder, 8);
}
