//! Which nodes are there: whom to dial, who is up, who is gone.
//!
//! Owns: what beacons claim, dialling with back-off, the one link that counts for each peer, and the
//! order of up and down. Refuses: sockets, keys (a beacon is a claim; a link is proof), and any
//! decision about what a dead node's processes mean.
//!
//! ```text
//! a peer:  unknown -beacon-> claimed -LinkUp-> up -LinkDown-> claimed -silence-> unknown
//!                              | own < peer: dialled, with back-off
//! ```
//!
//! Not every node watches every other, which would cost each the more the more there are. Each watches the next
//! [`WATCHED`] by number, going round, and of the others one after the other for a while. Who finds a peer silent raises an
//! alarm: then everyone watches everyone for a while, so that all who cannot be reached are found at
//! once, however many they are.
//!
//! Invariants: at most one link counts for a peer; `Up` and `Down` of a peer alternate, beginning
//! with `Up`; only the lower number of a pair dials; every table is bounded.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod keep_alive;
#[cfg(test)]
mod tests;

pub use keep_alive::{KeepAlive, Pulse};

use alloc::{collections::BTreeMap, vec::Vec};
use core::{net::Ipv6Addr, time::Duration};
use dunix_ids::NodeId;

/// Greatest number of peers. A further claim makes the longest silent one without a link forgotten,
/// so that a stranger's beacons cannot crowd real nodes out for long.
pub const PEERS_MAX: usize = 4096;
/// Greatest number of dials under way; further ones wait.
pub const DIALS_MAX: usize = 64;
/// Greatest number of addresses remembered for a peer; the longest silent one makes room.
pub const CLAIMS_MAX: usize = 4;
/// A claim that was not repeated for this long is forgotten.
pub const CLAIM_AGE_MAX: Duration = Duration::from_secs(60);
/// Peers that a node watches all the time.
pub const WATCHED: usize = 4;
/// How long every peer is watched after one was silent, and how long the one whose turn it is.
pub const WATCH_TURN: Duration = KeepAlive::SPOKEN;
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(8);
const BEACON_INTERVAL: Duration = Duration::from_secs(1);
/// With this much more between two beacons for each peer, the link carries at most 50 beacons a second.
const BEACON_INTERVAL_PER_PEER: Duration = Duration::from_millis(20);

/// Where a node claims to be reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Endpoint {
    pub address: Ipv6Addr,
    pub port: u16,
}

/// What happened. Times are since any fixed instant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// Someone claims that a node is reached there.
    Beacon { node: NodeId, endpoint: Endpoint },
    /// A dial that was asked for failed.
    DialFailed { node: NodeId, endpoint: Endpoint },
    /// A link with proven identity stands.
    LinkUp { node: NodeId, link: u64 },
    /// A link is gone.
    LinkDown { node: NodeId, link: u64 },
    /// A link is gone because the peer was silent.
    LinkSilent { node: NodeId, link: u64 },
    /// A peer has found another one silent.
    Alarm,
    /// Time has passed.
    Tick,
}

/// What is to be done, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Connect; report the result.
    Dial { node: NodeId, endpoint: Endpoint },
    /// The peer's link is now this one.
    Up { node: NodeId, link: u64 },
    /// The peer's link is not usable any more; close it if it stands.
    Down { node: NodeId, link: u64 },
    /// Close a link that never counted.
    Refuse { link: u64 },
    /// Watch the peer's link, or no longer: links are not watched when they come up.
    Watch { node: NodeId, link: u64, is_watched: bool },
    /// Tell the peer that somebody was silent.
    Alarm { node: NodeId, link: u64 },
}

#[derive(Clone, Copy, Debug)]
struct Claim {
    endpoint: Endpoint,
    heard: Duration,
    failures: u32,
    dial_after: Duration,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    claims: Vec<Claim>,
    dialling: bool,
    link: Option<u64>,
    is_watched: bool,
}

/// The members that one node knows.
#[derive(Clone, Debug)]
pub struct Membership {
    own: NodeId,
    peers: BTreeMap<NodeId, Entry>,
    /// Until when everyone is watched.
    alarmed_until: Duration,
}

impl Membership {
    #[must_use]
    pub fn new(own: NodeId) -> Membership {
        Membership { own, peers: BTreeMap::new(), alarmed_until: Duration::ZERO }
    }

