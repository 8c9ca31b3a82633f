//! Messages about locks of files and of parts of them, flock(2) and fcntl(2) ([`Topic::Locks`](crate::Topic::Locks)).

use alloc::vec::Vec;
use dunix_ids::{Ino, NodeId, Pid};
use serde::{Deserialize, Serialize};

/// The most files in one [`LockCall::Held`].
pub const FILES_MAX: usize = 4096;

/// Who holds a lock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum LockOwner {
    /// A process (`F_SETLK`).
    Process(Pid),
    /// Open file descriptions of a node (`F_OFD_SETLK`): its kernel tells them from each other.
    Descriptions(NodeId),
    /// Open file descriptions of a node that have locked the whole file (flock(2)). Such locks and the others do not
    /// exclude each other.
    Flocks(NodeId),
}

/// What a lock excludes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum LockKind {
    /// Writers.
    Read,
    /// Everybody.
    Write,
}

/// A lock of the bytes `first..=last` of a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Lock {
    /// Who has or wants it.
    pub owner: LockOwner,
    /// What it excludes.
    pub kind: LockKind,
    /// The first byte.
    pub first: u64,
    /// The last byte; `i64::MAX` for all to come.
    pub last: u64,
}

/// What is asked about a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LockWish {
    /// To have it, or not.
    Try,
    /// To have it, and to wait until then.
    Wait {
        /// Who waits.
        thread: Pid,
        /// Its process, which is told ([`LockNotice::Retry`]).
        process: Pid,
    },
    /// Whether somebody at another node is in its way.
    Test,
}

/// A question.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LockCall {
    /// To the authority.
    Ask {
        /// The file.
        ino: Ino,
        /// The lock.
        lock: Lock,
        /// What about it.
        wish: LockWish,
    },
    /// To a node: which locks of these files have its processes, or are about to? At most [`FILES_MAX`].
    Held(Vec<Ino>),
}

/// The answer to a [`LockCall`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LockReply {
    /// No other node's lock is in its way; for those of its own, the kernel speaks.
    Granted,
    /// This one is in its way.
    Taken(Lock),
    /// The thread is told when it may be worth to ask again ([`LockNotice::Retry`]).
    Waits,
    /// Those who are in its way wait for the asker (`EDEADLK`).
    Deadlock,
    /// Too many locks, or waiting threads (`ENOLCK`).
    Full,
    /// To [`LockCall::Held`].
    Held(Vec<(Ino, Lock)>),
}

/// A one-way message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LockNotice {
    /// From the authority: threads of this process that wait for locks ask again.
    Retry(Pid),
    /// To the authority: the thread of this number waits no more.
    GivenUp(Pid),
    /// To the authority: the process has gone from the sender's node.
    Gone(Pid),
}
