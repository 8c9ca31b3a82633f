//! Moves that leave this node.

use crate::{Effect, Migration, PACK_WAIT, PREPARE_WAIT, REPEAT};
use alloc::vec::Vec;
use core::time::Duration;
use dunix_ids::{NodeId, Pid};
use dunix_wire::processes::{MoveId, MoveMessage, Refusal};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// It is being frozen and packed.
    Freezing,
    /// The target makes everything ready.
    Preparing,
    /// The target was told to run it and has not said whether it does.
    Committing,
    /// It runs at the target, which may still want pages.
    Donating,
}

#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) pid: Pid,
    pub(crate) to: NodeId,
    pub(crate) phase: Phase,
    /// The host process ended: pages that are not there yet will never come.
    is_donor_lost: bool,
    /// When patience ends (freezing, preparing).
    until: Duration,
    /// When the last word is said again.
    repeat: Duration,
}

impl Outgoing {
    pub(crate) fn new(pid: Pid, to: NodeId, now: Duration) -> Outgoing {
        let phase = Phase::Freezing;
        Outgoing { pid, to, phase, is_donor_lost: false, until: now + PACK_WAIT, repeat: now }
    }

    /// Whether the process is still this node's, or may be again.
    pub(crate) fn has_it(&self) -> bool {
        self.phase != Phase::Donating
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        match self.phase {
            Phase::Freezing | Phase::Preparing => Some(self.until),
            Phase::Committing => Some(self.repeat),
            Phase::Donating => self.is_donor_lost.then_some(self.repeat),
        }
    }
}

impl Migration {
    pub(crate) fn handle_packed(&mut self, id: MoveId) {
        let until = self.now + PREPARE_WAIT;
        let order = self.next_order;
        let Some(outgoing) = self.in_phase(id, Phase::Freezing) else { return };
        outgoing.phase = Phase::Preparing;
        outgoing.until = until;
        let to = outgoing.to;
        self.next_order += 1;
        self.effects.push(Effect::Offer { id, to, order });
    }

    pub(crate) fn handle_not_packed(&mut self, id: MoveId, refusal: Refusal) {
        if self.in_phase(id, Phase::Freezing).is_some() {
            self.stay(id, refusal);
        }
    }

    pub(crate) fn handle_host_ended(&mut self, id: MoveId) {
        let now = self.now;
        let Some(outgoing) = self.outgoing.get_mut(&id) else { return };
        match outgoing.phase {
            Phase::Freezing | Phase::Preparing => self.stay(id, Refusal::Ended),
            Phase::Committing | Phase::Donating => {
                outgoing.is_donor_lost = true;
                outgoing.repeat = now;
            }
        }
    }

    pub(crate) fn handle_prepared(&mut self, from: NodeId, id: MoveId) {
        match self.of(from, id).map(|outgoing| (outgoing.phase, outgoing.pid)) {
            Some((Phase::Preparing, pid)) => {
                let now = self.now;
                if let Some(outgoing) = self.outgoing.get_mut(&id) {
                    outgoing.phase = Phase::Committing;
                    outgoing.repeat = now;
                }
                self.effects.push(Effect::Decide { id, pid });
            }
            // A package that was said twice, of a move that goes on.
            Some(_) => {}
            None => self.close(from, id),
        }
    }

    pub(crate) fn handle_refused(&mut self, from: NodeId, id: MoveId, refusal: Refusal) {
        match self.of(from, id).map(|outgoing| (outgoing.phase, outgoing.is_donor_lost)) {
            Some((Phase::Preparing | Phase::Committing, is_donor_lost)) => {
                self.stay(id, if is_donor_lost { Refusal::Ended } else { refusal });
            }
            Some(_) => {}
            None => self.close(from, id),
        }
    }

    pub(crate) fn handle_committed(&mut self, from: NodeId, id: MoveId, bytes: u64) {
        match self.of(from, id).map(|outgoing| (outgoing.phase, outgoing.pid)) {
            Some((Phase::Committing, pid)) => {
                if let Some(outgoing) = self.outgoing.get_mut(&id) {
                    outgoing.phase = Phase::Donating;
                }
                self.effects.push(Effect::Left { id, pid, bytes });
            }
            Some(_) => {}
            None => self.close(from, id),
        }
    }

    pub(crate) fn handle_complete(&mut self, from: NodeId, id: MoveId, bytes: u64, is_lost: bool) {
        // It says that the move was committed, too.
        self.handle_committed(from, id, 0);
        let Some(outgoing) = self.of(from, id) else { return };
        if outgoing.phase != Phase::Donating {
            return;
        }
        let pid = outgoing.pid;
        self.outgoing.remove(&id);
        self.effects.push(Effect::Finish { id, pid, bytes, is_lost });
        self.close(from, id);
    }

    /// The target of these moves has died.
    pub(crate) fn lose_target(&mut self, node: NodeId) {
        let moves = self.outgoing.iter().filter(|(_, outgoing)| outgoing.to == node);
        let moves: Vec<(MoveId, Phase, Pid)> =
            moves.map(|(id, outgoing)| (*id, outgoing.phase, outgoing.pid)).collect();
        for (id, phase, pid) in moves {
            match phase {
                Phase::Freezing | Phase::Preparing => self.stay(id, Refusal::TargetDied),
                Phase::Committing | Phase::Donating => {
                    self.outgoing.remove(&id);
                    self.effects.push(Effect::Lose { id, pid });
                }
            }
        }
    }

    pub(crate) fn expire_outgoing(&mut self) {
        let is_late = |outgoing: &Outgoing| {
            matches!(outgoing.phase, Phase::Freezing | Phase::Preparing)
                && outgoing.until <= self.now
        };
        let late: Vec<MoveId> =
            self.outgoing.iter().filter(|(_, o)| is_late(o)).map(|(id, _)| *id).collect();
        for id in late {
            self.stay(id, Refusal::TooSlow);
        }
    }

    pub(crate) fn repeat_outgoing(&mut self) {
        for (id, outgoing) in &mut self.outgoing {
            let id = *id;
            let message = match (outgoing.phase, outgoing.is_donor_lost) {
                (Phase::Committing | Phase::Donating, true) => MoveMessage::DonorLost { id },
                (Phase::Committing, false) => MoveMessage::Commit { id },
                _ => continue,
            };
            if outgoing.repeat <= self.now {
                outgoing.repeat = self.now + REPEAT;
                self.effects.push(Effect::Send { to: outgoing.to, message });
            }
        }
    }

    /// Ends a move; the process is this node's.
    fn stay(&mut self, id: MoveId, refusal: Refusal) {
        let Some(outgoing) = self.outgoing.remove(&id) else { return };
        self.effects.push(Effect::Stay { id, pid: outgoing.pid, refusal });
        if outgoing.phase != Phase::Freezing && !self.dead.contains(&outgoing.to) {
            self.close(outgoing.to, id);
        }
    }

    fn close(&mut self, to: NodeId, id: MoveId) {
        if id.source == self.own {
            self.send(to, MoveMessage::Closed { id });
        }
    }

    fn in_phase(&mut self, id: MoveId, phase: Phase) -> Option<&mut Outgoing> {
        self.outgoing.get_mut(&id).filter(|outgoing| outgoing.phase == phase)
    }

    /// The move of this name, if it goes to that peer.
    fn of(&self, peer: NodeId, id: MoveId) -> Option<&Outgoing> {
        self.outgoing.get(&id).filter(|outgoing| outgoing.to == peer)
    }
}
