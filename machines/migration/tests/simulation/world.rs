//! Nodes, hosts, the network and the truth about who runs where.

use dunix_ids::{NodeId, Pid};
use dunix_migration::{Effect, Input, Migration};
use dunix_scenarios::Rng;
use dunix_wire::processes::{MoveId, MoveMessage, Refusal};
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) nodes: u32,
    pub(crate) processes: u32,
    pub(crate) steps: u32,
    /// Between two steps.
    pub(crate) pause_us_max: u64,
    /// Percents of messages; with any, messages are reordered, too.
    pub(crate) losses: u64,
    pub(crate) doubles: u64,
    /// Percent of the chances to fail.
    pub(crate) failures: u64,
    pub(crate) deaths: u32,
}

#[derive(Clone, Debug)]
enum Payload {
    Offer { order: u64, pid: Pid, id: MoveId },
    Word(MoveMessage),
}

#[derive(Clone, Debug)]
enum Event {
    Arrive {
        from: NodeId,
        payload: Payload,
    },
    /// A freeze or a preparation has ended.
    Packed(MoveId, Pid),
    Prepared(MoveId, Pid),
    LastPage(MoveId),
    Down(NodeId),
}

/// A host process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Host {
    Runs,
    /// On its way out, or giving its pages: not running by this move.
    Frozen(MoveId),
    /// Came by this move and does not run yet.
    Ready(MoveId),
}

pub(crate) struct World {
    plan: Plan,
    rng: Rng,
    now: Duration,
    serial: u64,
    machines: BTreeMap<NodeId, Migration>,
    hosts: Vec<(NodeId, Pid, Host)>,
    events: BTreeMap<(Duration, u64), (NodeId, Event)>,
    last: BTreeMap<(NodeId, NodeId), Duration>,
    pids: Vec<Pid>,
    /// Who runs and misses pages.
    arriving: BTreeMap<MoveId, (NodeId, Pid)>,
    /// Who ended, or had a part on a node that died.
    excused: BTreeSet<Pid>,
    is_quiet: bool,
    pub(crate) moves: u64,
    pub(crate) refused: u64,
    pub(crate) lost: u64,
    pub(crate) hash: u64,
}

impl World {
    pub(crate) fn new(seed: u64, plan: Plan) -> World {
        let nodes: Vec<NodeId> = (1..=plan.nodes).map(NodeId).collect();
        let pids: Vec<Pid> = (0..plan.processes).filter_map(|n| Pid::new(100 + n)).collect();
        let hosts = pids.iter().zip(nodes.iter().cycle()).map(|(p, n)| (*n, *p, Host::Runs));
        World {
            plan,
            rng: Rng::new(seed),
            now: Duration::ZERO,
            serial: 0,
            machines: nodes.iter().map(|node| (*node, Migration::new(*node))).collect(),
            hosts: hosts.collect(),
            events: BTreeMap::new(),
            last: BTreeMap::new(),
            pids,
            arriving: BTreeMap::new(),
            excused: BTreeSet::new(),
            is_quiet: false,
            moves: 0,
            refused: 0,
            lost: 0,
            hash: 0,
        }
    }

    pub(crate) fn run(&mut self) {
        let mut deaths = self.plan.deaths;
        for _ in 0..self.plan.steps {
            let pause = Duration::from_micros(self.rng.below(self.plan.pause_us_max));
            self.advance(self.now + pause);
            self.act();
            if deaths > 0 && self.rng.below(u64::from(self.plan.steps / 4)) == 0 {
                deaths -= 1;
                self.kill_node();
            }
        }
        // From now on nothing is lost and nothing fails: all comes to rest.
        self.is_quiet = true;
        self.advance(self.now + Duration::from_secs(300));
        self.check_rest();
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.rng.below(100) < percent && !self.is_quiet
    }

    // What happens from outside.

    fn act(&mut self) {
        let Some(pid) = self.rng.pick(&self.pids) else { return };
        if self.percent(self.plan.failures) && self.percent(10) {
            return self.end_host(pid);
        }
        let Some(at) = self.runner(pid) else { return };
        let nodes: Vec<NodeId> = self.machines.keys().copied().collect();
        let Some(to) = self.rng.pick(&nodes) else { return };
        let now = self.now;
        match self.machine(at).start(now, pid, to) {
            Ok(id) => self.soon(at, Event::Packed(id, pid)),
            Err(
                Refusal::AlreadyThere
                | Refusal::AlreadyMoving
                | Refusal::StillArriving
                | Refusal::NodeNotLive,
            ) => {}
            Err(refusal) => panic!("{pid} cannot start: {refusal}"),
        }
    }

