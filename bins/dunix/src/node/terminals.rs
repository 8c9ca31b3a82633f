//! Terminals and processes of the node, introduced to each other: the doorbell's calls about
//! terminals, the terminals' signals, and terminals for `dunix run`.

use anyhow::{Context, Result};
use dunix_guest_abi::doorbell::{OP_OPEN_TERMINAL, OP_TERMINAL};
use dunix_ids::{NodeId, ObjectId, Pid};
use dunix_linux::Errno;
use dunix_processes::{self as elsewhere, DoorbellCall, Processes, TerminalState};
use dunix_terminals::{
    AnchorProgram, Caller, Fabric, TIOCSPGRP, TerminalCall, TerminalId, Terminals, TerminalsConfig,
    View, Winsize,
};
use rustix::fs::OFlags;
use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The devpts of the node's private root, which guests see too.
const DEVPTS: &str = "/dev/pts";
/// The group of terminals (`tty`), as guests number it.
const TTY_GROUP: u32 = 5;

/// The terminals whose home this node is.
pub(super) struct NodeTerminals {
    terminals: Terminals,
    jobs: Arc<Jobs>,
    /// This node's number for the guests' user and group 0.
    ids_base: u32,
}

/// A terminal for a program that is about to run.
pub(super) struct NewTerminal {
    /// The user's side; closing it hangs up.
    pub(super) master: OwnedFd,
    /// The program's standard descriptors.
    pub(super) slave: OwnedFd,
    /// For [`RunSpec::terminal`](dunix_processes::RunSpec::terminal).
    pub(super) object: ObjectId,
}

/// One ioctl and who asks.
struct Ask {
    caller: Caller,
    privileged: bool,
    fd: OwnedFd,
    request: u64,
    argument: i32,
}

impl NodeTerminals {
    pub(super) fn start(
        node: NodeId,
        processes: Processes,
        ids_base: u32,
    ) -> Result<Arc<NodeTerminals>> {
        let jobs = Arc::new(Jobs { node, processes, objects: Mutex::default() });
        let anchor = AnchorProgram {
            program: "/proc/self/exe".into(),
            arguments: vec!["terminal-anchor".into()],
        };
        let config = TerminalsConfig { devpts: DEVPTS.into(), anchor };
        let terminals = Terminals::start(config, jobs.clone()).context("no terminals")?;
        Ok(Arc::new(NodeTerminals { terminals, jobs, ids_base }))
    }

    /// Answers a call if it is about terminals, else gives it back.
    pub(super) fn handle(self: &Arc<Self>, call: DoorbellCall) -> Option<DoorbellCall> {
        match call.op() {
            OP_TERMINAL => self.handle_ioctl(call),
            OP_OPEN_TERMINAL => match self.open_controlling(&call) {
                Ok(terminal) => call.answer_fd(terminal.as_fd()),
                Err(errno) => call.refuse(errno),
            },
            _ => return Some(call),
        }
        None
    }

    fn handle_ioctl(self: &Arc<Self>, call: DoorbellCall) {
        let (request, argument) = (call.arg(2), call.int_arg(3));
        let asked = self.caller(&call).and_then(|(caller, privileged)| {
            let fd = call.take_fd(call.int_arg(1))?;
            Ok(Ask { caller, privileged, fd, request, argument })
        });
        match asked {
            Ok(ask) => self.ask(ask, move |result| call.conclude(result)),
            Err(errno) => call.refuse(errno),
        }
    }

    /// Answers a process that runs at another node.
    pub(super) fn handle_from_elsewhere(self: &Arc<Self>, call: elsewhere::TerminalCall) {
        let caller = Caller { pid: call.pid, group: call.job.group, session: call.job.session };
        let fd = match call.fd.try_clone() {
            Ok(fd) => fd,
            Err(_) => return call.conclude(Err(Errno::MFILE)),
        };
        let (privileged, request, argument) = (call.job.is_root, call.request, call.argument);
        let ask = Ask { caller, privileged, fd, request, argument };
        self.ask(ask, move |result| call.conclude(result));
    }

    /// Answers at once, or when a group's home has told the group's session.
    fn ask(self: &Arc<Self>, ask: Ask, then: impl FnOnce(Result<i64, Errno>) + Send + 'static) {
        let group = u32::try_from(ask.argument).ok().and_then(Pid::new);
        let Some(group) = group.filter(|_| ask.request == TIOCSPGRP) else {
            return then(self.control(ask, None));
        };
        let terminals = Arc::clone(self);
        self.jobs
            .processes
            .group_session(group, move |session| then(terminals.control(ask, session)));
    }

    /// The descriptor is closed before the caller goes on.
    fn control(&self, ask: Ask, group_session: Option<Pid>) -> Result<i64, Errno> {
        let Ask { caller, privileged, fd, request, argument } = ask;
        let call = TerminalCall { request, argument, privileged, group_session };
        self.terminals.control(caller, fd.as_fd(), call).map(i64::from)
    }

