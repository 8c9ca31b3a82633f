//! Moving a running process to another node.

use alloc::string::String;
use dunix_ids::{NodeId, Pid};
use serde::{Deserialize, Serialize};

/// A wish that a process run on another node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MoveRequest {
    pub pid: Pid,
    /// The node, by its name or its number in decimal.
    pub node: String,
    /// Send all of its memory before it runs there: then no later death of the node that it left
    /// can harm it, and it is stopped for longer.
    pub safe: bool,
    /// Answer when its last page has arrived; otherwise as soon as it runs there.
    pub wait: bool,
}

/// What came of a [`MoveRequest`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MoveOutcome {
    /// It runs at the target.
    Moved(Moved),
    /// It was not moved.
    Refused(MoveRefused),
}

/// A move that took place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Moved {
    /// Where it was.
    pub from: NodeId,
    /// Where it is.
    pub to: NodeId,
    /// How long it stood still, in microseconds.
    pub frozen_us: u64,
    /// From the request to the last byte of its memory, in microseconds; to its start at the
    /// target if that was not waited for.
    pub total_us: u64,
    /// Bytes of its memory that were sent before it ran again.
    pub bytes_before: u64,
    /// Bytes of its memory that followed; `None` if that was not waited for.
    pub bytes_after: Option<u64>,
}

/// Why a process was not moved.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MoveRefused {
    /// The reason's name, the same for every process, such as `shared-memory`; `docs/MOVING.md`
    /// lists them.
    pub reason: String,
    /// The reason in words, with what it is about.
    pub message: String,
    /// The process is no more; otherwise it goes on where it was.
    pub gone: bool,
}
