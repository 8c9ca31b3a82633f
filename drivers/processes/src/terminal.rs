//! Controlling terminals, the processes' side: who has which, and what the arena tells the shim of
//! it. Who controls a terminal and which group is in its foreground is decided at the terminal's
//! home, by the [`Extension`](crate::Extension).
//!
//! A process that runs elsewhere than its terminal makes every call on it at the terminal's home,
//! which checks its access there ([`Node::gate`]).
//!
//! Invariant: the flags of a slot follow from the table's group and terminal of its process and
//! from the last published state of that terminal; they are right before the answer of the call
//! that changed them is given.

use crate::Processes;
use crate::call::DoorbellCall;
use crate::node::{Node, Pending, State};
use crate::remote::outcome_of;
use dunix_guest_abi::arena::{SLOT_BACKGROUND, SLOT_HAS_TERMINAL, SLOT_TOSTOP};
use dunix_guest_abi::doorbell::{DEAF_TO_TTIN, DEAF_TO_TTOU};
use dunix_ids::{ObjectId, Pid};
use dunix_linux::Errno;
use dunix_proc_table::KillTarget;
use dunix_wire::Topic;
use dunix_wire::processes::{Answer, CallArguments, CallerJob, ProcessesCall, RemoteCallRequest};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

const TIOCSPGRP: u32 = 0x5410;
/// How long the home of a terminal may take for an ioctl; then it answers `EIO`.
const HOME_WAIT: Duration = Duration::from_secs(5);

/// What the processes of a terminal's session go by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TerminalState {
    /// Its number in the devpts of its home.
    pub pts: u32,
    /// The session that the terminal controls.
    pub session: Pid,
    /// Its foreground process group.
    pub foreground: Pid,
    /// Background writes stop too.
    pub tostop: bool,
}

/// Where a process stands in job control.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Job {
    /// Its process group.
    pub group: Pid,
    /// Its session.
    pub session: Pid,
    /// Its controlling terminal.
    pub terminal: Option<ObjectId>,
    /// Its user is root.
    pub is_root: bool,
}

/// Reads the `DEAF_*` marks of a guest.
pub(crate) trait Deaf {
    fn deaf(self, marks: u64) -> Self;
}

impl Deaf for CallerJob {
    fn deaf(self, marks: u64) -> Self {
        let (deaf_to_ttin, deaf_to_ttou) = (marks & DEAF_TO_TTIN != 0, marks & DEAF_TO_TTOU != 0);
        CallerJob { deaf_to_ttin, deaf_to_ttou, ..self }
    }
}

impl From<CallerJob> for Job {
    fn from(job: CallerJob) -> Job {
        let CallerJob { group, session, terminal, is_root, .. } = job;
        Job { group, session, terminal, is_root }
    }
}

/// An ioctl of a process at another node on a terminal whose home is here.
#[derive(Debug)]
pub struct TerminalCall {
    /// The caller.
    pub pid: Pid,
    /// Where it stands.
    pub job: Job,
    /// A duplicate of its descriptor.
    pub fd: OwnedFd,
    /// The request (`TIOCSPGRP`, ...).
    pub request: u64,
    /// Its argument, by value.
    pub argument: i32,
    pub(crate) answer: oneshot::Sender<Result<i64, Errno>>,
}

impl TerminalCall {
    /// Answers the call; one that is dropped answers `EIO`.
    pub fn conclude(self, result: Result<i64, Errno>) {
        // The caller's node may be gone.
        let _ = self.answer.send(result);
    }
}

/// What a home lets a caller from elsewhere do.
pub(crate) enum Gate {
    Open,
    /// It must be stopped first.
    Background,
    /// `EIO`.
    Closed,
}

impl Processes {
    /// Returns how a process of this node stands in job control.
    #[must_use]
    pub fn job(&self, pid: Pid) -> Option<Job> {
        self.0.look(|state| state.job_of(pid)).map(Job::from)
    }

    /// Tells the processes of this node how a terminal stands; `None`: it controls no session any
    /// more. The leader of the session gets it as controlling terminal.
    pub fn publish_terminal(&self, terminal: ObjectId, now: Option<TerminalState>) {
        self.0.publish_terminal(terminal, now);
    }

    /// One process has no controlling terminal from now on (`TIOCNOTTY`).
    pub fn leave_terminal(&self, pid: Pid) {
        self.0.with(|state, _| state.table.set_terminal(pid, None));
        self.0.refresh_slot(pid);
    }

    /// Asks for the session of a group, wherever its members are; `then` gets it, or `None` without
    /// such a group, on this thread or another.
    pub fn group_session(&self, group: Pid, then: impl FnOnce(Option<Pid>) + Send + 'static) {
        let (sender, mut answer) = tokio::sync::oneshot::channel();
        self.0.with(|state, now| {
            let token = state.expect_reply(Pending::Daemon(sender));
            state.table.group_session(now, token, group);
        });
        let session_of = |answer| match answer {
            Ok(Answer::Pid(session)) => Some(session),
            _ => None,
        };
        // A group of this node's own numbers is answered already.
        if let Ok(answer) = answer.try_recv() {
            return then(session_of(answer));
        }
        self.0.runtime.spawn(async move {
            then(answer.await.ok().and_then(session_of));
        });
    }

    /// Signals a group, as the kernel would for a terminal.
    pub fn signal_group(&self, group: Pid, signal: u8) {
        self.signal_by_fabric(KillTarget::Group(group), signal);
    }

    /// Signals a process, as the kernel would for a terminal.
    pub fn signal_process(&self, pid: Pid, signal: u8) {
        self.signal_by_fabric(KillTarget::Process(pid), signal);
    }

