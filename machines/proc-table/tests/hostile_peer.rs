//! A peer's message is an allegation: whatever a peer says, in whatever order, the table does not
//! panic, keeps its invariants, and its own processes stay usable.

use dunix_ids::{NodeId, ObjectId, Pid};
use dunix_proc_table::{ProcTable, RootSpec, SIGCHLD, TableConfig};
use dunix_wire::processes::{
    Answer, Errno, ExitStatus, MemberState, ProcMessage, ProcessBody, ProcessRecord, ReturnTo,
    Rusage, Sender, SignalInfo, SignalRequest, SignalSerial,
    table::{ChildChange, HeldForMove, Question},
};
use proptest::prelude::*;
use std::time::Duration;

fn pid() -> impl Strategy<Value = Pid> {
    prop_oneof![8 => 1_u32..12, 2 => 4096_u32..4104, 1 => 1..Pid::LIMIT]
        .prop_map(|raw| Pid::new(raw).expect("in range"))
}

fn node() -> impl Strategy<Value = NodeId> {
    (1_u32..6).prop_map(NodeId)
}

fn version() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..8, Just(u64::MAX), any::<u64>()]
}

fn return_to() -> impl Strategy<Value = ReturnTo> {
    (node(), 0_u64..4).prop_map(|(node, token)| ReturnTo { node, token })
}

fn request() -> impl Strategy<Value = SignalRequest> {
    (any::<u8>(), proptest::option::of(pid()), 0_u32..3, 0_u32..3).prop_map(
        |(signal, pid, uid, euid)| {
            let sender = Sender { pid, uid, euid, sid: pid };
            SignalRequest { signal, info: SignalInfo::User, sender }
        },
    )
}

fn serial() -> impl Strategy<Value = SignalSerial> {
    (node(), 0_u64..4).prop_map(|(home, serial)| SignalSerial { home, serial })
}

fn change() -> impl Strategy<Value = ChildChange> {
    let ended = ExitStatus::Exited(1);
    prop_oneof![
        Just(ChildChange::Moved),
        Just(ChildChange::Doubtful),
        pid().prop_map(ChildChange::Group),
        Just(ChildChange::Stopped { signal: 19, uid: 0 }),
        Just(ChildChange::Continued { uid: 0 }),
        Just(ChildChange::Ended { status: ended, rusage: Rusage([u64::MAX; 18]), uid: 0 }),
    ]
}

fn body() -> impl Strategy<Value = ProcessBody> {
    prop_oneof![
        (request(), proptest::option::of(pid()), proptest::option::of(return_to()))
            .prop_map(|(request, thread, reply)| ProcessBody::Signal { request, thread, reply }),
        (pid(), node(), version(), change()).prop_map(|(child, node, version, change)| {
            ProcessBody::ChildChanged { child, node, version, change }
        }),
        (pid(), version(), node(), pid(), pid()).prop_map(|(parent, version, node, a, b)| {
            ProcessBody::ParentChanged { parent, version, node, group: (a, b) }
        }),
        (pid(), version())
            .prop_map(|(parent, version)| ProcessBody::ParentGone { parent, version }),
        pid().prop_map(|parent| ProcessBody::ParentDoubtful { parent }),
        Just(ProcessBody::Reaped),
        Just(ProcessBody::TerminalLost(ObjectId { home: NodeId(1), serial: 1 })),
        return_to().prop_map(|reply| ProcessBody::Ask { question: Question::Group, reply }),
        (any::<u64>(), return_to()).prop_map(|(watch, reply)| ProcessBody::Ask {
            question: Question::End { watch },
            reply
        }),
        (pid(), pid(), return_to()).prop_map(|(sid, pgid, reply)| ProcessBody::Regroup {
            sid,
            pgid,
            reply
        }),
    ]
}

