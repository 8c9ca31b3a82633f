//! The doorbell's thread: receives what guests and the keeper say and answers at once.
//!
//! One thread, one epoll: a bell for the other threads, the keeper's socket, boot sockets of
//! starting guests, and one seccomp listener for each tree of guests. Nothing here blocks: what has
//! to wait is answered later, from a task or by the table.
//!
//! A call of a host thread that no record names yet is kept for [`UNBOUND_WAIT`]: the parent's word
//! on a fork or the keeper's on a spawn may come after the child's first ring.

use crate::call::DoorbellCall;
use crate::node::{Node, exit_status, lock};
use dunix_guest_abi::doorbell::{NR, OP_FORK_CHILD};
use dunix_keeper::protocol::{
    ChildChange, MESSAGE_BYTES_MAX, RESOLVED, Report, Resolved, SET_UP_FAILED, SetUpFailure,
};
use dunix_linux::seccomp::Listener;
use dunix_linux::{Errno, scm};
use dunix_wire::processes::Rusage;
use rustix::event::epoll;
use rustix::time::Timespec;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a call of an unknown host thread is kept; then it answers `ESRCH`.
const UNBOUND_WAIT: Duration = Duration::from_secs(2);
/// Most calls kept so; further ones answer `EAGAIN`.
const UNBOUND_MAX: usize = 4096;
/// Most bytes of a message on a boot socket: two paths.
const BOOT_BYTES_MAX: usize = 16 * 1024;

const BELL: u64 = 0;
const KEEPER: u64 = 1;
const FIRST_SOURCE: u64 = 2;

/// The thread's own state.
pub(crate) struct Server {
    node: Arc<Node>,
    epoll: OwnedFd,
    sources: BTreeMap<u64, Source>,
    next_source: u64,
    unbound: Vec<(Instant, DoorbellCall)>,
    keeper_is_gone: bool,
}

enum Source {
    Listener(Arc<Listener>),
    /// The boot socket of a launch.
    Boot {
        launch: u64,
        socket: OwnedFd,
    },
}

