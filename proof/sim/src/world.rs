//! The world: nodes, what is to happen, and the order in which it does.

use crate::{
    Plan,
    counts::Counts,
    network::{Network, Payload},
    truth::Truths,
};
use dunix_ids::{NodeId, Pid};
use dunix_membership::{Endpoint, KeepAlive, Membership};
use dunix_migration::{Input, Migration};
use dunix_proc_table::{ProcTable, TableConfig};
use dunix_scenarios::{Queue, Rng, Trace};
use dunix_wire::processes::{ExitStatus, MoveId, ProcessRecord};
use std::{collections::BTreeMap, time::Duration};

/// Events of one run; a fabric that needs more never comes to rest.
const EVENTS_MAX: u64 = 1 << 32;

/// What happens at a node at some time.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// It starts.
    Start,
    /// It sends a beacon.
    Say,
    /// Everyone hears its beacon.
    Beacon,
    /// Its dial has reached the peer, or nobody.
    Dialled {
        peer: NodeId,
        endpoint: Endpoint,
    },
    DialFailed {
        peer: NodeId,
        endpoint: Endpoint,
    },
    LinkUp {
        peer: NodeId,
        link: usize,
    },
    LinkDown {
        peer: NodeId,
        link: usize,
    },
    /// It looks after one of its links.
    Pulse {
        peer: NodeId,
        link: usize,
    },
    Arrive {
        from: NodeId,
        link: usize,
        payload: Payload,
    },
    /// A deadline of one of its machines.
    Tick,
    Bind(Pid),
    HostExit {
        pid: Pid,
        status: ExitStatus,
    },
    HostStop(Pid),
    HostContinue(Pid),
    /// A wait(2) that was woken looks again.
    WaitAgain(Pid),
    /// All threads are parked.
    Frozen(MoveId, Pid, NodeId),
    /// The image is made.
    Packed(MoveId),
    /// The target's copy is made.
    Ready(MoveId),
    /// The network is whole again.
    Heal,
}

impl Event {
    /// Whether it goes on for ever, or may take long without anybody waiting for it.
    fn is_background(&self) -> bool {
        matches!(
            self,
            Event::Say
                | Event::Beacon
                | Event::Pulse { .. }
                | Event::Tick
                | Event::Dialled { .. }
                | Event::DialFailed { .. }
                | Event::Arrive { payload: Payload::Ping | Payload::Pong, .. }
        )
    }
}

/// One node that lives.
pub(crate) struct Node {
    pub(crate) members: Membership,
    pub(crate) table: ProcTable,
    pub(crate) moves: Migration,
    /// Its end of the link that counts, by peer.
    pub(crate) ends: BTreeMap<NodeId, End>,
    /// When membership wants to be asked again, and the table and the moves do.
    pub(crate) members_at: Duration,
    pub(crate) processes_at: Option<Duration>,
    /// The nearest tick that is queued.
    tick_at: Option<Duration>,
}

impl Node {
    /// Whether its machines wait for nothing. Of a fenced node nobody is left to whom that would matter.
    fn is_content(&self) -> bool {
        let is_open = self.table.open_operations() > 0 || self.moves.counts() != (0, 0);
        !is_open || self.table.is_fenced()
    }
}

/// A node's end of a link.
pub(crate) struct End {
    pub(crate) link: usize,
    pub(crate) watch: KeepAlive,
    /// When it is looked after next.
    pub(crate) pulse_at: Duration,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) rng: Rng,
    pub(crate) now: Duration,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) network: Network,
    pub(crate) truths: Truths,
    /// Of the moves under way.
    pub(crate) records: BTreeMap<MoveId, ProcessRecord>,
    pub(crate) counts: Counts,
    pub(crate) trace: Trace,
    pub(crate) host_next: u32,
    queue: Queue<(NodeId, Event)>,
    /// Queued events that somebody waits for.
    foreground: usize,
}

