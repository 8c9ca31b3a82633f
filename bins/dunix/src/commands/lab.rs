//! `dunix lab`: a throw-away fabric on this machine.

use crate::cli::LabArgs;
use std::process::ExitCode;

/// Builds the lab, runs the program in it, and leaves nothing behind.
pub fn run(_args: &LabArgs) -> ExitCode {
    eprintln!("dunix: the lab is not wired yet");
    ExitCode::from(super::EXIT_DUNIX)
}
