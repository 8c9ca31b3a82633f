//! FIFOs of the tree (fifo(7)): all nodes use the pipe of the one that keeps it.
//!
//! ```text
//!  open(2) --kernel: attributes?--> the gate: kept here ------> the kernel opens it
//!     ^                                `--- not --> the shim's call of the daemon, with an O_PATH handle
//!     `----- kept here now <---- keep_name <-----------'
//!                `-- kept elsewhere: OpenFifo --> the keeper's kernel opens it, an object for calls
//! ```
//! Whoever opens it first keeps it. An open that waits for its other end waits in the keeper's kernel,
//! so that both ends meet there wherever they are.

use super::calls::{FOREVER, outcome_of};
use super::execute::failed;
use super::homes::{Object, Purpose};
use super::waiting::until_cancelled;
use super::watch::ready_now;
use crate::host::{self, Status};
use crate::node::Node;
use dunix_guest_abi::doorbell::REMOTE_NOT;
use dunix_ids::{Ino, NodeId, Pid};
use dunix_linux::{Errno, Result};
use dunix_wire::Topic;
use dunix_wire::processes::image::RemoteKind;
use dunix_wire::processes::{
    CallExtra, CallOutcome, FifoWish, ProcessesCall, ProcessesMessage, SharedName,
};
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, fstatfs, open};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// How often the keeper is asked for anew: it may have let go of a name that was deleted.
const TURNS_MAX: usize = 3;
/// How often, and how long at most, a thread is looked at that is about to wait for the tree.
const LOOK_EVERY: Duration = Duration::from_micros(100);
const LOOKS_MAX: usize = 10_000;

/// The file system of the tree (`FUSE_SUPER_MAGIC`); guests have no other of this kind.
pub(super) const TREE: u64 = 0x6573_5546;

/// What open(2) may set for a pipe.
const FLAGS: OFlags = OFlags::RWMODE.union(OFlags::NONBLOCK).union(OFlags::APPEND);

impl Node {
    /// Whether a thread of this host that looks at a FIFO of the tree may go on, because the FIFO is kept
    /// here or the thread does not open it. Blocks for a moment.
    pub(crate) fn lets_open(&self, ino: Ino, host_tid: u32) -> bool {
        self.names.is_here(&SharedName::Fifo(ino))
            || host::has_thread(std::process::id(), host_tid)
            || !opens_now(host_tid)
    }

    /// Begins to open the FIFO that a process has a handle on; the ticket of the call.
    pub(super) fn begin_open(
        self: &Arc<Node>,
        (pid, host_pid): (Pid, u32),
        number: i32,
        flags: u64,
    ) -> Result<u64> {
        let handle = host::take_fd(host_pid, number)?;
        let flags = OFlags::from_bits_truncate(u32::try_from(flags & 0xffff_ffff).unwrap_or(0));
        let ticket = self.with(|state, _| state.begin_call(pid, self.id))?;
        let cancelled = self.homes.begin_call(self.id, ticket);
        let node = self.clone();
        self.runtime.spawn(async move {
            let opened = node.open_fifo((ticket, host_pid), handle, flags, &cancelled).await;
            node.homes.end_call(node.id, ticket);
            let (home, outcome) = opened.unwrap_or_else(|errno| (node.id, failed(errno)));
            node.conclude_call(pid, home, ticket, outcome).await;
        });
        Ok(ticket)
    }

    async fn open_fifo(
        self: &Arc<Node>,
        (ticket, host_pid): (u64, u32),
        handle: OwnedFd,
        flags: OFlags,
        cancelled: &Notify,
    ) -> Result<(NodeId, CallOutcome)> {
        let handle = Arc::new(handle);
        let looked_at = handle.clone();
        // The tree is asked.
        let checked = self.runtime.spawn_blocking(move || Node::check(host_pid, &looked_at, flags));
        let ino = checked.await.unwrap_or(Err(Errno::IO))?;
        for _ in 0..TURNS_MAX {
            let copy = rustix::io::fcntl_dupfd_cloexec(&handle, 0)?;
            let keeper = self.keep_name(&SharedName::Fifo(ino), copy).await?;
            let Some(mesh) = self.mesh.as_ref().filter(|_| keeper != self.id) else {
                return Ok((self.id, CallOutcome { value: REMOTE_NOT, ..CallOutcome::default() }));
            };
            let wish = FifoWish { ticket, ino, flags: (flags & FLAGS).bits() };
            let body = dunix_wire::encode(&ProcessesCall::OpenFifo(wish));
            let answer = mesh.call(keeper, Topic::Processes, body, FOREVER);
            tokio::pin!(answer);
            let answer = tokio::select! {
                answer = &mut answer => answer,
                () = cancelled.notified() => {
                    self.tell(keeper, &ProcessesMessage::CancelRemoteCall { ticket });
                    answer.await
                }
            };
            let outcome = outcome_of(answer.ok().as_deref());
            if outcome.value != failed(Errno::STALE).value {
                return Ok((keeper, outcome));
            }
        }
        Err(Errno::NXIO)
    }

    /// The number of a FIFO of the tree that a process may open so.
    fn check(host_pid: u32, handle: &OwnedFd, flags: OFlags) -> Result<Ino> {
        let stat = fstat(handle)?;
        let is_trees = u64::try_from(fstatfs(handle)?.f_type) == Ok(TREE);
        if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo || !is_trees {
            return Err(Errno::PROTO);
        }
        let status = Status::of(host_pid, 0)?;
        let wanted = match flags & OFlags::RWMODE {
            OFlags::RDONLY => 4,
            OFlags::WRONLY => 2,
            _ => 6,
        };
        if !status.may(&stat, wanted) {
            return Err(Errno::ACCESS);
        }
        Ok(Ino(stat.st_ino))
    }

