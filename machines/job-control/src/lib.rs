//! Which session a terminal controls, and which process group may use it: the job control of POSIX
//! (General Terminal Interface, ch. 11) with the details of Linux (`tty_ioctl(4)`).
//!
//! One [`JobControl`] runs on each node, for the terminals whose home the node is. Sessions and
//! groups may have members anywhere; the machine knows only their numbers.
//!
//! ```text
//!               TIOCSCTTY by a session leader
//!    free ───────────────────────────────────────► controlling
//!     ▲                                              │  │   ▲
//!     │        leader exits, leader's TIOCNOTTY,     │  │   │ TIOCSPGRP, ^C ^Z ^\,
//!     ├────────────────── stolen ────────────────────┘  └───┘ window size, TOSTOP
//!     │                    hang-up
//!     └──────────────────────────────────────────────── (the leader's exit still signals
//!                                                        the group of before)
//! ```
//!
//! Refuses: descriptors, ioctls, delivery of signals, who belongs to which group.
//! Invariants: a terminal controls at most one session and a session has at most one terminal; a
//! controlling terminal always has a foreground group; each [`Effect::Publish`] is the whole truth
//! about a session until the next.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod access;
mod control;
mod lifecycle;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use dunix_guest_abi::arena::{SLOT_BACKGROUND, SLOT_HAS_TERMINAL, SLOT_TOSTOP};
use dunix_ids::Pid;

pub use access::{Access, Operation, Verdict};
pub use control::Request;

/// Greatest number of controlling terminals of a node: the default limit of Linux' devpts. One
/// more is refused with [`Refusal::Busy`].
pub const TERMINALS_MAX: usize = 4096;
/// Greatest number of processes of one session that gave up their terminal alone; one more is
/// refused with [`Refusal::Busy`].
pub const LEFT_MAX: usize = 4096;
/// Greatest number of sessions remembered between a hang-up and their leader's exit. Past it the
/// lowest session is forgotten: its foreground group then misses one SIGHUP.
pub const HUNG_UP_MAX: usize = 4096;

/// Names a terminal at its home: the number in the home's devpts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TerminalId(pub u32);

/// The process that acts, as the process table knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Itself.
    pub pid: Pid,
    /// Its process group.
    pub group: Pid,
    /// Its session. It leads the session if this is its own number.
    pub session: Pid,
}

impl Caller {
    /// Tells whether the process leads its session.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.pid == self.session
    }
}

/// What a session's members must know of their controlling terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// The controlling terminal.
    pub terminal: TerminalId,
    /// Numbers the session's hold on it: never used again, as a [`TerminalId`] is.
    pub serial: u64,
    /// Its foreground process group.
    pub foreground: Pid,
    /// `TOSTOP` is set: background writes stop too.
    pub tostop: bool,
}

impl View {
    /// Returns the `SLOT_*` bits of a member of the session that is in `group`.
    #[must_use]
    pub fn slot_flags(&self, group: Pid) -> u32 {
        let background = if group == self.foreground { 0 } else { SLOT_BACKGROUND };
        SLOT_HAS_TERMINAL | background | if self.tostop { SLOT_TOSTOP } else { 0 }
    }
}

/// The signals that the machine itself sends; the line's own are passed on by number.
pub mod signal {
    /// Hang-up.
    pub const SIGHUP: u8 = 1;
    /// Continue.
    pub const SIGCONT: u8 = 18;
    /// Background read.
    pub const SIGTTIN: u8 = 21;
    /// Background write or change.
    pub const SIGTTOU: u8 = 22;
}

/// What the driver has to carry out, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// The terminal now controls a session: its line's signals are wanted.
    Attach(TerminalId),
    /// The terminal controls no session any more.
    Detach(TerminalId),
    /// Send `signal` to every member of `group`, as the kernel would (no permission check).
    SignalGroup {
        /// The process group.
        group: Pid,
        /// The signal's number.
        signal: u8,
    },
    /// Send `signal` to one process, as the kernel would.
    SignalProcess {
        /// The process.
        pid: Pid,
        /// The signal's number.
        signal: u8,
    },
    /// The members of `session` see this from now on (`None`: no controlling terminal).
    Publish {
        /// The session.
        session: Pid,
        /// What they see.
        view: Option<View>,
    },
    /// This one process of `session` has no controlling terminal from now on.
    Leave {
        /// The session.
        session: Pid,
        /// The process.
        pid: Pid,
    },
}

