//! A fabric of tables: links that keep the order of each pair of nodes, hosts that run processes,
//! nodes that die with part of what they have sent.

use crate::truth::{Life, Truth, Truths};
use dunix_ids::{NodeId, Pid};
use dunix_migration::{Input, Migration};
use dunix_proc_table::{Effect, ProcTable, SIGCONT, SIGKILL, TableConfig};
use dunix_scenarios::Rng;
use dunix_wire::processes::{
    ExitStatus, MoveId, MoveMessage, ProcMessage, ProcessRecord, Rusage, SignalInfo,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

pub(crate) const SIGSTOP: u8 = 19;
pub(crate) const SIGTERM: u8 = 15;
pub(crate) const SIGUSR1: u8 = 10;

/// What travels between nodes.
#[derive(Debug, Clone)]
pub(crate) enum Payload {
    Table(ProcMessage),
    Exec(Box<ProcessRecord>),
    Offer { id: MoveId, order: u64, record: Box<ProcessRecord> },
    Move(MoveMessage),
    Adopted(Pid, bool),
}

/// What happens at a node at some time.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Arrive {
        from: NodeId,
        payload: Payload,
    },
    Bind(Pid),
    HostExit {
        pid: Pid,
        status: ExitStatus,
    },
    HostStop(Pid),
    HostContinue(Pid),
    /// All threads are parked.
    Frozen(MoveId, Pid, NodeId),
    /// The image is made.
    Packed(MoveId),
    /// The target's copy is made.
    Ready(MoveId),
    Down(NodeId),
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: Duration,
    pub(crate) tables: BTreeMap<NodeId, ProcTable>,
    pub(crate) truths: Truths,
    pub(crate) machines: BTreeMap<NodeId, Migration>,
    /// Of the moves under way.
    pub(crate) records: BTreeMap<MoveId, ProcessRecord>,
    events: BTreeMap<(Duration, u64), (NodeId, Event)>,
    /// When the last message of a pair arrives: the next one comes later.
    last: BTreeMap<(NodeId, NodeId), Duration>,
    serial: u64,
    pub(crate) host_next: u32,
    delay_us_max: u64,
    /// `DUNIX_WATCH`: events and effects that contain this are printed.
    watched: Option<String>,
    pub(crate) hash: u64,
    pub(crate) steps: u64,
    pub(crate) execs: u64,
    pub(crate) moves: u64,
    pub(crate) refusals: u64,
}

impl World {
    pub(crate) fn new(seed: u64, nodes: u32, delay_us_max: u64) -> World {
        let ids: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        let mut world = World {
            rng: Rng::new(seed),
            now: Duration::ZERO,
            tables: BTreeMap::new(),
            truths: Truths::default(),
            machines: BTreeMap::new(),
            records: BTreeMap::new(),
            events: BTreeMap::new(),
            last: BTreeMap::new(),
            serial: 0,
            host_next: 100,
            delay_us_max,
            watched: std::env::var("DUNIX_WATCH").ok(),
            hash: 0xcbf2_9ce4_8422_2325,
            steps: 0,
            execs: 0,
            moves: 0,
            refusals: 0,
        };
        world.truths.news_delay_max = Duration::from_micros(delay_us_max * 3);
        for node in &ids {
            let config = TableConfig { node: *node, founder: NodeId(1) };
            world.tables.insert(*node, ProcTable::new(config));
            world.machines.insert(*node, Migration::new(*node));
        }
        for node in &ids {
            for peer in ids.iter().filter(|peer| *peer != node) {
                world.with(*node, |table, now| table.handle_node_up(now, *peer));
            }
        }
        world
    }

    /// Calls a table and carries out what it asks for.
    pub(crate) fn with<T>(
        &mut self,
        node: NodeId,
        call: impl FnOnce(&mut ProcTable, Duration) -> T,
    ) -> T {
        let now = self.now;
        self.truths.now = now;
        let table = self.tables.get_mut(&node).expect("the node lives");
        let result = call(table, now);
        let effects: Vec<Effect> = std::iter::from_fn(|| table.poll_effect()).collect();
        if let Err(broken) = table.check_invariants() {
            panic!("{node}: {broken}");
        }
        for effect in effects {
            self.mix(&(node, &effect));
            self.carry_out(node, effect);
        }
        result
    }

