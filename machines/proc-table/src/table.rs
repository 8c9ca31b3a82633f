//! The table itself: public face. The verbs are in files of their own.

use crate::{
    Effect, HostTarget, KillTarget, RootSpec, TableConfig, Token, WaitFor, WaitOptions, WaitOutcome,
};
use alloc::{collections::VecDeque, string::String, vec::Vec};
use core::time::Duration;
use dunix_ids::{NodeId, ObjectId, Pid};
use dunix_wire::processes::{
    Credentials, Errno, ExitStatus, ProcMessage, ProcessRecord, ProcessSummary, Rusage, SignalInfo,
};

/// One node's part of the fabric's process table.
pub struct ProcTable {
    config: TableConfig,
    effects: VecDeque<Effect>,
}

#[expect(unused_variables, reason = "the verbs follow")]
impl ProcTable {
    #[must_use]
    pub fn new(config: TableConfig) -> ProcTable {
        ProcTable { config, effects: VecDeque::new() }
    }
    /// Takes the next thing to do. Call until `None` after every other call.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
    /// When [`ProcTable::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        None
    }
    pub fn handle_timeout(&mut self, now: Duration) {}
    /// A peer's message. A message from a node that was declared dead is ignored.
    pub fn handle_message(&mut self, now: Duration, from: NodeId, message: ProcMessage) {}
    pub fn handle_node_up(&mut self, now: Duration, node: NodeId) {}
    /// A node was declared dead; it must not come back under the same number.
    pub fn handle_node_down(&mut self, now: Duration, node: NodeId) {}
    /// Whether PIDs can be allocated here: a block is leased.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        false
    }

    // Start and fork.
    /// A process without a parent. Its exit comes back as [`Effect::RootExited`].
    pub fn spawn_root(&mut self, now: Duration, spec: RootSpec) -> Result<Pid, Errno> {
        Err(Errno::AGAIN)
    }
    /// Allocates a child of `parent` (state Starting). `exit_signal`: SIGCHLD, another, or 0.
    pub fn fork(&mut self, now: Duration, parent: Pid, exit_signal: u8) -> Result<Pid, Errno> {
        Err(Errno::AGAIN)
    }
    /// The host's clone or spawn failed: as if it had never been.
    pub fn fork_failed(&mut self, now: Duration, child: Pid) {}
    /// The process has a host process now (after spawn, fork, adopt). Held signals are delivered.
    pub fn bind_host(&mut self, now: Duration, pid: Pid, host_pid: u32) -> Result<(), Errno> {
        Err(Errno::SRCH)
    }
    /// Allocates a TID for a new thread of `pid`.
    pub fn thread_prepare(&mut self, now: Duration, pid: Pid) -> Result<Pid, Errno> {
        Err(Errno::AGAIN)
    }
    pub fn thread_bound(&mut self, now: Duration, tid: Pid, host_tid: u32) -> Result<(), Errno> {
        Err(Errno::SRCH)
    }
    /// A thread other than the first ended, or its clone failed.
    pub fn thread_exited(&mut self, now: Duration, tid: Pid) {}

    // Exec.
    /// A local exec succeeded: other threads are gone, setpgid by the parent answers `EACCES` from now on.
    pub fn exec(
        &mut self,
        now: Duration,
        pid: Pid,
        comm: String,
        credentials: Credentials,
    ) -> Result<(), Errno> {
        Err(Errno::SRCH)
    }
    /// Begins a remote exec: what arrives for the process is held until [`ProcTable::departed`] or
    /// [`ProcTable::stayed`]. `EBUSY` while another operation of the process is in flight.
    pub fn depart(&mut self, now: Duration, pid: Pid, to: NodeId) -> Result<ProcessRecord, Errno> {
        Err(Errno::BUSY)
    }
    /// The other node has adopted it. Its host process's end means nothing any more.
    pub fn departed(&mut self, now: Duration, pid: Pid) {}
    /// The other node has refused: the process lives here as before. (If its host process ended
    /// meanwhile it now ends.)
    pub fn stayed(&mut self, now: Duration, pid: Pid) {}
    /// Takes a process over from `from` (state Starting until `bind_host`). Refused if the record
    /// is not sound, the table full, or `from` dead. Answer the peer after this.
    pub fn adopt(
        &mut self,
        now: Duration,
        from: NodeId,
        record: ProcessRecord,
    ) -> Result<(), Errno> {
        Err(Errno::AGAIN)
    }

    // What the keeper reports.
    /// The host process ended and its relays are drained. Unknown PIDs are ignored.
    pub fn exited(&mut self, now: Duration, pid: Pid, status: ExitStatus, rusage: Rusage) {}
    pub fn stopped(&mut self, now: Duration, pid: Pid, signal: u8) {}
    pub fn continued(&mut self, now: Duration, pid: Pid) {}

    // Calls of a process.
    /// wait4, waitid. `ECHILD` if there is no such child.
    pub fn wait(
        &mut self,
        now: Duration,
        parent: Pid,
        which: WaitFor,
        options: WaitOptions,
    ) -> Result<WaitOutcome, Errno> {
        Err(Errno::CHILD)
    }
    /// SIGCHLD's disposition: `children_reaped` for SIG_IGN or SA_NOCLDWAIT, `stops_silent` for SA_NOCLDSTOP.
    pub fn set_child_policy(&mut self, pid: Pid, children_reaped: bool, stops_silent: bool) {}
    /// What the permission checks go by; the driver refreshes it from the host before it asks.
    pub fn set_credentials(&mut self, pid: Pid, credentials: Credentials) {}
    pub fn set_terminal(&mut self, pid: Pid, terminal: Option<ObjectId>) {}
    /// kill, tkill, tgkill, and the sigqueue forms. Answers `Done`, `ESRCH`, `EPERM`, `EINVAL`, `EAGAIN`.
    pub fn kill(
        &mut self,
        now: Duration,
        token: Token,
        caller: Pid,
        target: KillTarget,
        signal: u8,
        info: SignalInfo,
    ) {
    }
    /// A signal from the fabric itself (a terminal's ^C, `dunix kill`): always permitted.
    pub fn kill_by_fabric(
        &mut self,
        now: Duration,
        token: Option<Token>,
        target: KillTarget,
        signal: u8,
    ) {
    }
    /// A background process touches its terminal: signals its group with SIGTTIN or SIGTTOU and
    /// answers `Done`, or `EIO` if the group is orphaned.
    pub fn background(&mut self, now: Duration, token: Token, pid: Pid, signal: u8) {}
    /// setpgid(2); `pid` and `pgid` as given, `None` for 0. Answers `Done`, `ESRCH`, `EPERM`, `EACCES`.
    pub fn setpgid(
        &mut self,
        now: Duration,
        token: Token,
        caller: Pid,
        pid: Option<Pid>,
        pgid: Option<Pid>,
    ) {
    }
    /// setsid(2). Answers `Pid`, `EPERM`.
    pub fn setsid(&mut self, now: Duration, token: Token, caller: Pid) {}
    /// getpgid(2) of any process. Answers `Pid`, `ESRCH`.
    pub fn getpgid(&mut self, now: Duration, token: Token, pid: Pid) {}
    pub fn getsid(&mut self, now: Duration, token: Token, pid: Pid) {}
    /// Which node runs it. Answers `Node`, `ESRCH`.
    pub fn locate(&mut self, now: Duration, token: Token, pid: Pid) {}
    /// The session of a group (for TIOCSPGRP). Answers `Pid`, `ESRCH`.
    pub fn group_session(&mut self, now: Duration, token: Token, pgid: Pid) {}
    /// The terminal was hung up or given up by its session's leader: every process of the session loses it.
    pub fn session_terminal_lost(&mut self, now: Duration, sid: Pid, terminal: ObjectId) {}

    // Queries, all local.
    /// 0 for a root or an orphan... [`Pid::INIT`] is answered for those.
    #[must_use]
    pub fn parent(&self, pid: Pid) -> Option<Pid> {
        None
    }
    #[must_use]
    pub fn group(&self, pid: Pid) -> Option<Pid> {
        None
    }
    #[must_use]
    pub fn session(&self, pid: Pid) -> Option<Pid> {
        None
    }
    #[must_use]
    pub fn terminal(&self, pid: Pid) -> Option<ObjectId> {
        None
    }
    /// The host's number of a process or thread that runs here.
    #[must_use]
    pub fn to_host(&self, id: Pid) -> Option<HostTarget> {
        None
    }
    /// The process or thread with this host number.
    #[must_use]
    pub fn from_host(&self, host: u32) -> Option<Pid> {
        None
    }
    /// The process that a thread (or process) number belongs to.
    #[must_use]
    pub fn process_of(&self, id: Pid) -> Option<Pid> {
        None
    }
    /// Whether the process runs (or starts) here: not a zombie.
    #[must_use]
    pub fn is_alive(&self, pid: Pid) -> bool {
        false
    }
    /// Where a process is, as far as this node knows without asking.
    #[must_use]
    pub fn known_location(&self, pid: Pid) -> Option<NodeId> {
        None
    }
    /// What runs here, zombies included.
    #[must_use]
    pub fn list(&self) -> Vec<ProcessSummary> {
        Vec::new()
    }
    /// # Errors
    /// The first invariant that does not hold.
    pub fn check_invariants(&self) -> Result<(), String> {
        Ok(())
    }
    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.config.node
    }
}