    /// One of a process's host processes ends by itself.
    fn end_host(&mut self, pid: Pid) {
        let of_it: Vec<(NodeId, Pid, Host)> =
            self.hosts.iter().filter(|(_, other, _)| *other == pid).copied().collect();
        let Some((node, _, host)) = self.rng.pick(&of_it) else { return };
        self.remove(node, pid, host);
        match host {
            Host::Runs => {
                self.excused.insert(pid);
                if let Some(id) = self.machine(node).leaving_by(pid) {
                    self.step(node, Input::HostEnded { id });
                }
                let arriving = self.arriving.iter().find(|(_, of)| **of == (node, pid));
                if let Some(id) = arriving.map(|(id, _)| *id) {
                    self.arriving.remove(&id);
                    self.step(node, Input::Whole { id, bytes: 0, is_lost: false });
                }
            }
            Host::Frozen(id) => {
                self.excused.insert(pid);
                self.step(node, Input::HostEnded { id });
            }
            Host::Ready(id) => self.step(node, Input::Failed { id, refusal: Refusal::Ended }),
        }
    }

    fn kill_node(&mut self) {
        let nodes: Vec<NodeId> = self.machines.keys().copied().collect();
        let Some(dead) = self.rng.pick(&nodes).filter(|_| nodes.len() > 2) else { return };
        self.machines.remove(&dead);
        for (_, pid, _) in self.hosts.extract_if(.., |(node, ..)| *node == dead) {
            self.excused.insert(pid);
        }
        self.arriving.retain(|_, (node, _)| *node != dead);
        for survivor in nodes.into_iter().filter(|node| *node != dead) {
            let delay = Duration::from_micros(1000 + self.rng.below(300_000));
            self.at(self.now + delay, survivor, Event::Down(dead));
        }
    }

    // Time and the network.

    fn at(&mut self, at: Duration, node: NodeId, event: Event) {
        self.serial += 1;
        self.events.insert((at, self.serial), (node, event));
    }

    fn soon(&mut self, node: NodeId, event: Event) {
        let delay = Duration::from_micros(1 + self.rng.below(5000));
        self.at(self.now + delay, node, event);
    }

    fn post(&mut self, from: NodeId, to: NodeId, payload: &Payload) {
        let copies = match self.rng.below(100) {
            roll if roll < self.plan.losses && !self.is_quiet => 0,
            roll if roll >= 100 - self.plan.doubles && !self.is_quiet => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay = Duration::from_micros(1 + self.rng.below(20_000));
            // The later copy comes when its move is long over.
            let is_late = copies == 2 && self.percent(50);
            let delay = if is_late { delay * 200 } else { delay };
            let mut at = self.now + delay;
            if self.plan.losses + self.plan.doubles == 0 {
                let last = self.last.entry((from, to)).or_default();
                at = at.max(*last);
                *last = at;
            }
            self.at(at, to, Event::Arrive { from, payload: payload.clone() });
        }
    }

    fn advance(&mut self, end: Duration) {
        loop {
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let deadline = self.machines.values().filter_map(Migration::deadline).min();
            let next = event.into_iter().chain(deadline).min().filter(|at| *at <= end);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            if event == Some(next) {
                let (_, (node, event)) = self.events.pop_first().expect("there is one");
                if self.machines.contains_key(&node) {
                    self.happen(node, event);
                }
                continue;
            }
            let is_due = |machine: &Migration| machine.deadline().is_some_and(|at| at <= next);
            let due: Vec<NodeId> =
                self.machines.iter().filter(|(_, m)| is_due(m)).map(|(node, _)| *node).collect();
            for node in due {
                self.step(node, Input::Tick);
            }
        }
        self.now = self.now.max(end);
    }

    fn happen(&mut self, node: NodeId, event: Event) {
        let mut hasher = DefaultHasher::new();
        (self.hash, self.now, node.0, format!("{event:?}")).hash(&mut hasher);
        self.hash = hasher.finish();
        match event {
            Event::Arrive { from, payload: Payload::Offer { order, pid, id } } => {
                self.step(node, Input::Offered { from, id, order, pid });
            }
            Event::Arrive { from, payload: Payload::Word(message) } => {
                self.step(node, Input::Message { from, message });
            }
            Event::Packed(id, pid) => self.pack(node, id, pid),
            Event::Prepared(id, pid) if self.percent(self.plan.failures) => {
                self.remove(node, pid, Host::Ready(id));
                self.step(node, Input::Failed { id, refusal: Refusal::TargetFull });
            }
            Event::Prepared(id, _) => self.step(node, Input::Ready { id }),
            Event::LastPage(id) => self.last_page(node, id),
            Event::Down(dead) => self.step(node, Input::NodeDown { node: dead }),
        }
    }

    fn pack(&mut self, node: NodeId, id: MoveId, pid: Pid) {
        if self.machine(node).leaving_by(pid) != Some(id) {
            return; // It is over already.
        }
        if self.percent(self.plan.failures) {
            let refusal = Refusal::Traced;
            return self.step(node, Input::NotPacked { id, refusal });
        }
        assert!(self.remove(node, pid, Host::Runs), "{pid} is frozen where it does not run");
        self.hosts.push((node, pid, Host::Frozen(id)));
        self.step(node, Input::Packed { id });
    }