/// Why a request was refused. The caller is at fault, but for [`Refusal::Busy`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// `ENOTTY`: not the caller's controlling terminal.
    NotControlling,
    /// `EPERM`: not a leader, has a terminal already, taken, or a group of another session.
    NotPermitted,
    /// `EINVAL`: no process group can have this number.
    Invalid,
    /// `ESRCH`: no such process group.
    NoSuchGroup,
    /// `EAGAIN`: a named maximum is reached.
    Busy,
}

impl Refusal {
    /// Returns the errno (positive).
    #[must_use]
    pub fn errno(self) -> i32 {
        match self {
            Refusal::NotPermitted => 1,
            Refusal::NoSuchGroup => 3,
            Refusal::Busy => 11,
            Refusal::Invalid => 22,
            Refusal::NotControlling => 25,
        }
    }
}

#[derive(Clone, Debug)]
struct Controlling {
    session: Pid,
    serial: u64,
    foreground: Pid,
    tostop: bool,
    /// Members of the session that gave the terminal up alone, and their children since.
    left: BTreeSet<Pid>,
}

impl Controlling {
    fn view(&self, terminal: TerminalId) -> View {
        let Self { serial, foreground, tostop, .. } = *self;
        View { terminal, serial, foreground, tostop }
    }
}

/// The controlling terminals of one home.
#[derive(Clone, Debug, Default)]
pub struct JobControl {
    terminals: BTreeMap<TerminalId, Controlling>,
    sessions: BTreeMap<Pid, TerminalId>,
    /// Session to its terminal's foreground group at the hang-up, until the leader exits.
    hung_up: BTreeMap<Pid, Pid>,
    serial_last: u64,
}

impl JobControl {
    /// Makes a machine that knows of no controlling terminal.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns what the members of `session` see, or `None` without a controlling terminal here.
    #[must_use]
    pub fn view(&self, session: Pid) -> Option<View> {
        let terminal = *self.sessions.get(&session)?;
        Some(self.terminals.get(&terminal)?.view(terminal))
    }

    /// Returns the session that `terminal` controls.
    #[must_use]
    pub fn session_of(&self, terminal: TerminalId) -> Option<Pid> {
        self.terminals.get(&terminal).map(|held| held.session)
    }

    /// Returns the controlling terminal of a process, if it is one of this home's.
    #[must_use]
    pub fn terminal_of(&self, caller: Caller) -> Option<TerminalId> {
        let terminal = *self.sessions.get(&caller.session)?;
        let left = &self.terminals.get(&terminal)?.left;
        if left.contains(&caller.pid) { None } else { Some(terminal) }
    }

    /// Tells whether a terminal still names `pid` as session or group, so that the number must
    /// not be given to a new process.
    #[must_use]
    pub fn holds(&self, pid: Pid) -> bool {
        self.sessions.contains_key(&pid)
            || self.hung_up.iter().any(|(session, group)| *session == pid || *group == pid)
            || self.terminals.values().any(|held| held.foreground == pid)
    }

    /// Checks what must hold between any two inputs.
    ///
    /// # Panics
    /// If it does not hold: a bug of the machine.
    pub fn check_invariants(&self) {
        assert_eq!(self.terminals.len(), self.sessions.len());
        assert!(self.terminals.len() <= TERMINALS_MAX && self.hung_up.len() <= HUNG_UP_MAX);
        for (terminal, held) in &self.terminals {
            assert_eq!(self.sessions.get(&held.session), Some(terminal));
            assert!(!held.left.contains(&held.session), "a leader never leaves alone");
            assert!(held.left.len() <= LEFT_MAX);
        }
    }

    /// Ends `terminal`'s control, without a signal; returns what was.
    fn release(&mut self, terminal: TerminalId, effects: &mut Vec<Effect>) -> Option<Controlling> {
        let held = self.terminals.remove(&terminal)?;
        self.sessions.remove(&held.session);
        effects.push(Effect::Publish { session: held.session, view: None });
        effects.push(Effect::Detach(terminal));
        Some(held)
    }

    fn publish(&self, terminal: TerminalId, effects: &mut Vec<Effect>) {
        if let Some(held) = self.terminals.get(&terminal) {
            let view = Some(held.view(terminal));
            effects.push(Effect::Publish { session: held.session, view });
        }
    }
}
