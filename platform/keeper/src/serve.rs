//! The keeper's loop: one thread, three things to wait for.

use crate::guest::{GuestFds, become_guest};
use crate::nursery::Nursery;
use crate::protocol::{self, ProtocolError, Report, Request, SPAWN_FDS_MAX, SpawnSpec};
use dunix_linux::child::{self, Change, Fork};
use dunix_linux::{Errno, scm, signal};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal};
use std::os::fd::{AsFd, OwnedFd};

/// Why a keeper ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The daemon asked for it, closed its socket or exited with status 0.
    Asked,
    /// The daemon died.
    DaemonDied(Change),
    /// The lifeline closed.
    LifelineClosed,
}

/// Process 1 of a node (or, in tests, any single-threaded process).
#[derive(Debug)]
pub struct Keeper {
    socket: OwnedFd,
    lifeline: Option<OwnedFd>,
    daemon: Option<u32>,
    children: OwnedFd,
    /// Descriptors that came ahead of their spawn; at most [`SPAWN_FDS_MAX`].
    ahead: Vec<OwnedFd>,
    /// The host group that guests join while it exists.
    group: Option<u32>,
    /// See [`Keeper::with_guest_doors`].
    doors: Vec<OwnedFd>,
    /// There is one once a guest has been started, if there are doors.
    nursery: Option<Nursery>,
}

impl Keeper {
    /// Prepares to serve: `socket` leads to the daemon, `lifeline` ends the node when it closes,
    /// `daemon` is the daemon's host PID if it is this process's child.
    pub fn new(
        socket: OwnedFd,
        lifeline: Option<OwnedFd>,
        daemon: Option<u32>,
    ) -> Result<Keeper, Errno> {
        // Fails only for a group leader, which process 1 and a fresh child are not.
        let _ = rustix::process::setsid();
        let children = signal::child_signals()?;
        Ok(Keeper {
            socket,
            lifeline,
            daemon,
            children,
            ahead: Vec::new(),
            group: None,
            doors: Vec::new(),
            nursery: None,
        })
    }

    /// Makes guests start in control groups, which are entered by writing `0` to each of these open
    /// `cgroup.procs` files (cgroups(7)). None means that guests stay in the keeper's groups.
    #[must_use]
    pub fn with_guest_doors(mut self, doors: Vec<OwnedFd>) -> Keeper {
        self.doors = doors;
        self
    }

    /// Serves until the node ends; every child is dead and reaped when it returns.
    pub fn run(mut self) -> Ending {
        let ending = loop {
            match self.serve_once() {
                Ok(None) => {}
                Ok(Some(ending)) => break ending,
                // The daemon is gone or mad: either way the node ends.
                Err(_) => break Ending::Asked,
            }
        };
        self.end_children();
        ending
    }

    fn serve_once(&mut self) -> Result<Option<Ending>, ProtocolError> {
        let (socket, children, lifeline) = self.wait().map_err(std::io::Error::from)?;
        if lifeline {
            return Ok(Some(Ending::LifelineClosed));
        }
        // Reports first: a spawn must not be confused by a PID that was free already.
        if children && let Some(ending) = self.report_changes()? {
            return Ok(Some(ending));
        }
        if socket {
            return self.handle_request();
        }
        Ok(None)
    }

    /// Waits for (socket, children, lifeline).
    fn wait(&self) -> Result<(bool, bool, bool), Errno> {
        let mut polled = vec![
            PollFd::new(&self.socket, PollFlags::IN),
            PollFd::new(&self.children, PollFlags::IN),
        ];
        if let Some(lifeline) = &self.lifeline {
            polled.push(PollFd::new(lifeline, PollFlags::IN));
        }
        loop {
            match poll(&mut polled, None) {
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
                Ok(_) => break,
            }
        }
        let ready = |i: usize| polled.get(i).is_some_and(|p| !p.revents().is_empty());
        Ok((ready(0), ready(1), ready(2)))
    }

