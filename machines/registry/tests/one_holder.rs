//! Property: whatever the nodes do, in any order, no two believe that they hold one port.

use dunix_ids::NodeId;
use dunix_registry::{PortTable, Reservation};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Act {
    Bind(u32, u16),
    Close(u32, u16),
    Die(u32),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (1..4u32, 1..4u16).prop_map(|(n, p)| Act::Bind(n, p)),
        2 => (1..4u32, 1..4u16).prop_map(|(n, p)| Act::Close(n, p)),
        1 => (1..4u32).prop_map(Act::Die),
    ]
}

proptest! {
    #[test]
    fn a_port_has_one_holder(acts in prop::collection::vec(act(), 1..200)) {
        let mut table = PortTable::new();
        let mut bound: BTreeMap<u16, NodeId> = BTreeMap::new();
        for act in acts {
            match act {
                // A closed socket is not reported: the table must find out by asking.
                Act::Close(n, p) => { if bound.get(&p) == Some(&NodeId(n)) { bound.remove(&p); } }
                Act::Die(n) => {
                    table.handle_node_down(NodeId(n));
                    bound.retain(|_, node| *node != NodeId(n));
                }
                Act::Bind(n, p) => {
                    let node = NodeId(n);
                    let mut answer = table.reserve(node, p);
                    if let Reservation::Ask(holder) = answer {
                        let still = bound.get(&p) == Some(&holder);
                        answer = table.settle(node, p, holder, still);
                        prop_assert!(!matches!(answer, Reservation::Ask(_)));
                    }
                    match answer {
                        Reservation::Granted => {
                            prop_assert!(bound.get(&p).is_none_or(|held| *held == node));
                            bound.insert(p, node);
                        }
                        Reservation::Taken(other) => prop_assert_ne!(other, node),
                        Reservation::Ask(_) => unreachable!("settled above"),
                    }
                }
            }
        }
    }
}
