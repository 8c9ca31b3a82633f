//! Scenarios, and random lives of a fabric judged from outside.

extern crate std;

use super::*;
use proptest::prelude::*;
use std::{
    collections::{BTreeSet, VecDeque},
    vec,
};

const fn at(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn endpoint(last: u16) -> Endpoint {
    Endpoint { address: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last), port: 1 }
}

fn beacon(node: u32, last: u16) -> Input {
    Input::Beacon { node: NodeId(node), endpoint: endpoint(last) }
}

#[test]
fn the_lower_number_dials_and_the_higher_waits() {
    let dial = Effect::Dial { node: NodeId(2), endpoint: endpoint(2) };
    assert_eq!(Membership::new(NodeId(1)).step(at(0), beacon(2, 2)), vec![dial]);
    assert_eq!(Membership::new(NodeId(3)).step(at(0), beacon(2, 2)), vec![]);
    assert_eq!(Membership::new(NodeId(2)).step(at(0), beacon(2, 2)), vec![], "not itself");
}

#[test]
fn failures_back_off_and_a_liar_does_not_hide_the_truth() {
    let mut members = Membership::new(NodeId(1));
    let dialled = members.step(at(0), beacon(2, 66));
    assert_eq!(dialled, vec![Effect::Dial { node: NodeId(2), endpoint: endpoint(66) }]);
    // The liar repeats itself; meanwhile the real node is heard too.
    assert_eq!(members.step(at(10), beacon(2, 66)), vec![], "one dial at a time");
    assert_eq!(members.step(at(20), beacon(2, 2)), vec![]);
    let failed = Input::DialFailed { node: NodeId(2), endpoint: endpoint(66) };
    let truth = Effect::Dial { node: NodeId(2), endpoint: endpoint(2) };
    assert_eq!(members.step(at(30), failed), vec![truth]);
    let up = members.step(at(40), Input::LinkUp { node: NodeId(2), link: 7 });
    assert_eq!(up, up_and_watched(NodeId(2), 7));
    assert_eq!(members.step(at(10_000), beacon(2, 66)), vec![], "up: nobody is dialled");
}

/// What follows a link to one of a few peers.
fn up_and_watched(node: NodeId, link: u64) -> Vec<Effect> {
    vec![Effect::Up { node, link }, Effect::Watch { node, link, is_watched: true }]
}

#[test]
fn a_second_link_replaces_the_first() {
    let mut members = Membership::new(NodeId(2));
    let node = NodeId(1);
    members.step(at(0), Input::LinkUp { node, link: 1 });
    let effects = members.step(at(1), Input::LinkUp { node, link: 2 });
    assert_eq!(effects[0], Effect::Down { node, link: 1 });
    assert_eq!(effects[1..], up_and_watched(node, 2));
    assert_eq!(members.step(at(2), Input::LinkDown { node, link: 1 }), vec![], "old news");
    let effects = members.step(at(3), Input::LinkDown { node, link: 2 });
    assert_eq!(effects, vec![Effect::Down { node, link: 2 }]);
}

#[test]
fn a_lost_peer_is_dialled_again_until_it_has_been_silent_for_long() {
    let mut members = Membership::new(NodeId(1));
    let node = NodeId(2);
    members.step(at(0), beacon(2, 2));
    members.step(at(1), Input::LinkUp { node, link: 1 });
    members.step(at(2), Input::LinkDown { node, link: 1 });
    let due = members.deadline(at(2));
    assert_eq!(due, at(2) + RETRY_MIN);
    let dial = Effect::Dial { node, endpoint: endpoint(2) };
    assert_eq!(members.step(due, Input::Tick), vec![dial]);
    members.step(due, Input::DialFailed { node, endpoint: endpoint(2) });
    assert_eq!(members.step(CLAIM_AGE_MAX, Input::Tick), vec![]);
    assert!(members.peers.is_empty());
}

#[test]
fn a_flood_of_claims_costs_a_few_dials_and_hides_nobody() {
    let mut members = Membership::new(NodeId(1));
    let mut dials = 0;
    let flood = u32::try_from(PEERS_MAX).expect("fits") + 1000;
    for node in 0..flood {
        dials += members.step(at(node.into()), beacon(10 + node, 66)).len();
    }
    assert_eq!((dials, members.peers.len()), (DIALS_MAX, PEERS_MAX));
    let now = at(flood.into());
    assert!(members.deadline(now) > now, "nothing is due while no dial may begin");
    assert_eq!(members.step(now, beacon(2, 2)), vec![], "must wait for a dial to end");
    let failed = Input::DialFailed { node: NodeId(10), endpoint: endpoint(66) };
    let dial = Effect::Dial { node: NodeId(2), endpoint: endpoint(2) };
    assert_eq!(members.step(now, failed), vec![dial]);
}

