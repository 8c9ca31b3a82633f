//! Taking a descriptor of another process (pidfd_getfd(2)).

use dunix_ids::Pid;
use serde::{Deserialize, Serialize};

/// What decides whether a process may look at and take from others: ptrace(2), access mode checking with the real ids.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Asker {
    /// Its real user, as guests see it.
    pub uid: u32,
    /// Its real group, likewise.
    pub gid: u32,
    /// Its effective capabilities, a bit each (capabilities(7)).
    pub effective: u64,
    /// Its permitted ones.
    pub permitted: u64,
}

/// Asks the node of a process for one of its descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TakeWish {
    pub pid: Pid,
    /// The descriptor's number there.
    pub number: i32,
    pub asker: Asker,
}
