//! Messages and calls between nodes: order, answers, deadlines, and what breaks them.

mod support;

use dunix_ids::NodeId;
use dunix_membership::KeepAlive;
use dunix_transport::MeshError;
use dunix_wire::Topic;
use std::time::{Duration, Instant};
use support::{PATIENCE, Seen, TOPIC, pair};

#[tokio::test]
async fn nodes_find_each_other_and_call() {
    let (_segment, _ca, one, mut two) = pair().await;
    let answer = one.mesh.call(NodeId(2), TOPIC, b"hello".to_vec(), PATIENCE).await;
    assert_eq!(answer.expect("answered"), b"hello".as_slice());
    assert!(matches!(two.next().await, Seen::Call(NodeId(1), body) if body == b"hello"));
    let answer = two.mesh.call(NodeId(1), TOPIC, b"and back".to_vec(), PATIENCE).await;
    assert_eq!(answer.expect("answered"), b"and back".as_slice());
    let peers = one.mesh.peers();
    assert_eq!((peers.len(), peers[0].name.as_str()), (1, "name2"));
    let traffic = one.mesh.traffic();
    let traffic = traffic.iter().find(|peer| peer.node == NodeId(2)).expect("counted");
    assert!(traffic.round_trip_us.is_some(), "measured when the link came up");
    let total = traffic.total();
    assert_eq!((total.messages_sent, total.message_bytes_sent), (2, 13));
    assert_eq!((total.messages_received, total.message_bytes_received), (2, 13));
}

#[tokio::test]
async fn messages_and_calls_keep_their_order() {
    let (_segment, _ca, one, mut two) = pair().await;
    let mut answers = Vec::new();
    for number in 0u32..2000 {
        let body = number.to_le_bytes().to_vec();
        if number % 3 == 0 {
            answers.push(one.mesh.call(NodeId(2), TOPIC, body, PATIENCE));
        } else {
            one.mesh.send(NodeId(2), TOPIC, body).expect("room");
        }
    }
    for number in 0u32..2000 {
        let (Seen::Message(_, body) | Seen::Call(_, body)) = two.next().await else {
            panic!("neither message nor call");
        };
        assert_eq!(body, number.to_le_bytes());
    }
    for answer in answers {
        answer.await.expect("answered");
    }
}

#[tokio::test]
async fn a_node_talks_to_itself() {
    let (_segment, _ca, mut one, _two) = pair().await;
    one.mesh.send(NodeId(1), TOPIC, b"note".to_vec()).expect("room");
    let answer = one.mesh.call(NodeId(1), TOPIC, b"self".to_vec(), PATIENCE).await;
    assert_eq!(answer.expect("answered"), b"self".as_slice());
    assert!(matches!(one.next().await, Seen::Message(NodeId(1), body) if body == b"note"));
    assert!(matches!(one.next().await, Seen::Call(NodeId(1), body) if body == b"self"));
}

#[tokio::test]
async fn calls_end_in_every_way() {
    let (_segment, _ca, one, two) = pair().await;
    let call =
        |to: u32, body: &[u8], deadline| one.mesh.call(NodeId(to), TOPIC, body.to_vec(), deadline);
    assert_eq!(call(9, b"x", PATIENCE).await, Err(MeshError::Unreachable(NodeId(9))));
    assert_eq!(call(2, b"drop", PATIENCE).await, Err(MeshError::Unanswered(NodeId(2))));
    let short = Duration::from_millis(50);
    assert_eq!(call(2, b"hold", short).await, Err(MeshError::TimedOut(NodeId(2))));
    let long = vec![0; dunix_wire::MESSAGE_BYTES_MAX + 1];
    assert_eq!(call(2, &long, PATIENCE).await, Err(MeshError::TooLong(long.len())));
    let longest = vec![7; dunix_wire::MESSAGE_BYTES_MAX];
    assert_eq!(call(2, &longest, PATIENCE).await.expect("answered"), longest);
    let unwanted = one.mesh.call(NodeId(2), dunix_wire::Topic::Names, vec![], PATIENCE).await;
    assert_eq!(unwanted, Err(MeshError::Unanswered(NodeId(2))));
    // The callee dies with the call under way.
    let under_way = call(2, b"hold", PATIENCE);
    drop(two);
    assert_eq!(under_way.await, Err(MeshError::Broken(NodeId(2))));
}

/// What a stuck daemon must not do to its node: seem dead, or leave unanswered what it is stuck for.
#[tokio::test]
async fn a_stuck_runtime_does_not_stop_the_mesh() {
    let (_segment, _ca, mut one, two) = pair().await;
    two.record(Topic::Files);
    let (release, stuck) = std::sync::mpsc::channel::<()>();
    let stuck = std::sync::Arc::new(std::sync::Mutex::new(stuck));
    for _ in 0..2 {
        let stuck = stuck.clone();
        let runtime = two.runtime.as_ref().expect("running");
        runtime.spawn(async move {
            let _ = stuck.lock().map(|stuck| stuck.recv());
        });
    }
    let ask = |topic| one.mesh.call(NodeId(2), topic, b"alive?".to_vec(), PATIENCE);
    let patient = ask(TOPIC);
    let begun = Instant::now();
    while begun.elapsed() < KeepAlive::SILENCE_MAX + KeepAlive::INTERVAL {
        assert_eq!(ask(Topic::Files).await.expect("answered"), b"alive?".as_slice());
        // Not a wait for anything: ten questions a second.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(one.seen.try_recv().is_err(), "nobody went down");
    drop(release);
    assert_eq!(patient.await.expect("answered"), b"alive?".as_slice());
}

/// A sanity check of speed, not a benchmark: prints its figures, fails only far below them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_quick() {
    const CALLS: usize = 20_000;
    const AT_ONCE: usize = 64;
    let (_segment, _ca, one, _two) = pair().await;
    let mesh = one.mesh.clone();
    let measured = one.runtime.as_ref().expect("running").spawn(async move {
        let mut times = Vec::new();
        for _ in 0..CALLS / 10 {
            let start = Instant::now();
            mesh.call(NodeId(2), TOPIC, vec![0; 64], PATIENCE).await.expect("answered");
            times.push(start.elapsed());
        }
        times.sort();
        let start = Instant::now();
        let mut under_way = std::collections::VecDeque::new();
        for _ in 0..CALLS {
            if under_way.len() == AT_ONCE {
                let call: Pending = under_way.pop_front().expect("not empty");
                call.await.expect("answered");
            }
            let call: Pending = Box::pin(mesh.call(NodeId(2), TOPIC, vec![0; 64], PATIENCE));
            under_way.push_back(call);
        }
        for call in under_way {
            call.await.expect("answered");
        }
        (times, start.elapsed())
    });
    let (times, took) = measured.await.expect("no panic");
    let (half, most) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    let rate = CALLS as f64 / took.as_secs_f64();
    println!("64 B there and back: p50 {half:?}, p99 {most:?}; {AT_ONCE} at once: {rate:.0}/s");
    assert!(half < Duration::from_millis(20) && rate > 1000.0);
}

type Pending = std::pin::Pin<Box<dyn Future<Output = Result<bytes::Bytes, MeshError>> + Send>>;