fn held() -> impl Strategy<Value = HeldForMove> {
    prop_oneof![
        body().prop_map(HeldForMove::Body),
        (pid(), serial(), request()).prop_map(|(pgid, serial, request)| HeldForMove::Group {
            pgid,
            serial,
            request
        }),
    ]
}

fn to_leaser() -> impl Strategy<Value = ProcMessage> {
    prop_oneof![
        (pid(), node(), version()).prop_map(|(pid, node, version)| ProcMessage::Located {
            pid,
            node,
            version
        }),
        (pid(), node(), version()).prop_map(|(pid, node, version)| ProcMessage::Released {
            pid,
            node,
            version
        }),
        pid().prop_map(|pid| ProcMessage::Held { pid }),
        (pid(), proptest::option::of(node()), version(), proptest::collection::vec(pid(), 0..4))
            .prop_map(|(process, node, version, tids)| ProcMessage::ThreadsAt {
                process,
                node,
                version,
                tids
            }),
        (pid(), proptest::collection::vec(held(), 0..3), any::<bool>())
            .prop_map(|(pid, held, is_last)| ProcMessage::HandedOver { pid, held, is_last }),
        (pid(), version()).prop_map(|(pid, version)| ProcMessage::LostOnTheWay { pid, version }),
        Just(ProcMessage::BlockRequest),
        any::<u32>().prop_map(|block| ProcMessage::BlockGranted { block }),
        any::<u32>().prop_map(|block| ProcMessage::BlockQuery { block }),
        (0_u32..4, proptest::option::of(node()))
            .prop_map(|(block, node)| ProcMessage::BlockOwner { block, node }),
        (node(), proptest::collection::vec(any::<u32>(), 0..3))
            .prop_map(|(dead, blocks)| ProcMessage::Settled { dead, blocks }),
    ]
}

fn to_home() -> impl Strategy<Value = ProcMessage> {
    let terminal = ObjectId { home: NodeId(1), serial: 1 };
    prop_oneof![
        (pid(), pid(), pid(), node(), version(), any::<[bool; 4]>()).prop_map(
            |(pgid, sid, pid, node, version, [anchored, stopped, zombie, by_exit])| {
                let state = MemberState { node, version, anchored, stopped, zombie };
                ProcMessage::Member { pgid, sid, pid, state, by_exit }
            }
        ),
        (pid(), pid(), version()).prop_map(|(pgid, pid, version)| ProcMessage::MemberLeft {
            pgid,
            pid,
            version
        }),
        (pid(), pid(), return_to()).prop_map(|(pgid, sid, reply)| ProcMessage::MayJoin {
            pgid,
            sid,
            reply
        }),
        (pid(), return_to()).prop_map(|(pid, reply)| ProcMessage::MayLead { pid, reply }),
        (pid(), return_to()).prop_map(|(pgid, reply)| ProcMessage::AskSession { pgid, reply }),
        (pid(), request(), any::<bool>(), proptest::option::of(return_to())).prop_map(
            |(pgid, request, unless_orphaned, reply)| ProcMessage::SignalGroup {
                pgid,
                request,
                unless_orphaned,
                reply
            }
        ),
        (pid(), serial(), request(), any::<u8>()).prop_map(|(pgid, serial, request, hops)| {
            ProcMessage::SignalMembers { pgid, serial, request, hops }
        }),
        (serial(), any::<u32>(), any::<u32>()).prop_map(|(serial, delivered, denied)| {
            ProcMessage::MembersSignalled { serial, delivered, denied }
        }),
        (request(), return_to())
            .prop_map(|(request, reply)| ProcMessage::SignalAll { request, reply }),
        (pid(), pid(), node(), any::<bool>()).prop_map(|(sid, pgid, home, exists)| {
            ProcMessage::SessionGroup { sid, pgid, home, exists }
        }),
        pid().prop_map(move |sid| ProcMessage::SessionTerminalLost { sid, terminal }),
        pid().prop_map(move |pgid| ProcMessage::GroupTerminalLost { pgid, terminal }),
        pid().prop_map(move |pgid| ProcMessage::MembersTerminalLost { pgid, terminal }),
        (any::<u64>(), pid())
            .prop_map(|(token, pid)| ProcMessage::Reply { token, result: Ok(Answer::Pid(pid)) }),
        (0_u64..4).prop_map(|token| ProcMessage::Reply { token, result: Err(Errno::SRCH) }),
    ]
}

