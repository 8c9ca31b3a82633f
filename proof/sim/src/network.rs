//! The network: a link between two nodes keeps the order of what it carries until it is cut; parts of the network
//! may be unable to reach one another for a while.
//!
//! ```text
//! link at an end: up --it fails, or the peer's end is closed--> closed
//! ```
//! What is sent to a part that cannot be reached is held and comes when the network is whole again, if the
//! ends are still open, as TCP has it. A process that dies closes its ends; a machine that loses power does not.

use crate::world::{Event, World};
use dunix_ids::{NodeId, Pid};
use dunix_wire::processes::{MoveId, MoveMessage, ProcMessage, ProcessRecord};
use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

/// The least time between two arrivals.
const INSTANT: Duration = Duration::from_nanos(1);

/// What travels between nodes.
#[derive(Debug, Clone)]
pub(crate) enum Payload {
    Table(ProcMessage),
    Exec(Box<ProcessRecord>),
    Offer {
        id: MoveId,
        order: u64,
        record: Box<ProcessRecord>,
    },
    Move(MoveMessage),
    /// The answer to an exec.
    Adopted(Pid, bool),
    Ping,
    Pong,
    /// Somebody was silent.
    Alarm,
    /// The sender has closed its end.
    End,
}

#[derive(Default)]
pub(crate) struct Network {
    links: Vec<Link>,
    /// Pairs that cannot reach one another.
    apart: BTreeSet<(NodeId, NodeId)>,
}

struct Link {
    nodes: [NodeId; 2],
    /// By receiver, as `nodes`.
    ways: [Way; 2],
}

/// One direction of a link.
#[derive(Default)]
struct Way {
    /// When the last message arrives: the next one comes later.
    last: Duration,
    /// The receiver has closed its end.
    is_closed: bool,
    /// What was sent and would arrive after this is lost.
    ends_at: Option<Duration>,
    /// What waits for the network to be whole.
    held: VecDeque<Payload>,
}

impl Network {
    pub(crate) fn is_whole(&self) -> bool {
        self.apart.is_empty()
    }

    pub(crate) fn reaches(&self, a: NodeId, b: NodeId) -> bool {
        !self.apart.contains(&(a.min(b), a.max(b)))
    }

    /// Makes a link. Nothing arrives at an end before `up_at` of it.
    pub(crate) fn connect(&mut self, nodes: [NodeId; 2], up_at: [Duration; 2]) -> usize {
        let ways = up_at.map(|last| Way { last, ..Way::default() });
        self.links.push(Link { nodes, ways });
        self.links.len() - 1
    }

    /// The way of a link to one of its nodes.
    fn way(&mut self, link: usize, to: NodeId) -> &mut Way {
        let link = &mut self.links[link];
        let index = usize::from(link.nodes[1] == to);
        &mut link.ways[index]
    }
}

impl World {
    fn latency(&mut self) -> Duration {
        Duration::from_micros(1 + self.rng.below(self.plan.latency_us_max))
    }

    /// Sends to a peer; what has no link is dropped.
    pub(crate) fn post(&mut self, from: NodeId, to: NodeId, payload: Payload) {
        let end = self.nodes.get(&from).and_then(|node| node.ends.get(&to));
        match end.map(|end| end.link) {
            Some(link) => {
                if !matches!(payload, Payload::Ping) {
                    let now = self.now;
                    self.look_after(from, to, |watch| watch.handle_said(now));
                }
                self.post_on(link, from, to, payload);
            }
            None => self.counts.unsendable += 1,
        }
    }

    fn post_on(&mut self, link: usize, from: NodeId, to: NodeId, payload: Payload) {
        self.counts.sent(from, &payload);
        self.carry(link, from, to, payload);
    }

    fn carry(&mut self, link: usize, from: NodeId, to: NodeId, payload: Payload) {
        let at = self.now + self.latency();
        let way = self.network.way(link, to);
        way.last = at.max(way.last + INSTANT);
        let at = way.last;
        self.at(at, to, Event::Arrive { from, link, payload });
    }

