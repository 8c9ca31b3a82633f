//! What happens in a fabric, as it happens.

use crate::ExitStatus;
use alloc::{string::String, vec::Vec};
use dunix_ids::{NodeId, Pid};
use serde::{Deserialize, Serialize};

/// One thing that happened at one node. Events of one node come in order; a receiver that is too
/// slow gets [`EventKind::Lost`] instead of what it missed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since 1970 by the node's clock.
    pub at_unix_ms: u64,
    pub node: NodeId,
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum EventKind {
    /// A process came into being by fork (or as the root of a `dunix run`).
    Started { pid: Pid, ppid: Pid, args: Vec<String> },
    /// A process runs a new program, here; `reason` says why it was placed here.
    Executed { pid: Pid, args: Vec<String>, reason: String },
    /// A process ended.
    Exited { pid: Pid, status: ExitStatus },
    /// A process that ran at `from` runs here now; it stood still for `frozen_us` microseconds.
    Moved { pid: Pid, from: NodeId, frozen_us: u64 },
    /// A process that was to move to `to` stays here.
    MoveRefused { pid: Pid, to: NodeId, message: String },
    /// A node joined or answers again.
    NodeUp { name: String },
    /// A node is gone; `lost` processes were reported killed.
    NodeDown { name: String, lost: u32 },
    /// The receiver was too slow; this many events are missing here.
    Lost { events: u64 },
}