impl World {
    /// A world whose nodes start within the first second.
    pub(crate) fn new(seed: u64, plan: Plan, repeat: String) -> World {
        let mut world = World {
            plan,
            rng: Rng::new(seed),
            now: Duration::ZERO,
            nodes: BTreeMap::new(),
            network: Network::default(),
            truths: Truths::default(),
            records: BTreeMap::new(),
            counts: Counts::default(),
            trace: Trace::new(repeat),
            host_next: 100,
            queue: Queue::default(),
            foreground: 0,
        };
        world.truths.news_delay_max = Duration::from_micros(plan.latency_us_max * 3);
        for node in (1..=plan.nodes).map(NodeId) {
            let at = Duration::from_micros(world.rng.below(1_000_000));
            world.at(at, node, Event::Start);
        }
        world
    }

    pub(crate) fn at(&mut self, at: Duration, node: NodeId, event: Event) {
        self.foreground += usize::from(!event.is_background());
        self.queue.push(at, (node, event));
    }

    pub(crate) fn after(&mut self, delay: Duration, node: NodeId, event: Event) {
        self.at(self.now + delay, node, event);
    }

    /// Within half a millisecond: something that a host does.
    pub(crate) fn soon(&mut self, node: NodeId, event: Event) {
        let delay = Duration::from_micros(1 + self.rng.below(500));
        self.after(delay, node, event);
    }