    fn signal_by_fabric(&self, target: KillTarget, signal: u8) {
        self.0.with(|state, now| state.table.kill_by_fabric(now, None, target, signal));
    }
}

impl Node {
    fn publish_terminal(&self, terminal: ObjectId, now: Option<TerminalState>) {
        let members = self.with(|state, time| match now {
            Some(published) => {
                state.terminals.insert(terminal, published);
                let leader = published.session;
                if state.table.session(leader) == Some(leader) {
                    state.table.set_terminal(leader, Some(terminal));
                }
                state.table.with_terminal(terminal)
            }
            None => {
                let members = state.table.with_terminal(terminal);
                if let Some(last) = state.terminals.remove(&terminal) {
                    state.table.session_terminal_lost(time, last.session, terminal);
                }
                members
            }
        });
        for pid in members {
            self.refresh_slot(pid);
        }
    }

    /// Publishes what a process's shim must know of its place among processes and of its terminal.
    pub(crate) fn refresh_slot(&self, pid: Pid) {
        self.look(|state| {
            if let Some(local) = state.locals.get(&pid) {
                let table = &state.table;
                let identity = [table.parent(pid), table.group(pid), table.session(pid)];
                self.arena.set_identity(local.slot, identity);
                self.arena.set_flags(local.slot, state.slot_flags(pid));
            }
        });
    }
}

impl Node {
    /// Handles `OP_TERMINAL`: here, or at the terminal's home.
    pub(crate) fn handle_terminal(self: &Arc<Node>, call: DoorbellCall) {
        let elsewhere = call.caller().ok().and_then(|caller| {
            self.look(|state| {
                let fd = state.locals.get(&caller.pid)?.remote.get(call.int_arg(1))?;
                Some((caller.pid, fd.object, state.job_of(caller.pid)?.deaf(call.arg(4))))
            })
        });
        let (Some((pid, object, job)), Some(mesh)) = (elsewhere, &self.mesh) else {
            return self.extension.handle_call(call);
        };
        let request = RemoteCallRequest {
            ticket: self.with(|state, _| state.fresh_number()),
            object: object.serial,
            pid,
            job,
            call: CallArguments::Terminal {
                request: u32::try_from(call.arg(2)).unwrap_or(0),
                argument: call.int_arg(3),
            },
        };
        let body = dunix_wire::encode(&ProcessesCall::Remote(request));
        let answer = mesh.call(object.home, Topic::Processes, body, HOME_WAIT);
        self.runtime.spawn(async move {
            call.answer(outcome_of(answer.await.ok().as_deref()).value);
        });
    }

    /// Checks a call of a process elsewhere on a terminal whose home is here (POSIX XBD 11.1.4).
    pub(crate) fn gate(&self, pts: u32, request: &RemoteCallRequest) -> Gate {
        let job = &request.job;
        let state = self.look(|state| state.terminals.get(&job.terminal?).copied());
        let Some(state) = state.filter(|state| state.pts == pts) else { return Gate::Open };
        if state.foreground == job.group {
            return Gate::Open;
        }
        match &request.call {
            CallArguments::Read { .. } if job.deaf_to_ttin => Gate::Closed,
            CallArguments::Read { .. } => Gate::Background,
            _ if job.deaf_to_ttou => Gate::Open,
            CallArguments::Write { .. } if state.tostop => Gate::Background,
            CallArguments::Ioctl { request, .. } if changes(*request) => Gate::Background,
            CallArguments::Terminal { request: TIOCSPGRP, .. } => Gate::Background,
            _ => Gate::Open,
        }
    }
}

/// Whether an ioctl changes a terminal so that a background process stops: `TCSETS`, `TCSETSW`,
/// `TCSETSF`, `TCSBRK`, `TCXONC`, `TCFLSH`, `TCSBRKP`, and the `TCSETS2` family.
fn changes(request: u32) -> bool {
    matches!(request, 0x5402..=0x5404 | 0x5409..=0x540b | 0x5425 | 0x402c_542b..=0x402c_542d)
}

impl State {
    /// How a process stands, deaf to nothing.
    pub(crate) fn job_of(&self, pid: Pid) -> Option<CallerJob> {
        Some(CallerJob {
            group: self.table.group(pid)?,
            session: self.table.session(pid)?,
            terminal: self.table.terminal(pid),
            is_root: self.table.summary(pid)?.uid == 0,
            deaf_to_ttin: false,
            deaf_to_ttou: false,
        })
    }

    /// Whether the daemon here cannot tell, or knows, that a process is in the background.
    pub(crate) fn may_be_background(&self, pid: Pid) -> bool {
        let terminal = self.table.terminal(pid);
        terminal.is_some_and(|terminal| !self.terminals.contains_key(&terminal))
            || self.is_background(pid)
    }

    /// Whether a process is in the background of its controlling terminal.
    pub(crate) fn is_background(&self, pid: Pid) -> bool {
        self.slot_flags(pid) & SLOT_BACKGROUND != 0
    }

    /// The `SLOT_*` bits of a process. A terminal whose home is another node checks access there.
    pub(crate) fn slot_flags(&self, pid: Pid) -> u32 {
        let Some(terminal) = self.table.terminal(pid) else { return 0 };
        let Some(published) = self.terminals.get(&terminal) else { return SLOT_HAS_TERMINAL };
        let is_background = self.table.group(pid) != Some(published.foreground);
        SLOT_HAS_TERMINAL
            | if is_background { SLOT_BACKGROUND } else { 0 }
            | if published.tostop { SLOT_TOSTOP } else { 0 }
    }
}
