//! `dunix run`: a program in the fabric with the caller's standard streams.
//!
//! ```text
//! request   command line, environment, directory, umask -> RunRequest
//! relay     frames <-> standard streams and signals, until the exit
//! streams   the threads that read and write the caller's descriptors
//! terminal  raw mode, restored on every way out
//! ```

mod relay;
mod request;
mod streams;
mod terminal;

use super::{EXIT_DUNIX, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, Failure, find_fabric, runtime};
use crate::{
    admin::{
        client::{ClientError, Connection},
        discovery::Fabric,
    },
    cli::RunArgs,
};
use dunix_admin_api::{ErrorKind, Request, RunRequest};
use std::process::ExitCode;

/// Runs the program; the exit status is as a shell's.
pub fn run(fabric: Option<&str>, args: &RunArgs) -> ExitCode {
    let status = find_fabric(fabric).and_then(|fabric| run_in(&fabric, args));
    match status {
        Ok(status) => ExitCode::from(status),
        Err(failure) => failure.report(),
    }
}

/// Runs the program in a fabric and returns its exit status as a shell gives it.
pub fn run_in(fabric: &Fabric, args: &RunArgs) -> Result<u8, Failure> {
    let with_terminal = terminal::is_wanted(args.pty);
    let request = request::build(args, with_terminal)
        .map_err(|message| Failure { message, status: EXIT_DUNIX })?;
    let runtime = runtime().map_err(|error| dunix_failed(&error.to_string()))?;
    let outcome = runtime.block_on(async {
        // Signals are listened to first: none may fall between the request and the relay.
        let mut signals = relay::Signals::listen(with_terminal)?;
        let outcome = ask(fabric, request.clone(), &mut signals).await;
        match outcome {
            Err(ClientError::Refused(error))
                if error.kind == ErrorKind::NoSuchDirectory && args.cwd.is_none() =>
            {
                eprintln!("dunix: {}; running in /", error.message);
                ask(fabric, request::in_root(request), &mut signals).await
            }
            outcome => outcome,
        }
    });
    // The reader of standard input may be blocked for ever: it is left to the process's exit.
    runtime.shutdown_background();
    outcome.map_err(failure)
}

async fn ask(
    fabric: &Fabric,
    request: RunRequest,
    signals: &mut relay::Signals,
) -> Result<u8, ClientError> {
    let with_terminal = request.terminal.is_some();
    let connection = Connection::open(fabric, Request::Run(Box::new(request))).await?;
    relay::relay(connection, signals, with_terminal).await
}

fn failure(error: ClientError) -> Failure {
    match error {
        ClientError::Refused(error) => {
            let status = match error.kind {
                ErrorKind::ProgramNotFound => EXIT_NOT_FOUND,
                ErrorKind::ProgramNotExecutable => EXIT_NOT_EXECUTABLE,
                _ => EXIT_DUNIX,
            };
            Failure { message: error.message, status }
        }
        ClientError::Connection(message) => dunix_failed(&message),
    }
}

fn dunix_failed(message: &str) -> Failure {
    Failure { message: message.to_owned(), status: EXIT_DUNIX }
}