    fn report_changes(&mut self) -> Result<Option<Ending>, ProtocolError> {
        let mut drained = [0; 1024];
        while rustix::io::read(&self.children, &mut drained).is_ok() {}
        while let Some(report) = child::next_change().map_err(std::io::Error::from)? {
            let ended = matches!(report.change, Change::Exited(_) | Change::Killed { .. });
            if ended && self.daemon == Some(report.pid) {
                self.daemon = None;
                return Ok(Some(match report.change {
                    Change::Exited(0) => Ending::Asked,
                    change => Ending::DaemonDied(change),
                }));
            }
            if self.nursery.as_ref().is_some_and(|nursery| nursery.pid() == report.pid) {
                self.nursery = self.nursery.take().filter(|_| !ended);
                continue;
            }
            let (pid, change, usage) = (report.pid, report.change.into(), report.usage);
            protocol::say(self.socket.as_fd(), &Report::Changed { pid, change, usage })?;
        }
        Ok(None)
    }

    fn handle_request(&mut self) -> Result<Option<Ending>, ProtocolError> {
        let mut body = [0; protocol::MESSAGE_BYTES_MAX];
        let (length, fds) =
            scm::receive(self.socket.as_fd(), &mut body, true).map_err(std::io::Error::from)?;
        if length == 0 {
            return Ok(Some(Ending::Asked));
        }
        if self.ahead.len() + fds.len() > SPAWN_FDS_MAX {
            return Err(ProtocolError::TooMuch("number of descriptors"));
        }
        self.ahead.extend(fds);
        match postcard::from_bytes(&body[..length])? {
            Request::Descriptors => {}
            Request::Shutdown => return Ok(Some(Ending::Asked)),
            Request::Spawn { token } => {
                let fds = std::mem::take(&mut self.ahead);
                let report = match self.spawn(fds) {
                    Ok(pid) => Report::Spawned { token, pid },
                    Err(errno) => Report::Refused { token, errno: errno.raw_os_error() },
                };
                protocol::say(self.socket.as_fd(), &report)?;
            }
        }
        Ok(None)
    }

    fn spawn(&mut self, fds: Vec<OwnedFd>) -> Result<u32, Errno> {
        self.group = self.group.filter(|&g| group_exists(g));
        let pid = match self.spawn_in_nursery(&fds) {
            Some(born) => born?,
            None => self.fork_guest(fds)?,
        };
        self.group.get_or_insert(pid);
        Ok(pid)
    }

    /// `None` without a nursery that works.
    fn spawn_in_nursery(&mut self, fds: &[OwnedFd]) -> Option<Result<u32, Errno>> {
        if self.doors.is_empty() {
            return None;
        }
        if self.nursery.is_none() {
            self.nursery = Nursery::start(&self.doors).ok();
        }
        // Its end is reported as that of any child.
        self.nursery.as_ref()?.spawn(self.group, fds).ok()
    }

    fn fork_guest(&self, fds: Vec<OwnedFd>) -> Result<u32, Errno> {
        let (spec, fds) = sort_descriptors(fds)?;
        match child::fork_single_threaded()? {
            Fork::Child => become_guest(&spec, fds, self.group, &self.doors),
            Fork::Parent(pid) => Ok(pid),
        }
    }

    /// Kills and reaps every child, guests that their parents made beside them included.
    fn end_children(&mut self) {
        loop {
            for pid in children_of_this_thread() {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            let options = rustix::process::WaitOptions::empty();
            match rustix::process::wait(options) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

pub(crate) fn sort_descriptors(fds: Vec<OwnedFd>) -> Result<(SpawnSpec, GuestFds), Errno> {
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or(Errno::INVAL);
    let spec = protocol::unpack_spec(next()?).map_err(|_| Errno::INVAL)?;
    let (shim, boot) = (next()?, next()?);
    let namespaces: Vec<OwnedFd> = fds.by_ref().take(spec.namespaces.into()).collect();
    let descriptors: Vec<OwnedFd> = fds.collect();
    if namespaces.len() != usize::from(spec.namespaces) {
        return Err(Errno::INVAL);
    }
    Ok((spec, GuestFds { shim, boot, namespaces, descriptors }))
}

fn group_exists(group: u32) -> bool {
    Pid::from_raw(group.cast_signed())
        .is_some_and(|group| rustix::process::test_kill_process_group(group).is_ok())
}

fn children_of_this_thread() -> Vec<Pid> {
    let list = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    list.split_whitespace().filter_map(|p| Pid::from_raw(p.parse().ok()?)).collect()
}
