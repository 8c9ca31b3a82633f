//! Controlling terminals, the processes' side: who has which, and what the arena tells the shim of
//! it. Who controls a terminal and which group is in its foreground is decided at the terminal's
//! home, by the [`Extension`](crate::Extension).
//!
//! Invariant: the flags of a slot follow from the table's group and terminal of its process and
//! from the last published state of that terminal; they are right before the answer of the call
//! that changed them is given.

use crate::Processes;
use crate::node::{Node, Pending, State};
use dunix_guest_abi::arena::{SLOT_BACKGROUND, SLOT_HAS_TERMINAL, SLOT_TOSTOP};
use dunix_ids::{ObjectId, Pid};
use dunix_proc_table::KillTarget;
use dunix_wire::processes::Answer;

/// What the processes of a terminal's session go by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TerminalState {
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

impl Processes {
    /// Returns how a process of this node stands in job control.
    #[must_use]
    pub fn job(&self, pid: Pid) -> Option<Job> {
        self.0.look(|state| {
            let table = &state.table;
            Some(Job {
                group: table.group(pid)?,
                session: table.session(pid)?,
                terminal: table.terminal(pid),
                is_root: table.summary(pid)?.uid == 0,
            })
        })
    }

    /// Tells the processes of this node how a terminal stands; `None`: it controls no session any
    /// more. The leader of the session gets it as controlling terminal.
    pub fn publish_terminal(&self, terminal: ObjectId, now: Option<TerminalState>) {
        self.0.publish_terminal(terminal, now);
    }

    /// One process has no controlling terminal from now on (`TIOCNOTTY`).
    pub fn leave_terminal(&self, pid: Pid) {
        self.0.with(|state, _| state.table.set_terminal(pid, None));
        self.0.refresh_flags(pid);
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
            self.refresh_flags(pid);
        }
    }

    /// Publishes what a process's shim must know of its terminal.
    pub(crate) fn refresh_flags(&self, pid: Pid) {
        self.look(|state| {
            if let Some(local) = state.locals.get(&pid) {
                self.arena.set_flags(local.slot, state.slot_flags(pid));
            }
        });
    }
}

impl State {
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
