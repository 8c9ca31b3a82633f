//! `dunix node`: this machine as a node of a fabric; inside of it, the node's keeper and daemon.

use super::EXIT_DUNIX;
use super::lab::run_until_ended;
use crate::{cli::NodeArgs, keeper, node};
use dunix_lab::{LabConfig, LabError, Member, NodeConfig};
use std::path::Path;
use std::process::ExitCode;

/// Most bytes of a node's file.
const FILE_BYTES_MAX: u64 = 32 << 10;

/// Runs until the node ends.
pub fn run(args: &NodeArgs) -> ExitCode {
    match (&args.file, &args.interface) {
        _ if args.daemon => node::run_daemon(),
        (Some(file), Some(interface)) => match be_node(file, interface) {
            Ok(status) => ExitCode::from(status),
            Err(error) => {
                eprintln!("dunix: {error}");
                ExitCode::from(EXIT_DUNIX)
            }
        },
        _ => keeper::run(),
    }
}

fn be_node(file: &Path, interface: &str) -> Result<u8, LabError> {
    let node = read(file)?;
    let up =
        format!("node {} of fabric {} is up at {interface}; ^C ends it", node.name, node.fabric);
    let config = LabConfig::of_member(Member { node, interface: interface.to_owned() });
    run_until_ended(&config, &up)
}

fn read(file: &Path) -> Result<NodeConfig, LabError> {
    let failed = |source| LabError::State { path: file.to_owned(), source };
    let bytes = std::fs::metadata(file).map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(LabError::Config(format!("{}: no node's file", file.display())));
    }
    let text = std::fs::read(file).map_err(failed)?;
    serde_json::from_slice(&text)
        .map_err(|error| LabError::Config(format!("{}: no node's file: {error}", file.display())))
}
