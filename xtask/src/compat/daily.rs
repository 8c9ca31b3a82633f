//! Programs of every day: shells, editors, servers, compilers, debuggers, each doing what it is for.

use super::Module;
use crate::packages::{self, CC, MAKE, SSH, SSHD, Tool};
use anyhow::Result;
use std::{fs, path::Path};

const CASES: &str = include_str!("daily.sh");
/// How long one run of all may take in seconds.
const SECONDS: u64 = 300;

const PROGRAMS: [(&str, &str); 16] = [
    ("zsh", "zsh"),
    ("vim", "vim"),
    ("tmux", "tmux"),
    ("git", "git"),
    ("/usr/bin/cargo", "cargo"),
    ("node", "nodejs"),
    ("javac", "default-jdk-headless"),
    ("perl", "perl"),
    ("nginx", "nginx-light"),
    ("redis-server", "redis-server"),
    ("psql", "postgresql"),
    ("sqlite3", "sqlite3"),
    ("curl", "curl"),
    ("gdb", "gdb"),
    ("strace", "strace"),
    ("top", "procps"),
];

/// Installs them.
pub(super) fn prepare(folder: &Path) -> Result<Vec<Module>> {
    packages::ensure(&[MAKE, CC, SSH, SSHD])?;
    packages::ensure(&PROGRAMS.map(|(program, package)| Tool { program, package }))?;
    let cases = folder.join("daily.sh");
    fs::write(&cases, CASES)?;
    let script = format!("source {}", cases.display());
    Ok(vec![Module { name: "daily".to_owned(), seconds: SECONDS, script }])
}
