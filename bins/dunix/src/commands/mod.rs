//! One file per command; what they share: dispatch, exit statuses, how errors are shown.

pub mod events;
pub mod explain;
pub mod init;
pub mod kill;
pub mod lab;
pub mod logs;
pub mod man;
pub mod metrics;
pub mod moving;
mod moving_tree;
pub mod node;
pub mod nodes;
pub mod ps;
pub mod run;
mod signals;
mod table;
pub mod terminal_anchor;
pub mod top;

use crate::{
    admin::{
        client::ClientError,
        discovery::{self, Fabric},
    },
    cli::{Cli, Command},
};
use std::{future::Future, process::ExitCode};

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
    let fabric = cli.fabric.as_deref();
    let result = match cli.command {
        Command::Run(args) => return run::run(fabric, &args),
        Command::Shell(args) => return run::run(fabric, &args.as_run()),
        Command::Login(args) => return run::run(fabric, &args.as_run()),
        Command::Logs(args) => with_fabric(fabric, async |fabric| logs::run(&fabric, &args).await),
        Command::Lab(args) => return lab::run(&args),
        Command::Init(args) => return init::run(&args),
        Command::Node(args) => return node::run(&args),
        Command::TerminalAnchor => return terminal_anchor::run(),
        Command::Ps(args) => with_fabric(fabric, async |fabric| ps::run(&fabric, &args).await),
        Command::Top(args) => with_fabric(fabric, async |fabric| top::run(&fabric, &args).await),
        Command::Nodes(args) => {
            with_fabric(fabric, async |fabric| nodes::run(&fabric, &args).await)
        }
        Command::Metrics(args) => {
            with_fabric(fabric, async |fabric| metrics::run(&fabric, &args).await)
        }
        Command::Move(args) => {
            with_fabric(fabric, async |fabric| moving::run(&fabric, &args).await)
        }
        Command::Explain(args) => {
            with_fabric(fabric, async |fabric| explain::run(&fabric, &args).await)
        }
        Command::Events(args) => {
            with_fabric(fabric, async |fabric| events::run(&fabric, &args).await)
        }
        Command::Kill(args) => kill::run(fabric, &args),
        Command::Completions(args) => man::completions(&args),
        Command::Man(args) => man::write_pages(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Why a command failed, and its exit status.
#[derive(Debug)]
pub struct Failure {
    /// One line, or empty if everything has been said.
    pub message: String,
    pub status: u8,
}

impl Failure {
    fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("dunix: {}", self.message);
        }
        ExitCode::from(self.status)
    }

    fn failed(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), status: EXIT_FAILED }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match error {
            ClientError::Refused(error) => Failure::failed(error.message),
            ClientError::Connection(message) => Failure { message, status: EXIT_DUNIX },
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        // Whoever read our output has left, as `head` does: nothing to complain about.
        let is_pipe = error.kind() == std::io::ErrorKind::BrokenPipe;
        Failure::failed(if is_pipe { String::new() } else { error.to_string() })
    }
}

/// Finds the fabric that is meant.
fn find_fabric(name: Option<&str>) -> Result<Fabric, Failure> {
    discovery::find(&discovery::run_dir(), name)
        .map_err(|error| Failure { message: error.to_string(), status: EXIT_DUNIX })
}

/// Finds the fabric and runs a command's future on this thread.
fn with_fabric<F: Future<Output = Result<(), Failure>>>(
    name: Option<&str>,
    command: impl FnOnce(Fabric) -> F,
) -> Result<(), Failure> {
    let fabric = find_fabric(name)?;
    runtime()?.block_on(command(fabric))
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
