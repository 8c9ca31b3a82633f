//! Signals: kill(2), tkill(2), tgkill(2), the queued forms, and the fabric's own.
//!
//! Who may signal whom is decided where the target is, by its users there (kill(2)).

use crate::{
    Effect, HostTarget, KillTarget, ProcTable, SIGCONT, SIGKILL, SIGNAL_MAX, Token, limits,
    operation::Then,
    process::{Held, Process},
};
use alloc::boxed::Box;
use core::time::Duration;
use dunix_ids::{NodeId, Pid};
use dunix_wire::processes::{
    Answer, Credentials, Errno, ProcMessage, ProcessBody, ReturnTo, Sender, SignalInfo,
    SignalRequest,
};

impl ProcTable {
    /// kill, tkill, tgkill and the sigqueue forms by a process that runs here. Answers `Done`,
    /// `EINVAL`, `ESRCH`, `EPERM`, `EAGAIN` (too many held or open).
    pub fn kill(
        &mut self,
        now: Duration,
        token: Token,
        caller: Pid,
        target: KillTarget,
        signal: u8,
        info: SignalInfo,
    ) {
        self.begin(now);
        match self.processes.get(&caller) {
            Some(process) => {
                let sender = Sender {
                    pid: Some(caller),
                    uid: process.credentials.uid,
                    euid: process.credentials.euid,
                    sid: Some(process.sid),
                };
                let request = SignalRequest { signal, info, sender };
                self.kill_as(Some(token), target, request);
            }
            None => self.reply_now(token, Err(Errno::SRCH)),
        }
        self.finish();
    }

    /// A signal from the fabric itself (a terminal's ^C, `dunix kill`): always permitted, shown as
    /// sent by the kernel. Answers as [`ProcTable::kill`], if a token is given.
    pub fn kill_by_fabric(
        &mut self,
        now: Duration,
        token: Option<Token>,
        target: KillTarget,
        signal: u8,
    ) {
        self.begin(now);
        self.kill_as(token, target, SignalRequest::of_fabric(signal));
        self.finish();
    }

    fn kill_as(&mut self, token: Option<Token>, target: KillTarget, request: SignalRequest) {
        if request.signal > SIGNAL_MAX {
            if let Some(token) = token {
                self.reply_now(token, Err(Errno::INVAL));
            }
            return;
        }
        match target {
            KillTarget::All => self.kill_all(token, request),
            KillTarget::Process(Pid::INIT) => self.kill_init(token, request),
            target => {
                let reply = match token {
                    None => None,
                    Some(token) => match self.open_operation(Then::Tell(token)) {
                        None => return,
                        reply => reply,
                    },
                };
                self.kill_one(target, request, reply);
            }
        }
    }

    fn kill_one(&mut self, target: KillTarget, request: SignalRequest, reply: Option<ReturnTo>) {
        let (pid, thread) = match target {
            KillTarget::Group(pgid) => {
                let message =
                    ProcMessage::SignalGroup { pgid, request, unless_orphaned: false, reply };
                return self.send_owner(pgid, message);
            }
            // A thread's number stands for its process.
            KillTarget::Process(pid) => (self.process_of(pid).unwrap_or(pid), None),
            KillTarget::Thread { process: Some(process), thread } => (process, Some(thread)),
            KillTarget::Thread { process: None, thread } => {
                (self.process_of(thread).unwrap_or(thread), Some(thread))
            }
            KillTarget::All => return,
        };
        let hint = request.sender.pid.and_then(|caller| self.child_node(caller, pid));
        self.send_process(pid, hint, ProcessBody::Signal { request, thread, reply });
    }

    /// Where a process believes its child to be.
    fn child_node(&self, parent: Pid, child: Pid) -> Option<NodeId> {
        self.processes.get(&parent)?.children.get(&child).map(|entry| entry.node)
    }

    /// No program runs as process 1: it may be asked for, and ignores all signals.
    fn kill_init(&mut self, token: Option<Token>, request: SignalRequest) {
        let Some(token) = token else { return };
        let may = request.sender.pid.is_none() || request.sender.euid == 0;
        self.reply_now(token, if may { Ok(Answer::Done) } else { Err(Errno::PERM) });
    }

    fn kill_all(&mut self, token: Option<Token>, request: SignalRequest) {
        let Some(token) = token else { return };
        let mut nodes: alloc::collections::BTreeSet<NodeId> = self.peers.live().collect();
        nodes.insert(self.config.node);
        let then = Then::Gather { awaiting: nodes.clone(), best: Err(Errno::SRCH), token };
        let Some(reply) = self.open_operation(then) else { return };
        for node in nodes {
            self.send(node, ProcMessage::SignalAll { request, reply });
        }
    }

