//! `dunix terminal-anchor`: the process that stands for a session of the fabric at one of the
//! host's terminals. Standard input is the daemon's socket; it ends with it.

use std::os::fd::AsFd;
use std::process::ExitCode;

/// Runs until the daemon ends it.
pub fn run() -> ExitCode {
    let socket = std::io::stdin().as_fd().try_clone_to_owned();
    match socket.map(dunix_terminals::anchor_main) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        // Nobody reads its standard error; the daemon sees the socket close.
        _ => ExitCode::from(super::EXIT_FAILED),
    }
}
