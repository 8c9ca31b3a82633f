//! What fcntl(2) says of locks, held against the table; and chance against its invariants.

use dunix_ids::{Ino, NodeId, Pid};
use dunix_locks_table::{Held, LockTable, Waiter};
use dunix_wire::locks::{Lock, LockKind, LockOwner};
use proptest::prelude::*;

const FILE: Ino = Ino(7);

fn pid(raw: u32) -> Pid {
    Pid::new(raw).expect("a small number")
}

fn held(node: u32, owner: u32, kind: LockKind, first: u64, last: u64) -> Held {
    let lock = Lock { owner: LockOwner::Process(pid(owner)), kind, first, last };
    Held { node: NodeId(node), lock }
}

fn write(node: u32, owner: u32, first: u64, last: u64) -> Held {
    held(node, owner, LockKind::Write, first, last)
}

fn read(node: u32, owner: u32, first: u64, last: u64) -> Held {
    held(node, owner, LockKind::Read, first, last)
}

#[test]
fn readers_share_and_writers_exclude() {
    let mut table = LockTable::default();
    table.grant(FILE, read(1, 10, 0, 9)).expect("room");
    assert_eq!(table.in_the_way(FILE, read(2, 20, 0, 9)), []);
    assert_eq!(table.in_the_way(FILE, write(2, 20, 9, 9)), [read(1, 10, 0, 9)]);
    assert_eq!(table.in_the_way(FILE, write(2, 20, 10, 10)), []);
    assert_eq!(table.in_the_way(Ino(8), write(2, 20, 0, 9)), []);
    assert_eq!(table.in_the_way(FILE, write(1, 10, 0, 9)), [], "the owner's own");
}

#[test]
fn a_lock_replaces_its_owners_own() {
    let mut table = LockTable::default();
    table.grant(FILE, write(1, 10, 0, 9)).expect("room");
    table.grant(FILE, read(1, 10, 4, 5)).expect("room");
    assert_eq!(table.in_the_way(FILE, read(2, 20, 4, 5)), []);
    assert_eq!(table.in_the_way(FILE, read(2, 20, 3, 6)).len(), 2);
    table.grant(FILE, write(1, 10, 4, 5)).expect("room");
    assert_eq!(table.in_the_way(FILE, read(2, 20, 0, 9)), [write(1, 10, 0, 9)], "one again");
    table.check_invariants();
}

#[test]
fn what_a_node_does_not_confirm_is_forgotten() {
    let mut table = LockTable::default();
    table.grant(FILE, write(1, 10, 0, 9)).expect("room");
    table.confirm(FILE, NodeId(2), &[], table.grants());
    assert_eq!(table.in_the_way(FILE, write(2, 20, 0, 9)).len(), 1, "another node's word");
    table.confirm(
        FILE,
        NodeId(1),
        &[read(1, 10, 2, 3).lock, write(1, 11, 0, 99).lock],
        table.grants(),
    );
    assert_eq!(table.in_the_way(FILE, write(2, 20, 0, 9)), [read(1, 10, 2, 3)]);
    table.confirm(FILE, NodeId(1), &[], table.grants());
    assert!(table.all().is_empty());
    table.check_invariants();
}

#[test]
fn an_answer_says_nothing_of_what_was_granted_after_the_question() {
    let mut table = LockTable::default();
    table.grant(FILE, write(1, 10, 0, 0)).expect("room");
    let asked = table.grants();
    table.grant(FILE, write(1, 10, 5, 5)).expect("room");
    table.confirm(FILE, NodeId(1), &[], asked);
    assert_eq!(table.in_the_way(FILE, write(2, 20, 0, 9)), [write(1, 10, 5, 5)]);
}