    pub(crate) fn handle_signal_all(&mut self, request: SignalRequest, reply: ReturnTo) {
        let targets: alloc::vec::Vec<Pid> = self
            .processes
            .iter()
            .filter(|(pid, process)| Some(**pid) != request.sender.pid && !process.is_zombie())
            .map(|(pid, _)| *pid)
            .collect();
        let mut result = Err(Errno::SRCH);
        for pid in targets {
            match self.deliver_signal(pid, None, &request) {
                Ok(()) => result = Ok(Answer::Done),
                Err(error) if result.is_err() => result = Err(error),
                Err(_) => {}
            }
        }
        self.send_reply(reply, result);
    }

    /// Gives a signal to a process or a thread that is here, if the sender may.
    ///
    /// # Errors
    /// `EINVAL` for a number that a peer made up, `EPERM`, `ESRCH` for a thread that is not its,
    /// `EAGAIN` if too many are held.
    pub(crate) fn deliver_signal(
        &mut self,
        pid: Pid,
        thread: Option<Pid>,
        request: &SignalRequest,
    ) -> Result<(), Errno> {
        let process = self.processes.get_mut(&pid).ok_or(Errno::SRCH)?;
        check_permission(process, request)?;
        let whom = thread;
        let thread = thread.filter(|thread| *thread != pid);
        if thread.is_some_and(|thread| !process.threads.contains(&thread)) {
            return Err(Errno::SRCH);
        }
        if request.signal == 0 || process.is_zombie() {
            return Ok(());
        }
        if process.is_in_between() && !process.has_at_once(pid, &request.sender) {
            return self.hold_signal(pid, whom, request);
        }
        let Some(host) = process.host else { return Ok(()) };
        let target = match thread {
            None => HostTarget::Process(host),
            Some(thread) => self.to_host(thread).ok_or(Errno::SRCH)?,
        };
        // tgkill to the first thread is for that thread alone, whose host number is the process's.
        let is_for_thread = whom.is_some() || request.info == SignalInfo::Thread;
        let target = match target {
            HostTarget::Process(process) if is_for_thread => {
                HostTarget::Thread { process, thread: process }
            }
            target => target,
        };
        self.signal_host(pid, target, request);
        Ok(())
    }

    fn hold_signal(
        &mut self,
        pid: Pid,
        thread: Option<Pid>,
        request: &SignalRequest,
    ) -> Result<(), Errno> {
        let process = self.processes.get_mut(&pid).ok_or(Errno::SRCH)?;
        let signals = process.held.iter().filter(|held| is_signal(held)).count();
        if signals >= limits::HELD_MAX {
            return Err(Errno::AGAIN);
        }
        // It is permitted already, whatever users the next image has: the fabric forwards it, and a
        // thread that does not come along leaves it to the process.
        let thread = thread.filter(|_| process.keeps_threads());
        let body = ProcessBody::Signal { request: *request, thread, reply: None };
        self.hold_or_strike(pid, Held::Body(body), request);
        Ok(())
    }

    /// Holds a signal. One that kills a frozen process does so at once, and is held for the case that
    /// it is decided to run elsewhere before its end is known.
    pub(crate) fn hold_or_strike(&mut self, pid: Pid, held: Held, request: &SignalRequest) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let host = process.host.filter(|_| process.is_frozen() && request.signal == SIGKILL);
        let Some(host) = host else { return process.held.push(held) };
        process.held.push(Held::Struck(Box::new(held)));
        self.signal_host(pid, HostTarget::Process(host), request);
    }

    fn signal_host(&mut self, pid: Pid, target: HostTarget, request: &SignalRequest) {
        self.effects.push_back(Effect::Signal {
            pid,
            target,
            signal: request.signal,
            info: request.info,
            sender_pid: request.sender.pid.map_or(0, Pid::get),
            sender_uid: request.sender.uid,
        });
    }

    /// Says when a process was made, in seconds since the epoch; the first word counts.
    pub fn set_start(&mut self, pid: Pid, seconds: u64) {
        if let Some(process) = self.processes.get_mut(&pid).filter(|p| p.started_seconds == 0) {
            process.started_seconds = seconds;
        }
    }

    /// Sets what permission checks go by. The driver refreshes it from the host before it hands in
    /// a call or a message that signals the process.
    pub fn set_credentials(&mut self, pid: Pid, credentials: Credentials) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.credentials = credentials;
        }
    }
}

fn check_permission(process: &Process, request: &SignalRequest) -> Result<(), Errno> {
    if request.signal > SIGNAL_MAX {
        return Err(Errno::INVAL);
    }
    let (sender, target) = (&request.sender, &process.credentials);
    let same_user =
        [sender.uid, sender.euid].into_iter().any(|user| user == target.uid || user == target.suid);
    let may = sender.pid.is_none()
        || sender.euid == 0
        || same_user
        || (request.signal == SIGCONT && sender.sid == Some(process.sid));
    if may { Ok(()) } else { Err(Errno::PERM) }
}

fn is_signal(held: &Held) -> bool {
    match held {
        Held::Body(ProcessBody::Signal { .. }) => true,
        Held::Struck(held) => is_signal(held),
        _ => false,
    }
}