impl Server {
    pub(crate) fn new(node: Arc<Node>) -> Result<Server, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = epoll::EventFlags::IN;
        epoll::add(&epoll, &node.bell, epoll::EventData::new_u64(BELL), flags)?;
        epoll::add(&epoll, &node.keeper, epoll::EventData::new_u64(KEEPER), flags)?;
        Ok(Server {
            node,
            epoll,
            sources: BTreeMap::new(),
            next_source: FIRST_SOURCE,
            unbound: Vec::new(),
            keeper_is_gone: false,
        })
    }

    /// Serves until the node shuts down and the keeper's socket is closed.
    pub(crate) fn run(mut self) {
        let mut events = Vec::with_capacity(64);
        while !self.keeper_is_gone {
            let timeout = self.until_next_deadline();
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&timeout),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(node = %self.node.id, %error, "the doorbell cannot wait");
                    return;
                }
            }
            for event in &events {
                self.handle_event(event.data.u64(), event.flags);
            }
            self.handle_deadlines();
        }
        self.node.handle_keeper_gone();
    }

    fn handle_event(&mut self, source: u64, flags: epoll::EventFlags) {
        match source {
            BELL => self.take_arrivals(),
            KEEPER => self.hear_keeper(),
            _ => match self.sources.get(&source) {
                Some(Source::Listener(listener)) => {
                    let listener = listener.clone();
                    self.hear_listener(source, &listener, flags);
                }
                Some(Source::Boot { .. }) => self.hear_boot(source),
                None => {}
            },
        }
    }

    // Sources.

    fn take_arrivals(&mut self) {
        let mut drained = [0; 8];
        let _ = rustix::io::read(&self.node.bell, &mut drained);
        let arrivals = std::mem::take(&mut *lock(&self.node.arrivals));
        for (launch, socket) in arrivals {
            self.add(Source::Boot { launch, socket });
        }
    }

    fn add(&mut self, source: Source) {
        let number = self.next_source;
        self.next_source += 1;
        let data = epoll::EventData::new_u64(number);
        let fd = match &source {
            Source::Listener(listener) => listener.as_fd(),
            Source::Boot { socket, .. } => socket.as_fd(),
        };
        match epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN) {
            Ok(()) => drop(self.sources.insert(number, source)),
            Err(error) => tracing::error!(%error, "a guest's socket cannot be watched"),
        }
    }

    /// Closing the descriptor takes it out of the epoll set.
    fn remove(&mut self, number: u64) -> Option<Source> {
        let source = self.sources.remove(&number)?;
        let fd = match &source {
            Source::Listener(listener) => listener.as_fd(),
            Source::Boot { socket, .. } => socket.as_fd(),
        };
        let _ = epoll::delete(&self.epoll, fd);
        Some(source)
    }

    // The doorbell.

    fn hear_listener(&mut self, source: u64, listener: &Arc<Listener>, flags: epoll::EventFlags) {
        if !flags.contains(epoll::EventFlags::IN) {
            // A signal in the middle of the look shows as an error; only this is for good: the
            // last guest under this filter has gone.
            if flags.contains(epoll::EventFlags::HUP) {
                self.remove(source);
            }
            return;
        }
        match listener.receive() {
            Ok(notification) if i64::from(notification.nr) == NR.cast_signed() => {
                let call = DoorbellCall::new(listener.clone(), notification);
                self.node.counts.count_call(call.op());
                self.hear_call(call);
            }
            Ok(notification) => {
                DoorbellCall::new(listener.clone(), notification).refuse(Errno::NOSYS);
            }
            // The caller died between the event and the receipt.
            Err(Errno::NOENT | Errno::INTR) => {}
            Err(error) => {
                tracing::debug!(%error, "a listener is gone");
                self.remove(source);
            }
        }
    }

    fn hear_call(&mut self, mut call: DoorbellCall) {
        if call.op() == OP_FORK_CHILD {
            if let Err(call) = self.node.try_fork_child(call) {
                self.keep_unbound(call);
            } else {
                self.retry_unbound();
            }
            return;
        }
        match self.node.look(|state| state.caller(call.host_tid())) {
            Some(caller) => {
                call.set_caller(caller);
                let binds = crate::ops::may_bind(call.op());
                self.node.handle_call(call);
                if binds {
                    self.node.tracing.named();
                    self.retry_unbound();
                }
            }
            None => {
                if let Err(call) = self.node.try_arrival_call(call) {
                    self.keep_unbound(call);
                }
            }
        }
    }

    fn keep_unbound(&mut self, call: DoorbellCall) {
        if self.unbound.len() >= UNBOUND_MAX {
            call.refuse(Errno::AGAIN);
            return;
        }
        self.unbound.push((Instant::now() + UNBOUND_WAIT, call));
    }

    /// Something was bound: some of the calls kept may have an owner now.
    fn retry_unbound(&mut self) {
        for (deadline, mut call) in std::mem::take(&mut self.unbound) {
            if call.op() == OP_FORK_CHILD {
                if let Err(call) = self.node.try_fork_child(call) {
                    self.unbound.push((deadline, call));
                }
                continue;
            }
            match self.node.look(|state| state.caller(call.host_tid())) {
                Some(caller) => {
                    call.set_caller(caller);
                    self.node.handle_call(call);
                }
                None => {
                    if let Err(call) = self.node.try_arrival_call(call) {
                        self.unbound.push((deadline, call));
                    }
                }
            }
        }
    }

    // Boot sockets.

    fn hear_boot(&mut self, source: u64) {
        let Some(Source::Boot { launch, socket }) = self.sources.get(&source) else { return };
        let launch = *launch;
        let mut body = vec![0; BOOT_BYTES_MAX];
        let (length, fds) = match scm::receive(socket.as_fd(), &mut body, false) {
            Err(Errno::AGAIN) => return,
            Ok(message) => message,
            Err(_) => (0, Vec::new()),
        };
        let listener = fds.into_iter().next();
        match (body.get(..length).unwrap_or(&[]), listener) {
            ([], _) => {
                self.remove(source);
                self.node.launch_lost(launch);
            }
            ([RESOLVED, rest @ ..], None) => match postcard::from_bytes::<Resolved>(rest) {
                Ok(resolved) => {
                    self.node.launch_resolved(launch, resolved);
                    self.retry_unbound();
                }
                Err(_) => self.node.launch_failed(launch, None),
            },
            ([SET_UP_FAILED, rest @ ..], None) => {
                let failure = postcard::from_bytes::<SetUpFailure>(rest).ok();
                self.node.launch_failed(launch, failure);
            }
            (_, Some(listener)) => {
                self.remove(source);
                self.add_listener(listener);
            }
            (_, None) => tracing::warn!(launch, "a guest said something unknown at its start"),
        }
    }

    fn add_listener(&mut self, fd: OwnedFd) {
        match Listener::try_from_fd(fd) {
            Ok(listener) => {
                listener.try_wake_on_same_cpu();
                self.add(Source::Listener(Arc::new(listener)));
            }
            Err(error) => tracing::warn!(%error, "a guest sent no seccomp listener"),
        }
    }

    // The keeper.

    fn hear_keeper(&mut self) {
        loop {
            let mut body = [0; MESSAGE_BYTES_MAX];
            match scm::receive(self.node.keeper.as_fd(), &mut body, false) {
                Err(Errno::AGAIN) => return,
                Ok((length, _)) if length > 0 => match postcard::from_bytes(&body[..length]) {
                    Ok(report) => self.handle_report(report),
                    Err(error) => tracing::error!(%error, "the keeper is not understood"),
                },
                _ => {
                    self.keeper_is_gone = true;
                    return;
                }
            }
        }
    }

    fn handle_report(&mut self, report: Report) {
        match report {
            Report::Spawned { token, pid } => {
                self.node.launch_spawned(token, pid);
                self.retry_unbound();
            }
            Report::Refused { token, errno } => {
                self.node.launch_refused(token, Errno::from_raw_os_error(errno));
            }
            Report::Changed { pid, change, usage } => {
                self.handle_change(pid, change, usage);
                // A child may have been found whose parent has ended.
                if !self.unbound.is_empty() {
                    self.retry_unbound();
                }
            }
        }
    }

    fn handle_change(&mut self, host_pid: u32, change: ChildChange, usage: [u64; 18]) {
        match exit_status(change) {
            Some(status) => self.node.host_ended(host_pid, status, Rusage(usage)),
            None => self.node.with(|state, now| state.host_stopped(now, host_pid, change)),
        }
    }

    // Time.

    fn until_next_deadline(&self) -> Timespec {
        /// Longest sleep, so that a missed wake is a delay and not a hang.
        const IDLE: Duration = Duration::from_secs(5);
        let table = self.node.look(|state| {
            let moves = state.moves.deadline();
            state.table.next_deadline().into_iter().chain(moves).min()
        });
        let table = table.map_or(IDLE, |at| at.saturating_sub(self.node.now()));
        let unbound =
            self.unbound.iter().map(|(at, _)| at.saturating_duration_since(Instant::now()));
        let wait = unbound.min().unwrap_or(IDLE).min(table).min(IDLE);
        Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(5),
            tv_nsec: i64::from(wait.subsec_nanos()),
        }
    }

    fn handle_deadlines(&mut self) {
        self.node.with(|state, now| {
            if state.table.next_deadline().is_some_and(|at| at <= now) {
                state.table.handle_timeout(now);
            }
        });
        self.node.advance_moves_in_time();
        let now = Instant::now();
        if self.unbound.iter().any(|(deadline, _)| *deadline <= now) {
            for (deadline, call) in std::mem::take(&mut self.unbound) {
                if deadline > now {
                    self.unbound.push((deadline, call));
                } else if self.node.look(|state| state.awaits_word()) && call.op() != OP_FORK_CHILD
                {
                    // Its parent may have been stopped before it could name it.
                    self.unbound.push((now + UNBOUND_WAIT, call));
                } else if call.op() == OP_FORK_CHILD {
                    crate::ops::end_unbound(call);
                } else {
                    call.refuse(Errno::SRCH);
                }
            }
        }
    }
}