/// A node with peers of these numbers up, and whom it watches.
fn with_peers(own: u32, peers: &[u32]) -> (Membership, BTreeSet<u32>) {
    let mut members = Membership::new(NodeId(own));
    let mut watched = BTreeSet::new();
    for peer in peers {
        let input = Input::LinkUp { node: NodeId(*peer), link: (*peer).into() };
        follow(&mut watched, members.step(at(0), input));
    }
    (members, watched)
}

fn follow(watched: &mut BTreeSet<u32>, effects: Vec<Effect>) {
    for effect in effects {
        match effect {
            Effect::Watch { node, is_watched: true, .. } => assert!(watched.insert(node.0)),
            Effect::Watch { node, .. } => assert!(watched.remove(&node.0)),
            _ => {}
        }
    }
}

#[test]
fn each_watches_the_next_ones_and_another_in_its_turn() {
    let (mut members, mut watched) = with_peers(8, &[1, 2, 3, 4, 5, 6, 7, 9]);
    let always: BTreeSet<u32> = [9, 1, 2, 3].into();
    let mut turns = BTreeSet::new();
    for turn in 0..8 {
        let now = WATCH_TURN * turn;
        follow(&mut watched, members.step(now, Input::Tick));
        assert!(members.deadline(now) <= now + WATCH_TURN);
        assert!(watched.is_superset(&always) && watched.len() == WATCHED + 1, "{watched:?}");
        turns.extend(&watched - &always);
    }
    assert_eq!(turns, [4, 5, 6, 7].into());
    let (_, watched) = with_peers(2, &[1, 3, 4, 5]);
    assert_eq!(watched.len(), 4, "a few all watch each other");
}

#[test]
fn a_silent_peer_alarms_everyone_once() {
    let peers: Vec<u32> = (2..20).collect();
    let (mut members, mut watched) = with_peers(1, &peers);
    let silent = |node: u32| Input::LinkSilent { node: NodeId(node), link: node.into() };
    let effects = members.step(at(0), silent(2));
    let told = effects.iter().filter(|effect| matches!(effect, Effect::Alarm { .. })).count();
    assert_eq!(told, peers.len() - 1);
    watched.remove(&2);
    follow(&mut watched, effects);
    assert_eq!(watched.len(), peers.len() - 1, "all others are watched");
    let effects = members.step(at(1000), silent(3));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Alarm { .. })), "told before");
    watched.remove(&3);
    follow(&mut watched, effects);
    let calm = members.deadline(at(8000));
    assert_eq!(calm, at(9000), "the second one counts");
    follow(&mut watched, members.step(calm, Input::Tick));
    assert_eq!(watched.len(), WATCHED + 1);
    // Who is told does not tell others.
    let (mut members, mut watched) = with_peers(1, &peers);
    let effects = members.step(at(0), Input::Alarm);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Alarm { .. })));
    follow(&mut watched, effects);
    assert_eq!(watched.len(), peers.len());
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Beacon(u32, u16),
    Answer(bool),
    Accept(u32),
    Lose(usize),
    Wait(u64),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0u32..8, 0u16..6).prop_map(|(node, last)| Event::Beacon(node, last)),
        any::<bool>().prop_map(Event::Answer),
        (0u32..4).prop_map(Event::Accept),
        any::<usize>().prop_map(Event::Lose),
        (0u64..30_000).prop_map(Event::Wait),
    ]
}

/// Several nodes on a link that loses beacons, fails dials and breaks links.
struct Fabric {
    nodes: Vec<Membership>,
    /// Links that stand: number, dialler, dialled.
    links: Vec<(u64, NodeId, NodeId)>,
    dials: VecDeque<(NodeId, NodeId, Endpoint)>,
    /// What each node was told last of each peer.
    told: BTreeMap<(NodeId, NodeId), u64>,
    last_link: u64,
    random: u64,
    now: Duration,
}

impl Fabric {
    fn new(count: u32, seed: u64) -> Fabric {
        Fabric {
            nodes: (0..count).map(|node| Membership::new(NodeId(node))).collect(),
            links: Vec::new(),
            dials: VecDeque::new(),
            told: BTreeMap::new(),
            last_link: 0,
            random: seed | 1,
            now: at(0),
        }
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 100 < percent
    }

    fn feed(&mut self, node: NodeId, input: Input) {
        for effect in self.nodes[node.0 as usize].step(self.now, input) {
            match effect {
                Effect::Dial { node: to, endpoint } => self.dials.push_back((node, to, endpoint)),
                Effect::Up { node: peer, link } => {
                    assert_eq!(self.told.insert((node, peer), link), None, "up twice");
                }
                Effect::Down { node: peer, link } => {
                    assert_eq!(self.told.remove(&(node, peer)), Some(link), "down of another");
                    self.break_link(link);
                }
                Effect::Refuse { link } => self.break_link(link),
                Effect::Alarm { node: to, .. } => self.feed(to, Input::Alarm),
                Effect::Watch { .. } => {}
            }
        }
    }

