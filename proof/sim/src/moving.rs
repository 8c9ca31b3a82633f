//! Processes that move while they run: the machine of the hand-over decides, the tables follow.

use crate::{
    network::Payload,
    truth::{Life, Passage},
    world::{Event, World},
};
use dunix_ids::{NodeId, Pid};
use dunix_migration::{Effect, Input};
use dunix_proc_table::SIGKILL;
use dunix_wire::processes::{ExitStatus, MoveId, MoveMessage, Refusal, Rusage};

impl World {
    pub(crate) fn start_move(&mut self, pid: Pid, to: NodeId) {
        let (node, now) = (self.truths.processes[&pid].node, self.now);
        let machine = &mut self.nodes.get_mut(&node).expect("the node lives").moves;
        if let Ok(id) = machine.start(now, pid, to) {
            self.soon(node, Event::Frozen(id, pid, to));
        }
    }

    pub(crate) fn freeze(&mut self, node: NodeId, id: MoveId, pid: Pid, to: NodeId) {
        if self.nodes[&node].moves.leaving_by(pid) != Some(id) {
            return;
        }
        match self.with(node, |table, now| table.begin_move(now, pid, to, Rusage::default())) {
            Ok(record) => {
                let truth = self.truths.process(pid);
                assert_eq!((truth.node, truth.life), (node, Life::Alive));
                (truth.frozen, truth.frozen_for) = (Some(id), Some(to));
                self.records.insert(id, record);
                self.soon(node, Event::Packed(id));
            }
            Err(refusal) => self.step(node, Input::NotPacked { id, refusal }),
        }
    }

    pub(crate) fn step(&mut self, node: NodeId, input: Input) {
        // The table may have heard of a death before the connection ends, and has acted upon it.
        if let Input::Message { from, .. } | Input::Offered { from, .. } = input
            && self.nodes[&node].table.is_declared_dead(from)
        {
            self.step(node, Input::NodeDown { node: from });
        }
        if let Input::Message { message: MoveMessage::Prepared { id }, .. } = input
            && let Some(pid) = self.nodes[&node].moves.who_leaves_by(id)
            && self.nodes[&node].table.is_struck(pid)
        {
            self.step(node, Input::HostEnded { id });
        }
        let now = self.now;
        let machine = &mut self.nodes.get_mut(&node).expect("the node lives").moves;
        let effects = machine.step(now, input);
        machine.check_invariants();
        for effect in effects {
            self.trace.note(now, &(node, &effect));
            self.carry_out_move(node, effect);
        }
        self.schedule_processes(node);
    }

    fn carry_out_move(&mut self, node: NodeId, effect: Effect) {
        match effect {
            Effect::Send { to, message } => self.post(node, to, Payload::Move(message)),
            Effect::Offer { id, to, order } => {
                let record = Box::new(self.records[&id].clone());
                self.post(node, to, Payload::Offer { id, order, record });
            }
            Effect::Decide { pid, .. } => {
                assert!(self.with(node, |table, _| table.commit_move(pid)), "{pid} does not move");
                let Some(to) = self.truths.process(pid).frozen_for else { return };
                let truth = self.truths.process(pid);
                truth.is_decided = true;
                truth.passage = Some(Passage::new(node, to));
            }
            Effect::Stay { id, pid, .. } => self.stay_frozen(node, id, pid),
            Effect::Left { pid, .. } => {
                assert!(
                    self.with(node, |table, now| table.departed(now, pid)),
                    "{pid} left before"
                );
            }
            Effect::Finish { .. } | Effect::Lose { .. } | Effect::Discard { .. } => {}
            Effect::Prepare { id, .. } if self.rng.below(10) == 0 => {
                self.step(node, Input::Failed { id, refusal: Refusal::TargetFull });
            }
            Effect::Prepare { id, .. } => self.soon(node, Event::Ready(id)),
            Effect::Adopt { id, from, pid } => self.adopt_moving(node, id, from, pid),
            Effect::Kill { pid, .. } => panic!("{pid} misses no pages"),
        }
    }

    fn stay_frozen(&mut self, node: NodeId, id: MoveId, pid: Pid) {
        self.counts.refusals += 1;
        let truth = self.truths.process(pid);
        if truth.frozen != Some(id) {
            return; // It was not frozen yet, or is no more.
        }
        (truth.frozen, truth.is_decided, truth.passage) = (None, false, None);
        truth.is_stopped = truth.stops_later;
        truth.stops_later = false;
        if let Some(status) = truth.host_end.take() {
            self.truths.end(pid, status);
        }
        self.with(node, |table, now| table.stayed(now, pid));
        self.die_if_fenced(node, pid);
    }

    /// The host process of a frozen one is killed: nothing else reaches it.
    pub(crate) fn exit_frozen(&mut self, node: NodeId, pid: Pid, status: ExitStatus) {
        let truth = self.truths.process(pid);
        let is_killed = matches!(status, ExitStatus::Killed { signal: SIGKILL, .. });
        let Some(id) = truth.frozen.filter(|_| is_killed && truth.host_end.is_none()) else {
            return;
        };
        if self.rng.below(2) == 0 && !truth.is_decided {
            // The machine hears first.
            self.step(node, Input::HostEnded { id });
            self.exit(pid, status);
        } else {
            truth.host_end = Some(status);
            self.with(node, |table, now| table.exited(now, pid, status, Rusage::default()));
            self.step(node, Input::HostEnded { id });
        }
    }

    fn adopt_moving(&mut self, node: NodeId, id: MoveId, from: NodeId, pid: Pid) {
        let record = self.records[&id].clone();
        let threads = record.threads.clone();
        let fails = self.rng.below(20) == 0 || self.nodes[&node].table.is_fenced();
        let adopted =
            !fails && self.with(node, |table, now| table.adopt_moving(now, from, record)).is_ok();
        if !adopted {
            self.truths.never_arrives(pid, node);
            return self.step(node, Input::CannotAdopt { id, refusal: Refusal::TargetFull });
        }
        let truth = self.truths.process(pid);
        assert!(truth.frozen == Some(id) && truth.is_decided, "{pid} runs at two nodes");
        assert_eq!(truth.threads.iter().copied().collect::<Vec<_>>(), threads, "threads of {pid}");
        self.truths.arrived(pid, node);
        let host = self.new_host();
        let truth = self.truths.process(pid);
        truth.host = Some(host);
        truth.threads = threads.iter().copied().collect();
        (truth.frozen, truth.is_decided, truth.host_end) = (None, false, None);
        truth.stops_later = false;
        self.counts.moves += 1;
        self.with(node, |table, now| table.bind_host(now, pid, host)).expect("it is new");
        for tid in threads {
            let host = self.new_host();
            self.with(node, |table, now| table.thread_bound(now, tid, host))
                .expect("it came along");
        }
        self.step(node, Input::Adopted { id, bytes: 0, is_whole: true });
        self.soon(node, Event::WaitAgain(pid));
    }
}