    pub(crate) fn arrive(&mut self, node: NodeId, from: NodeId, link: usize, payload: Payload) {
        let is_apart = !self.network.reaches(node, from);
        let now = self.now;
        let way = self.network.way(link, node);
        if way.is_closed || way.ends_at.is_some_and(|end| end < now) {
            return self.lose(node, &payload);
        }
        if is_apart || !way.held.is_empty() {
            return way.held.push_back(payload);
        }
        let Some(here) = self.nodes.get_mut(&node) else { return };
        let end = here.ends.get_mut(&from).filter(|end| end.link == link);
        if let Some(end) = end {
            end.watch.handle_heard(now);
        } else if !matches!(payload, Payload::End) {
            return; // Another link counts.
        }
        let words = match payload {
            Payload::Ping | Payload::Pong => self.trace.note_quietly(now, &(node, from, &payload)),
            _ => self.trace.note(now, &(node, from, &payload)),
        };
        self.counts.received(node, &payload, words);
        match payload {
            Payload::Table(message) => {
                if matches!(message, ProcMessage::Settled { dead, .. } if dead == from) {
                    self.truths.link_ended(node, from);
                }
                self.with(node, |table, now| table.handle_message(now, from, message));
            }
            Payload::Exec(record) => self.image_arrives(node, from, *record),
            // The table counts it as lost with the node that was declared dead.
            Payload::Adopted(..) if self.nodes[&node].table.is_declared_dead(from) => {}
            Payload::Adopted(pid, true) => {
                let left = self.with(node, |table, now| table.departed(now, pid));
                assert!(left, "{pid} left before");
            }
            Payload::Adopted(pid, false) => self.stay(node, pid),
            Payload::Offer { id, order, record } => {
                let pid = record.pid;
                self.records.insert(id, *record);
                self.step(node, dunix_migration::Input::Offered { from, id, order, pid });
            }
            Payload::Move(message) => {
                self.step(node, dunix_migration::Input::Message { from, message });
            }
            Payload::Ping => self.post_on(link, node, from, Payload::Pong),
            Payload::Pong => {}
            Payload::Alarm => self.members(node, dunix_membership::Input::Alarm),
            Payload::End => self.link_down(node, from, link),
        }
    }

    /// A node closes its end of a link, and the other end hears of it.
    pub(crate) fn close(&mut self, link: usize, node: NodeId) {
        let [a, b] = self.network.links[link].nodes;
        let peer = if a == node { b } else { a };
        let way = self.network.way(link, node);
        if !std::mem::replace(&mut way.is_closed, true) {
            let held = std::mem::take(&mut way.held);
            held.iter().for_each(|payload| self.lose(node, payload));
            self.carry(link, node, peer, Payload::End);
        }
    }

    /// A message never arrives, and perhaps the process that it would have brought.
    fn lose(&mut self, to: NodeId, payload: &Payload) {
        let pid = match payload {
            Payload::Exec(record) => record.pid,
            Payload::Move(MoveMessage::Commit { id }) => self.records[id].pid,
            _ => return,
        };
        self.truths.never_arrives(pid, to);
    }

    /// A connection breaks: each end hears of it in its own time.
    pub(crate) fn lose_connection(&mut self, a: NodeId, b: NodeId) {
        let Some(end) = self.nodes.get(&a).and_then(|node| node.ends.get(&b)) else { return };
        let link = end.link;
        for (node, peer) in [(a, b), (b, a)] {
            let ends_at = self.cut(link, node);
            let delay = Duration::from_micros(self.rng.below(300_000));
            self.at(ends_at + INSTANT + delay, node, Event::LinkDown { peer, link });
        }
    }

    /// Loses the later part of what is on a link to a node; returns when the earlier part has come.
    fn cut(&mut self, link: usize, to: NodeId) -> Duration {
        let now = self.now;
        let last = self.network.way(link, to).last;
        let rest = u64::try_from(last.saturating_sub(now).as_nanos()).unwrap_or(0);
        let end = now + Duration::from_nanos(self.rng.below(rest + 2));
        let way = self.network.way(link, to);
        way.ends_at = Some(end);
        end
    }

    /// A node dies: part of what it has sent still arrives. If its kernel lives, its ends are closed;
    /// if it has lost power, its peers hear nothing any more.
    pub(crate) fn crash(&mut self, dead: NodeId, lost_power: bool) {
        let Some(node) = self.nodes.remove(&dead) else { return };
        self.truths.cut_off.insert(dead);
        self.truths.dead.insert(dead);
        for (peer, end) in node.ends {
            let at = self.cut(end.link, peer);
            if !lost_power {
                let delay = Duration::from_micros(1000 + self.rng.below(300_000));
                self.network.way(end.link, peer).ends_at = Some(at);
                let event = Event::LinkDown { peer: dead, link: end.link };
                self.at(at + delay, peer, event);
            }
        }
        self.truths.node_died(dead);
    }

    /// Some nodes cannot be reached by the others for a while.
    pub(crate) fn fall_apart(&mut self, island: &BTreeSet<NodeId>, duration: Duration) {
        let others = self.live_nodes();
        for inside in island {
            for outside in others.iter().filter(|node| !island.contains(*node)) {
                let pair = (*inside.min(outside), *inside.max(outside));
                self.network.apart.insert(pair);
            }
        }
        self.after(duration, NodeId(0), Event::Heal);
    }

    /// Everyone can reach everyone: what was held comes now, in its order.
    pub(crate) fn heal(&mut self) {
        self.network.apart.clear();
        for link in 0..self.network.links.len() {
            let nodes = self.network.links[link].nodes;
            for (to, from) in [(nodes[0], nodes[1]), (nodes[1], nodes[0])] {
                let held = std::mem::take(&mut self.network.way(link, to).held);
                if self.nodes.contains_key(&to) {
                    // Before what is still on its way.
                    held.into_iter().for_each(|payload| self.arrive(to, from, link, payload));
                }
            }
        }
    }
}
