//! Nodes on a link: each in a network namespace of its own, joined by a bridge in another.
//!
//! Needs root. A namespace is held by a child process that ends when its standard input does, so
//! nothing is left behind even if a test is killed.

// Each test program uses its own part of this.
#![allow(dead_code)]

use dunix_ids::NodeId;
use dunix_transport::{Handler, Mesh, MeshConfig, MeshStream, PeerEvent, Responder, keys};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{runtime::Runtime, sync::mpsc, time::timeout};

/// More than anything in these tests may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const FABRIC: &str = "test";

/// A network namespace.
pub(crate) struct Namespace {
    holder: Child,
}

impl Namespace {
    fn new() -> Namespace {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs");
        let stdout = holder.stdout.as_mut().expect("piped");
        let count = BufReader::new(stdout).read_line(&mut String::new()).expect("readable");
        assert_eq!(count, 1, "no network namespace: these tests need root");
        Namespace { holder }
    }

    /// Runs shell commands inside.
    pub(crate) fn sh(&self, commands: &str) {
        let pid = self.holder.id().to_string();
        let status = Command::new("nsenter")
            .args(["-t", &pid, "--net", "sh", "-ec", commands])
            .status()
            .expect("nsenter runs");
        assert!(status.success(), "{commands}");
    }

    fn file(&self) -> File {
        File::open(format!("/proc/{}/ns/net", self.holder.id())).expect("the holder lives")
    }

