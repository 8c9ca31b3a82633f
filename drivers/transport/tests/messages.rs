//! Messages and calls between nodes: order, answers, deadlines, and what breaks them.

mod support;

use dunix_ids::NodeId;
use dunix_transport::MeshError;
use std::time::Duration;
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
    let total = traffic.iter().find(|peer| peer.node == NodeId(2)).expect("counted").total();
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
