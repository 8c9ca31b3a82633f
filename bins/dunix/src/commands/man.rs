//! `dunix man` and `dunix completions`: made from the definitions of the command line.

use super::Failure;
use crate::cli::{Cli, CompletionsArgs, ManArgs};
use clap::CommandFactory;
use std::{fs, io};

/// Prints a shell's completion script.
pub fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "dunix", &mut script);
    io::Write::write_all(&mut io::stdout(), &script)?;
    Ok(())
}

/// Writes `dunix.1` and a page for each command that is not hidden.
pub fn write_pages(args: &ManArgs) -> Result<(), Failure> {
    fs::create_dir_all(&args.dir)?;
    clap_mangen::generate_to(Cli::command(), &args.dir)?;
    Ok(())
}