    /// Makes a runtime whose threads are inside.
    pub(crate) fn runtime(&self) -> Runtime {
        let file = self.file();
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .on_thread_start(move || {
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(file.as_fd(), network).expect("root may enter");
            })
            .build()
            .expect("a runtime")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// Several namespaces on one link; the interface is `fab0` in each.
pub(crate) struct Segment {
    switch: Namespace,
    pub(crate) places: Vec<Namespace>,
}

impl Segment {
    pub(crate) fn new(count: usize) -> Segment {
        let switch = Namespace::new();
        switch.sh("ip link add br0 type bridge mcast_snooping 0; ip link set br0 up");
        let places: Vec<Namespace> = (0..count).map(|_| Namespace::new()).collect();
        for (index, place) in places.iter().enumerate() {
            let pid = place.holder.id();
            place.sh("ip link set lo up");
            switch.sh(&format!(
                "ip link add v{index} type veth peer name fab0 netns {pid}
                 ip link set v{index} master br0 up"
            ));
            place.sh("echo 0 > /proc/sys/net/ipv6/conf/fab0/accept_dad
                 ip link set fab0 up");
        }
        Segment { switch, places }
    }

    /// Silently loses everything to and from a place.
    pub(crate) fn cut(&self, index: usize) {
        self.switch.sh(&format!("ip link set v{index} nomaster"));
    }

    pub(crate) fn mend(&self, index: usize) {
        self.switch.sh(&format!("ip link set v{index} master br0"));
    }
}

/// What a node's handler saw.
#[derive(Debug)]
pub(crate) enum Seen {
    Message(NodeId, Vec<u8>),
    Call(NodeId, Vec<u8>),
    Stream(NodeId, Vec<u8>, MeshStream),
    Peer(PeerEvent),
}

/// Answers calls with their own body; calls that say `hold` are held until the node ends, those that
/// say `drop` are dropped. Tells the test everything.
pub(crate) struct Recorder {
    seen: mpsc::UnboundedSender<Seen>,
    held: Mutex<Vec<Responder>>,
}

impl Handler for Recorder {
    fn handle_message(&self, from: NodeId, body: bytes::Bytes) {
        let _ = self.seen.send(Seen::Message(from, body.to_vec()));
    }

    fn handle_call(&self, from: NodeId, body: bytes::Bytes, reply: Responder) {
        match body.as_ref() {
            b"hold" => self.held.lock().expect("no panic").push(reply),
            b"drop" => drop(reply),
            _ => reply.send_bytes(body.clone()),
        }
        let _ = self.seen.send(Seen::Call(from, body.to_vec()));
    }

    fn handle_stream(&self, from: NodeId, header: bytes::Bytes, stream: MeshStream) {
        let _ = self.seen.send(Seen::Stream(from, header.to_vec(), stream));
    }

    fn handle_peer(&self, event: &PeerEvent) {
        let _ = self.seen.send(Seen::Peer(event.clone()));
    }
}

/// A node with a recorder on every topic that the tests use.
pub(crate) struct Node {
    pub(crate) mesh: Mesh,
    pub(crate) seen: mpsc::UnboundedReceiver<Seen>,
    pub(crate) runtime: Option<Runtime>,
}

pub(crate) const TOPIC: dunix_wire::Topic = dunix_wire::Topic::Processes;

impl Node {
    pub(crate) async fn start(place: &Namespace, ca: &keys::Ca, node: u32) -> Node {
        Node::start_as(place, config(ca, node)).await
    }

    pub(crate) async fn start_as(place: &Namespace, config: MeshConfig) -> Node {
        let runtime = place.runtime();
        let mesh = runtime.spawn(Mesh::start(config)).await.expect("no panic");
        let mesh = mesh.expect("the mesh starts");
        let (sender, seen) = mpsc::unbounded_channel();
        mesh.register(TOPIC, Arc::new(Recorder { seen: sender, held: Mutex::default() }));
        Node { mesh, seen, runtime: Some(runtime) }
    }

    /// Answers on a further topic; nobody is told what came.
    pub(crate) fn record(&self, topic: dunix_wire::Topic) {
        let (seen, _) = mpsc::unbounded_channel();
        self.mesh.register(topic, Arc::new(Recorder { seen, held: Mutex::default() }));
    }

    pub(crate) async fn next(&mut self) -> Seen {
        let seen = timeout(PATIENCE, self.seen.recv()).await;
        seen.expect("something happens").expect("the handler lives")
    }

    pub(crate) async fn until_up(&mut self, node: u32) {
        match self.next().await {
            Seen::Peer(PeerEvent::Up(peer)) => assert_eq!(peer.node, NodeId(node)),
            other => panic!("expected {node} up, saw {other:?}"),
        }
    }

    pub(crate) async fn until_down(&mut self, node: u32) {
        match self.next().await {
            Seen::Peer(PeerEvent::Down(peer)) => assert_eq!(peer, NodeId(node)),
            other => panic!("expected {node} down, saw {other:?}"),
        }
    }

    pub(crate) async fn until_stream(&mut self) -> MeshStream {
        match self.next().await {
            Seen::Stream(_, _, stream) => stream,
            other => panic!("expected a stream, saw {other:?}"),
        }
    }
}

impl Drop for Node {
    /// Ends the node at once: all its sockets close, nothing is said.
    fn drop(&mut self) {
        self.mesh.abort();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) fn config(ca: &keys::Ca, node: u32) -> MeshConfig {
    let keys = keys::make_node(ca, NodeId(node)).expect("keys");
    MeshConfig {
        fabric: FABRIC.to_owned(),
        node: NodeId(node),
        name: format!("name{node}"),
        interface: "fab0".to_owned(),
        ca_pem: ca.cert_pem.clone(),
        cert_pem: keys.cert_pem,
        key_pem: keys.key_pem,
    }
}

/// Two nodes that see each other.
pub(crate) async fn pair() -> (Segment, keys::Ca, Node, Node) {
    let segment = Segment::new(2);
    let ca = keys::make_ca(FABRIC).expect("keys");
    let mut one = Node::start(&segment.places[0], &ca, 1).await;
    let mut two = Node::start(&segment.places[1], &ca, 2).await;
    one.until_up(2).await;
    two.until_up(1).await;
    (segment, ca, one, two)
}
