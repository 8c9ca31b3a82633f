//! The `dunix` binary: parses the command line and dispatches.

use clap::Parser;
use dunix::{cli, commands};
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(status) = dunix_lab::run_role() {
        return status;
    }
    match cli::Cli::try_parse() {
        Ok(cli) => commands::dispatch(cli),
        Err(error) => cli::refuse(&error),
    }
}
