//! What daemon and keeper say to each other over a SEQPACKET socket, in postcard.
//!
//! ```text
//! daemon                              keeper
//!   Descriptors + fds   (0 or more) ->
//!   Spawn{token}        + fds       ->  fork; the child sets itself up and executes the shim
//!                                   <-  Spawned{token, pid} or Refused{token, errno}
//!                                   <-  Changed{pid, change, usage}          (any time, any child)
//!   Shutdown                        ->  kills all, returns
//! ```
//!
//! The descriptors of a spawn, in order: a memfd with the [`SpawnSpec`], the shim, the boot socket,
//! the namespaces, the guest's own. The child says on the boot socket which program it found
//! ([`Resolved`]) or what failed ([`SetUpFailure`]); the shim's listener comes after that.

use dunix_linux::child::Change;
use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Greatest bytes of one message (bulk travels in the memfd).
pub const MESSAGE_BYTES_MAX: usize = 512;
/// Greatest bytes of an encoded [`SpawnSpec`]: arguments and environment have 2 MiB on Linux.
pub const SPEC_BYTES_MAX: u64 = 4 << 20;
/// Most descriptors of one spawn.
pub const SPAWN_FDS_MAX: usize = 1024;

/// What the daemon asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Carries descriptors for the spawn that follows.
    Descriptors,
    /// Starts a guest; the token comes back in the answer.
    Spawn { token: u64 },
    /// Kills every child and ends.
    Shutdown,
}

/// What the keeper tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The guest of a spawn has this host PID; it is still setting itself up.
    Spawned { token: u64, pid: u32 },
    /// No process was made.
    Refused { token: u64, errno: i32 },
    /// A child changed state; an ended one has been reaped.
    Changed { pid: u32, change: ChildChange, usage: [u64; 18] },
}

/// What a child did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChildChange {
    /// It called exit; its status.
    Exited(i32),
    /// A signal killed it.
    Killed { signal: i32, core: bool },
    /// A signal stopped it.
    Stopped(i32),
    /// It runs again.
    Continued,
}

impl From<Change> for ChildChange {
    fn from(change: Change) -> ChildChange {
        match change {
            Change::Exited(status) => ChildChange::Exited(status),
            Change::Killed { signal, core } => ChildChange::Killed { signal, core },
            Change::Stopped(signal) => ChildChange::Stopped(signal),
            Change::Continued => ChildChange::Continued,
        }
    }
}

/// How a guest starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnSpec {
    /// What to run.
    pub program: Program,
    /// The guest's own arguments (before any `#!` line) and environment; no string holds a zero.
    pub argv: Vec<Vec<u8>>,
    pub envp: Vec<Vec<u8>>,
    /// Directory to chroot to inside the namespaces; empty: the mount namespace's root.
    pub root: Vec<u8>,
    /// Working directory below the root.
    pub cwd: Vec<u8>,
    /// Real, effective and saved ids, of the guests' user namespace.
    pub uids: [u32; 3],
    pub gids: [u32; 3],
    /// Supplementary groups; `None` leaves them (no user namespace to set them in).
    pub groups: Option<Vec<u32>>,
    pub umask: u32,
    pub nice: i32,
    /// (resource, soft, hard); `u64::MAX` is no limit.
    pub limits: Vec<(u32, u64, u64)>,
    /// What its bounding set lacks (capabilities(7)), a bit each.
    pub forbidden: u64,
    /// prctl(2), `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// Bit `n - 1` for signal `n`.
    pub signals_ignored: u64,
    pub signals_blocked: u64,
    /// What the child sends to itself before its program runs: signals that were pending where it
    /// comes from.
    pub signals_pending: u64,
    /// How many namespaces come with the message; joined in order.
    pub namespaces: u16,
    /// Numbers that the descriptors which come with the message get; one descriptor may get several.
    pub descriptors: Vec<Vec<i32>>,
    /// Files that the child opens in the tree by itself.
    pub opens: Vec<OpenSpec>,
    /// It becomes a process that moves here: there is no program to find, and nothing is said on
    /// the boot socket about one.
    pub is_arrival: bool,
}

/// A program, named as execvp(3) takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    pub path: Vec<u8>,
    /// `PATH` to search if the path has no slash; `None`: no search.
    pub search: Option<Vec<u8>>,
}

/// What the child found in the tree, said on the boot socket before the shim runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// The program's absolute path, links followed.
    pub exe_path: Vec<u8>,
    /// What the caller named: the script for a script.
    pub exec_fn: Vec<u8>,
}

/// A file to open in the guest's tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSpec {
    /// Absolute path below the guest's root.
    pub path: Vec<u8>,
    /// Open flags; what creates, truncates or makes a controlling terminal is left out.
    pub flags: i32,
    /// File offset to seek to; `None` for what cannot seek.
    pub offset: Option<u64>,
    /// The inode number that it must have: its name may have become another file's.
    pub inode: Option<u64>,
    /// The numbers it gets.
    pub numbers: Vec<i32>,
}

