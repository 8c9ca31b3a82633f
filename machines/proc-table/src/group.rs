//! Process groups, the members' side: setpgid, and news to the group's home.

use crate::{
    Effect, ProcTable, Token,
    operation::{ReplyTo, Then},
};
use core::time::Duration;
use dunix_ids::{NodeId, Pid};
use dunix_wire::processes::{
    Answer, Errno, ProcMessage, ProcessBody, ReturnTo, table::ChildChange,
};

impl ProcTable {
    /// setpgid(2) by a process that runs here; `pid` and `pgid` as given, `None` for 0. Answers
    /// `Done`, `ESRCH` (neither the caller nor its child), `EACCES` (the child has called exec),
    /// `EPERM` (a session's leader, another session, no such group), `EBUSY` never reaches programs
    /// but for two calls at once on one process.
    pub fn setpgid(
        &mut self,
        now: Duration,
        token: Token,
        caller: Pid,
        pid: Option<Pid>,
        pgid: Option<Pid>,
    ) {
        self.begin(now);
        let target = pid.unwrap_or(caller);
        let pgid = pgid.unwrap_or(target);
        let asker = ReplyTo::Driver(token);
        match self.check_caller(caller, target) {
            Err(error) => self.reply_now(token, Err(error)),
            Ok(None) => self.regroup(target, None, pgid, asker),
            // The child is asked wherever it is: it may have moved.
            Ok(Some((sid, node))) => {
                if let Some(reply) = self.open_operation(Then::Tell(token)) {
                    let body = ProcessBody::Regroup { sid, pgid, reply };
                    self.send_process(target, Some(node), body);
                }
            }
        }
        self.finish();
    }

    /// A child's parent, of session `sid`, puts it into a group.
    pub(crate) fn handle_regroup(&mut self, pid: Pid, sid: Pid, pgid: Pid, reply: ReturnTo) {
        self.regroup(pid, Some(sid), pgid, ReplyTo::Node(reply));
    }

    fn regroup(&mut self, target: Pid, by: Option<Pid>, pgid: Pid, asker: ReplyTo) {
        match self.check_setpgid(target, by, pgid) {
            Err(error) => self.reply_to(asker, Err(error)),
            Ok(true) => self.reply_to(asker, Ok(Answer::Done)),
            Ok(false) if pgid == target => {
                self.change_group(target, pgid, None);
                self.reply_to(asker, Ok(Answer::Done));
            }
            Ok(false) => self.ask_to_join(target, pgid, asker),
        }
    }

    pub(crate) fn reply_to(&mut self, asker: ReplyTo, result: Result<Answer, Errno>) {
        match asker {
            ReplyTo::Driver(token) => self.reply_now(token, result),
            ReplyTo::Node(reply) => self.send_reply(reply, result),
        }
    }

    /// Whether it may be asked for: of a child returns the caller's session and where the child is.
    fn check_caller(&self, caller: Pid, target: Pid) -> Result<Option<(Pid, NodeId)>, Errno> {
        let by = self.processes.get(&caller).ok_or(Errno::SRCH)?;
        if target == caller {
            return Ok(None);
        }
        let child = by.children.get(&target).ok_or(Errno::SRCH)?;
        // A zombie of a dead node.
        if self.peers.is_dead(child.node) {
            return Err(Errno::ACCES);
        }
        Ok(Some((by.sid, child.node)))
    }

    /// Returns whether nothing is left to do. `by`: the parent's session, if the parent asks.
    fn check_setpgid(&self, target: Pid, by: Option<Pid>, pgid: Pid) -> Result<bool, Errno> {
        let process = self.processes.get(&target).ok_or(Errno::ACCES)?;
        if by.is_some_and(|sid| process.sid != sid) {
            return Err(Errno::PERM);
        }
        if by.is_some() && process.has_execed {
            return Err(Errno::ACCES);
        }
        if process.sid == target {
            return Err(Errno::PERM);
        }
        if process.pgid == pgid {
            return Ok(true);
        }
        if process.is_joining || process.leaving.is_some() {
            return Err(Errno::BUSY);
        }
        Ok(false)
    }

