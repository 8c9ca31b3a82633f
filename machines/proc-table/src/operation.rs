//! Operations that wait for other nodes. Each ends: by its reply, or by its deadline.

use crate::{Effect, ProcTable, Token, limits};
use alloc::collections::{BTreeMap, BTreeSet};
use core::time::Duration;
use dunix_ids::{NodeId, Pid};
use dunix_wire::processes::{Answer, Errno, ProcMessage, ReturnTo};

/// Who asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ReplyTo {
    Driver(Token),
    Node(ReturnTo),
}

/// What is done when the reply comes.
#[derive(Debug)]
pub(crate) enum Then {
    /// The driver is told.
    Tell(Token),
    /// The end of a process is waited for: without an answer in time the driver asks again.
    Watch(Token),
    /// setpgid: the process changes its group, and whoever asked for it is told.
    Join { pid: Pid, pgid: Pid, asker: ReplyTo },
    /// setsid.
    Lead { pid: Pid, token: Token },
    /// A child was on a node that died: it lives where the answer says, or is lost.
    Confirm { parent: Pid, child: Pid },
    /// kill(-1): every node replies; the best reply counts.
    Gather { awaiting: BTreeSet<NodeId>, best: Result<Answer, Errno>, token: Token },
}

#[derive(Debug)]
struct Operation {
    then: Then,
    until: Duration,
}

/// The open operations, by a number of their own that counts up: the oldest is first.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    open: BTreeMap<u64, Operation>,
    next: u64,
}

impl Operations {
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.open.values().next().map(|operation| operation.until)
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }
}

impl ProcTable {
    pub(crate) fn reply_now(&mut self, token: Token, result: Result<Answer, Errno>) {
        self.effects.push_back(Effect::Reply { token, result });
    }

    /// Opens an operation, or answers the driver `EAGAIN` if there are too many.
    pub(crate) fn open_operation(&mut self, then: Then) -> Option<ReturnTo> {
        if self.operations.open.len() >= limits::OPERATIONS_MAX {
            self.conclude(then, Err(Errno::AGAIN));
            return None;
        }
        let token = self.operations.next;
        self.operations.next += 1;
        let until = self.now + limits::OPERATION_WAIT;
        self.operations.open.insert(token, Operation { then, until });
        Some(ReturnTo { node: self.config.node, token })
    }

    pub(crate) fn send_reply(&mut self, to: ReturnTo, result: Result<Answer, Errno>) {
        self.send(to.node, ProcMessage::Reply { token: to.token, result });
    }

    pub(crate) fn handle_reply(&mut self, from: NodeId, token: u64, result: Result<Answer, Errno>) {
        let Some(operation) = self.operations.open.remove(&token) else { return };
        match operation.then {
            Then::Gather { mut awaiting, best, token: driver } => {
                awaiting.remove(&from);
                let then = Then::Gather { awaiting, best: better(best, result), token: driver };
                self.gather_on(token, operation.until, then);
            }
            then => self.conclude(then, result),
        }
    }

    /// Goes on waiting for the other nodes, or ends.
    fn gather_on(&mut self, id: u64, until: Duration, then: Then) {
        match then {
            Then::Gather { ref awaiting, .. } if !awaiting.is_empty() => {
                self.operations.open.insert(id, Operation { then, until });
            }
            Then::Gather { best, token, .. } => self.reply_now(token, best),
            _ => {}
        }
    }

    fn conclude(&mut self, then: Then, result: Result<Answer, Errno>) {
        match then {
            Then::Tell(token) | Then::Watch(token) => self.reply_now(token, result),
            Then::Join { pid, pgid, asker } => self.conclude_join(pid, pgid, asker, result),
            Then::Confirm { parent, child } => self.conclude_confirm(parent, child, result),
            Then::Lead { pid, token } => self.conclude_lead(pid, token, result),
            Then::Gather { best, token, .. } => self.reply_now(token, better(best, result)),
        }
    }

    pub(crate) fn expire_operations(&mut self) {
        while let Some(entry) = self.operations.open.first_entry() {
            if entry.get().until > self.now {
                break;
            }
            match entry.remove().then {
                // Who was asked may have died with the question: a child is not lost by that.
                Then::Confirm { parent, child } => self.confirm_child(parent, child),
                Then::Watch(token) => self.reply_now(token, Ok(Answer::Node(self.config.node))),
                then => self.conclude(then, Err(Errno::SRCH)),
            }
        }
    }

    /// A node will not reply any more.
    pub(crate) fn forget_replies_of(&mut self, node: NodeId) {
        let gathering: alloc::vec::Vec<u64> = self
            .operations
            .open
            .iter()
            .filter(|(_, open)| {
                matches!(&open.then, Then::Gather { awaiting, .. } if awaiting.contains(&node))
            })
            .map(|(id, _)| *id)
            .collect();
        for id in gathering {
            self.handle_reply(node, id, Err(Errno::SRCH));
        }
    }
}

/// kill(2) over many: one success is success, else `EPERM` if any was refused, else `ESRCH`.
fn better(a: Result<Answer, Errno>, b: Result<Answer, Errno>) -> Result<Answer, Errno> {
    match (a, b) {
        (Ok(answer), _) | (_, Ok(answer)) => Ok(answer),
        (Err(Errno::PERM), _) | (_, Err(Errno::PERM)) => Err(Errno::PERM),
        (other, _) => other,
    }
}
