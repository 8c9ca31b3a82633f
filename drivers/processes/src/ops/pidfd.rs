//! `OP_PIDFD*`: descriptors that stand for processes of any node (pidfd_open(2)).
//!
//! ```text
//! guest's end <---- socket pair ----> daemon's end     by the inode of the guest's end: the process
//!   readable (end of file)   <--shut down when the process has ended
//!   closed by all holders      --------> hang-up: the entry is dropped at the next look
//! ```
//! A host's own pidfd would name a host process, which ends when its program executes or moves
//! elsewhere. The table tells the end wherever it comes; a watch that hears nothing is renewed.

use crate::call::DoorbellCall;
use crate::node::{Node, Pending, State};
use dunix_guest_abi::doorbell::{PIDFD_ENDED, PIDFD_NONBLOCK};
use dunix_ids::Pid;
use dunix_linux::{Errno, Result};
use dunix_wire::processes::{self, Answer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, Stat, fcntl_setfl, fstat};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

/// Most descriptors for processes that guests of a node have made and not closed; at the limit a new one
/// answers `ENFILE`.
const PIDFDS_MAX: usize = 4096;

/// The least number of them at which closed ones are looked for.
const SWEEP_MIN: usize = 64;

/// The descriptors for processes.
#[derive(Debug, Default)]
pub(crate) struct Pidfds {
    /// By the inodes of the guests' ends.
    open: BTreeMap<u64, Pidfd>,
    /// How many there may be before closed ones are looked for.
    sweep_at: usize,
}

#[derive(Debug)]
struct Pidfd {
    pid: Pid,
    end: OwnedFd,
    has_ended: bool,
}

impl Pidfd {
    /// Whether nobody has the guest's end any more.
    fn is_closed(&self) -> bool {
        let mut look = [PollFd::new(&self.end, PollFlags::empty())];
        let looked = poll(&mut look, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        looked.is_ok() && look[0].revents().contains(PollFlags::HUP)
    }
}

impl Pidfds {
    /// The process that a guest's descriptor is about, and whether it has ended.
    pub(crate) fn find(&self, stat: &Stat) -> Option<(Pid, bool)> {
        let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
        let inode = is_socket.then_some(stat.st_ino)?;
        self.open.get(&inode).map(|pidfd| (pidfd.pid, pidfd.has_ended))
    }

    fn make(&mut self, pid: Pid, flags: u64) -> Result<(OwnedFd, u64)> {
        if self.open.len() >= self.sweep_at {
            self.open.retain(|_, pidfd| !pidfd.is_closed());
            self.sweep_at = (2 * self.open.len()).clamp(SWEEP_MIN, PIDFDS_MAX);
        }
        if self.open.len() >= PIDFDS_MAX {
            return Err(Errno::NFILE);
        }
        let (guests, end) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        if flags & PIDFD_NONBLOCK != 0 {
            fcntl_setfl(&guests, OFlags::NONBLOCK)?;
        }
        let inode = fstat(&guests)?.st_ino;
        self.open.insert(inode, Pidfd { pid, end, has_ended: false });
        Ok((guests, inode))
    }

    /// What a watch came to; returns the process if the watch is to go on.
    fn watched(
        &mut self,
        inode: u64,
        result: std::result::Result<Answer, processes::Errno>,
    ) -> Option<Pid> {
        let pidfd = self.open.get_mut(&inode)?;
        if matches!(result, Ok(Answer::Node(_) | Answer::Pid(_))) {
            if !pidfd.is_closed() {
                return Some(pidfd.pid);
            }
            self.open.remove(&inode);
            return None;
        }
        // Too many operations are open: to be ready too early is better than never.
        pidfd.has_ended = true;
        let _ = shutdown(&pidfd.end, Shutdown::Write);
        None
    }
}

impl Node {
    pub(crate) fn handle_pidfd_open(&self, call: DoorbellCall) {
        let (asked, flags) = (call.pid_arg(1), call.arg(2));
        let pid = match asked {
            Ok(Some(pid)) if flags & !PIDFD_NONBLOCK == 0 => pid,
            Ok(_) => return call.refuse(Errno::INVAL),
            Err(errno) => return call.refuse(errno),
        };
        if pid == Pid::INIT {
            // No program runs as process 1, and it does not end.
            return self.make_pidfd(call, pid, flags);
        }
        match self.look(|state| state.table.process_of(pid)) {
            Some(process) if process == pid => self.make_pidfd(call, pid, flags),
            // A thread that is not its process's first.
            Some(_) => call.refuse(Errno::INVAL),
            None => self.with(|state, now| {
                let token = state.expect_reply(Pending::Pidfd(call, pid, flags));
                state.table.locate(now, token, pid);
            }),
        }
    }

    /// Gives the caller a descriptor for a process that exists.
    pub(crate) fn make_pidfd(&self, call: DoorbellCall, pid: Pid, flags: u64) {
        match self.with(|state, _| state.pidfds.make(pid, flags)) {
            Ok((guests, inode)) => {
                if pid != Pid::INIT {
                    self.watch_end(inode, pid);
                }
                call.answer_fd(std::os::fd::AsFd::as_fd(&guests));
            }
            Err(errno) => call.refuse(errno),
        }
    }

    fn watch_end(&self, inode: u64, pid: Pid) {
        self.with(|state, now| {
            let token = state.expect_reply(Pending::End(inode));
            state.table.watch_end(now, token, inode, pid);
        });
    }

    /// A watch has ended, or is to be renewed.
    pub(crate) fn end_was_watched(
        &self,
        inode: u64,
        result: std::result::Result<Answer, processes::Errno>,
    ) {
        let goes_on = self.with(|state, _| state.pidfds.watched(inode, result));
        if let Some(pid) = goes_on {
            self.watch_end(inode, pid);
        }
    }

    pub(crate) fn handle_pidfd(&self, call: DoorbellCall) {
        let found = call.take_fd(call.int_arg(1)).and_then(|fd| {
            let stat = fstat(&fd)?;
            self.look(|state| state.pidfd_value(&stat)).ok_or(Errno::BADF)
        });
        call.conclude(found);
    }
}

impl State {
    /// `OP_PIDFD`'s answer for a descriptor.
    pub(crate) fn pidfd_value(&self, stat: &Stat) -> Option<i64> {
        let (pid, has_ended) = self.pidfds.find(stat)?;
        let ended = if has_ended { PIDFD_ENDED.cast_signed() } else { 0 };
        Some(i64::from(pid.get()) | ended)
    }
}
