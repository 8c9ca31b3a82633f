//! `dunix init`: the keys of a fabric that spans machines.

use super::EXIT_FAILED;
use crate::cli::InitArgs;
use dunix_lab::{LabError, NodeConfig, make_members};
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

/// Writes one file for each node; overwrites none.
pub fn run(args: &InitArgs) -> ExitCode {
    match write_all(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dunix: {error}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn write_all(args: &InitArgs) -> Result<(), LabError> {
    let members = make_members(&args.name, args.nodes)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let clock_zero_s = now.ok().map(|now| now.as_secs());
    let failed = |path: &Path, source| LabError::State { path: path.to_owned(), source };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&args.dir)
        .map_err(|error| failed(&args.dir, error))?;
    for member in members {
        let path = args.dir.join(format!("{}.json", member.name));
        let member = NodeConfig { spread: args.spread, clock_zero_s, ..member };
        write(&path, &member).map_err(|error| failed(&path, error))?;
        println!("{}", path.display());
    }
    Ok(())
}

fn write(path: &PathBuf, member: &NodeConfig) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    serde_json::to_writer_pretty(&mut file, member)?;
    file.write_all(b"\n")
}