    /// Takes one input and says what is to be done.
    pub fn step(&mut self, now: Duration, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        let may_change_watch = !matches!(input, Input::Beacon { .. } | Input::DialFailed { .. });
        match input {
            Input::Beacon { node, endpoint } => {
                if !self.handle_beacon(now, node, endpoint) {
                    return effects; // Most beacons: nothing that depends on the number of peers.
                }
            }
            Input::DialFailed { node, endpoint } => self.handle_dial_failed(now, node, endpoint),
            Input::LinkUp { node, link } => self.handle_link_up(node, link, &mut effects),
            Input::LinkDown { node, link } => self.handle_link_down(now, node, link, &mut effects),
            Input::LinkSilent { node, link } => {
                self.handle_link_down(now, node, link, &mut effects);
                if !effects.is_empty() {
                    self.raise_alarm(now, &mut effects);
                }
            }
            Input::Alarm => self.alarmed_until = now + WATCH_TURN,
            Input::Tick => self.forget(now),
        }
        self.dial(now, &mut effects);
        if may_change_watch {
            self.watch(now, &mut effects);
        }
        self.check_invariants();
        effects
    }

    /// Returns when the next [`Input::Tick`] is due, if nothing happens before.
    #[must_use]
    pub fn deadline(&self, now: Duration) -> Duration {
        let soonest =
            self.peers.iter().filter_map(|(node, entry)| self.next_dial(*node, entry, now));
        let can_dial = self.dials_under_way() < DIALS_MAX;
        let dial = soonest.map(|(claim, _)| claim).filter(|_| can_dial).min();
        let others = [now + CLAIM_AGE_MAX, next_turn(now)];
        let calm = Some(self.alarmed_until).filter(|until| *until > now);
        dial.into_iter().chain(others).chain(calm).min().unwrap_or(now + CLAIM_AGE_MAX)
    }

    /// Returns the time between two beacons: longer the more nodes there are.
    #[must_use]
    pub fn beacon_interval(&self) -> Duration {
        let peers = u32::try_from(self.peers.len()).unwrap_or(u32::MAX);
        BEACON_INTERVAL.max(BEACON_INTERVAL_PER_PEER.saturating_mul(peers))
    }

    /// Returns the peers that are up.
    pub fn up(&self) -> impl Iterator<Item = NodeId> {
        self.peers.iter().filter(|(_, entry)| entry.link.is_some()).map(|(node, _)| *node)
    }

    /// Returns whether there may be somebody to dial now.
    fn handle_beacon(&mut self, now: Duration, node: NodeId, endpoint: Endpoint) -> bool {
        if node == self.own || !self.make_room(node) {
            return false;
        }
        let entry = self.peers.entry(node).or_default();
        let has_link = entry.link.is_some();
        let claims = &mut entry.claims;
        if let Some(claim) = claims.iter_mut().find(|claim| claim.endpoint == endpoint) {
            claim.heard = now;
            return !has_link;
        }
        if claims.len() == CLAIMS_MAX {
            let oldest = claims.iter().enumerate().min_by_key(|(_, claim)| claim.heard);
            let oldest = oldest.map_or(0, |(index, _)| index);
            claims.swap_remove(oldest);
        }
        claims.push(Claim { endpoint, heard: now, failures: 0, dial_after: now });
        !has_link
    }

    /// Whether the table may hold this peer.
    fn make_room(&mut self, node: NodeId) -> bool {
        if self.peers.len() < PEERS_MAX || self.peers.contains_key(&node) {
            return true;
        }
        let heard = |entry: &Entry| entry.claims.iter().map(|claim| claim.heard).max();
        let idle = self.peers.iter().filter(|(_, entry)| entry.link.is_none() && !entry.dialling);
        let oldest = idle.min_by_key(|(_, entry)| heard(entry)).map(|(node, _)| *node);
        oldest.is_some_and(|oldest| self.peers.remove(&oldest).is_some())
    }

    fn handle_dial_failed(&mut self, now: Duration, node: NodeId, endpoint: Endpoint) {
        let Some(entry) = self.peers.get_mut(&node) else { return };
        entry.dialling = false;
        if let Some(claim) = entry.claims.iter_mut().find(|claim| claim.endpoint == endpoint) {
            let wait = RETRY_MIN.saturating_mul(1 << claim.failures.min(10)).min(RETRY_MAX);
            claim.failures = claim.failures.saturating_add(1);
            claim.dial_after = now + wait;
        }
    }

    fn handle_link_up(&mut self, node: NodeId, link: u64, effects: &mut Vec<Effect>) {
        if node == self.own || !self.make_room(node) {
            effects.push(Effect::Refuse { link });
            return;
        }
        let entry = self.peers.entry(node).or_default();
        entry.dialling = false;
        for claim in &mut entry.claims {
            claim.failures = 0;
        }
        entry.is_watched = false;
        // The newer link wins: whoever dials again has lost the older one.
        if let Some(link) = entry.link.replace(link) {
            effects.push(Effect::Down { node, link });
        }
        effects.push(Effect::Up { node, link });
    }

