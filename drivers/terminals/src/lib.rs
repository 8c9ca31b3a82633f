//! The terminals whose home this node is.
//!
//! ```text
//!   guest ── ioctl ──► shim ── doorbell ──► processes ──► Terminals::control ──► JobControl
//!   keyboard ──► host line discipline ──► anchor ──► reports thread ──────────────►  │
//!                                                                                    ▼
//!                              Fabric: signal_group, signal_process, publish ◄── effects
//! ```
//!
//! Owns: the [`JobControl`] machine of the node's devpts, one [anchor](anchor_main) for each
//! terminal that controls a session, and one spare. Bytes, line editing and window sizes stay with
//! the host's terminals. Refuses: who is in which group or session; that is [`Fabric`]'s to know.
//!
//! Invariants: the machine and the host agree on which terminal has a session; effects reach the
//! [`Fabric`] in the order in which they were decided, and without a lock of this crate held.
#![forbid(unsafe_code)]

mod anchor;
mod anchors;
mod line;
mod protocol;
mod shared;

use crate::line::{Devpts, Side};
use crate::shared::Shared;
use dunix_ids::Pid;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

pub use anchor::anchor_main;
pub use anchors::AnchorProgram;
pub use dunix_job_control::{
    Access, Caller, Operation, Refusal, Request, TerminalId, Verdict, View,
};
pub use rustix::termios::{Winsize, tcsetwinsize};

/// `ioctl` request: make this terminal the caller's controlling terminal.
pub const TIOCSCTTY: u64 = 0x540E;
/// `ioctl` request: the foreground process group.
pub const TIOCGPGRP: u64 = 0x540F;
/// `ioctl` request: set the foreground process group.
pub const TIOCSPGRP: u64 = 0x5410;
/// `ioctl` request: give the controlling terminal up.
pub const TIOCNOTTY: u64 = 0x5422;
/// `ioctl` request: the session.
pub const TIOCGSID: u64 = 0x5429;
/// `ioctl` requests that set attributes, among them `TOSTOP`: `TCSETS`, `TCSETSW`, `TCSETSF`, the
/// old `TCSETA` family and the `TCSETS2` family.
pub const ATTRIBUTE_REQUESTS: [u64; 9] =
    [0x5402, 0x5403, 0x5404, 0x5406, 0x5407, 0x5408, 0x402C_542B, 0x402C_542C, 0x402C_542D];

/// One ioctl on a terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TerminalCall {
    /// One of the `TIOC*` requests above, or of [`ATTRIBUTE_REQUESTS`] after the host did it.
    pub request: u64,
    /// Its argument, by value.
    pub argument: i32,
    /// The caller has `CAP_SYS_ADMIN` in the fabric.
    pub privileged: bool,
    /// For `TIOCSPGRP`: the session of the group that `argument` names, if it has members.
    pub group_session: Option<Pid>,
}

/// The processes of the fabric, as the terminals see them.
///
/// The calls come one at a time and in order, from any thread, while no lock of this crate is
/// held. They may call [`Terminals`] back.
pub trait Fabric: Send + Sync {
    /// Sends `signal` to all members of `group`, wherever they are, as the kernel would.
    fn signal_group(&self, group: Pid, signal: u8);
    /// Sends `signal` to one process, as the kernel would.
    fn signal_process(&self, pid: Pid, signal: u8);
    /// The members of `session` see this from now on (`None`: no controlling terminal).
    fn publish(&self, session: Pid, view: Option<View>);
    /// This one process of `session` has no controlling terminal from now on.
    fn leave(&self, session: Pid, pid: Pid);
}

/// What [`Terminals::start`] needs.
#[derive(Debug)]
pub struct TerminalsConfig {
    /// The devpts whose terminals have their home here, usually `/dev/pts`.
    pub devpts: PathBuf,
    /// How to start an anchor.
    pub anchor: AnchorProgram,
}

/// The terminals of this node. Dropping it ends every anchor.
pub struct Terminals {
    shared: Arc<Shared>,
    reports: Option<JoinHandle<()>>,
}

impl Terminals {
    /// Starts with no controlling terminal, one spare anchor and the thread that reads reports.
    ///
    /// # Errors
    /// If the devpts cannot be seen or an anchor cannot be started.
    pub fn start(config: TerminalsConfig, fabric: Arc<dyn Fabric>) -> std::io::Result<Self> {
        let devpts = Devpts::open(&config.devpts)?;
        let shared = Arc::new(Shared::new(devpts, config.anchor, fabric)?);
        let reader = Arc::clone(&shared);
        let reports = std::thread::Builder::new()
            .name("terminals".to_owned())
            .spawn(move || reader.read_reports())?;
        Ok(Self { shared, reports: Some(reports) })
    }