/// A set-up step that failed in the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetUpFailure {
    pub step: SetUpStep,
    pub errno: i32,
}

/// The steps of a child between fork and exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetUpStep {
    ControlGroups,
    Namespaces,
    Root,
    Descriptors,
    Opens,
    Limits,
    Credentials,
    WorkingDirectory,
    Program,
    Exec,
}

/// First byte of a [`SetUpFailure`] on the boot socket; the shim's listener comes with another.
pub const SET_UP_FAILED: u8 = b'!';
/// First byte of a [`Resolved`] on the boot socket.
pub const RESOLVED: u8 = b'=';
/// The number at which the guest finds its program opened.
pub const EXE_FD: i32 = dunix_guest_abi::doorbell::BOOT_FD + 1;

#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    #[error("the message is malformed: {0}")]
    Malformed(#[from] postcard::Error),
    #[error("{0} is more than the protocol allows")]
    TooMuch(&'static str),
    #[error("the host refused: {0}")]
    Host(#[from] std::io::Error),
}

/// Puts a spawn's particulars into a memfd.
pub fn pack_spec(spec: &SpawnSpec) -> Result<OwnedFd, ProtocolError> {
    let body = postcard::to_allocvec(spec)?;
    if body.len() as u64 > SPEC_BYTES_MAX {
        return Err(ProtocolError::TooMuch("size of arguments and environment"));
    }
    let fd = memfd_create("spawn", MemfdFlags::CLOEXEC).map_err(std::io::Error::from)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(&body)?;
    Ok(file.into())
}

/// Reads a spawn's particulars from the memfd.
pub fn unpack_spec(fd: OwnedFd) -> Result<SpawnSpec, ProtocolError> {
    let mut file = std::fs::File::from(fd);
    file.rewind()?;
    let mut body = Vec::new();
    file.take(SPEC_BYTES_MAX).read_to_end(&mut body)?;
    Ok(postcard::from_bytes(&body)?)
}

/// Sends one message without descriptors.
pub fn say<T: Serialize>(socket: BorrowedFd<'_>, message: &T) -> Result<(), ProtocolError> {
    let body = postcard::to_allocvec(message)?;
    dunix_linux::scm::send(socket, &body, &[]).map_err(std::io::Error::from)?;
    Ok(())
}

/// What a spawn hands over beside its particulars.
#[derive(Debug)]
pub struct SpawnFds<'a> {
    pub shim: BorrowedFd<'a>,
    pub boot: BorrowedFd<'a>,
    pub namespaces: Vec<BorrowedFd<'a>>,
    pub descriptors: Vec<BorrowedFd<'a>>,
}

/// Asks the keeper for a guest. Blocks until the keeper has taken the message: never called by a
/// thread that the keeper's reports wait for.
pub fn ask_spawn(
    socket: BorrowedFd<'_>,
    token: u64,
    spec: &SpawnSpec,
    fds: &SpawnFds<'_>,
) -> Result<(), ProtocolError> {
    let packed = pack_spec(spec)?;
    let mut all = vec![packed.as_fd(), fds.shim, fds.boot];
    all.extend(&fds.namespaces);
    all.extend(&fds.descriptors);
    if all.len() > SPAWN_FDS_MAX {
        return Err(ProtocolError::TooMuch("number of descriptors"));
    }
    send_in_parts(socket, &Request::Descriptors, &Request::Spawn { token }, &all)
}

/// Sends descriptors with a message, those that one message cannot carry ahead of it with `more`.
pub(crate) fn send_in_parts<T: Serialize>(
    socket: BorrowedFd<'_>,
    more: &T,
    last: &T,
    fds: &[BorrowedFd<'_>],
) -> Result<(), ProtocolError> {
    let (more, last) = (postcard::to_allocvec(more)?, postcard::to_allocvec(last)?);
    let mut parts = fds.chunks(dunix_linux::scm::FDS_MAX).peekable();
    while let Some(part) = parts.next() {
        let body = if parts.peek().is_some() { &more } else { &last };
        dunix_linux::scm::send(socket, body, part).map_err(std::io::Error::from)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_survives_its_memfd() {
        let spec = SpawnSpec {
            argv: vec![b"sh".to_vec()],
            opens: vec![OpenSpec { path: b"/x".to_vec(), ..OpenSpec::default() }],
            ..SpawnSpec::default()
        };
        assert_eq!(unpack_spec(pack_spec(&spec).unwrap()).unwrap(), spec);
    }

    #[test]
    fn an_oversized_spec_is_refused() {
        let spec = SpawnSpec { argv: vec![vec![b'a'; 5 << 20]], ..SpawnSpec::default() };
        assert!(matches!(pack_spec(&spec), Err(ProtocolError::TooMuch(_))));
    }
}
