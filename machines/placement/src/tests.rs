//! The rules one by one, and what holds for every input.

extern crate std;

use super::*;
use proptest::prelude::*;
use std::{collections::BTreeSet, string::ToString, vec::Vec};

fn load(runnable: u32, cpus: u32) -> NodeLoad {
    NodeLoad { runnable_centi: runnable * 100, cpus_centi: cpus * 100, memory_free_mib: 1000 }
}

fn input(peers: &[NodeId], wish: Wish, own_load: NodeLoad) -> PlacementInput<'_> {
    let own = NodeId(2);
    PlacementInput { own, own_load, peers, wish, random: 5, cursor: 0, weights: Weights::DEFAULT }
}

const PEERS: [NodeId; 3] = [NodeId(1), NodeId(3), NodeId(4)];

#[test]
fn a_forced_node_is_taken_or_nothing() {
    let forced = |node| place(&input(&PEERS, Wish::Forced(NodeId(node)), load(0, 1)));
    assert_eq!(forced(3), Placement::On { node: NodeId(3), why: Reason::Forced });
    assert_eq!(forced(2), Placement::On { node: NodeId(2), why: Reason::Forced });
    assert_eq!(forced(9), Placement::Nowhere(NodeId(9)));
}

#[test]
fn spread_takes_every_node_in_turn_beginning_with_the_next() {
    let mut nodes = Vec::new();
    for cursor in 0..8 {
        let Placement::On { node, why: Reason::Spread } =
            place(&PlacementInput { cursor, ..input(&PEERS, Wish::Spread, load(9, 1)) })
        else {
            panic!("spread decides at once");
        };
        nodes.push(node.0);
    }
    assert_eq!(nodes, [3, 4, 1, 2, 3, 4, 1, 2]);
    let alone = place(&input(&[], Wish::Spread, load(0, 1)));
    assert_eq!(alone, Placement::On { node: NodeId(2), why: Reason::Spread });
}

#[test]
fn with_room_it_stays_and_without_two_are_asked() {
    let stays = place(&input(&PEERS, Wish::Best, load(1, 2)));
    assert!(matches!(stays, Placement::On { node: NodeId(2), why: Reason::Room { .. } }));
    let Placement::Ask([a, b]) = place(&input(&PEERS, Wish::Best, load(2, 2))) else {
        panic!("no room");
    };
    assert!(a != b && PEERS.contains(&a) && PEERS.contains(&b));
    let alone = place(&input(&[], Wish::Best, load(9, 1)));
    assert_eq!(alone, Placement::On { node: NodeId(2), why: Reason::Alone });
}

#[test]
fn the_better_answer_wins_only_if_it_is_worth_the_way() {
    let here = input(&PEERS, Wish::Best, load(4, 2));
    let answers = [(NodeId(1), Some(load(3, 2))), (NodeId(3), Some(load(0, 2)))];
    let (node, why) = settle(&here, &answers);
    assert_eq!(node, NodeId(3));
    assert_eq!(
        why.to_string(),
        "the starting node was busier: 4.0 runnable on 2.0 CPUs there, 0.0 runnable on 2.0 CPUs here"
    );
    let equal = settle(&here, &[(NodeId(1), Some(load(4, 2))), (NodeId(3), None)]);
    assert!(matches!(equal, (NodeId(2), Reason::NoBetter { .. })));
    let silent = settle(&here, &[(NodeId(1), None), (NodeId(3), None)]);
    assert!(matches!(silent, (NodeId(2), Reason::NobodyAnswered { .. })));
}

#[test]
fn a_node_short_of_memory_is_the_last_choice() {
    let here = input(&PEERS, Wish::Best, load(8, 2));
    let short = NodeLoad { memory_free_mib: 10, ..load(0, 2) };
    assert_eq!(settle(&here, &[(NodeId(1), Some(short))]).0, NodeId(2));
    let here = input(&PEERS, Wish::Best, NodeLoad { memory_free_mib: 10, ..load(0, 2) });
    assert!(matches!(place(&here), Placement::Ask(_)));
    assert_eq!(settle(&here, &[(NodeId(1), Some(load(5, 2)))]).0, NodeId(1));
}

proptest! {
    #[test]
    fn the_answer_is_always_a_node_that_is_up(
        peers in proptest::collection::btree_set(1u32..50, 0..20),
        own in 1u32..50, random: u64, cursor: u64, runnable: u32, cpus: u32, memory: u32,
        kind in 0..4,
    ) {
        let peers: Vec<NodeId> =
            peers.into_iter().filter(|peer| *peer != own).map(NodeId).collect();
        let own_load =
            NodeLoad { runnable_centi: runnable, cpus_centi: cpus, memory_free_mib: memory };
        let own = NodeId(own);
        let wish = match kind {
            0 => Wish::Forced(own),
            1 => Wish::Spread,
            2 => Wish::Local,
            _ => Wish::Best,
        };
        let weights = Weights::DEFAULT;
        let input = PlacementInput { own, own_load, peers: &peers, wish, random, cursor, weights };
        match place(&input) {
            Placement::On { node, .. } => prop_assert!(node == own || peers.contains(&node)),
            Placement::Ask(asked) => {
                let different: BTreeSet<NodeId> = asked.into();
                prop_assert_eq!(different.len(), peers.len().min(2));
                prop_assert!(asked.iter().all(|node| peers.contains(node)));
            }
            Placement::Nowhere(_) => prop_assert!(false, "this node is up"),
        }
    }

    #[test]
    fn spread_is_fair(peers in proptest::collection::btree_set(1u32..50, 0..20), own in 1u32..50) {
        let peers: Vec<NodeId> =
            peers.into_iter().filter(|peer| *peer != own).map(NodeId).collect();
        let base = PlacementInput { own: NodeId(own), ..input(&peers, Wish::Spread, load(0, 1)) };
        let mut seen = BTreeSet::new();
        for cursor in 0..=peers.len() as u64 {
            if let Placement::On { node, .. } = place(&PlacementInput { cursor, ..base }) {
                seen.insert(node);
            }
        }
        prop_assert_eq!(seen.len(), peers.len() + 1);
    }
}
