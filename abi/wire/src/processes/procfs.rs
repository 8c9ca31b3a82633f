//! What nodes ask each other for `/proc`: numbers of processes, and files about one process.

use alloc::vec::Vec;
use dunix_ids::Pid;
use serde::{Deserialize, Serialize};

/// The longest path of a [`ProcQuestion`], in bytes.
pub const PROC_PATH_BYTES_MAX: usize = 64;
/// The longest text of a file; what is beyond is cut.
pub const PROC_TEXT_BYTES_MAX: usize = 1 << 20;

/// Asks the node of a process for one of its files.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcQuestion {
    /// The process, or one of its threads.
    pub id: Pid,
    /// It is meant as a thread: `/proc/PID/task/ID`.
    pub as_thread: bool,
    /// The file below its folder (`stat`, `fd/3`), empty for the folder itself.
    pub path: Vec<u8>,
    /// Whether the contents are wanted; else only whose it is.
    pub contents: bool,
}

/// One file about a process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcFile {
    /// Its owner and group, as guests see them.
    pub uid: u32,
    /// As `uid`.
    pub gid: u32,
    /// What is in it: a text, a link's target, or the names in a folder, each ended by NUL.
    pub contents: Vec<u8>,
}
