//! What the process table asks for, and the host's part: processes that start, stop, go on and end.

use crate::{
    actions::WAIT,
    network::Payload,
    truth::{Life, Passage, Truth},
    world::{Event, World},
};
use dunix_ids::{NodeId, Pid};
use dunix_proc_table::{Effect, ProcTable, SIGCONT, SIGKILL, SIGSTOP, WaitFor, WaitOutcome};
use dunix_wire::processes::{Errno, ExitStatus, ProcessRecord, Rusage, SignalInfo};
use std::time::Duration;

pub(crate) const SIGTERM: u8 = 15;
pub(crate) const SIGUSR1: u8 = 10;

impl World {
    /// Calls a node's table and carries out what it asks for.
    pub(crate) fn with<T>(
        &mut self,
        node: NodeId,
        call: impl FnOnce(&mut ProcTable, Duration) -> T,
    ) -> T {
        let now = self.now;
        let table = &mut self.nodes.get_mut(&node).expect("the node lives").table;
        let result = call(table, now);
        let effects: Vec<Effect> = std::iter::from_fn(|| table.poll_effect()).collect();
        if let Err(broken) = table.check_invariants() {
            panic!("{node}: {broken}");
        }
        for effect in effects {
            if !matches!(effect, Effect::Send { .. }) {
                self.trace.note(now, &(node, &effect));
            }
            self.carry_out(node, effect);
        }
        self.schedule_processes(node);
        result
    }

    fn carry_out(&mut self, node: NodeId, effect: Effect) {
        match effect {
            Effect::Send { to, message } => self.post(node, to, Payload::Table(message)),
            Effect::Signal { pid, signal, info, .. } => self.signal(node, pid, signal, info),
            Effect::Reply { token, result } => self.truths.answered(token, result),
            Effect::RootExited { pid, status, .. } => self.truths.root_reported(node, pid, status),
            Effect::Wake { pid } if self.truths.is_in_wait(pid) => {
                self.soon(node, Event::WaitAgain(pid));
            }
            Effect::Regrouped { pid } => {
                let table = &self.nodes[&node].table;
                if let (Some(pgid), Some(sid)) = (table.group(pid), table.session(pid)) {
                    self.truths.regrouped(pid, pgid, sid);
                }
            }
            Effect::Fenced => self.fence(node),
            _ => {}
        }
    }

    /// The host ends every process of the node at once.
    fn fence(&mut self, node: NodeId) {
        self.counts.fenced += 1;
        self.truths.cut_off.insert(node);
        for pid in self.truths.at(node) {
            let status = ExitStatus::Killed { signal: SIGKILL, dumped: false };
            self.soon(node, Event::HostExit { pid, status });
        }
    }

    /// The host's part of a signal.
    fn signal(&mut self, node: NodeId, pid: Pid, signal: u8, info: SignalInfo) {
        let truth = &self.truths.processes[&pid];
        assert_eq!(truth.node, node, "a signal for {pid} is given to another node");
        assert!(truth.host.is_some(), "a signal for {pid} has no host process");
        if let SignalInfo::Queued { value, .. } = info {
            // A frozen process is killed at once, and again if it is another node's by then.
            if signal == SIGKILL {
                self.truths.process(pid).received.insert(value, 1);
            } else {
                self.truths.received(pid, value);
            }
        }
        match signal {
            SIGKILL | SIGTERM => {
                let status = ExitStatus::Killed { signal, dumped: false };
                self.soon(node, Event::HostExit { pid, status });
            }
            SIGSTOP => self.soon(node, Event::HostStop(pid)),
            SIGCONT => self.soon(node, Event::HostContinue(pid)),
            _ => {}
        }
    }

    pub(crate) fn born(&mut self, node: NodeId, pid: Pid, parent: Option<Pid>) {
        let (pgid, sid) = match parent.map(|parent| &self.truths.processes[&parent]) {
            Some(parent) => (parent.pgid, parent.sid),
            None => (pid, pid),
        };
        self.counts.forks += 1;
        self.truths.born(pid, Truth::new(node, parent, (pgid, sid), self.now));
        self.soon(node, Event::Bind(pid));
    }

    pub(crate) fn new_host(&mut self) -> u32 {
        self.host_next += 1;
        self.host_next
    }

    pub(crate) fn bind(&mut self, node: NodeId, pid: Pid) {
        let host = self.new_host();
        let Some(truth) = self.truths.processes.get_mut(&pid) else { return };
        if truth.life != Life::Alive || truth.node != node || truth.host.is_some() {
            return;
        }
        truth.host = Some(host);
        let waits = truth.waits.is_some();
        self.with(node, |table, now| table.bind_host(now, pid, host)).expect("it starts");
        if waits {
            self.soon(node, Event::WaitAgain(pid));
        }
        if self.nodes[&node].table.is_fenced() {
            let status = ExitStatus::Killed { signal: SIGKILL, dumped: false };
            self.soon(node, Event::HostExit { pid, status });
        }
    }

