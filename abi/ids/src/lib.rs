//! Identifier types of a fabric, one type per kind, so that a PID can never be passed for a node.
//!
//! Owns: the types, their ranges and their textual form. Refuses: any behaviour.
#![no_std]

use core::fmt;
use serde::{Deserialize, Serialize};

/// Identifies a node of the fabric: its small number, unique in the fabric and never reused.
///
/// The number is bound to the node's key by the certificate that the node presents (its common
/// name is `node-<number>`), so a peer cannot claim another node's number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u32);

/// A fabric-wide process, thread, process-group or session number.
///
/// Always in `1..Pid::LIMIT`: futex words have 30 bits for an owner (`FUTEX_TID_MASK`). Decoding
/// refuses any other number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Pid(u32);

/// The number is no PID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PidOutOfRange;

impl fmt::Display for PidOutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the number is no PID")
    }
}

impl TryFrom<u32> for Pid {
    type Error = PidOutOfRange;

    fn try_from(raw: u32) -> Result<Pid, PidOutOfRange> {
        Pid::new(raw).ok_or(PidOutOfRange)
    }
}

impl From<Pid> for u32 {
    fn from(pid: Pid) -> u32 {
        pid.0
    }
}

impl Pid {
    /// One above the greatest PID.
    pub const LIMIT: u32 = 1 << 30;
    /// The reaper of orphans; no program runs under this number.
    pub const INIT: Pid = Pid(1);

    /// Makes a PID of a raw number, or `None` if it is 0 or not below [`Pid::LIMIT`].
    #[must_use]
    pub const fn new(raw: u32) -> Option<Pid> {
        if raw == 0 || raw >= Self::LIMIT { None } else { Some(Pid(raw)) }
    }

    /// Returns the raw number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Numbers the leases, homes and authorities of a fabric; an older epoch's acts are refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// Names an object (pipe, socket, file description) at its home node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ObjectId {
    /// The node that executes operations on the object.
    pub home: NodeId,
    /// The object's number at its home, never reused.
    pub serial: u64,
}

/// An inode number of the tree; the same on every node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory of a volume.
    pub const ROOT: Ino = Ino(1);
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
