//! Process groups, the members' side: setpgid, and news to the group's home.

use crate::{Effect, ProcTable, Token, operation::Then};
use core::time::Duration;
use dunix_ids::Pid;
use dunix_wire::processes::{Answer, Errno, ProcMessage, ProcessBody, table::ChildChange};

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
        match self.check_setpgid(caller, target, pgid) {
            Err(error) => self.reply_now(token, Err(error)),
            Ok(true) => self.reply_now(token, Ok(Answer::Done)),
            Ok(false) if pgid == target => {
                self.change_group(target, pgid, None);
                self.reply_now(token, Ok(Answer::Done));
            }
            Ok(false) => self.ask_to_join(target, pgid, token),
        }
        self.finish();
    }

    /// Returns whether nothing is left to do.
    fn check_setpgid(&self, caller: Pid, target: Pid, pgid: Pid) -> Result<bool, Errno> {
        let by = self.processes.get(&caller).ok_or(Errno::SRCH)?;
        if target != caller {
            let child = by.children.get(&target).ok_or(Errno::SRCH)?;
            // A child is elsewhere only if it has called exec.
            if child.node != self.config.node {
                return Err(Errno::ACCES);
            }
        }
        let process = self.processes.get(&target).ok_or(Errno::ACCES)?;
        if target != caller && process.sid != by.sid {
            return Err(Errno::PERM);
        }
        if target != caller && (process.has_execed || process.leaving.is_some()) {
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

    fn ask_to_join(&mut self, pid: Pid, pgid: Pid, token: Token) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let sid = process.sid;
        process.is_joining = true;
        if let Some(reply) = self.open_operation(Then::Join { pid, pgid, token }) {
            self.send_owner(pgid, ProcMessage::MayJoin { pgid, sid, reply });
        }
    }

    pub(crate) fn conclude_join(
        &mut self,
        pid: Pid,
        pgid: Pid,
        token: Token,
        result: Result<Answer, Errno>,
    ) {
        let is_here = match self.processes.get_mut(&pid) {
            Some(process) => {
                process.is_joining = false;
                true
            }
            None => false,
        };
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
        self.reply_now(token, result);
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
