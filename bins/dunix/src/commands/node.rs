//! `dunix node`: the keeper of a node, and with `--daemon` its daemon.

use crate::{cli::NodeArgs, keeper, node};
use std::process::ExitCode;

/// Runs until the node ends.
pub fn run(args: &NodeArgs) -> ExitCode {
    if args.daemon { node::run_daemon() } else { keeper::run() }
}
