//! Scenarios as text: each file in this folder is a list of commands with the trace that they must
//! leave (`proof/scenarios`).
//!
//! Moves are named by their source and epoch, as in `n1.1`.

mod pair;

use dunix_scenarios::play_folder;
use pair::Nodes;
use std::path::Path;

#[test]
fn every_scenario_leaves_its_trace() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    play_folder::<Nodes>(&folder, 4);
}