    pub(crate) fn live_nodes(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// Nodes that live, may run programs and are meant to.
    pub(crate) fn active_nodes(&self) -> Vec<NodeId> {
        let active = NodeId(self.plan.active);
        let nodes = self.nodes.range(..=active);
        nodes.filter(|(_, node)| !node.table.is_fenced()).map(|(node, _)| *node).collect()
    }

    /// Runs events up to a time.
    pub(crate) fn run_until(&mut self, end: Duration) {
        while self.queue.next_at().is_some_and(|at| at <= end) {
            let Some((at, (node, event))) = self.queue.pop() else { break };
            self.foreground -= usize::from(!event.is_background());
            self.now = at;
            self.truths.now = at;
            self.counts.events += 1;
            assert!(self.counts.events < EVENTS_MAX, "the fabric never comes to rest");
            self.happen(node, event);
        }
        self.now = self.now.max(end);
        self.truths.now = self.now;
    }

    fn happen(&mut self, node: NodeId, event: Event) {
        if matches!(event, Event::Heal) {
            self.trace.note(self.now, &event);
            return self.heal();
        }
        if matches!(event, Event::Start) {
            self.trace.note(self.now, &(node, &event));
            return self.start(node);
        }
        if !self.nodes.contains_key(&node) {
            return;
        }
        match event {
            Event::Arrive { from, link, payload } => {
                return self.arrive(node, from, link, payload);
            }
            Event::Pulse { peer, link } => return self.pulse(node, peer, link),
            Event::Tick => return self.tick(node),
            _ => {}
        }
        if event.is_background() {
            self.trace.note_quietly(self.now, &(node, &event));
        } else {
            self.trace.note(self.now, &(node, &event));
        }
        match event {
            Event::Say => self.say(node),
            Event::Beacon => self.beacon(node),
            Event::Dialled { peer, endpoint } => self.dialled(node, peer, endpoint),
            Event::DialFailed { peer, endpoint } => {
                self.members(node, dunix_membership::Input::DialFailed { node: peer, endpoint });
            }
            Event::LinkUp { peer, link } => self.link_up(node, peer, link),
            Event::LinkDown { peer, link } => self.link_down(node, peer, link),
            Event::Bind(pid) => self.bind(node, pid),
            Event::HostExit { pid, status } => self.host_exits(node, pid, status),
            Event::HostStop(pid) => self.host_stops(node, pid),
            Event::HostContinue(pid) => self.host_continues(node, pid),
            Event::WaitAgain(pid) => self.wait_again(node, pid),
            Event::Frozen(id, pid, to) => self.freeze(node, id, pid, to),
            Event::Packed(id) => self.step(node, Input::Packed { id }),
            Event::Ready(id) => self.step(node, Input::Ready { id }),
            Event::Arrive { .. } | Event::Pulse { .. } | Event::Tick => {}
            Event::Start | Event::Heal => {}
        }
    }

    fn start(&mut self, node: NodeId) {
        let table = ProcTable::new(TableConfig { node, founder: NodeId(1) });
        let members = Membership::new(node);
        let members_at = members.deadline(self.now);
        let moves = Migration::new(node);
        let ends = BTreeMap::new();
        let (processes_at, tick_at) = (None, None);
        let here = Node { members, table, moves, ends, members_at, processes_at, tick_at };
        self.nodes.insert(node, here);
        self.with(node, |_, _| {});
        self.after(Duration::ZERO, node, Event::Say);
    }

    /// Asks a node's table and moves when they want to be asked again.
    pub(crate) fn schedule_processes(&mut self, node: NodeId) {
        if let Some(here) = self.nodes.get_mut(&node) {
            let deadlines = [here.table.next_deadline(), here.moves.deadline()];
            here.processes_at = deadlines.into_iter().flatten().min();
        }
        self.schedule(node);
    }

    /// Sees to it that the node is asked when one of its machines wants to be.
    pub(crate) fn schedule(&mut self, node: NodeId) {
        let now = self.now;
        let Some(here) = self.nodes.get_mut(&node) else { return };
        let next = here.processes_at.map_or(here.members_at, |at| at.min(here.members_at)).max(now);
        if here.tick_at.is_none_or(|at| next < at) {
            here.tick_at = Some(next);
            self.at(next, node, Event::Tick);
        }
    }

    fn tick(&mut self, node: NodeId) {
        let now = self.now;
        let Some(here) = self.nodes.get_mut(&node) else { return };
        if here.tick_at.is_none_or(|at| at > now) {
            return; // A nearer one was queued later, and has been.
        }
        here.tick_at = None;
        let is_due = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        let of_table = is_due(here.table.next_deadline());
        let of_moves = is_due(here.moves.deadline());
        let of_members = here.members_at <= now;
        if of_table {
            self.with(node, ProcTable::handle_timeout);
            let next = self.nodes[&node].table.next_deadline();
            assert!(!is_due(next), "the table of {node} is never content");
        }
        if of_moves {
            self.step(node, Input::Tick);
            let next = self.nodes[&node].moves.deadline();
            assert!(!is_due(next), "the moves of {node} are never content");
        }
        if of_members {
            self.members(node, dunix_membership::Input::Tick);
            let next = self.nodes[&node].members_at;
            assert!(next > now, "the membership of {node} is never content");
        }
        self.schedule(node);
    }

    fn is_at_rest(&self) -> bool {
        let has_peers = |(node, here): (&NodeId, &Node)| {
            here.ends.len() + 1 == self.nodes.len()
                && here.ends.keys().all(|peer| peer != node && self.nodes.contains_key(peer))
        };
        self.foreground == 0
            && self.network.is_whole()
            && self.nodes.iter().all(has_peers)
            && self.nodes.values().all(Node::is_content)
    }

    /// Runs until nothing is on its way and everyone knows who lives.
    pub(crate) fn rest(&mut self) {
        for _ in 0..20_000 {
            if self.is_at_rest() {
                return;
            }
            self.run_until(self.now + Duration::from_millis(20));
        }
        panic!("the fabric never comes to rest: {}", self.unrest());
    }

    /// Says what is open where.
    fn unrest(&self) -> String {
        let open = self.nodes.iter().map(|(node, here)| {
            let (links, table) = (here.ends.len(), &here.table);
            let (operations, moves) = (table.open_operations(), here.moves.counts());
            let fenced = if table.is_fenced() { " (fenced)" } else { "" };
            format!("{node}{fenced}: {links} links, {operations} operations, {moves:?} moves")
        });
        open.collect::<Vec<String>>().join("; ")
    }

    /// Runs until every node is linked with every other and has numbers to give out.
    pub(crate) fn stand(&mut self) {
        for _ in 0..12_000 {
            let all = self.plan.nodes as usize;
            let is_up = self.nodes.len() == all
                && self.nodes.values().all(|here| here.ends.len() + 1 == all)
                && self.nodes.values().all(|here| here.table.is_ready());
            if is_up {
                return;
            }
            self.run_until(self.now + Duration::from_millis(10));
        }
        panic!("the fabric does not stand after two minutes");
    }
}
