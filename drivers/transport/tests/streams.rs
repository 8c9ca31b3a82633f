//! Byte streams between nodes: half-close, leaving readers, breaking off, consumption, speed.

mod support;

use bytes::Bytes;
use dunix_ids::NodeId;
use dunix_transport::{MeshStream, StreamEnd, StreamError};
use dunix_wire::frame::STREAM_WINDOW_BYTES;
use std::time::{Duration, Instant};
use support::{Node, PATIENCE, Segment, TOPIC, pair};
use tokio::time::timeout;

/// A stream from node 1 to node `to`, both ends.
async fn stream(one: &Node, other: &mut Node) -> (MeshStream, MeshStream) {
    let to = other.mesh.node();
    let near = one.mesh.open_stream(to, TOPIC, b"header".to_vec()).await.expect("opened");
    (near, other.until_stream().await)
}

async fn patiently<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("in time")
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let (_segment, _ca, one, mut two) = pair().await;
    let (mut near, mut far) = stream(&one, &mut two).await;
    near.send(Bytes::from_static(b"question")).await.expect("room");
    near.finish();
    assert_eq!(patiently(far.recv()).await, Some(Bytes::from_static(b"question")));
    far.consumed(8);
    assert_eq!(patiently(far.recv()).await, None);
    assert_eq!(far.end(), Some(StreamEnd::Finished));
    assert_eq!(near.send(Bytes::from_static(b"more")).await, Err(StreamError::Ended));
    patiently(near.drained()).await.expect("consumed");
    far.send(Bytes::from_static(b"answer")).await.expect("the other direction is open");
    far.finish();
    assert_eq!(patiently(near.recv()).await, Some(Bytes::from_static(b"answer")));
    near.consumed(6);
    assert_eq!(patiently(near.recv()).await, None);
    patiently(far.drained()).await.expect("consumed");
}

#[tokio::test]
async fn drained_waits_for_consumption() {
    let (_segment, _ca, one, mut two) = pair().await;
    let (mut near, mut far) = stream(&one, &mut two).await;
    near.send(Bytes::from_static(b"abc")).await.expect("room");
    assert_eq!(patiently(far.recv()).await, Some(Bytes::from_static(b"abc")));
    far.consumed(2);
    let early = timeout(Duration::from_millis(200), near.drained()).await;
    assert!(early.is_err(), "one byte is not consumed yet");
    far.consumed(1);
    patiently(near.drained()).await.expect("consumed");
}

#[tokio::test]
async fn a_sender_stops_at_the_window_and_learns_that_the_reader_left() {
    let (_segment, _ca, one, mut two) = pair().await;
    let (near, far) = stream(&one, &mut two).await;
    let (mut sender, _receiver) = near.split();
    let window = usize::try_from(STREAM_WINDOW_BYTES).expect("fits");
    patiently(sender.send(vec![1; window].into())).await.expect("room for a window");
    let more = timeout(Duration::from_millis(200), sender.writable()).await;
    assert!(more.is_err(), "nothing was consumed, so nothing more may be sent");
    let (far_sender, far_receiver) = far.split();
    drop(far_receiver);
    assert_eq!(patiently(sender.closed()).await, StreamError::ReaderGone);
    let refused = sender.send(Bytes::from_static(b"x")).await;
    assert_eq!(refused, Err(StreamError::ReaderGone));
    drop(far_sender);
}

#[tokio::test]
async fn breaking_off_is_no_end_of_file() {
    let (_segment, _ca, one, mut two) = pair().await;
    let (mut near, mut far) = stream(&one, &mut two).await;
    near.send(Bytes::from_static(b"half a")).await.expect("room");
    near.reset();
    assert_eq!(patiently(far.recv()).await, Some(Bytes::from_static(b"half a")));
    assert_eq!(patiently(far.recv()).await, None);
    assert_eq!(far.end(), Some(StreamEnd::Aborted));
    let (mut sender, _receiver) = far.split();
    assert_eq!(patiently(sender.closed()).await, StreamError::ReaderGone);
}

#[tokio::test]
async fn a_stream_that_nobody_wants_is_reset() {
    let (_segment, _ca, one, _two) = pair().await;
    let opened = one.mesh.open_stream(NodeId(2), dunix_wire::Topic::Names, vec![]).await;
    let mut near = opened.expect("opened");
    assert_eq!(patiently(near.recv()).await, None);
    assert_eq!(near.end(), Some(StreamEnd::Aborted));
}