    fn mix(&mut self, what: &impl std::fmt::Debug) {
        if let Some(word) = &self.watched {
            let text = format!("{what:?}");
            if text.contains(word) {
                eprintln!("{:?} {text}", self.now);
            }
        }
        for byte in format!("{what:?}").bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn carry_out(&mut self, node: NodeId, effect: Effect) {
        match effect {
            Effect::Send { to, message } => self.post(node, to, Payload::Table(message)),
            Effect::Signal { pid, signal, info, .. } => self.signal(node, pid, signal, info),
            Effect::Reply { token, result } => self.truths.answered(token, result),
            Effect::RootExited { pid, status, .. } => self.truths.root_reported(pid, status),
            Effect::Regrouped { pid } => {
                let table = &self.tables[&node];
                if let (Some(pgid), Some(sid)) = (table.group(pid), table.session(pid)) {
                    self.truths.regrouped(pid, pgid, sid);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn post(&mut self, from: NodeId, to: NodeId, payload: Payload) {
        let delay = Duration::from_micros(1 + self.rng.below(self.delay_us_max));
        let earliest = self.last.get(&(from, to)).copied().unwrap_or_default();
        let at = (self.now + delay).max(earliest + Duration::from_nanos(1));
        self.last.insert((from, to), at);
        self.at(at, to, Event::Arrive { from, payload });
    }

    fn at(&mut self, at: Duration, node: NodeId, event: Event) {
        self.serial += 1;
        self.events.insert((at, self.serial), (node, event));
    }

    pub(crate) fn soon(&mut self, node: NodeId, event: Event) {
        let delay = Duration::from_micros(1 + self.rng.below(500));
        self.at(self.now + delay, node, event);
    }

    /// The host's part of a signal.
    fn signal(&mut self, node: NodeId, pid: Pid, signal: u8, info: SignalInfo) {
        let truth = &self.truths.processes[&pid];
        assert_eq!(truth.node, node, "a signal for {pid} is given to another node");
        assert!(truth.host.is_some(), "a signal for {pid} has no host process");
        if let SignalInfo::Queued { value, .. } = info {
            // A frozen process is killed at once, and again if it is another node's by then.
            if signal == SIGKILL {
                self.truths.processes.get_mut(&pid).expect("it is there").received.insert(value, 1);
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
        let (pgid, sid) = match parent {
            Some(parent) => {
                let parent = &self.truths.processes[&parent];
                (parent.pgid, parent.sid)
            }
            None => (pid, pid),
        };
        let truth = Truth {
            node,
            host: None,
            parent,
            launcher: parent.is_none().then_some(node),
            life: Life::Alive,
            pgid,
            sid,
            is_stopped: false,
            leaving: None,
            received: BTreeMap::new(),
            in_group_since: self.now,
            threads: BTreeSet::new(),
            frozen: None,
            is_decided: false,
            stops_later: false,
            host_end: None,
        };
        self.truths.born(pid, truth);
        self.soon(node, Event::Bind(pid));
    }

    /// Starts a remote exec.
    pub(crate) fn depart(&mut self, pid: Pid, to: NodeId) {
        let node = self.truths.processes[&pid].node;
        if let Ok(record) = self.with(node, |table, now| table.depart(now, pid, to)) {
            self.truths.processes.get_mut(&pid).expect("it is there").leaving = Some(to);
            self.post(node, to, Payload::Exec(Box::new(record)));
        }
    }

    pub(crate) fn host_exit(&mut self, pid: Pid, status: ExitStatus) {
        let Some(truth) = self.truths.processes.get(&pid) else { return };
        if truth.life != Life::Alive || truth.leaving.is_some() || truth.frozen.is_some() {
            return;
        }
        let node = truth.node;
        self.truths.end(pid, status);
        self.with(node, |table, now| table.exited(now, pid, status, Rusage::default()));
    }

    /// Runs events up to a time; deadlines of tables are events too.
    pub(crate) fn run_until(&mut self, end: Duration) {
        loop {
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let of_moves = self.machines.values().filter_map(Migration::deadline);
            let deadline = self.tables.values().filter_map(ProcTable::next_deadline);
            let deadline = deadline.chain(of_moves).min();
            let Some(next) = event.into_iter().chain(deadline).min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            self.steps += 1;
            assert!(self.steps < 50_000_000, "the fabric never comes to rest");
            if event == Some(next) {
                let (_, (node, event)) = self.events.pop_first().expect("there is one");
                self.happen(node, event);
            } else {
                let due: Vec<NodeId> = self
                    .tables
                    .iter()
                    .filter(|(_, table)| table.next_deadline().is_some_and(|at| at <= next))
                    .map(|(node, _)| *node)
                    .collect();
                for node in due {
                    self.with(node, ProcTable::handle_timeout);
                }
                let is_due = |machine: &Migration| machine.deadline().is_some_and(|at| at <= next);
                let due = self.machines.iter().filter(|(_, machine)| is_due(machine));
                for node in due.map(|(node, _)| *node).collect::<Vec<NodeId>>() {
                    self.step(node, Input::Tick);
                }
            }
        }
        self.now = self.now.max(end);
    }

    fn happen(&mut self, node: NodeId, event: Event) {
        if !self.tables.contains_key(&node) {
            match &event {
                Event::Arrive { from, payload: Payload::Exec(record) } => {
                    self.lose_image(*from, record.pid);
                }
                Event::Arrive { from, payload: Payload::Move(MoveMessage::Commit { id }) } => {
                    let pid = self.records[id].pid;
                    if self.truths.processes.get(&pid).is_some_and(|t| t.frozen == Some(*id)) {
                        self.lose_image(*from, pid);
                    }
                }
                _ => {}
            }
            return;
        }
        self.mix(&(node, &event));
        match event {
            Event::Arrive { from, payload } => self.arrive(node, from, payload),
            Event::Bind(pid) => self.bind(node, pid),
            Event::HostExit { pid, status } if self.is_frozen_on(node, pid) => {
                self.exit_frozen(node, pid, status);
            }
            Event::HostExit { pid, status } => self.on_host(node, pid, |world| {
                world.host_exit(pid, status);
            }),
            Event::HostStop(pid) => self.on_host(node, pid, |world| {
                world.truths.processes.get_mut(&pid).expect("it is there").set_stopped(true);
                world.with(node, |table, now| table.stopped(now, pid, SIGSTOP));
            }),
            Event::HostContinue(pid) => self.on_host(node, pid, |world| {
                world.truths.processes.get_mut(&pid).expect("it is there").set_stopped(false);
                world.with(node, |table, now| table.continued(now, pid));
            }),
            Event::Down(dead) => {
                for pid in self.leaving(node, dead) {
                    // What was on its way there is lost, unless it has gone on.
                    let truth = &self.truths.processes[&pid];
                    let is_decided = truth.frozen.is_none() || truth.is_decided;
                    if truth.node == node && truth.life == Life::Alive && is_decided {
                        self.truths.end(pid, ExitStatus::Lost);
                    }
                }
                self.with(node, |table, now| table.handle_node_down(now, dead));
                self.step(node, Input::NodeDown { node: dead });
            }
            Event::Frozen(id, pid, to) => self.freeze(node, id, pid, to),
            Event::Packed(id) => self.step(node, Input::Packed { id }),
            Event::Ready(id) => self.step(node, Input::Ready { id }),
        }
    }

    /// Runs something if the process still lives on this node's host.
    fn on_host(&mut self, node: NodeId, pid: Pid, then: impl FnOnce(&mut World)) {
        let truth = &self.truths.processes[&pid];
        if truth.node == node && truth.life == Life::Alive && truth.leaving.is_none() {
            then(self);
        }
    }

    fn is_frozen_on(&self, node: NodeId, pid: Pid) -> bool {
        let truth = &self.truths.processes[&pid];
        truth.node == node && truth.frozen.is_some()
    }

    fn bind(&mut self, node: NodeId, pid: Pid) {
        let host = self.host_next;
        let Some(truth) = self.truths.processes.get_mut(&pid) else { return };
        if truth.life == Life::Alive && truth.node == node && truth.host.is_none() {
            self.host_next += 1;
            truth.host = Some(host);
            self.with(node, |table, now| table.bind_host(now, pid, host)).expect("it starts");
        }
    }

    fn arrive(&mut self, node: NodeId, from: NodeId, payload: Payload) {
        match payload {
            Payload::Table(message) => {
                self.with(node, |table, now| table.handle_message(now, from, message));
            }
            Payload::Exec(record) => {
                let pid = record.pid;
                let adopted = self.with(node, |table, now| table.adopt(now, from, *record)).is_ok();
                if adopted {
                    let truth = self.truths.processes.get_mut(&pid).expect("it is there");
                    assert!(
                        matches!(truth.life, Life::Alive | Life::InTransit),
                        "{pid} runs twice"
                    );
                    truth.life = Life::Alive;
                    truth.node = node;
                    truth.host = None;
                    truth.leaving = None;
                    truth.is_stopped = false;
                    truth.threads.clear();
                    self.execs += 1;
                    self.soon(node, Event::Bind(pid));
                } else {
                    self.lose_image(from, pid);
                }
                self.post(node, from, Payload::Adopted(pid, adopted));
            }
            Payload::Adopted(pid, true) => {
                assert!(
                    self.with(node, |table, now| table.departed(now, pid)),
                    "{pid} left before"
                );
            }
            Payload::Adopted(pid, false) => self.stay(node, pid),
            Payload::Offer { id, order, record } => {
                let pid = record.pid;
                self.records.insert(id, *record);
                self.step(node, Input::Offered { from, id, order, pid });
            }
            Payload::Move(message) => self.step(node, Input::Message { from, message }),
        }
    }

    /// An image will never arrive; if its source is dead too, the process is lost.
    fn lose_image(&mut self, from: NodeId, pid: Pid) {
        let is_lost = self.truths.processes.get(&pid).is_some_and(|t| t.life == Life::InTransit);
        if !self.tables.contains_key(&from) && is_lost {
            self.truths.end(pid, ExitStatus::Lost);
        }
    }

    fn leaving(&self, node: NodeId, to: NodeId) -> Vec<Pid> {
        let summaries = self.tables[&node].list();
        let goes = dunix_wire::processes::RunState::Leaving(to);
        summaries.into_iter().filter(|s| s.state == goes).map(|s| s.pid).collect()
    }

    /// The move failed: the process lives at the source.
    fn stay(&mut self, node: NodeId, pid: Pid) {
        let truth = self.truths.processes.get_mut(&pid).expect("it is there");
        truth.node = node;
        truth.leaving = None;
        truth.life = Life::Alive;
        if truth.host.is_none() {
            let summary = self.tables[&node].summary(pid).expect("it stays");
            truth.host = summary.host_pid;
        }
        self.with(node, |table, now| table.stayed(now, pid));
    }

    /// A node dies: part of what it has sent still arrives, in order; each survivor is told in its
    /// own time.
    pub(crate) fn kill_node(&mut self, dead: NodeId) {
        self.tables.remove(&dead);
        self.machines.remove(&dead);
        self.truths.dead.insert(dead);
        let survivors: Vec<NodeId> = self.tables.keys().copied().collect();
        let mut in_transit = BTreeSet::new();
        for survivor in &survivors {
            in_transit.extend(self.cut(dead, *survivor));
            let delay = Duration::from_micros(1000 + self.rng.below(300_000));
            // The end of a connection comes after all that it carried.
            let last = self.last.get(&(dead, *survivor)).copied().unwrap_or_default();
            let at = (self.now + delay).max(last + Duration::from_nanos(1));
            self.at(at, *survivor, Event::Down(dead));
        }
        let on_it: Vec<Pid> = self
            .truths
            .processes
            .iter()
            .filter(|(_, t)| t.node == dead && matches!(t.life, Life::Alive | Life::InTransit))
            .map(|(pid, _)| *pid)
            .collect();
        for pid in on_it {
            if in_transit.contains(&pid) {
                let truth = self.truths.processes.get_mut(&pid).expect("it is there");
                truth.life = Life::InTransit;
                truth.host = None;
            } else {
                self.truths.end(pid, ExitStatus::Lost);
            }
        }
        self.truths.lose_launcher(dead);
    }

    /// Loses the later part of what is on one link; returns the processes whose images still come.
    fn cut(&mut self, from: NodeId, to: NodeId) -> BTreeSet<Pid> {
        let keys: Vec<(Duration, u64)> = self
            .events
            .iter()
            .filter(|(_, (node, event))| {
                *node == to && matches!(event, Event::Arrive { from: f, .. } if *f == from)
            })
            .map(|(key, _)| *key)
            .collect();
        let kept = self.rng.below(keys.len() as u64 + 1);
        let kept = usize::try_from(kept).expect("small");
        for key in keys.iter().skip(kept) {
            self.events.remove(key);
        }
        keys.iter()
            .take(kept)
            .filter_map(|key| match &self.events.get(key)?.1 {
                Event::Arrive { payload: Payload::Exec(record), .. } => Some(record.pid),
                Event::Arrive { payload: Payload::Move(MoveMessage::Commit { id }), .. } => {
                    let pid = self.records.get(id)?.pid;
                    let is_here = self.truths.processes[&pid].node == from;
                    let is_due = self.truths.processes[&pid].frozen == Some(*id) && is_here;
                    is_due.then_some(pid)
                }
                _ => None,
            })
            .collect()
    }

    pub(crate) fn is_busy(&self) -> bool {
        let is_moving = self.machines.values().any(|machine| machine.counts() != (0, 0));
        is_moving
            || !self.events.is_empty()
            || self.tables.values().any(|t| t.open_operations() > 0)
    }

    /// Runs until nothing is on its way.
    pub(crate) fn rest(&mut self) {
        for _ in 0..10_000 {
            if !self.is_busy() {
                return;
            }
            self.run_until(self.now + Duration::from_millis(20));
        }
        panic!("the fabric never comes to rest: {:?}", self.events);
    }
}
