//! Finding a process: by the sender's hint, after its tombstones, and at last by its number's
//! leaser.

use crate::{
    Note, ProcTable, limits,
    number::Place,
    process::{Held, Watchers},
};
use dunix_ids::{NodeId, Pid};
use dunix_wire::processes::{
    Answer, Errno, ProcMessage, ProcessBody, ReturnTo,
    table::{HOPS_MAX, Question},
};

impl ProcTable {
    /// Sends to a process, first to where it is believed to be.
    pub(crate) fn send_process(&mut self, pid: Pid, hint: Option<NodeId>, body: ProcessBody) {
        let message = ProcMessage::ToProcess { pid, hops: 0, body };
        if self.processes.contains_key(&pid) {
            return self.send(self.config.node, message);
        }
        match hint.or_else(|| self.tombstones.next_node(pid)) {
            Some(node) if self.is_live(node) => self.send(node, message),
            Some(node) if self.peers.is_settling(node) => self.park_for_dead(node, pid, message),
            _ => self.send_owner(pid, message),
        }
    }

    pub(crate) fn handle_to_process(&mut self, pid: Pid, hops: u8, body: ProcessBody) {
        if pid == Pid::INIT {
            return self.handle_to_init(body);
        }
        if let Some(process) = self.processes.get_mut(&pid) {
            if process.is_on_its_way() {
                return self.hold_body(pid, body);
            }
            return self.handle_body(pid, body);
        }
        let message = ProcMessage::ToProcess { pid, hops: hops.saturating_add(1), body };
        if hops >= HOPS_MAX {
            return self.undeliverable(message);
        }
        let tombstone = self.tombstones.next_node(pid);
        if !self.owns(pid) {
            return match tombstone {
                Some(node) => self.send_if_live(node, pid, message),
                None => self.send_owner(pid, message),
            };
        }
        if let Place::Thread { process, node, .. } = self.numbers.place(pid) {
            let ProcMessage::ToProcess { hops, body, .. } = message else { return };
            let message = ProcMessage::ToProcess { pid: process, hops, body };
            return self.send_if_live(node, process, message);
        }
        // The leaser knows best; only of one that has just left here it has not heard yet.
        let next = match self.numbers.place(pid) {
            Place::At { node, .. } if node != self.config.node => Some(node),
            Place::At { .. } => tombstone,
            Place::None | Place::Lost { .. } | Place::Thread { .. } => None,
        };
        match next {
            Some(node) => self.send_if_live(node, pid, message),
            None if self.numbers.place(pid) == Place::None => {
                if let Some(message) = self.hold_for_rebuild(pid, message) {
                    self.undeliverable(message);
                }
            }
            None => self.undeliverable(message),
        }
    }

    fn send_if_live(&mut self, node: NodeId, pid: Pid, message: ProcMessage) {
        if self.is_live(node) {
            self.send(node, message);
        } else if self.peers.is_settling(node) {
            self.park_for_dead(node, pid, message);
        } else {
            self.undeliverable(message);
        }
    }

    /// Keeps what came for a process that is on its way. Signals are answered here and now.
    fn hold_body(&mut self, pid: Pid, body: ProcessBody) {
        match body {
            ProcessBody::Signal { request, thread, reply } => {
                let result = self.deliver_signal(pid, thread, &request).map(|()| Answer::Done);
                if let Some(reply) = reply {
                    self.send_reply(reply, result);
                }
            }
            ProcessBody::Ask { .. } => self.handle_body(pid, body),
            // Its exec has begun.
            ProcessBody::Regroup { reply, .. }
                if self.processes.get(&pid).is_some_and(|process| !process.keeps_threads()) =>
            {
                self.send_reply(reply, Err(Errno::ACCES));
            }
            body => {
                if let Some(process) = self.processes.get_mut(&pid)
                    && process.held.len() < limits::HELD_MESSAGES_MAX
                {
                    process.held.push(Held::Body(body));
                }
            }
        }
    }

