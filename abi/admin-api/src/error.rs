//! What a node answers when it cannot do what was asked.

use alloc::string::String;
use serde::{Deserialize, Serialize};

/// Why a request failed, in words for the user and in a form for programs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct AdminError {
    pub kind: ErrorKind,
    /// One line: what failed and, where it is known, what to do.
    pub message: String,
}

/// Causes that a caller tells apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ErrorKind {
    /// Client and node speak different versions.
    Version,
    /// The request makes no sense.
    Invalid,
    /// No process has this PID.
    NoSuchProcess,
    /// No node has this name or number.
    NoSuchNode,
    /// The node is known but does not answer.
    NodeUnreachable,
    /// The program does not exist: exit status 127.
    ProgramNotFound,
    /// The program exists and cannot be executed: exit status 126.
    ProgramNotExecutable,
    /// The working directory does not exist in the fabric.
    NoSuchDirectory,
    /// A limit is reached (processes, connections, PIDs).
    Limit,
    /// Not permitted.
    Denied,
    /// The fabric cannot do this (yet).
    Unsupported,
    /// Something broke inside the fabric.
    Internal,
}

impl AdminError {
    /// Makes an error.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> AdminError {
        AdminError { kind, message: message.into() }
    }
}
