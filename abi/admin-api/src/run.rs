//! Starting a program, signalling processes.

use alloc::{string::String, vec::Vec};
use dunix_ids::Pid;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// A program to run in the fabric.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RunRequest {
    /// The program's name (looked up in `PATH` of [`RunRequest::env`] as execvp(3) does) and its
    /// arguments; never empty.
    pub argv: Vec<ByteBuf>,
    /// `NAME=value` entries.
    pub env: Vec<ByteBuf>,
    /// Absolute path of the working directory.
    pub cwd: ByteBuf,
    /// File creation mask.
    pub umask: u32,
    /// Where the program and what it starts run.
    pub placement: Placement,
    /// What has been placed by the policy stays there: nothing of it moves for load.
    pub is_pinned: bool,
    /// Give the program a terminal of this size; its output is then all [`Stream::Stdout`].
    pub terminal: Option<TerminalSize>,
}

/// Where a program runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Placement {
    /// As the fabric's policy says.
    Policy,
    /// On the node that took the request, and all that it starts too.
    Local,
    /// Every exec in turn on the next node.
    Spread,
    /// On this node (a name, or a number in decimal).
    Node(String),
    /// On the node where this process runs now.
    Near(Pid),
}

/// Rows and columns of a terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TerminalSize {
    pub rows: u16,
    pub cols: u16,
}

/// A standard stream of a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Stream {
    Stdin,
    Stdout,
    Stderr,
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ExitStatus {
    /// exit(2) with this status, 0..=255.
    Exited(u8),
    /// Killed by this signal.
    Signaled { signal: u8, core_dumped: bool },
}

impl ExitStatus {
    /// The status as a shell shows it in `$?`: the exit status, or 128 + the signal.
    #[must_use]
    pub const fn shell_code(self) -> u8 {
        match self {
            ExitStatus::Exited(code) => code,
            ExitStatus::Signaled { signal, .. } => signal.saturating_add(128),
        }
    }
}

/// Whom kill addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum KillTarget {
    Process(Pid),
    /// Every member of the process group.
    Group(Pid),
}
