//! Starting a process from nothing: a root of `run`, or an image that comes from another node.
//!
//! ```text
//! Asked --keeper: Spawned--> Forked --child: Resolved--> committed (bound to the table, has a ticket)
//!   |                           |
//!   `--keeper: Refused----------+--child: SetUpFailure, or it ended--> failed (nothing remains)
//! ```
//! `Spawned` and `Resolved` come on different sockets, in any order. Until the commit the process
//! exists only here; from the commit on it is an ordinary process that rings `OP_START`.

use crate::balance::Settled;
use crate::call::wire_errno;
use crate::config::PlaceWish;
use crate::node::{Local, Node, State, Ticket, TicketExe, lock};
use crate::remote::RemoteTable;
use dunix_ids::{NodeId, Pid};
use dunix_keeper::protocol::{self, Resolved, SetUpFailure, SetUpStep, SpawnFds, SpawnSpec};
use dunix_linux::{Errno, scm};
use dunix_migration::Input;
use dunix_proc_table::HostTarget;
use dunix_wire::processes::{ExitStatus, ProcessRecord, Rusage, StartStep};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Most launches in flight; further ones are refused with `EAGAIN`.
const LAUNCHES_MAX: usize = 256;

/// What to start, in full.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) pid: Pid,
    pub(crate) origin: Origin,
    pub(crate) spec: SpawnSpec,
    /// In the order of `spec.descriptors`.
    pub(crate) descriptors: Vec<OwnedFd>,
    pub(crate) remote: RemoteTable,
    /// What the program was called as, if not by its path (`AT_EXECFN`).
    pub(crate) exec_fn: Option<Vec<u8>>,
    /// The user has named this node.
    pub(crate) is_pinned: bool,
}

/// Where a starting process comes from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// The table has it already, as a root.
    Root,
    /// The table adopts it at the commit.
    Adopted { from: NodeId, record: Box<ProcessRecord> },
}

/// A launch in flight.
pub(crate) struct Launching {
    pid: Pid,
    origin: Option<Origin>,
    remote: Option<RemoteTable>,
    exec_fn: Option<Vec<u8>>,
    wish: PlaceWish,
    is_pinned: bool,
    host_pid: Option<u32>,
    resolved: Option<Resolved>,
    done: oneshot::Sender<Result<(), LaunchError>>,
}

/// Why a process did not start.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LaunchError {
    #[error("{step:?} failed: {errno}")]
    SetUp { step: SetUpStep, errno: Errno },
    #[error("the keeper cannot fork: {0}")]
    Fork(Errno),
    #[error("the process table refused: {0}")]
    Table(Errno),
    #[error("the new process ended before it could start")]
    Ended,
    #[error("the node is shutting down")]
    ShuttingDown,
    #[error("the node was cut off and the others have declared it dead")]
    Fenced,
    #[error("too many processes are starting")]
    TooMany,
    #[error("the keeper cannot be reached: {0}")]
    Keeper(String),
}

impl LaunchError {
    /// The step that failed.
    #[must_use]
    pub fn step(&self) -> StartStep {
        match self {
            LaunchError::SetUp { step: SetUpStep::WorkingDirectory, .. } => {
                StartStep::WorkingDirectory
            }
            LaunchError::SetUp { step: SetUpStep::Program, .. } => StartStep::Program,
            _ => StartStep::Other,
        }
    }

    /// The errno that an exec answers for it.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            LaunchError::SetUp { errno, .. } | LaunchError::Fork(errno) => *errno,
            LaunchError::Table(errno) => *errno,
            LaunchError::TooMany => Errno::AGAIN,
            LaunchError::Fenced => Errno::HOSTUNREACH,
            LaunchError::Ended | LaunchError::ShuttingDown | LaunchError::Keeper(_) => Errno::IO,
        }
    }
}