    /// Starts a remote exec.
    pub(crate) fn depart(&mut self, pid: Pid, to: NodeId) {
        let node = self.truths.processes[&pid].node;
        if let Ok(record) = self.with(node, |table, now| table.depart(now, pid, to)) {
            let truth = self.truths.process(pid);
            truth.leaving = Some(to);
            truth.passage = Some(Passage::new(node, to));
            self.post(node, to, Payload::Exec(Box::new(record)));
        }
    }

    /// The process that execs here comes, is taken in or refused.
    pub(crate) fn image_arrives(&mut self, node: NodeId, from: NodeId, record: ProcessRecord) {
        let pid = record.pid;
        let is_fenced = self.nodes[&node].table.is_fenced();
        let is_adopted =
            !is_fenced && self.with(node, |table, now| table.adopt(now, from, record)).is_ok();
        if is_adopted {
            self.counts.execs += 1;
            self.truths.arrived(pid, node);
            self.soon(node, Event::Bind(pid));
        } else {
            self.truths.never_arrives(pid, node);
        }
        self.post(node, from, Payload::Adopted(pid, is_adopted));
    }

    /// The exec elsewhere failed: the process lives at the source.
    pub(crate) fn stay(&mut self, node: NodeId, pid: Pid) {
        let truth = self.truths.process(pid);
        (truth.leaving, truth.passage) = (None, None);
        self.with(node, |table, now| table.stayed(now, pid));
        self.die_if_fenced(node, pid);
    }

    /// What comes back to a node that was fenced meanwhile is killed there.
    pub(crate) fn die_if_fenced(&mut self, node: NodeId, pid: Pid) {
        if self.nodes[&node].table.is_fenced() {
            let status = ExitStatus::Killed { signal: SIGKILL, dumped: false };
            self.soon(node, Event::HostExit { pid, status });
        }
    }

    pub(crate) fn host_exits(&mut self, node: NodeId, pid: Pid, status: ExitStatus) {
        let truth = &self.truths.processes[&pid];
        if truth.node == node && truth.frozen.is_some() {
            self.exit_frozen(node, pid, status);
        } else if truth.node == node {
            self.exit(pid, status);
        }
    }

    /// A process ends, unless it does so already or is on its way.
    pub(crate) fn exit(&mut self, pid: Pid, status: ExitStatus) {
        let Some(truth) = self.truths.processes.get(&pid) else { return };
        if truth.life != Life::Alive || truth.leaving.is_some() || truth.frozen.is_some() {
            return;
        }
        let node = truth.node;
        self.counts.exits += 1;
        self.truths.end(pid, status);
        self.with(node, |table, now| table.exited(now, pid, status, Rusage::default()));
    }

    fn lives_on(&self, node: NodeId, pid: Pid) -> bool {
        let truth = &self.truths.processes[&pid];
        truth.node == node && truth.life == Life::Alive && truth.leaving.is_none()
    }

    pub(crate) fn host_stops(&mut self, node: NodeId, pid: Pid) {
        if self.lives_on(node, pid) {
            self.truths.process(pid).set_stopped(true);
            self.with(node, |table, now| table.stopped(now, pid, SIGSTOP));
        }
    }

    pub(crate) fn host_continues(&mut self, node: NodeId, pid: Pid) {
        if self.lives_on(node, pid) {
            self.truths.process(pid).set_stopped(false);
            self.with(node, |table, now| table.continued(now, pid));
            self.soon(node, Event::WaitAgain(pid));
        }
    }

    /// wait(2): answered now, or when the process is woken.
    pub(crate) fn wait(&mut self, node: NodeId, pid: Pid, which: WaitFor) {
        let found = self.with(node, |table, now| table.wait(now, pid, which, WAIT));
        let waits = found == Ok(WaitOutcome::NotYet);
        self.truths.process(pid).waits = waits.then_some(which);
        if let Ok(WaitOutcome::Found(found)) = found {
            self.counts.waits += 1;
            self.truths.reported(pid, &found);
        }
    }

    pub(crate) fn wait_again(&mut self, node: NodeId, pid: Pid) {
        let truth = &self.truths.processes[&pid];
        if let Some(which) = truth.waits.filter(|_| truth.can_run() && truth.node == node) {
            self.wait(node, pid, which);
        }
    }

    /// Collects all children that have ended; whether there are no others.
    pub(crate) fn collect_children(&mut self, pid: Pid) -> bool {
        loop {
            let node = self.truths.processes[&pid].node;
            match self.with(node, |table, now| table.wait(now, pid, WaitFor::Any, WAIT)) {
                Ok(WaitOutcome::Found(found)) => self.truths.reported(pid, &found),
                Ok(WaitOutcome::NotYet) => return false,
                Err(Errno::CHILD) => {
                    let has = self.truths.has_children(pid);
                    assert!(!has, "a child of {pid} is unknown to its table");
                    return true;
                }
                Err(error) => panic!("wait by {pid}: {error:?}"),
            }
        }
    }
}