#[tokio::test]
async fn the_death_of_a_node_breaks_its_streams() {
    let (_segment, _ca, mut one, mut two) = pair().await;
    let (mut near, mut far) = stream(&one, &mut two).await;
    far.send(Bytes::from_static(b"last words")).await.expect("room");
    assert_eq!(patiently(near.recv()).await, Some(Bytes::from_static(b"last words")));
    drop(two);
    one.until_down(2).await;
    assert_eq!(patiently(near.recv()).await, None);
    assert_eq!(near.end(), Some(StreamEnd::Broken));
    assert_eq!(near.send(Bytes::from_static(b"x")).await, Err(StreamError::Broken));
    near.send(Bytes::new()).await.expect("nothing to send");
    patiently(near.drained()).await.expect("nothing was sent");
}

#[tokio::test]
async fn a_node_streams_to_itself() {
    let segment = Segment::new(1);
    let ca = dunix_transport::keys::make_ca(support::FABRIC).expect("keys");
    let mut one = Node::start(&segment.places[0], &ca, 1).await;
    let near = one.mesh.open_stream(NodeId(1), TOPIC, b"header".to_vec()).await.expect("opened");
    let far = one.until_stream().await;
    pump(near, far, 64 << 20).await;
}

#[tokio::test]
async fn many_streams_share_a_link_in_order() {
    let (_segment, _ca, one, mut two) = pair().await;
    let mut pumps = Vec::new();
    for _ in 0..20 {
        let (near, far) = stream(&one, &mut two).await;
        pumps.push(tokio::spawn(pump(near, far, 4 << 20)));
    }
    for pump in pumps {
        patiently(pump).await.expect("no byte lost");
    }
}

/// Sends so many bytes one way and checks each that arrives.
async fn pump(near: MeshStream, far: MeshStream, bytes: usize) {
    let (mut sender, _near_receiver) = near.split();
    let (_far_sender, mut receiver) = far.split();
    let sending = tokio::spawn(async move {
        let mut sent = 0;
        let mut size = 1;
        while sent < bytes {
            size = (size * 7 + 13) % 150_000 + 1;
            let size = size.min(bytes - sent);
            let chunk: Vec<u8> = (sent..sent + size).map(byte_at).collect();
            sender.send(chunk.into()).await.expect("room in time");
            sent += size;
        }
        sender.finish();
        sender.drained().await.expect("consumed");
    });
    let mut received = 0;
    while let Some(chunk) = receiver.recv().await {
        for (index, byte) in chunk.iter().enumerate() {
            assert_eq!(*byte, byte_at(received + index), "byte {}", received + index);
        }
        received += chunk.len();
        receiver.consumed(chunk.len());
    }
    assert_eq!((received, receiver.end()), (bytes, Some(StreamEnd::Finished)));
    sending.await.expect("no panic");
}

fn byte_at(offset: usize) -> u8 {
    let mixed = offset.wrapping_mul(0x9e37_79b9) >> 16;
    u8::try_from(mixed & 0xff).expect("masked")
}

/// A sanity check of speed, not a benchmark: prints its figure, fails only far below it.
#[tokio::test]
async fn a_gibibyte_passes_quickly() {
    let (_segment, _ca, one, mut two) = pair().await;
    let (near, far) = stream(&one, &mut two).await;
    let (mut sender, _near_receiver) = near.split();
    let (_far_sender, mut receiver) = far.split();
    let bytes: usize = 1 << 30;
    let chunk = Bytes::from(vec![7; 64 << 10]);
    let start = Instant::now();
    let sending = one.runtime.as_ref().expect("running").spawn(async move {
        for _ in 0..bytes / chunk.len() {
            sender.send(chunk.clone()).await.expect("room in time");
        }
        sender.finish();
        sender.drained().await.expect("consumed");
    });
    let receiving = two.runtime.as_ref().expect("running").spawn(async move {
        let mut received = 0;
        while let Some(chunk) = receiver.recv().await {
            received += chunk.len();
            receiver.consumed(chunk.len());
        }
        received
    });
    assert_eq!(receiving.await.expect("no panic"), bytes);
    sending.await.expect("no panic");
    let seconds = start.elapsed().as_secs_f64();
    println!("1 GiB in {seconds:.2} s: {:.2} GiB/s", 1.0 / seconds);
    assert!(seconds < 60.0, "1 GiB took {seconds} s");
}