    /// At the keeper: opens a FIFO for a process elsewhere.
    pub(super) async fn open_fifo_for(
        &self,
        from: NodeId,
        wish: FifoWish,
        cancelled: Arc<Notify>,
    ) -> CallOutcome {
        let FifoWish { ticket, ino, flags } = wish;
        let flags = OFlags::from_bits_truncate(flags) & FLAGS;
        let opened = match self.names.handle(&SharedName::Fifo(ino)) {
            Some(handle) => open_unless_cancelled(handle, flags, &cancelled).await,
            None => Err(Errno::STALE),
        };
        self.homes.end_call(from, ticket);
        let kept = opened.and_then(|fd| {
            let ready = ready_now(&fd);
            let purpose = Purpose::Calls(RemoteKind::Pipe);
            let object = self.homes.keep(Object::new(fd, purpose, Vec::new()), from)?;
            Ok(CallExtra::Opened { object, pts: 0, ready })
        });
        match kept {
            Ok(extra) => CallOutcome { extra, ..CallOutcome::default() },
            Err(errno) => failed(errno),
        }
    }
}

/// Opens a FIFO, which may take for ever.
async fn open_unless_cancelled(
    handle: Arc<OwnedFd>,
    flags: OFlags,
    cancelled: &Notify,
) -> Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
    let call = move || open(format!("/proc/self/fd/{}", handle.as_raw_fd()), flags, Mode::empty());
    until_cancelled(call, cancelled).await
}

/// Whether a thread that waits for the tree is in a call that opens a file.
fn opens_now(host_tid: u32) -> bool {
    /// The numbers of open(2), creat(2), openat(2) and openat2(2).
    const OPENS: [&str; 4] = ["2", "85", "257", "437"];
    for _ in 0..LOOKS_MAX {
        let Ok(text) = std::fs::read_to_string(format!("/proc/{host_tid}/syscall")) else {
            return false;
        };
        match text.split_whitespace().next() {
            // It has asked, and is about to wait for the answer.
            Some("running") => std::thread::sleep(LOOK_EVERY),
            number => return number.is_some_and(|number| OPENS.contains(&number)),
        }
    }
    tracing::warn!(host_tid, "a thread that looks at a FIFO does not wait for it");
    false
}

impl Status {
    /// Whether the permissions of a file let a process do this (4: read, 2: write), both as the host
    /// numbers them (path_resolution(7)).
    pub(super) fn may(&self, stat: &Stat, wanted: u32) -> bool {
        /// `CAP_DAC_OVERRIDE`.
        const OVERRIDE: u64 = 1 << 1;
        let is_group = self.gids[1] == stat.st_gid || self.groups.contains(&stat.st_gid);
        let bits = match () {
            () if self.capabilities & OVERRIDE != 0 => 7,
            () if self.uids[1] == stat.st_uid => stat.st_mode >> 6,
            () if is_group => stat.st_mode >> 3,
            () => stat.st_mode,
        };
        bits & wanted == wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_of_a_user_decides() {
        let mut stat = rustix::fs::stat("/").unwrap();
        (stat.st_uid, stat.st_gid, stat.st_mode) = (5, 6, 0o10_642);
        let status = |uid, gid, groups: &[u32], capabilities| Status {
            uids: [9, uid, 9],
            gids: [9, gid, 9],
            groups: groups.to_vec(),
            capabilities,
            ..Status::default()
        };
        assert!(status(5, 0, &[], 0).may(&stat, 6));
        assert!(status(1, 6, &[], 0).may(&stat, 4) && !status(1, 6, &[], 0).may(&stat, 2));
        assert!(status(1, 1, &[6], 0).may(&stat, 4) && !status(1, 1, &[6], 0).may(&stat, 6));
        assert!(status(1, 1, &[], 0).may(&stat, 2) && !status(1, 1, &[], 0).may(&stat, 4));
        assert!(status(1, 1, &[], 2).may(&stat, 6));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_open_waits_for_its_other_end_or_until_it_is_given_up() {
        let path = std::env::temp_dir().join(format!("dunix-fifo-{}", std::process::id()));
        let fifo = FileType::Fifo;
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, mode, 0).unwrap();
        let handle = rustix::fs::open(&path, OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        std::fs::remove_file(&path).unwrap();
        let handle = Arc::new(handle);
        let never = Notify::new();
        let read = open_unless_cancelled(handle.clone(), OFlags::RDONLY, &never);
        let write = open_unless_cancelled(handle.clone(), OFlags::WRONLY, &never);
        let (read, write) = tokio::join!(read, write);
        rustix::io::write(write.unwrap(), b"x").unwrap();
        let mut byte = [0];
        assert_eq!(rustix::io::read(read.unwrap(), &mut byte), Ok(1));
        let cancelled = Notify::new();
        cancelled.notify_one();
        let given_up = open_unless_cancelled(handle.clone(), OFlags::RDONLY, &cancelled).await;
        assert_eq!(given_up.err(), Some(Errno::INTR));
        let flags = OFlags::WRONLY | OFlags::NONBLOCK;
        let alone = open_unless_cancelled(handle, flags, &never).await;
        assert_eq!(alone.err(), Some(Errno::NXIO));
    }
}
