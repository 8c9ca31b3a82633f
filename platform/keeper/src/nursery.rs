//! The nursery: a process inside the guests' control groups that forks guests for the keeper.
//!
//! Entering a group waits until every processor of the host has passed through its scheduler, which
//! takes milliseconds; a fork inherits its parent's groups at once. So the nursery enters them once,
//! and every guest is born there, as the keeper's child (`CLONE_PARENT`), not the nursery's.
//!
//! ```text
//! keeper   Descriptors + fds (0 or more), Birth{group} + fds  ->  nursery: forks
//!                                                             <-  Born: the child's host PID, or an errno
//! ```
//!
//! It dies with the keeper. One that has died otherwise is replaced by the next spawn.

use crate::guest::{become_guest, enter_control_groups};
use crate::protocol::{MESSAGE_BYTES_MAX, ProtocolError, SPAWN_FDS_MAX, send_in_parts};
use crate::serve::sort_descriptors;
use dunix_linux::child::{self, Fork};
use dunix_linux::clone::{Forked, Namespaces, Parent, fork_into};
use dunix_linux::descriptors::close_all_but;
use dunix_linux::{Errno, scm};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, OwnedFd};

/// What the keeper asks.
#[derive(Serialize, Deserialize)]
enum Order {
    /// Carries descriptors for the birth that follows.
    Descriptors,
    /// Forks a guest, which joins this host group.
    Birth { group: Option<u32> },
}

/// What the nursery answers: the child's host PID, or the errno of the refusal.
type Born = Result<u32, i32>;

/// The keeper's side.
#[derive(Debug)]
pub(crate) struct Nursery {
    pid: u32,
    socket: OwnedFd,
}

impl Nursery {
    /// Forks the nursery of a keeper of one thread. The nursery enters the groups before it serves.
    pub(crate) fn start(doors: &[OwnedFd]) -> Result<Nursery, Errno> {
        let (socket, theirs) = scm::packet_pair()?;
        match child::fork_single_threaded()? {
            Fork::Parent(pid) => Ok(Nursery { pid, socket }),
            Fork::Child => {
                // For people; it can do without.
                let _ = rustix::thread::set_name(c"nursery");
                // What the keeper has open would stay open as long as the nursery lives.
                let alone = || {
                    set_parent_process_death_signal(Some(Signal::KILL))?;
                    enter_control_groups(doors).map_err(|(_, errno)| errno)?;
                    close_all_but(theirs.as_fd())
                };
                if alone().is_err() {
                    child::exit_child(1);
                }
                serve(&theirs)
            }
        }
    }

    /// The nursery's host PID.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Has a guest forked; its host PID. The outer error says that the nursery does not work.
    pub(crate) fn spawn(
        &self,
        group: Option<u32>,
        fds: &[OwnedFd],
    ) -> Result<Result<u32, Errno>, ProtocolError> {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        send_in_parts(self.socket.as_fd(), &Order::Descriptors, &Order::Birth { group }, &fds)?;
        let mut body = [0; MESSAGE_BYTES_MAX];
        let answer = scm::receive(self.socket.as_fd(), &mut body, true);
        let (length, _) = answer.map_err(std::io::Error::from)?;
        let born: Born = postcard::from_bytes(&body[..length])?;
        Ok(born.map_err(Errno::from_raw_os_error))
    }
}

/// The nursery's life.
fn serve(socket: &OwnedFd) -> ! {
    let mut ahead = Vec::new();
    loop {
        let mut body = [0; MESSAGE_BYTES_MAX];
        let Ok((length, fds)) = scm::receive(socket.as_fd(), &mut body, true) else {
            child::exit_child(1)
        };
        if length == 0 || ahead.len() + fds.len() > SPAWN_FDS_MAX {
            child::exit_child(0)
        }
        ahead.extend(fds);
        match postcard::from_bytes(&body[..length]) {
            Ok(Order::Descriptors) => {}
            Ok(Order::Birth { group }) => {
                let born = bear(group, std::mem::take(&mut ahead));
                let born: Born = born.map_err(Errno::raw_os_error);
                if crate::protocol::say(socket.as_fd(), &born).is_err() {
                    child::exit_child(1)
                }
            }
            Err(_) => child::exit_child(1),
        }
    }
}

fn bear(group: Option<u32>, fds: Vec<OwnedFd>) -> Result<u32, Errno> {
    let (spec, fds) = sort_descriptors(fds)?;
    match fork_into(Namespaces::NONE, Parent::CallersParent)? {
        Forked::Child => become_guest(&spec, fds, group, &[]),
        Forked::Parent(pid) => u32::try_from(pid.as_raw_pid()).map_err(|_| Errno::RANGE),
    }
}
