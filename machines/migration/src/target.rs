//! Moves that come to this node.

use crate::{Effect, INCOMING_MAX, Migration, REPEAT};
use alloc::vec::Vec;
use core::time::Duration;
use dunix_ids::{NodeId, Pid};
use dunix_wire::processes::{MoveId, MoveMessage, Refusal};

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    /// Everything is being made ready.
    Preparing,
    /// Everything is; the source decides.
    Prepared,
    /// The driver takes it in. Pages that are missing then will never come if `is_cut_off`.
    Adopting { is_cut_off: bool },
    /// It runs here and may miss pages.
    Running { bytes: u64 },
    /// Over here; the source may not have heard how.
    Ended(MoveMessage),
}

#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) pid: Pid,
    order: u64,
    phase: Phase,
    /// When the last word is said again.
    repeat: Duration,
}

impl Incoming {
    /// Whether anything of the process is here by this move that is not whole.
    pub(crate) fn is_live(&self) -> bool {
        !matches!(self.phase, Phase::Ended(_))
    }

    pub(crate) fn is_being_adopted(&self) -> bool {
        matches!(self.phase, Phase::Adopting { .. })
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        matches!(self.phase, Phase::Prepared | Phase::Ended(_)).then_some(self.repeat)
    }
}

impl Migration {
    pub(crate) fn handle_offered(&mut self, from: NodeId, id: MoveId, order: u64, pid: Pid) {
        let is_known = self.incoming.contains_key(&id);
        if id.source != from || from == self.own || self.dead.contains(&from) || is_known {
            return;
        }
        if self.closed.get(&from).is_some_and(|closed| order <= *closed) {
            // Said twice, or late. It never begins again, so this needs no memory.
            return self.send(from, MoveMessage::Refused { id, refusal: Refusal::Protocol });
        }
        if self.incoming.len() >= 2 * INCOMING_MAX {
            return; // What is not remembered must not be refused: it could be accepted later.
        }
        self.supersede(id, pid);
        let runs_here =
            self.incoming.values().any(|incoming| incoming.pid == pid && incoming.is_live());
        let incoming = Incoming { pid, order, phase: Phase::Preparing, repeat: self.now };
        self.incoming.insert(id, incoming);
        let refusal = if runs_here {
            Refusal::Protocol
        } else if self.incoming.len() > INCOMING_MAX {
            Refusal::TooManyMoves
        } else {
            return self.effects.push(Effect::Prepare { id, from, pid });
        };
        self.end(id, MoveMessage::Refused { id, refusal });
    }

    /// Who offers a process has it: older offers of it are void.
    fn supersede(&mut self, id: MoveId, pid: Pid) {
        let is_void = |incoming: &Incoming| {
            incoming.pid == pid && matches!(incoming.phase, Phase::Preparing | Phase::Prepared)
        };
        let older = self.incoming.iter().filter(|(other, i)| **other != id && is_void(i));
        let older: Vec<MoveId> = older.map(|(id, _)| *id).collect();
        for id in older {
            self.refuse_prepared(id, Refusal::AlreadyMoving);
        }
    }

    pub(crate) fn handle_ready(&mut self, id: MoveId) {
        let now = self.now;
        if let Some(incoming) = self.incoming.get_mut(&id)
            && incoming.phase == Phase::Preparing
        {
            incoming.phase = Phase::Prepared;
            incoming.repeat = now;
        }
    }

    pub(crate) fn handle_failed(&mut self, id: MoveId, refusal: Refusal) {
        self.refuse_prepared(id, refusal);
    }

    fn refuse_prepared(&mut self, id: MoveId, refusal: Refusal) {
        let Some(incoming) = self.incoming.get(&id) else { return };
        if matches!(incoming.phase, Phase::Preparing | Phase::Prepared) {
            self.effects.push(Effect::Discard { id, pid: incoming.pid });
            self.end(id, MoveMessage::Refused { id, refusal });
        }
    }

    pub(crate) fn handle_commit(&mut self, id: MoveId) {
        let Some(incoming) = self.incoming.get_mut(&id) else { return };
        match incoming.phase {
            Phase::Prepared => {
                incoming.phase = Phase::Adopting { is_cut_off: false };
                let pid = incoming.pid;
                self.effects.push(Effect::Adopt { id, from: id.source, pid });
            }
            Phase::Running { bytes } => {
                self.send(id.source, MoveMessage::Committed { id, bytes });
            }
            Phase::Ended(_) => incoming.repeat = self.now,
            Phase::Preparing | Phase::Adopting { .. } => {}
        }
    }