fn message() -> impl Strategy<Value = ProcMessage> {
    prop_oneof![
        (pid(), any::<u8>(), body()).prop_map(|(pid, hops, body)| ProcMessage::ToProcess {
            pid,
            hops,
            body
        }),
        to_leaser(),
        to_home(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn the_table_survives_any_messages(
        messages in proptest::collection::vec((node(), message()), 1..60),
    ) {
        let config = TableConfig { node: NodeId(1), founder: NodeId(1) };
        let mut table = ProcTable::new(config);
        let mut now = Duration::ZERO;
        for peer in 2..5 {
            table.handle_node_up(now, NodeId(peer));
        }
        let root = table.spawn_root(now, RootSpec::default()).expect("the first");
        table.bind_host(now, root, 100).expect("it starts");
        let child = table.fork(now, root, SIGCHLD).expect("the second");
        table.bind_host(now, child, 101).expect("it starts");
        for (from, message) in messages {
            now += Duration::from_millis(50);
            let bytes = dunix_wire::encode(&message);
            let decoded: ProcMessage = dunix_wire::decode(&bytes).expect("what we wrote");
            prop_assert_eq!(&decoded, &message);
            table.handle_message(now, from, decoded);
            table.handle_timeout(now);
            while table.poll_effect().is_some() {}
            prop_assert_eq!(table.check_invariants(), Ok(()));
        }
        // No peer can end a process here.
        prop_assert!(table.is_alive(root) && table.is_alive(child));
        prop_assert!(table.fork(now, root, SIGCHLD).is_ok());
    }

    /// A process that came from a peer by a move: the peer may say what it likes while it is awaited.
    #[test]
    fn a_process_that_came_survives_any_messages(
        threads in proptest::collection::vec(pid(), 0..3),
        messages in proptest::collection::vec((node(), message()), 1..40),
    ) {
        let mut table = ProcTable::new(TableConfig { node: NodeId(1), founder: NodeId(1) });
        let mut now = Duration::ZERO;
        for peer in 2..5 {
            table.handle_node_up(now, NodeId(peer));
        }
        let mut other = ProcTable::new(TableConfig { node: NodeId(2), founder: NodeId(2) });
        other.handle_node_up(now, NodeId(1));
        let root = other.spawn_root(now, RootSpec::default()).expect("the first");
        other.bind_host(now, root, 100).expect("it starts");
        let moving = other.begin_move(now, root, NodeId(1), Rusage::default());
        // Of a block that neither node leases.
        let root = Pid::new(8192).expect("in range");
        let record = moving.expect("it runs");
        let record = ProcessRecord { pid: root, pgid: root, sid: root, threads, ..record };
        let came = table.adopt_moving(now, NodeId(2), record).is_ok();
        if came {
            table.bind_host(now, root, 100).expect("it starts");
        }
        for (from, message) in messages {
            now += Duration::from_millis(50);
            table.handle_message(now, from, message);
            table.handle_timeout(now);
            while table.poll_effect().is_some() {}
            prop_assert_eq!(table.check_invariants(), Ok(()));
        }
        prop_assert_eq!(table.is_alive(root), came);
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let message: Result<ProcMessage, _> = dunix_wire::decode(&bytes);
        if let Ok(message) = message {
            let again: ProcMessage = dunix_wire::decode(&dunix_wire::encode(&message))
                .expect("what we wrote");
            prop_assert_eq!(again, message);
        }
    }
}
