//! What the caller's process hands on to the program: arguments, environment, directory, umask.

use super::terminal;
use crate::cli::{PlaceArgs, RunArgs};
use dunix_admin_api::{Placement, RunRequest};
use serde_bytes::ByteBuf;
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt,
    path::PathBuf,
};

/// Umask if the kernel does not tell it.
const UMASK_DEFAULT: u32 = 0o022;

/// Builds the request; an error is the user's.
pub(super) fn build(args: &RunArgs, with_terminal: bool) -> Result<RunRequest, String> {
    let bytes = |text: &OsString| ByteBuf::from(text.as_bytes());
    Ok(RunRequest {
        argv: args.command.iter().map(bytes).collect(),
        env: environment(args, std::env::vars_os().collect())?,
        cwd: ByteBuf::from(directory(args)?.as_os_str().as_bytes()),
        umask: umask(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
        placement: placement(&args.place),
        is_pinned: args.place.pin,
        terminal: with_terminal.then(terminal::size),
    })
}

/// The same request in `/`: the caller's own directory need not exist in the fabric.
pub(super) fn in_root(mut request: RunRequest) -> RunRequest {
    request.cwd = ByteBuf::from(b"/");
    request.env.retain(|entry| !entry.starts_with(b"PWD=") && !entry.starts_with(b"OLDPWD="));
    request
}

fn placement(args: &PlaceArgs) -> Placement {
    match &args.node {
        Some(node) => Placement::Node(node.clone()),
        None if args.near.is_some() => args.near.map_or(Placement::Policy, Placement::Near),
        None if args.spread => Placement::Spread,
        None if args.local => Placement::Local,
        None => Placement::Policy,
    }
}

fn directory(args: &RunArgs) -> Result<PathBuf, String> {
    // A caller in a removed directory still can run something.
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    match &args.cwd {
        Some(cwd) if cwd.as_os_str().is_empty() => Err("--cwd is empty".to_owned()),
        Some(cwd) => Ok(here.join(cwd)),
        None => Ok(here),
    }
}

fn environment(
    args: &RunArgs,
    caller: BTreeMap<OsString, OsString>,
) -> Result<Vec<ByteBuf>, String> {
    let mut variables = if args.clear_env { BTreeMap::new() } else { caller.clone() };
    if args.cwd.is_some() {
        variables.remove(OsStr::new("PWD"));
        variables.remove(OsStr::new("OLDPWD"));
    }
    for entry in &args.env {
        let text = entry.as_bytes();
        let split = text.iter().position(|byte| *byte == b'=');
        let name = OsStr::from_bytes(&text[..split.unwrap_or(text.len())]);
        if name.is_empty() {
            return Err(format!("--env {}: a variable needs a name", entry.display()));
        }
        let value = match split {
            Some(at) => Some(OsStr::from_bytes(&text[at + 1..]).to_owned()),
            None => caller.get(name).cloned(),
        };
        if let Some(value) = value {
            variables.insert(name.to_owned(), value);
        }
    }
    let entry = |(name, value): (OsString, OsString)| {
        ByteBuf::from([name.as_bytes(), b"=", value.as_bytes()].concat())
    };
    Ok(variables.into_iter().map(entry).collect())
}

/// Takes the umask from `/proc/self/status` (proc(5)): asking the kernel for it would change it.
fn umask(status: &str) -> u32 {
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(UMASK_DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn args(arguments: &[&str]) -> RunArgs {
        let cli = Cli::try_parse_from([&["dunix", "run"], arguments, &["--", "x"]].concat());
        let Command::Run(args) = cli.unwrap().command else { panic!("not run") };
        args
    }

    fn variables(arguments: &[&str]) -> Vec<String> {
        let caller = [("A", "1"), ("B", "2"), ("PWD", "/x")];
        let caller = caller.map(|(name, value)| (name.into(), value.into())).into();
        let env = environment(&args(arguments), caller).unwrap();
        env.into_iter().map(|entry| String::from_utf8(entry.into_vec()).unwrap()).collect()
    }

    #[test]
    fn environment_is_the_callers_unless_told_otherwise() {
        assert_eq!(variables(&[]), ["A=1", "B=2", "PWD=/x"]);
        assert_eq!(variables(&["-e", "A=x=y", "-C", "/"]), ["A=x=y", "B=2"]);
        assert_eq!(variables(&["--clear-env", "-e", "B", "-e", "C", "-e", "D="]), ["B=2", "D="]);
        assert!(environment(&args(&["-e", "=x"]), BTreeMap::new()).is_err());
    }

    #[test]
    fn umask_is_octal() {
        assert_eq!(umask("Name:\tx\nUmask:\t0027\n"), 0o027);
        assert_eq!(umask(""), UMASK_DEFAULT);
    }
}
