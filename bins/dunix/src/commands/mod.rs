//! One file per command; what they share: dispatch and exit statuses.

pub mod lab;
pub mod node;

use crate::cli::{Cli, Command};
use std::process::ExitCode;

/// The request failed.
pub const EXIT_FAILED: u8 = 1;
/// No fabric, or the connection to it broke; for `run` and `lab`: anything but the program.
pub const EXIT_DUNIX: u8 = 125;
/// The program exists and cannot be executed.
pub const EXIT_NOT_EXECUTABLE: u8 = 126;
/// The program does not exist.
pub const EXIT_NOT_FOUND: u8 = 127;

/// Runs the command and tells the exit status.
pub fn dispatch(cli: Cli) -> ExitCode {
    match cli.command {
        Command::Lab(args) => lab::run(&args),
        Command::Node(args) => node::run(&args),
        _ => ExitCode::from(EXIT_DUNIX),
    }
}
