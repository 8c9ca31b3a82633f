//! `dunix node`: the keeper of a node, and with `--daemon` its daemon.

use crate::cli::NodeArgs;
use std::process::ExitCode;

/// Runs until the node ends.
pub fn run(args: &NodeArgs) -> ExitCode {
    let role = if args.daemon { "daemon" } else { "keeper" };
    eprintln!("dunix: the {role} is not wired yet");
    ExitCode::from(super::EXIT_DUNIX)
}
