//! What membership asks for: beacons, dials, links that prove that they live.

use crate::{
    network::Payload,
    world::{End, Event, World},
};
use dunix_ids::NodeId;
use dunix_membership::{Effect, Endpoint, Input, KeepAlive, Pulse};
use dunix_migration::Input as MoveInput;
use std::{net::Ipv6Addr, time::Duration};

/// How long a dial takes to fail.
const DIAL_WAIT: Duration = Duration::from_secs(1);
/// One of so many beacons is lost, for each who could hear it.
const BEACONS_PER_LOSS: u64 = 50;

fn endpoint(node: NodeId) -> Endpoint {
    let [high, low] = [node.0 >> 16, node.0 & 0xffff].map(|part| u16::try_from(part).unwrap_or(0));
    Endpoint { address: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, high, low), port: 1 }
}

impl World {
    /// Feeds a node's membership and carries out what it says.
    pub(crate) fn members(&mut self, node: NodeId, input: Input) {
        let now = self.now;
        let Some(here) = self.nodes.get_mut(&node) else { return };
        let is_beacon = matches!(input, Input::Beacon { .. });
        let effects = here.members.step(now, input);
        if !is_beacon || !effects.is_empty() {
            here.members_at = here.members.deadline(now);
        }
        for effect in effects {
            self.trace.note(now, &(node, effect));
            match effect {
                Effect::Dial { node: peer, endpoint } => {
                    let delay = Duration::from_micros(1 + self.rng.below(5000));
                    self.after(delay, node, Event::Dialled { peer, endpoint });
                }
                Effect::Up { node: peer, link } => self.peer_is_up(node, peer, link_of(link)),
                Effect::Down { node: peer, link } => self.peer_is_down(node, peer, link_of(link)),
                Effect::Refuse { link } => self.close(link_of(link), node),
                Effect::Watch { node: peer, is_watched, .. } => {
                    self.look_after(node, peer, |watch| watch.set_watched(now, is_watched));
                }
                Effect::Alarm { node: peer, .. } => self.post(node, peer, Payload::Alarm),
            }
        }
        self.schedule(node);
    }

    /// Sends a beacon; the first comes at once, the others as often as membership says.
    pub(crate) fn say(&mut self, node: NodeId) {
        let Some(here) = self.nodes.get(&node) else { return };
        let interval = here.members.beacon_interval();
        self.counts.said_beacon(node);
        let delay = Duration::from_micros(1 + self.rng.below(500));
        self.after(delay, node, Event::Beacon);
        self.after(interval, node, Event::Say);
    }

    pub(crate) fn beacon(&mut self, from: NodeId) {
        for node in self.live_nodes() {
            let is_heard = node != from && self.network.reaches(node, from);
            if is_heard && self.rng.below(BEACONS_PER_LOSS) > 0 {
                self.counts.heard_beacon(node);
                self.members(node, Input::Beacon { node: from, endpoint: endpoint(from) });
            }
        }
    }

    /// A dial ends: in a link, of which either end may know first, or in nothing.
    pub(crate) fn dialled(&mut self, node: NodeId, peer: NodeId, endpoint: Endpoint) {
        if !self.nodes.contains_key(&peer) || !self.network.reaches(node, peer) {
            return self.after(DIAL_WAIT, node, Event::DialFailed { peer, endpoint });
        }
        let up_at = [(); 2].map(|()| self.now + Duration::from_micros(1 + self.rng.below(5000)));
        let link = self.network.connect([node, peer], up_at);
        self.at(up_at[0], node, Event::LinkUp { peer, link });
        self.at(up_at[1], peer, Event::LinkUp { peer: node, link });
    }

    pub(crate) fn link_up(&mut self, node: NodeId, peer: NodeId, link: usize) {
        self.members(node, Input::LinkUp { node: peer, link: link as u64 });
    }

    pub(crate) fn link_down(&mut self, node: NodeId, peer: NodeId, link: usize) {
        self.members(node, Input::LinkDown { node: peer, link: link as u64 });
    }

    fn peer_is_up(&mut self, node: NodeId, peer: NodeId, link: usize) {
        let Some(here) = self.nodes.get_mut(&node) else { return };
        let (watch, pulse_at) = (KeepAlive::new(self.now), self.now);
        here.ends.insert(peer, End { link, watch, pulse_at });
        self.after(Duration::ZERO, node, Event::Pulse { peer, link });
        self.with(node, |table, now| table.handle_node_up(now, peer));
    }

    fn peer_is_down(&mut self, node: NodeId, peer: NodeId, link: usize) {
        self.close(link, node);
        if let Some(here) = self.nodes.get_mut(&node) {
            here.ends.remove(&peer);
        }
        self.truths.link_ended(node, peer);
        self.with(node, |table, now| table.handle_node_down(now, peer));
        self.step(node, MoveInput::NodeDown { node: peer });
    }

    /// Changes a node's watch over its link to a peer, and looks at once if it was idle.
    pub(crate) fn look_after(
        &mut self,
        node: NodeId,
        peer: NodeId,
        change: impl FnOnce(&mut KeepAlive),
    ) {
        let now = self.now;
        let here = self.nodes.get_mut(&node);
        let Some(end) = here.and_then(|here| here.ends.get_mut(&peer)) else { return };
        let was_idle = end.watch.is_idle(now);
        change(&mut end.watch);
        if was_idle && !end.watch.is_idle(now) {
            end.pulse_at = now;
            let link = end.link;
            self.after(Duration::ZERO, node, Event::Pulse { peer, link });
        }
    }

    /// Looks whether the peer is silent, and whether it is time to say something.
    pub(crate) fn pulse(&mut self, node: NodeId, peer: NodeId, link: usize) {
        let now = self.now;
        let here = self.nodes.get_mut(&node);
        let end = here.and_then(|here| here.ends.get_mut(&peer));
        let Some(end) = end.filter(|end| end.link == link && end.pulse_at == now) else { return };
        match end.watch.poll_pulse(now) {
            Pulse::Wait(until) => {
                end.pulse_at = until;
                self.at(until, node, Event::Pulse { peer, link });
            }
            Pulse::Ping => {
                self.post(node, peer, Payload::Ping);
                self.after(Duration::ZERO, node, Event::Pulse { peer, link });
            }
            Pulse::Dead => self.members(node, Input::LinkSilent { node: peer, link: link as u64 }),
        }
    }
}

fn link_of(link: u64) -> usize {
    usize::try_from(link).unwrap_or(usize::MAX)
}