    fn open_controlling(&self, call: &DoorbellCall) -> Result<OwnedFd, Errno> {
        let (caller, _) = self.caller(call)?;
        let flags = OFlags::from_bits_truncate(call.int_arg(1).cast_unsigned());
        self.terminals.open_controlling(caller, flags)
    }

    /// Opens the controlling terminal of a process that runs at another node.
    pub(super) fn open_for(
        &self,
        pid: Pid,
        job: elsewhere::Job,
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        let caller = Caller { pid, group: job.group, session: job.session };
        self.terminals.open_controlling(caller, flags)
    }

    fn caller(&self, call: &DoorbellCall) -> Result<(Caller, bool), Errno> {
        let pid = call.caller()?.pid;
        let job = self.jobs.processes.job(pid).ok_or(Errno::SRCH)?;
        Ok((Caller { pid, group: job.group, session: job.session }, job.is_root))
    }

    /// Makes a terminal for a program of `dunix run` with the given user of the fabric.
    pub(super) fn open(&self, size: Winsize, uid: u32) -> Result<NewTerminal, Errno> {
        let owner = (self.ids_base.saturating_add(uid), self.ids_base.saturating_add(TTY_GROUP));
        let (master, slave) = self.terminals.open(size, Some(owner))?;
        let terminal = self.terminals.identify(slave.as_fd())?;
        let mut objects = self.jobs.objects();
        let object = objects.fresh(self.jobs.node);
        objects.opened.insert(object.serial, Opened { terminal, leader: None });
        Ok(NewTerminal { master, slave, object })
    }

    /// The program of an opened terminal is about to start as the leader of session `pid`.
    pub(super) fn handle_root(&self, pid: Pid, object: ObjectId) {
        let Some(opened) = self.jobs.objects().opened.get(&object.serial).copied() else { return };
        if let Some(not_started) = opened.leader {
            self.terminals.leader_exited(not_started);
        }
        let mut objects = self.jobs.objects();
        objects.sessions.insert(pid, object);
        objects.opened.insert(object.serial, Opened { leader: Some(pid), ..opened });
        drop(objects);
        let leader = Caller { pid, group: pid, session: pid };
        if let Err(error) = self.terminals.attach(leader, opened.terminal) {
            // It runs all the same, without job control.
            tracing::warn!(%pid, %error, "a program has a terminal that it does not control");
            self.jobs.objects().sessions.remove(&pid);
        }
    }

    /// The leader of a session has ended.
    pub(super) fn handle_hang_up(&self, session: Pid, terminal: ObjectId) {
        if terminal.home == self.jobs.node {
            self.terminals.leader_exited(session);
        }
    }

    /// A process has gone from this node. A leader that still has its terminal has only moved, or
    /// [`NodeTerminals::handle_hang_up`] follows; one whose terminal was hung up before may leave a
    /// foreground group that has to hear of it.
    pub(super) fn handle_gone(&self, pid: Pid) {
        if self.terminals.view(pid).is_none() {
            self.terminals.leader_exited(pid);
        }
    }
}

/// The processes as the terminals' driver sees them.
struct Jobs {
    node: NodeId,
    processes: Processes,
    objects: Mutex<Objects>,
}

/// The fabric's names of sessions' holds on terminals.
#[derive(Default)]
struct Objects {
    last: u64,
    /// One for each controlling terminal of this home.
    sessions: BTreeMap<Pid, ObjectId>,
    /// Terminals of `run`, by serial, until their session loses them.
    opened: BTreeMap<u64, Opened>,
}

/// A terminal that was made for a program.
#[derive(Clone, Copy)]
struct Opened {
    terminal: TerminalId,
    /// The program, once it has a number.
    leader: Option<Pid>,
}

impl Objects {
    fn fresh(&mut self, home: NodeId) -> ObjectId {
        self.last += 1;
        ObjectId { home, serial: self.last }
    }

    fn of_session(&mut self, home: NodeId, session: Pid) -> ObjectId {
        if let Some(object) = self.sessions.get(&session) {
            return *object;
        }
        let object = self.fresh(home);
        self.sessions.insert(session, object);
        object
    }
}

impl Jobs {
    fn objects(&self) -> MutexGuard<'_, Objects> {
        lock(&self.objects)
    }
}

impl Fabric for Jobs {
    fn signal_group(&self, group: Pid, signal: u8) {
        self.processes.signal_group(group, signal);
    }

    fn signal_process(&self, pid: Pid, signal: u8) {
        self.processes.signal_process(pid, signal);
    }

    fn publish(&self, session: Pid, view: Option<View>) {
        match view {
            Some(View { terminal, foreground, tostop, .. }) => {
                let object = self.objects().of_session(self.node, session);
                let state = TerminalState { pts: terminal.0, session, foreground, tostop };
                self.processes.publish_terminal(object, Some(state));
            }
            None => {
                let object = self.objects().sessions.remove(&session);
                if let Some(object) = object {
                    self.objects().opened.remove(&object.serial);
                    self.processes.publish_terminal(object, None);
                }
            }
        }
    }

    fn leave(&self, _session: Pid, pid: Pid) {
        self.processes.leave_terminal(pid);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