    pub(crate) fn handle_body(&mut self, pid: Pid, body: ProcessBody) {
        match body {
            ProcessBody::Signal { request, thread, reply } => {
                let result = self.deliver_signal(pid, thread, &request).map(|()| Answer::Done);
                if let Some(reply) = reply {
                    self.send_reply(reply, result);
                }
            }
            ProcessBody::ChildChanged { child, node, version, change } => {
                self.handle_child_changed(pid, child, node, version, change);
            }
            ProcessBody::ParentChanged { parent, version, node, group } => {
                self.handle_parent_changed(pid, parent, version, node, group);
            }
            ProcessBody::ParentGone { parent, version } => {
                self.handle_parent_gone(pid, parent, version);
            }
            ProcessBody::ParentDoubtful { parent } => self.handle_parent_doubtful(pid, parent),
            ProcessBody::Reaped => self.handle_reaped(pid),
            ProcessBody::TerminalLost(terminal) => self.take_terminal(pid, terminal),
            ProcessBody::Regroup { sid, pgid, reply } => self.handle_regroup(pid, sid, pgid, reply),
            ProcessBody::Ask { question, reply } => self.answer(pid, question, reply),
        }
    }

    fn answer(&mut self, pid: Pid, question: Question, reply: ReturnTo) {
        let Some(process) = self.processes.get(&pid) else { return };
        let answer = match question {
            Question::End { .. } if process.is_zombie() => Answer::Done,
            Question::End { watch } => return self.keep_watcher(pid, watch, reply),
            Question::Group => Answer::Pid(process.pgid),
            Question::Session => Answer::Pid(process.sid),
            Question::Node => Answer::Node(self.config.node),
        };
        self.send_reply(reply, Ok(answer));
    }

    /// Keeps who waits for the end of a process. Beyond the limit he is not kept: he asks again.
    fn keep_watcher(&mut self, pid: Pid, watch: u64, reply: ReturnTo) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let watchers = &mut process.watchers;
        if watchers.len() < limits::WATCHERS_MAX || watchers.contains_key(&(reply.node, watch)) {
            watchers.insert((reply.node, watch), reply.token);
        }
    }

    /// Answers all who wait for the end of a process.
    pub(crate) fn tell_watchers(&mut self, watchers: Watchers, answer: Answer) {
        for ((node, _), token) in watchers {
            if self.is_live(node) {
                self.send_reply(ReturnTo { node, token }, Ok(answer));
            }
        }
    }

    /// What a message to nobody means: the asker learns that there is nobody, a child that its
    /// parent is gone.
    pub(crate) fn undeliverable(&mut self, message: ProcMessage) {
        use ProcMessage as M;
        match message {
            M::ToProcess { pid, body, .. } => self.undeliverable_body(pid, body),
            M::MayJoin { reply, .. } => self.send_reply(reply, Err(Errno::PERM)),
            M::MayLead { reply, .. } => self.send_reply(reply, Ok(Answer::Done)),
            M::AskSession { reply, .. } => self.send_reply(reply, Err(Errno::SRCH)),
            M::SignalGroup { reply: Some(reply), .. } => {
                self.send_reply(reply, Err(Errno::SRCH));
            }
            _ => {}
        }
    }

    fn undeliverable_body(&mut self, pid: Pid, body: ProcessBody) {
        match body {
            ProcessBody::Signal { reply: Some(reply), .. } => {
                // A number that is still held is a zombie's.
                let is_held = matches!(self.numbers.place(pid), Place::Lost { claimed: true });
                let result = if is_held { Ok(Answer::Done) } else { Err(Errno::SRCH) };
                self.send_reply(reply, result);
            }
            ProcessBody::Ask { reply, .. } | ProcessBody::Regroup { reply, .. } => {
                self.send_reply(reply, Err(Errno::SRCH));
            }
            ProcessBody::ChildChanged { child, node, .. } => {
                let gone = ProcessBody::ParentGone { parent: pid, version: u64::MAX };
                self.send_process(child, Some(node), gone);
            }
            ProcessBody::Signal { reply: None, .. } => self.note(Note::Undeliverable { pid }),
            ProcessBody::ParentChanged { .. }
            | ProcessBody::ParentGone { .. }
            | ProcessBody::ParentDoubtful { .. }
            | ProcessBody::TerminalLost(_)
            | ProcessBody::Reaped => {}
        }
    }
}