    pub(crate) fn handle_adopted(&mut self, id: MoveId, bytes: u64, is_whole: bool) {
        let Some(incoming) = self.incoming.get_mut(&id) else { return };
        let Phase::Adopting { is_cut_off } = incoming.phase else { return };
        incoming.phase = Phase::Running { bytes };
        self.send(id.source, MoveMessage::Committed { id, bytes });
        if is_whole {
            self.handle_whole(id, 0, false);
        } else if is_cut_off {
            self.kill(id);
        }
        self.forget_if_source_died(id);
    }

    pub(crate) fn handle_cannot_adopt(&mut self, id: MoveId, refusal: Refusal) {
        let Some(incoming) = self.incoming.get(&id) else { return };
        if let Phase::Adopting { .. } = incoming.phase {
            self.effects.push(Effect::Discard { id, pid: incoming.pid });
            self.end(id, MoveMessage::Refused { id, refusal });
            self.forget_if_source_died(id);
        }
    }

    pub(crate) fn handle_whole(&mut self, id: MoveId, bytes: u64, is_lost: bool) {
        if let Some(Phase::Running { .. }) = self.incoming.get(&id).map(|i| &i.phase) {
            self.end(id, MoveMessage::Complete { id, bytes, is_lost });
        }
    }

    pub(crate) fn handle_donor_lost(&mut self, id: MoveId) {
        let now = self.now;
        let Some(incoming) = self.incoming.get_mut(&id) else { return };
        match incoming.phase {
            Phase::Preparing | Phase::Prepared => self.refuse_prepared(id, Refusal::Ended),
            Phase::Adopting { ref mut is_cut_off } => *is_cut_off = true,
            Phase::Running { .. } => self.kill(id),
            Phase::Ended(_) => incoming.repeat = now,
        }
    }

    /// It will never be whole.
    fn kill(&mut self, id: MoveId) {
        let Some(incoming) = self.incoming.get(&id) else { return };
        self.effects.push(Effect::Kill { id, pid: incoming.pid });
        self.end(id, MoveMessage::Complete { id, bytes: 0, is_lost: true });
    }

    pub(crate) fn handle_closed(&mut self, id: MoveId) {
        let Some(incoming) = self.incoming.get(&id) else { return };
        let (pid, order) = (incoming.pid, incoming.order);
        match incoming.phase {
            Phase::Preparing | Phase::Prepared => {
                self.effects.push(Effect::Discard { id, pid });
            }
            Phase::Ended(_) => {}
            // A source closes no move that runs and is not whole: this is no honest word.
            Phase::Adopting { .. } | Phase::Running { .. } => return,
        }
        self.incoming.remove(&id);
        let closed = self.closed.entry(id.source).or_insert(order);
        *closed = order.max(*closed);
    }

    /// The source of these moves has died.
    pub(crate) fn lose_source(&mut self, node: NodeId) {
        let moves: Vec<MoveId> =
            self.incoming.keys().filter(|id| id.source == node).copied().collect();
        for id in moves {
            let Some(incoming) = self.incoming.get_mut(&id) else { continue };
            let pid = incoming.pid;
            match incoming.phase {
                // It is forgotten when the driver has answered.
                Phase::Adopting { ref mut is_cut_off } => {
                    *is_cut_off = true;
                    continue;
                }
                Phase::Preparing | Phase::Prepared => {
                    self.effects.push(Effect::Discard { id, pid });
                }
                Phase::Running { .. } => self.effects.push(Effect::Kill { id, pid }),
                Phase::Ended(_) => {}
            }
            self.incoming.remove(&id);
        }
    }

    fn forget_if_source_died(&mut self, id: MoveId) {
        if self.dead.contains(&id.source) {
            self.incoming.remove(&id);
            let source = id.source;
            self.effects
                .retain(|effect| !matches!(effect, Effect::Send { to, .. } if *to == source));
        }
    }

    fn end(&mut self, id: MoveId, last_word: MoveMessage) {
        if let Some(incoming) = self.incoming.get_mut(&id) {
            incoming.phase = Phase::Ended(last_word);
            incoming.repeat = self.now;
        }
    }

    pub(crate) fn repeat_incoming(&mut self) {
        for (id, incoming) in &mut self.incoming {
            let message = match &incoming.phase {
                Phase::Prepared => MoveMessage::Prepared { id: *id },
                Phase::Ended(last_word) => last_word.clone(),
                _ => continue,
            };
            if incoming.repeat <= self.now {
                incoming.repeat = self.now + REPEAT;
                self.effects.push(Effect::Send { to: id.source, message });
            }
        }
    }
}
