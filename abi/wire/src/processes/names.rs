//! What has a name in the common tree and lives in one node's kernel: that node is its *keeper*.
//!
//! The founder of the fabric knows who keeps what, from the first use on.

use dunix_ids::Ino;
use serde::{Deserialize, Serialize};

/// The name of something that one node keeps for all.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum SharedName {
    /// The pipe of a FIFO of the tree.
    Fifo(Ino),
}

/// Asks the keeper of a FIFO to open it for a process of the sender, who may do so.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FifoWish {
    /// By which the wish is given up, as a call's.
    pub ticket: u64,
    pub ino: Ino,
    /// As in open(2).
    pub flags: u32,
}