    fn ask_to_join(&mut self, pid: Pid, pgid: Pid, asker: ReplyTo) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let sid = process.sid;
        process.is_joining = true;
        if let Some(reply) = self.open_operation(Then::Join { pid, pgid, asker }) {
            self.send_owner(pgid, ProcMessage::MayJoin { pgid, sid, reply });
        }
    }

    pub(crate) fn conclude_join(
        &mut self,
        pid: Pid,
        pgid: Pid,
        asker: ReplyTo,
        result: Result<Answer, Errno>,
    ) {
        let is_here = self.ends_joining(pid);
        let result = match result {
            Ok(_) if is_here => {
                self.change_group(pid, pgid, None);
                Ok(Answer::Done)
            }
            Ok(_) => Err(Errno::SRCH),
            // A home that cannot be asked has no such group.
            Err(Errno::SRCH) => Err(Errno::PERM),
            Err(error) => Err(error),
        };
        self.reply_to(asker, result);
    }

    /// What a process asked of a group's home is settled; returns whether it is still here.
    pub(crate) fn ends_joining(&mut self, pid: Pid) -> bool {
        let process = self.processes.get_mut(&pid);
        process.map(|process| process.is_joining = false).is_some()
    }

    /// Puts a process into another group (and session), and tells those concerned.
    pub(crate) fn change_group(&mut self, pid: Pid, pgid: Pid, session: Option<Pid>) {
        let node = self.config.node;
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.version += 1;
        let (old, version) = (process.pgid, process.version);
        process.pgid = pgid;
        process.sid = session.unwrap_or(process.sid);
        self.effects.push_back(Effect::Regrouped { pid });
        // First in, then out: the session must not seem to have ended in between.
        self.announce_member(pid, false);
        if old != pgid {
            self.send_owner(old, ProcMessage::MemberLeft { pgid: old, pid, version });
        }
        self.tell_parent(pid, ChildChange::Group(pgid));
        self.tell_children(pid, |parent, process| ProcessBody::ParentChanged {
            parent,
            version: process.version,
            node,
            group: (process.pgid, process.sid),
        });
    }

    /// Tells the group's home how a member stands. `by_exit`: because it or its parent ended.
    pub(crate) fn announce_member(&mut self, pid: Pid, by_exit: bool) {
        let node = self.config.node;
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.version += 1;
        let (pgid, sid, state) = (process.pgid, process.sid, process.member_state(node));
        self.send_owner(pgid, ProcMessage::Member { pgid, sid, pid, state, by_exit });
    }

    /// A background process touches its terminal: signals its group with SIGTTIN or SIGTTOU.
    /// Answers `Done`, or `EIO` if the group is orphaned (POSIX XBD 11.1.4).
    pub fn background(&mut self, now: Duration, token: Token, pid: Pid, signal: u8) {
        self.begin(now);
        match self.group(pid) {
            None => self.reply_now(token, Err(Errno::SRCH)),
            Some(pgid) => {
                let request = dunix_wire::processes::SignalRequest::of_fabric(signal);
                if let Some(reply) = self.open_operation(Then::Tell(token)) {
                    let reply = Some(reply);
                    let message =
                        ProcMessage::SignalGroup { pgid, request, unless_orphaned: true, reply };
                    self.send_owner(pgid, message);
                }
            }
        }
        self.finish();
    }

    /// Asks for the session of a group (for `TIOCSPGRP`). Answers `Pid`, or `ESRCH` without such a
    /// group.
    pub fn group_session(&mut self, now: Duration, token: Token, pgid: Pid) {
        self.begin(now);
        if let Some(reply) = self.open_operation(Then::Tell(token)) {
            self.send_owner(pgid, ProcMessage::AskSession { pgid, reply });
        }
        self.finish();
    }
}
