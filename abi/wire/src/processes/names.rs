//! What has a name in the common tree and lives in one node's kernel: that node is its *keeper*.
//!
//! The founder of the fabric knows who keeps what, from the first use on.

use alloc::vec::Vec;
use dunix_ids::Ino;
use serde::{Deserialize, Serialize};

/// The name of something that one node keeps for all.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum SharedName {
    /// The pipe of a FIFO of the tree.
    Fifo(Ino),
    /// A socket bound to a file of the tree (unix(7)).
    Socket(Ino),
    /// An abstract name, without the byte 0 before it, of sockets of this type (`SOCK_*`).
    Abstract { kind: u32, name: Vec<u8> },
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

/// Asks the keeper of a socket's name to connect a socket of its own for a process of the sender.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConnectWish {
    /// By which the wish is given up, as a call's.
    pub ticket: u64,
    pub name: SharedName,
    /// `SOCK_*`.
    pub kind: u32,
    /// As whom, as guests number them.
    pub uid: u32,
    pub gid: u32,
    /// It does not wait for room, nor later (`O_NONBLOCK`).
    pub is_nonblocking: bool,
    /// `SO_PASSCRED`.
    pub wants_credentials: bool,
}