    fn handle_link_down(
        &mut self,
        now: Duration,
        node: NodeId,
        link: u64,
        effects: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.peers.get_mut(&node) else { return };
        if entry.link != Some(link) {
            return;
        }
        entry.link = None;
        entry.is_watched = false;
        for claim in &mut entry.claims {
            claim.dial_after = now + RETRY_MIN;
        }
        effects.push(Effect::Down { node, link });
    }

    /// Tells everyone, unless it is known already.
    fn raise_alarm(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if now >= self.alarmed_until {
            let links = self.peers.iter().filter_map(|(node, entry)| Some((*node, entry.link?)));
            effects.extend(links.map(|(node, link)| Effect::Alarm { node, link }));
        }
        self.alarmed_until = now + WATCH_TURN;
    }

    /// Watches whom this node is to watch now, and no others.
    fn watch(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let watched = self.to_watch(now);
        for (node, entry) in &mut self.peers {
            let Some(link) = entry.link else { continue };
            let is_watched = now < self.alarmed_until || watched.contains(node);
            if core::mem::replace(&mut entry.is_watched, is_watched) != is_watched {
                effects.push(Effect::Watch { node: *node, link, is_watched });
            }
        }
    }

    /// The next ones by number, going round, and one of the others in its turn.
    fn to_watch(&self, now: Duration) -> Vec<NodeId> {
        let after = self.peers.range(self.own..).chain(self.peers.range(..self.own));
        let up = after.filter(|(_, entry)| entry.link.is_some()).map(|(node, _)| *node);
        let up: Vec<NodeId> = up.collect();
        let (always, others) = up.split_at(WATCHED.min(up.len()));
        let mut watched = always.to_vec();
        let turn = usize::try_from(now.as_secs() / WATCH_TURN.as_secs()).unwrap_or(0);
        watched.extend(others.get(turn % others.len().max(1)));
        watched
    }

    fn forget(&mut self, now: Duration) {
        for entry in self.peers.values_mut() {
            entry.claims.retain(|claim| now.saturating_sub(claim.heard) < CLAIM_AGE_MAX);
        }
        self.peers
            .retain(|_, entry| entry.link.is_some() || entry.dialling || !entry.claims.is_empty());
    }

    fn dial(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let under_way = self.dials_under_way();
        let mut due = Vec::new();
        for (node, entry) in &self.peers {
            let next = self.next_dial(*node, entry, now).filter(|(at, _)| *at <= now);
            due.extend(next.map(|(at, endpoint)| (at, *node, endpoint)));
        }
        // Who was heard last is dialled first: a claim that waits long is seldom true.
        due.sort_unstable_by(|a, b| b.cmp(a));
        due.truncate(DIALS_MAX.saturating_sub(under_way));
        for (_, node, endpoint) in due {
            if let Some(entry) = self.peers.get_mut(&node) {
                entry.dialling = true;
                effects.push(Effect::Dial { node, endpoint });
            }
        }
    }

    fn dials_under_way(&self) -> usize {
        self.peers.values().filter(|entry| entry.dialling).count()
    }

    /// When and where a peer is to be dialled next, if this node is the one who dials.
    fn next_dial(
        &self,
        node: NodeId,
        entry: &Entry,
        now: Duration,
    ) -> Option<(Duration, Endpoint)> {
        if node <= self.own || entry.link.is_some() || entry.dialling {
            return None;
        }
        let fresh = |claim: &&Claim| now.saturating_sub(claim.heard) < CLAIM_AGE_MAX;
        let claims = entry.claims.iter().filter(fresh);
        claims.map(|claim| (claim.dial_after, claim.endpoint)).min()
    }

    /// Asserts what holds between any two steps.
    pub fn check_invariants(&self) {
        assert!(self.peers.len() <= PEERS_MAX, "too many peers");
        assert!(self.dials_under_way() <= DIALS_MAX, "too many dials");
        assert!(!self.peers.contains_key(&self.own), "this node is no peer of itself");
        for (node, entry) in &self.peers {
            assert!(!entry.is_watched || entry.link.is_some(), "what is watched is up");
            assert!(entry.claims.len() <= CLAIMS_MAX, "too many claims");
            assert!(!entry.dialling || *node > self.own, "the higher number dials");
        }
    }
}

/// When it is the next one's turn to be watched.
fn next_turn(now: Duration) -> Duration {
    let turn = WATCH_TURN.as_secs();
    Duration::from_secs((now.as_secs() / turn + 1) * turn)
}