    /// Handles a call of `caller` on a duplicate `fd` of its descriptor. Returns the PID of those
    /// that read, else 0.
    ///
    /// The caller's shim has made the check for background changes ([`Terminals::access`]).
    ///
    /// # Errors
    /// As tty_ioctl(4); `EIO` if the host refuses the terminal; `EINVAL` for another request.
    pub fn control(
        &self,
        caller: Caller,
        fd: BorrowedFd<'_>,
        call: TerminalCall,
    ) -> Result<u32, Errno> {
        let (terminal, side) = self.shared.devpts.identify(fd)?;
        if ATTRIBUTE_REQUESTS.contains(&call.request) {
            self.shared.note_attributes(terminal, line::has_tostop(fd)?);
            return Ok(0);
        }
        let master = side == Side::Master;
        let request = match call.request {
            TIOCSCTTY => Request::SetControlling {
                steal: call.argument == 1,
                readable: line::is_readable(fd)?,
                privileged: call.privileged,
                tostop: line::has_tostop(fd)?,
            },
            TIOCNOTTY => Request::GiveUp,
            TIOCGPGRP => Request::Foreground { master },
            TIOCGSID => Request::Session { master },
            TIOCSPGRP => {
                // A shell does this after each job: time to see what the job has set.
                self.shared.note_attributes(terminal, line::has_tostop(fd)?);
                Request::SetForeground { group: call.argument, session: call.group_session }
            }
            _ => return Err(Errno::INVAL),
        };
        self.shared.request(caller, terminal, side, fd, request)
    }

    /// Opens the caller's controlling terminal, `/dev/tty`.
    ///
    /// # Errors
    /// `ENXIO` without one; else what open(2) reports.
    pub fn open_controlling(&self, caller: Caller, flags: OFlags) -> Result<OwnedFd, Errno> {
        let terminal = self.shared.terminal_of(caller).ok_or(Errno::NXIO)?;
        let flags = flags & (OFlags::RWMODE | OFlags::NONBLOCK | OFlags::APPEND);
        match self.shared.devpts.open_slave(terminal, flags) {
            // The master is gone and the hang-up on its way.
            Err(Errno::NOENT | Errno::IO) => Err(Errno::NXIO),
            other => other,
        }
    }

    /// Handles that `caller` uses its controlling terminal from the background, perhaps: by the
    /// time this is asked the foreground may have changed. Signals the group if it must stop.
    #[must_use]
    pub fn access(&self, caller: Caller, access: Access) -> Verdict {
        self.shared.access(caller, access)
    }

    /// Makes a new terminal in this devpts for a user outside the fabric (`dunix run`): the
    /// non-blocking master, whose closing hangs the terminal up, and the slave, which `owner` (user
    /// and group on this node) owns if the host allows it.
    ///
    /// # Errors
    /// What the host reports.
    pub fn open(
        &self,
        size: Winsize,
        owner: Option<(u32, u32)>,
    ) -> Result<(OwnedFd, OwnedFd), Errno> {
        self.shared.devpts.new_pair(size, owner)
    }

    /// Tells which terminal a descriptor belongs to.
    ///
    /// # Errors
    /// `ENOTTY` if it is none of this home's.
    pub fn identify(&self, fd: BorrowedFd<'_>) -> Result<TerminalId, Errno> {
        self.shared.devpts.identify(fd).map(|(terminal, _)| terminal)
    }

    /// Makes `terminal` the controlling terminal of a new session, as its leader's TIOCSCTTY would.
    ///
    /// # Errors
    /// As [`Terminals::control`].
    pub fn attach(&self, leader: Caller, terminal: TerminalId) -> Result<(), Errno> {
        let slave = self.shared.devpts.open_slave(terminal, OFlags::RDWR)?;
        let call =
            TerminalCall { request: TIOCSCTTY, argument: 0, privileged: true, group_session: None };
        self.control(leader, slave.as_fd(), call).map(|_| ())
    }

    /// Returns what the members of `session` see.
    #[must_use]
    pub fn view(&self, session: Pid) -> Option<View> {
        self.shared.view(session)
    }

    /// Tells whether a terminal still names `pid`, so that the number must not be used again.
    #[must_use]
    pub fn holds(&self, pid: Pid) -> bool {
        self.shared.holds(pid)
    }

    /// Handles that the leader of `session` exited.
    pub fn leader_exited(&self, session: Pid) {
        self.shared.leader_exited(session);
    }

    /// Handles a fork within `session`: a child whose parent gave the terminal up has none.
    pub fn forked(&self, session: Pid, parent: Pid, child: Pid) {
        self.shared.forked(session, parent, child);
    }

    /// Handles that a process other than the leader exited or left `session`.
    pub fn exited(&self, session: Pid, pid: Pid) {
        self.shared.exited(session, pid);
    }
}

impl Drop for Terminals {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(reports) = self.reports.take()
            && reports.thread().id() != std::thread::current().id()
        {
            // A panic there was reported when it happened.
            let _ = reports.join();
        }
    }
}