#[test]
fn a_circle_of_waiting_owners_is_seen() {
    let mut table = LockTable::default();
    table.grant(FILE, write(1, 10, 0, 0)).expect("room");
    table.grant(FILE, write(2, 20, 1, 1)).expect("room");
    let wanted = write(1, 10, 1, 1);
    assert_eq!(table.circle(FILE, wanted), None);
    let waiter = Waiter { node: NodeId(1), pid: pid(10), ino: FILE, lock: wanted.lock };
    table.wait(pid(10), waiter).expect("room");
    let circle = table.circle(FILE, write(2, 20, 0, 0)).expect("a circle");
    assert_eq!(circle, [(NodeId(1), FILE), (NodeId(2), FILE)]);
    assert_eq!(table.circle(FILE, write(3, 30, 0, 0)), None, "a third one only waits");
    table.stop_waiting(pid(10));
    assert_eq!(table.circle(FILE, write(2, 20, 0, 0)), None);
}

#[test]
fn the_end_of_who_is_in_the_way_lets_others_go_on() {
    let mut table = LockTable::default();
    table.grant(FILE, write(1, 10, 0, 9)).expect("room");
    let waiter = Waiter { node: NodeId(2), pid: pid(20), ino: FILE, lock: write(2, 20, 5, 5).lock };
    table.wait(pid(20), waiter).expect("room");
    assert_eq!(table.may_go_on(), []);
    assert_eq!(table.waited_for().get(&NodeId(1)), Some(&vec![FILE]));
    table.process_gone(NodeId(3), pid(10));
    assert_eq!(table.may_go_on(), [], "it has gone from another node");
    table.process_gone(NodeId(1), pid(10));
    assert_eq!(table.may_go_on(), [(NodeId(2), pid(20))]);
    table.node_gone(NodeId(2));
    assert!(!table.is_waited_for());
}

#[test]
fn descriptions_of_one_node_are_its_kernels_business() {
    let mut table = LockTable::default();
    let of = |node: u32| {
        let owner = LockOwner::Descriptions(NodeId(node));
        Held { node: NodeId(node), lock: Lock { owner, kind: LockKind::Write, first: 0, last: 0 } }
    };
    table.grant(FILE, of(1)).expect("room");
    assert_eq!(table.in_the_way(FILE, of(1)), []);
    assert_eq!(table.in_the_way(FILE, write(1, 10, 0, 0)), []);
    assert_eq!(table.in_the_way(FILE, of(2)).len(), 1);
    assert_eq!(table.in_the_way(FILE, write(2, 20, 0, 0)).len(), 1);
}

fn any_lock() -> impl Strategy<Value = Held> {
    (1..4_u32, 0..3_u32, any::<bool>(), 0..12_u64, 0..6_u64).prop_map(
        |(node, of, is_write, at, n)| {
            let kind = if is_write { LockKind::Write } else { LockKind::Read };
            held(node, node * 10 + of, kind, at, at + n)
        },
    )
}

proptest! {
    /// Byte by byte, the table holds what a plain map of bytes would.
    #[test]
    fn the_table_is_a_map_of_bytes(steps in prop::collection::vec((any_lock(), any::<bool>()), 1..60)) {
        let mut table = LockTable::default();
        let mut bytes = std::collections::BTreeMap::<(u64, Pid), LockKind>::new();
        for (wanted, confirms) in steps {
            let LockOwner::Process(owner) = wanted.lock.owner else { unreachable!("as made") };
            if confirms {
                // The owner's node says that only this is left of it, and nothing of its others.
                table.confirm(FILE, wanted.node, &[wanted.lock], table.grants());
                bytes.retain(|(at, of), _| {
                    of.get() / 10 != wanted.node.0
                        || *of == owner && (wanted.lock.first..=wanted.lock.last).contains(at)
                });
                for kind in bytes.iter_mut().filter(|((_, of), _)| *of == owner).map(|(_, kind)| kind) {
                    *kind = (*kind).min(wanted.lock.kind);
                }
            } else {
                let range = wanted.lock.first..=wanted.lock.last;
                let clash = bytes.iter().any(|((at, of), kind)| {
                    *of != owner && range.contains(at)
                        && (*kind == LockKind::Write || wanted.lock.kind == LockKind::Write)
                });
                prop_assert_eq!(!table.in_the_way(FILE, wanted).is_empty(), clash);
                if !clash {
                    table.grant(FILE, wanted).expect("room");
                    bytes.extend(range.map(|at| ((at, owner), wanted.lock.kind)));
                }
            }
            table.check_invariants();
        }
    }
}