    /// Both ends hear of a broken link, one after the other.
    fn break_link(&mut self, link: u64) {
        let Some(index) = self.links.iter().position(|(number, ..)| *number == link) else {
            return;
        };
        let (_, a, b) = self.links.swap_remove(index);
        self.feed(a, Input::LinkDown { node: b, link });
        self.feed(b, Input::LinkDown { node: a, link });
    }

    /// One second passes, with this much going wrong.
    fn second(&mut self, trouble: u64) {
        self.now += at(1000);
        let count = u32::try_from(self.nodes.len()).expect("few");
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                if !self.chance(trouble) {
                    self.feed(NodeId(to), beacon(from, 1));
                }
            }
            self.feed(NodeId(from), Input::Tick);
        }
        if self.chance(trouble) && !self.links.is_empty() {
            let which = usize::try_from(self.random).unwrap_or(0) % self.links.len();
            self.break_link(self.links[which].0);
        }
        for _ in 0..self.dials.len() {
            let Some((from, to, endpoint)) = self.dials.pop_front() else { break };
            if self.chance(trouble) {
                self.feed(from, Input::DialFailed { node: to, endpoint });
                continue;
            }
            self.last_link += 1;
            let link = self.last_link;
            self.links.push((link, from, to));
            // Either end may be the first to know.
            let accepted_first = self.chance(50);
            let ends =
                if accepted_first { [(to, from), (from, to)] } else { [(from, to), (to, from)] };
            for (end, peer) in ends {
                self.feed(end, Input::LinkUp { node: peer, link });
            }
        }
    }
}

#[test]
fn after_any_trouble_everyone_is_linked_once_and_both_ends_agree() {
    for seed in 1..200 {
        let mut fabric = Fabric::new(5, seed * 0x9e37_79b9);
        for _ in 0..30 {
            fabric.second(40);
        }
        for _ in 0..20 {
            fabric.second(0);
        }
        assert_eq!(fabric.told.len(), 5 * 4, "seed {seed}");
        for ((node, peer), link) in &fabric.told {
            assert_eq!(fabric.told.get(&(*peer, *node)), Some(link), "seed {seed}");
        }
        assert_eq!(fabric.links.len(), 10, "seed {seed}: stray links");
    }
}

proptest! {
    /// Up and Down alternate, each names the link that it was told of, dials are one at a time.
    #[test]
    fn up_and_down_alternate(events in proptest::collection::vec(any_event(), 0..200)) {
        let own = NodeId(4);
        let mut members = Membership::new(own);
        let mut now = at(0);
        let mut dials: Vec<(NodeId, Endpoint)> = Vec::new();
        let mut standing: BTreeSet<(NodeId, u64)> = BTreeSet::new();
        let mut up: BTreeMap<NodeId, u64> = BTreeMap::new();
        let mut links = 0;
        for event in events {
            let input = match event {
                Event::Beacon(node, last) => beacon(node, last),
                Event::Answer(true) => match dials.pop() {
                    Some((node, _)) => {
                        links += 1;
                        standing.insert((node, links));
                        Input::LinkUp { node, link: links }
                    }
                    None => Input::Tick,
                },
                Event::Answer(false) => match dials.pop() {
                    Some((node, endpoint)) => Input::DialFailed { node, endpoint },
                    None => Input::Tick,
                },
                Event::Accept(node) => {
                    links += 1;
                    standing.insert((NodeId(node), links));
                    Input::LinkUp { node: NodeId(node), link: links }
                }
                Event::Lose(which) if !standing.is_empty() => {
                    let (node, link) = *standing.iter().nth(which % standing.len()).expect("in range");
                    standing.remove(&(node, link));
                    Input::LinkDown { node, link }
                }
                Event::Lose(_) => Input::Tick,
                Event::Wait(milliseconds) => {
                    now += at(milliseconds);
                    Input::Tick
                }
            };
            for effect in members.step(now, input) {
                match effect {
                    Effect::Dial { node, endpoint } => {
                        prop_assert!(node > own && !up.contains_key(&node));
                        prop_assert!(dials.iter().all(|(dialled, _)| *dialled != node));
                        dials.push((node, endpoint));
                    }
                    Effect::Up { node, link } => prop_assert_eq!(up.insert(node, link), None),
                    Effect::Down { node, link } => {
                        prop_assert_eq!(up.remove(&node), Some(link));
                        standing.remove(&(node, link));
                    }
                    Effect::Refuse { link } => standing.retain(|(_, standing)| *standing != link),
                    Effect::Watch { node, link, .. } | Effect::Alarm { node, link } => {
                        prop_assert_eq!(up.get(&node), Some(&link));
                    }
                }
            }
            prop_assert!(members.deadline(now) >= now || !dials.is_empty());
            let listed: BTreeSet<NodeId> = members.up().collect();
            prop_assert_eq!(listed, up.keys().copied().collect::<BTreeSet<_>>());
        }
    }
}