impl Node {
    /// Starts a process and waits until it is committed or has failed.
    pub(crate) async fn launch(self: &Arc<Node>, launch: Launch) -> Result<(), LaunchError> {
        let host = |errno: Errno| LaunchError::Keeper(errno.to_string());
        let (daemon_end, guest_end) = scm::packet_pair().map_err(host)?;
        let (done, outcome) = oneshot::channel();
        let Launch { pid, origin, spec, descriptors, remote, exec_fn, is_pinned } = launch;
        let wish = PlaceWish::of_environment(&spec.envp);
        let launching = Launching {
            pid,
            origin: Some(origin),
            remote: Some(remote),
            exec_fn,
            wish,
            is_pinned,
            host_pid: None,
            resolved: None,
            done,
        };
        let token = self.with(|state, _| state.begin(launching))?;
        lock(&self.arrivals).push((token, daemon_end));
        self.ring_bell();
        if let Err(error) = self.ask_spawn(token, spec, guest_end, descriptors).await {
            self.with(|state, now| state.fail(now, token, LaunchError::Keeper(error)));
        }
        outcome.await.unwrap_or(Err(LaunchError::ShuttingDown))
    }

    /// Asks the keeper for a host process in the guests' namespaces, with the socket by which it finds
    /// its daemon. What comes of it is told on the keeper's socket.
    pub(crate) async fn ask_spawn(
        self: &Arc<Node>,
        token: u64,
        mut spec: SpawnSpec,
        boot: OwnedFd,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), String> {
        spec.namespaces = u16::try_from(self.namespaces.len()).unwrap_or(u16::MAX);
        let node = self.clone();
        let asked = self.runtime.spawn_blocking(move || {
            let fds = SpawnFds {
                shim: node.shim.as_fd(),
                boot: boot.as_fd(),
                namespaces: node.namespaces.iter().map(AsFd::as_fd).collect(),
                descriptors: descriptors.iter().map(AsFd::as_fd).collect(),
            };
            // One spawn's messages must not mix with another's.
            let _order = lock(&node.asking);
            protocol::ask_spawn(node.keeper.as_fd(), token, &spec, &fds)
        });
        match asked.await {
            Ok(asked) => asked.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The keeper has forked.
    pub(crate) fn launch_spawned(&self, token: u64, host_pid: u32) {
        if self.shell_spawned(token, host_pid) {
            return;
        }
        self.with(|state, now| {
            if let Some(launching) = state.launches.get_mut(&token) {
                launching.host_pid = Some(host_pid);
                state.commit(now, token);
            } else {
                // It was given up: nothing may remain.
                kill(host_pid);
            }
        });
    }

    /// The keeper could not fork.
    pub(crate) fn launch_refused(&self, token: u64, errno: Errno) {
        if self.shell_refused(token, errno) {
            return;
        }
        self.with(|state, now| state.fail(now, token, LaunchError::Fork(errno)));
    }

    /// The child has found its program.
    pub(crate) fn launch_resolved(&self, token: u64, resolved: Resolved) {
        self.with(|state, now| {
            if let Some(launching) = state.launches.get_mut(&token) {
                launching.resolved = Some(resolved);
                state.commit(now, token);
            }
        });
    }

    /// The child could not set itself up.
    pub(crate) fn launch_failed(&self, token: u64, failure: Option<SetUpFailure>) {
        let error = failure.map_or(LaunchError::Ended, |failure| LaunchError::SetUp {
            step: failure.step,
            errno: Errno::from_raw_os_error(failure.errno),
        });
        self.with(|state, now| state.fail(now, token, error));
    }

    /// The boot socket closed without a word.
    pub(crate) fn launch_lost(&self, token: u64) {
        self.with(|state, now| state.fail(now, token, LaunchError::Ended));
    }

    /// A host process has ended.
    pub(crate) fn host_ended(self: &Arc<Node>, host_pid: u32, status: ExitStatus, rusage: Rusage) {
        if self.hall_ended(host_pid) {
            return;
        }
        let mut is_moving = None;
        let draining = self.with(|state, now| {
            let starting = state.launches.values_mut().find(|l| l.host_pid == Some(host_pid));
            if let Some(launching) = starting {
                // Its boot socket tells why, or closes: that ends the launch.
                launching.host_pid = None;
                return None;
            }
            let Some(pid) = state.process_with_host(now, host_pid) else {
                tracing::debug!(node = %self.id, host_pid, "an end that no process claims yet");
                state.remember_early_end(host_pid, (status, rusage));
                return None;
            };
            let Some(local) = state.locals.get_mut(&pid) else {
                tracing::error!(node = %self.id, %pid, host_pid, "an end of a process unknown here");
                return None;
            };
            local.is_ending = true;
            if state.table.from_host(host_pid).is_none() {
                state.table.note_former_host(host_pid, pid);
            }
            is_moving = state.moves.leaving_by(pid);
            let written = local.remote.written();
            if written.is_empty() {
                state.table.exited(now, pid, status, rusage);
                return None;
            }
            Some((pid, written))
        });
        if let Some(id) = is_moving {
            self.advance_move(Input::HostEnded { id });
        }
        if let Some((pid, written)) = draining {
            let node = self.clone();
            self.runtime.spawn(async move {
                node.drain(written).await;
                node.with(|state, now| state.table.exited(now, pid, status, rusage));
            });
        }
    }

    /// The others take this node for dead: no guest may go on here, nor start.
    pub(crate) fn fence(&self) {
        tracing::error!(node = %self.id, "cut off and declared dead: every process here is killed");
        self.with(|state, now| {
            // Forks are refused from now on.
            state.is_shutting_down = true;
            let tokens: Vec<u64> = state.launches.keys().copied().collect();
            for token in tokens {
                state.fail(now, token, LaunchError::Fenced);
            }
        });
        // Host groups are the guests' own, and killing one leaves no time for a fork to slip out.
        let own = rustix::process::getpgrp();
        let guests = self.look(State::host_pids);
        let groups: BTreeSet<_> = guests
            .into_iter()
            .filter_map(|host| rustix::process::Pid::from_raw(host.cast_signed()))
            .filter_map(|host| rustix::process::getpgid(Some(host)).ok())
            .filter(|group| *group != own)
            .map(|group| group.as_raw_nonzero())
            .collect();
        for group in groups.into_iter().filter_map(|g| rustix::process::Pid::from_raw(g.get())) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }

    /// The keeper is gone, and with it every guest.
    pub(crate) fn handle_keeper_gone(&self) {
        self.with(|state, now| {
            state.is_shutting_down = true;
            let tokens: Vec<u64> = state.launches.keys().copied().collect();
            for token in tokens {
                state.fail(now, token, LaunchError::ShuttingDown);
            }
        });
    }
}

impl State {
    /// The host processes of the processes here.
    pub(crate) fn host_pids(&self) -> Vec<u32> {
        let host = |pid: &Pid| match self.table.to_host(*pid)? {
            HostTarget::Process(host) => Some(host),
            HostTarget::Thread { .. } => None,
        };
        self.locals.keys().filter_map(host).collect()
    }

    fn begin(&mut self, launching: Launching) -> Result<u64, LaunchError> {
        let refusal = if self.table.is_fenced() {
            Some(LaunchError::Fenced)
        } else if self.is_shutting_down {
            Some(LaunchError::ShuttingDown)
        } else {
            (self.launches.len() >= LAUNCHES_MAX).then_some(LaunchError::TooMany)
        };
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let token = self.fresh_number();
        self.launches.insert(token, launching);
        Ok(token)
    }

    /// Makes the process real once it has forked and found its program.
    fn commit(&mut self, now: Duration, token: u64) {
        let ready =
            self.launches.get(&token).is_some_and(|l| l.host_pid.is_some() && l.resolved.is_some());
        if !ready {
            return;
        }
        let Some(mut launching) = self.launches.remove(&token) else { return };
        let outcome = self.bind_launch(now, &mut launching);
        if outcome.is_err()
            && let Some(host_pid) = launching.host_pid
        {
            kill(host_pid);
        }
        // Whoever asked may have given up; the process runs all the same.
        let _ = launching.done.send(outcome);
    }

    fn bind_launch(&mut self, now: Duration, launching: &mut Launching) -> Result<(), LaunchError> {
        let table = |errno| LaunchError::Table(crate::call::errno_of(errno));
        let (Some(host_pid), Some(resolved)) = (launching.host_pid, launching.resolved.take())
        else {
            return Err(LaunchError::Ended);
        };
        let pid = launching.pid;
        let adopted = matches!(launching.origin, Some(Origin::Adopted { .. }));
        if let Some(Origin::Adopted { from, record }) = launching.origin.take() {
            self.table.adopt(now, from, *record).map_err(table)?;
        }
        let slot = self.slots.take();
        let bound = match slot {
            Some(_) => self.table.bind_host(now, pid, host_pid).map_err(table),
            None => Err(LaunchError::TooMany),
        };
        let (Ok(()), Some(slot)) = (&bound, slot) else {
            if let Some(slot) = slot {
                self.slots.give_back(slot);
            }
            if adopted {
                self.table.exited(now, pid, crate::node::KILLED, Rusage::default());
            } else {
                self.table.fork_failed(now, pid);
            }
            return bound;
        };
        self.table.set_start(pid, crate::host::unix_seconds());
        let exe_path: Arc<[u8]> = resolved.exe_path.as_slice().into();
        let ticket = Ticket {
            exe: TicketExe::AtGuest,
            shim: None,
            exe_path: resolved.exe_path,
            exec_fn: launching.exec_fn.take().unwrap_or(resolved.exec_fn),
            wish: launching.wish,
            ignored: None,
        };
        let remote = launching.remote.take().unwrap_or_default();
        for object in remote.objects() {
            *self.arrivals.entry(object).or_default() += 1;
        }
        self.locals.insert(
            pid,
            Local {
                slot,
                slot_is_lent: false,
                is_executing_away: false,
                was_taken_from: false,
                forked_by: None,
                fork_word: None,
                ticket: Some(ticket),
                exe_path,
                wish: launching.wish,
                is_young: false,
                settled: Settled { is_pinned: launching.is_pinned, ..Settled::now() },
                placed: "it was started here".into(),
                leaves_for: None,
                remote,
                paging: None,
                is_ending: false,
            },
        );
        Ok(())
    }

    fn fail(&mut self, now: Duration, token: u64, error: LaunchError) {
        let Some(launching) = self.launches.remove(&token) else { return };
        if let Some(host_pid) = launching.host_pid {
            kill(host_pid);
        }
        if matches!(launching.origin, Some(Origin::Root)) {
            self.table.fork_failed(now, launching.pid);
        }
        tracing::debug!(pid = %launching.pid, %error, errno = ?wire_errno(error.errno()), "a launch failed");
        let _ = launching.done.send(Err(error));
    }

    /// The process of a host process, bound or only claimed by its parent.
    fn process_with_host(&mut self, now: Duration, host_pid: u32) -> Option<Pid> {
        if let Some(pid) = self.table.from_host(host_pid) {
            return self.table.process_of(pid).filter(|&process| process == pid);
        }
        let pid = self.claims.remove(&host_pid)?;
        self.table.bind_host(now, pid, host_pid).ok()?;
        Some(pid)
    }
}

/// Kills a process that this driver has just had made and that nobody knows yet.
pub(crate) fn kill(host_pid: u32) {
    if let Some(pid) = rustix::process::Pid::from_raw(host_pid.cast_signed()) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}
