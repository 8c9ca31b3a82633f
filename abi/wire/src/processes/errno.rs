//! Error numbers, as the guest's `errno` has them (Linux, generic numbering).

use serde::{Deserialize, Serialize};

/// A positive error number of the Linux ABI.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Errno(pub u16);

impl Errno {
    /// Not permitted.
    pub const PERM: Errno = Errno(1);
    /// No such process.
    pub const SRCH: Errno = Errno(3);
    /// Interrupted.
    pub const INTR: Errno = Errno(4);
    /// Input or output error.
    pub const IO: Errno = Errno(5);
    /// No such device or address.
    pub const NXIO: Errno = Errno(6);
    /// Bad descriptor.
    pub const BADF: Errno = Errno(9);
    /// No child processes.
    pub const CHILD: Errno = Errno(10);
    /// Try again: a table is full or nothing is there yet.
    pub const AGAIN: Errno = Errno(11);
    /// Permission denied.
    pub const ACCES: Errno = Errno(13);
    /// Busy.
    pub const BUSY: Errno = Errno(16);
    /// Invalid argument.
    pub const INVAL: Errno = Errno(22);
    /// Protocol error: a peer or a guest broke the rules.
    pub const PROTO: Errno = Errno(71);
    /// The object is on another node.
    pub const REMOTE: Errno = Errno(66);
    /// The peer's node does not answer.
    pub const HOSTUNREACH: Errno = Errno(113);

    /// Returns the number as system calls return it: negative.
    #[must_use]
    pub const fn as_return(self) -> i64 {
        -(self.0 as i64)
    }
}