    fn last_page(&mut self, node: NodeId, id: MoveId) {
        let Some((at, pid)) = self.arriving.get(&id).copied().filter(|(at, _)| *at == node) else {
            return;
        };
        // Without its donor it waits for the machine's word.
        if self.hosts.contains(&(id.source, pid, Host::Frozen(id))) {
            self.arriving.remove(&id);
            self.step(at, Input::Whole { id, bytes: 1, is_lost: false });
        }
    }

    // The drivers.

    fn machine(&mut self, node: NodeId) -> &mut Migration {
        self.machines.get_mut(&node).expect("it lives")
    }

    fn step(&mut self, node: NodeId, input: Input) {
        let now = self.now;
        let machine = self.machine(node);
        let effects = machine.step(now, input);
        machine.check_invariants();
        for effect in effects {
            self.carry_out(node, effect);
        }
        for pid in &self.pids {
            let runs = self.hosts.iter().filter(|(_, p, host)| p == pid && *host == Host::Runs);
            assert!(runs.count() <= 1, "{pid} runs twice: {:?}", self.hosts);
        }
    }

    fn carry_out(&mut self, node: NodeId, effect: Effect) {
        match effect {
            Effect::Send { to, message } => self.post(node, to, &Payload::Word(message)),
            Effect::Offer { id, to, order } => {
                let of_it = self.hosts.iter().find(|(_, _, host)| *host == Host::Frozen(id));
                let pid = of_it.expect("it is frozen").1;
                self.post(node, to, &Payload::Offer { order, pid, id });
            }
            Effect::Decide { id, pid } => {
                assert!(self.hosts.contains(&(node, pid, Host::Frozen(id))), "{pid} is not frozen");
            }
            Effect::Stay { id, pid, refusal } => {
                self.refused += u64::from(refusal != Refusal::Ended);
                if self.remove(node, pid, Host::Frozen(id)) {
                    self.hosts.push((node, pid, Host::Runs));
                }
            }
            Effect::Left { .. } => self.moves += 1,
            Effect::Finish { id, pid, .. } => {
                assert!(
                    !self.arriving.contains_key(&id),
                    "{pid}'s donor goes before its last page"
                );
                self.remove(node, pid, Host::Frozen(id));
            }
            Effect::Lose { id, pid } => {
                // It may have gone on from there before: then it is lost for this node only. Or
                // nobody heard that the target would refuse.
                self.excused.insert(pid);
                self.remove(node, pid, Host::Frozen(id));
            }
            Effect::Prepare { id, pid, .. } => {
                self.hosts.push((node, pid, Host::Ready(id)));
                self.soon(node, Event::Prepared(id, pid));
            }
            Effect::Adopt { id, pid, .. } => self.adopt(node, id, pid),
            Effect::Discard { id, pid } => drop(self.remove(node, pid, Host::Ready(id))),
            Effect::Kill { id, pid } => {
                assert!(self.excused.contains(&pid), "{pid} is killed without a death");
                self.arriving.remove(&id);
                assert!(self.remove(node, pid, Host::Runs), "{pid} does not run here");
            }
        }
    }

    fn adopt(&mut self, node: NodeId, id: MoveId, pid: Pid) {
        assert!(self.remove(node, pid, Host::Ready(id)), "{pid} is not ready");
        if self.percent(self.plan.failures) {
            return self.step(node, Input::CannotAdopt { id, refusal: Refusal::TargetFull });
        }
        self.hosts.push((node, pid, Host::Runs));
        let is_whole = self.rng.below(2) == 0;
        if !is_whole {
            self.arriving.insert(id, (node, pid));
            let delay = Duration::from_micros(1 + self.rng.below(100_000));
            self.at(self.now + delay, node, Event::LastPage(id));
        }
        self.step(node, Input::Adopted { id, bytes: 1, is_whole });
    }

    // The truth.

    fn runner(&self, pid: Pid) -> Option<NodeId> {
        let of_it = self.hosts.iter().find(|(_, other, host)| *other == pid && *host == Host::Runs);
        of_it.map(|(node, ..)| *node)
    }

    fn remove(&mut self, node: NodeId, pid: Pid, host: Host) -> bool {
        let at = self.hosts.iter().position(|entry| *entry == (node, pid, host));
        at.map(|at| self.hosts.swap_remove(at)).is_some()
    }

    /// Nothing is left but those who run.
    fn check_rest(&mut self) {
        for (node, machine) in &self.machines {
            assert_eq!(machine.counts(), (0, 0), "{node} has moves that never end");
            assert_eq!(machine.deadline(), None, "{node} waits for something");
        }
        let left = self.hosts.iter().find(|(_, _, host)| *host != Host::Runs);
        assert_eq!(left, None, "a host process is left over");
        assert!(self.arriving.is_empty(), "pages are missing");
        for pid in &self.pids {
            let runs = self.runner(*pid).is_some();
            assert!(runs || self.excused.contains(pid), "{pid} runs nowhere");
            self.lost += u64::from(!runs);
        }
    }
}
