//! Sessions: setsid, and the loss of a controlling terminal. A session's home only knows which
//! groups it has; its number is in use while there is one.

use crate::{Effect, ProcTable, Token, operation::Then};
use alloc::vec::Vec;
use core::time::Duration;
use dunix_ids::{NodeId, ObjectId, Pid};
use dunix_wire::processes::{Answer, Errno, ProcMessage, ProcessBody, ReturnTo};

impl ProcTable {
    /// setsid(2) by a process that runs here. Answers `Pid` with the session, or `EPERM` if a group
    /// of its number exists.
    pub fn setsid(&mut self, now: Duration, token: Token, caller: Pid) {
        self.begin(now);
        match self.processes.get_mut(&caller) {
            None => self.reply_now(token, Err(Errno::SRCH)),
            Some(process) if process.pgid == caller => self.reply_now(token, Err(Errno::PERM)),
            Some(process) if process.is_joining || process.leaving.is_some() => {
                self.reply_now(token, Err(Errno::BUSY));
            }
            Some(process) => {
                process.is_joining = true;
                if let Some(reply) = self.open_operation(Then::Lead { pid: caller, token }) {
                    self.send_owner(caller, ProcMessage::MayLead { pid: caller, reply });
                }
            }
        }
        self.finish();
    }

    pub(crate) fn handle_may_lead(&mut self, pid: Pid, reply: ReturnTo) {
        if !self.owns(pid) {
            return self.send_owner(pid, ProcMessage::MayLead { pid, reply });
        }
        let may = self.numbers.group(pid).is_none();
        self.send_reply(reply, if may { Ok(Answer::Done) } else { Err(Errno::PERM) });
    }

    pub(crate) fn conclude_lead(&mut self, pid: Pid, token: Token, result: Result<Answer, Errno>) {
        let is_here = self.ends_joining(pid);
        let result = match result {
            Ok(_) if is_here => {
                self.lead_session(pid);
                Ok(Answer::Pid(pid))
            }
            Ok(_) => Err(Errno::SRCH),
            Err(Errno::SRCH) => Err(Errno::AGAIN),
            Err(error) => Err(error),
        };
        self.reply_now(token, result);
    }

    fn lead_session(&mut self, pid: Pid) {
        if let Some(process) = self.processes.get_mut(&pid)
            && process.terminal.take().is_some()
        {
            self.effects.push_back(Effect::TerminalLost { pid });
        }
        self.change_group(pid, pid, Some(pid));
    }

    pub(crate) fn handle_session_group(&mut self, sid: Pid, pgid: Pid, home: NodeId, exists: bool) {
        if !self.owns(sid) {
            return self.send_owner(sid, ProcMessage::SessionGroup { sid, pgid, home, exists });
        }
        if exists {
            self.numbers.used.entry(sid).or_default().session.insert(pgid, home);
        } else if let Some(number) = self.numbers.used.get_mut(&sid) {
            // Another home may have taken the group over since.
            if number.session.get(&pgid) == Some(&home) {
                number.session.remove(&pgid);
            }
            self.free_after_group(sid);
        }
    }

    /// The terminal was hung up, or given up by the leader of the session: every process of the
    /// session loses it as its controlling terminal.
    pub fn session_terminal_lost(&mut self, now: Duration, sid: Pid, terminal: ObjectId) {
        self.begin(now);
        self.send_owner(sid, ProcMessage::SessionTerminalLost { sid, terminal });
        self.finish();
    }

    pub(crate) fn handle_session_terminal_lost(&mut self, sid: Pid, terminal: ObjectId) {
        if !self.owns(sid) {
            return self.send_owner(sid, ProcMessage::SessionTerminalLost { sid, terminal });
        }
        let Some(number) = self.numbers.used.get(&sid) else { return };
        let groups: Vec<Pid> = number.session.keys().copied().collect();
        for pgid in groups {
            self.send_owner(pgid, ProcMessage::GroupTerminalLost { pgid, terminal });
        }
    }

    pub(crate) fn handle_group_terminal_lost(&mut self, pgid: Pid, terminal: ObjectId) {
        if !self.owns(pgid) {
            return self.send_owner(pgid, ProcMessage::GroupTerminalLost { pgid, terminal });
        }
        let Some(group) = self.numbers.group(pgid) else { return };
        let nodes: alloc::collections::BTreeSet<_> =
            group.members.values().map(|member| member.node).collect();
        for node in nodes {
            if self.is_live(node) {
                self.send(node, ProcMessage::MembersTerminalLost { pgid, terminal });
            }
        }
    }

    pub(crate) fn handle_members_terminal_lost(&mut self, pgid: Pid, terminal: ObjectId) {
        let here = self.processes.iter().filter(|(_, process)| process.pgid == pgid);
        let mut members: Vec<Pid> = here.map(|(pid, _)| *pid).collect();
        members.extend(self.tombstones.members_of(pgid));
        for pid in members {
            self.send_process(pid, None, ProcessBody::TerminalLost(terminal));
        }
    }

    pub(crate) fn take_terminal(&mut self, pid: Pid, terminal: ObjectId) {
        if let Some(process) = self.processes.get_mut(&pid)
            && process.terminal == Some(terminal)
        {
            process.terminal = None;
            self.effects.push_back(Effect::TerminalLost { pid });
        }
    }

    /// Gives a process a controlling terminal (`TIOCSCTTY`), or takes it (`TIOCNOTTY`).
    pub fn set_terminal(&mut self, pid: Pid, terminal: Option<ObjectId>) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.terminal = terminal;
        }
    }
}
