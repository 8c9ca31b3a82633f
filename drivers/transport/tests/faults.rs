//! What goes wrong on a link: strangers, wrong keys, malformed bytes, cut cables, restarts.

mod support;

use dunix_ids::NodeId;
use dunix_membership::KeepAlive;
use dunix_transport::{MeshError, PeerEvent, keys};
use dunix_wire::{
    beacon::{BEACON_GROUP, BEACON_PORT, Beacon},
    frame::{HEADER_BYTES, Header, Hello, Kind, Lane, PROTOCOL_VERSION},
};
use rustix::net::netdevice::name_to_index;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::{
    net::{Ipv6Addr, SocketAddrV6},
    sync::Arc,
    time::{Duration, Instant},
};
use support::{FABRIC, Namespace, Node, PATIENCE, Seen, Segment, TOPIC, config, pair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};

/// Long enough for several beacons and the dials that follow them.
const A_WHILE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn three_nodes_all_see_each_other() {
    let segment = Segment::new(3);
    let ca = keys::make_ca(FABRIC).expect("keys");
    let mut nodes = Vec::new();
    for (place, number) in segment.places.iter().zip(1..) {
        nodes.push(Node::start(place, &ca, number).await);
    }
    for node in &mut nodes {
        for _ in 0..2 {
            assert!(matches!(node.next().await, Seen::Peer(PeerEvent::Up(_))));
        }
    }
    for from in &nodes {
        for to in 1..=3 {
            let answer = from.mesh.call(NodeId(to), TOPIC, vec![1, 2], PATIENCE).await;
            assert_eq!(answer.expect("answered"), [1, 2].as_slice());
        }
    }
}

#[tokio::test]
async fn a_node_of_another_authority_is_refused() {
    let segment = Segment::new(3);
    let ca = keys::make_ca(FABRIC).expect("keys");
    let impostors = keys::make_ca(FABRIC).expect("keys");
    let mut one = Node::start(&segment.places[0], &ca, 1).await;
    let mut two = Node::start(&segment.places[1], &ca, 2).await;
    // One dials it and it dials two: both ways must fail.
    let mut wrong = config(&impostors, 3);
    wrong.node = NodeId(3);
    let mut stranger = Node::start_as(&segment.places[2], wrong).await;
    one.until_up(2).await;
    two.until_up(1).await;
    let nothing = timeout(A_WHILE, stranger.seen.recv()).await;
    assert!(nothing.is_err(), "the stranger saw {nothing:?}");
    assert!(one.seen.try_recv().is_err() && two.seen.try_recv().is_err());
    assert_eq!(one.mesh.peers().len(), 1);
}

#[tokio::test]
async fn a_number_is_taken_from_the_certificate_only() {
    let segment = Segment::new(1);
    let ca = keys::make_ca(FABRIC).expect("keys");
    let mut lying = config(&ca, 3);
    lying.node = NodeId(2);
    let refused = dunix_transport::Mesh::start(lying).await;
    assert!(matches!(refused, Err(MeshError::Host(_))));
    drop(segment);
}

#[tokio::test]
async fn a_cut_link_is_noticed_and_mended() {
    let (segment, _ca, mut one, mut two) = pair().await;
    segment.cut(1);
    let start = Instant::now();
    let call = one.mesh.call(NodeId(2), TOPIC, b"hold".to_vec(), PATIENCE);
    assert_eq!(call.await, Err(MeshError::Broken(NodeId(2))));
    one.until_down(2).await;
    two.until_down(1).await;
    let took = start.elapsed();
    let most = KeepAlive::SILENCE_MAX + KeepAlive::INTERVAL;
    assert!(took < most + Duration::from_secs(2), "noticed only after {took:?}");
    segment.mend(1);
    one.until_up(2).await;
    two.until_up(1).await;
    let answer = one.mesh.call(NodeId(2), TOPIC, b"again".to_vec(), PATIENCE).await;
    assert_eq!(answer.expect("answered"), b"again".as_slice());
}

/// Few of many watch a node all the time; the others hear of its silence and look for themselves.
#[tokio::test]
async fn a_cut_node_is_noticed_by_all() {
    const NODES: u32 = 7;
    let segment = Segment::new(NODES as usize);
    let ca = keys::make_ca(FABRIC).expect("keys");
    let mut nodes = Vec::new();
    for (place, number) in segment.places.iter().zip(1..) {
        nodes.push(Node::start(place, &ca, number).await);
    }
    for (node, own) in nodes.iter_mut().zip(1..) {
        for _ in (1..=NODES).filter(|peer| *peer != own) {
            node.next().await;
        }
        assert_eq!(node.mesh.peers().len(), NODES as usize - 1);
    }
    // Until what was said when the links came up is no reason to listen any more.
    tokio::time::sleep(KeepAlive::SPOKEN).await;
    segment.cut(NODES as usize - 1);
    let start = Instant::now();
    for node in &mut nodes[..NODES as usize - 1] {
        node.until_down(NODES).await;
    }
    let took = start.elapsed();
    let most = 2 * (KeepAlive::SILENCE_MAX + KeepAlive::INTERVAL);
    assert!(took < most + Duration::from_secs(2), "noticed only after {took:?}");
}

#[tokio::test]
async fn a_node_that_starts_again_is_a_new_instance() {
    let (segment, ca, mut one, two) = pair().await;
    let before = one.mesh.peers()[0].instance;
    drop(two);
    one.until_down(2).await;
    let mut two = Node::start(&segment.places[1], &ca, 2).await;
    one.until_up(2).await;
    two.until_up(1).await;
    assert_ne!(one.mesh.peers()[0].instance, before);
}

#[tokio::test]
async fn a_node_that_stops_is_gone_at_once() {
    let (_segment, _ca, mut one, two) = pair().await;
    let start = Instant::now();
    two.mesh.stop().await;
    one.until_down(2).await;
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(two.mesh.peers(), vec![]);
    let late = two.mesh.call(NodeId(1), TOPIC, vec![], PATIENCE).await;
    assert_eq!(late, Err(MeshError::Unreachable(NodeId(1))));
}

/// Someone with a valid key of node 1 who speaks the protocol by hand.
struct ByHand {
    stream: tokio_rustls::TlsStream<TcpStream>,
}

impl ByHand {
    async fn dial(ca: &keys::Ca, address: SocketAddrV6) -> ByHand {
        let own = config(ca, 1);
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(own.ca_pem.as_bytes()).expect("PEM");
        roots.add(ca).expect("a certificate");
        let chain = vec![CertificateDer::from_pem_slice(own.cert_pem.as_bytes()).expect("PEM")];
        let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).expect("PEM");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .expect("a key");
        tls.alpn_protocols = vec![b"dunix/1".to_vec()];
        let tcp = TcpStream::connect(address).await.expect("it listens");
        let name = ServerName::try_from("node-2").expect("a name");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
        let stream = connector.connect(name, tcp).await.expect("it is node 2");
        ByHand { stream: stream.into() }
    }

    async fn greet(&mut self, lane: Lane) {
        let hello = Hello {
            version: PROTOCOL_VERSION,
            fabric: FABRIC.to_owned(),
            name: "by hand".to_owned(),
            instance: 1,
            link: 1,
            lane,
        };
        self.frame(Kind::Hello, &hello.encode()).await;
        let mut head = [0; HEADER_BYTES];
        self.stream.read_exact(&mut head).await.expect("greeted");
        let header = Header::decode(&head).expect("well formed");
        assert_eq!(header.kind, Kind::Hello);
        let mut body = vec![0; header.length as usize];
        self.stream.read_exact(&mut body).await.expect("greeted");
    }

    async fn frame(&mut self, kind: Kind, body: &[u8]) {
        let length = u32::try_from(body.len()).expect("fits");
        let header = Header { kind, topic: None, length, id: 1 };
        self.stream.write_all(&header.encode()).await.expect("connected");
        self.stream.write_all(body).await.expect("connected");
    }

    /// Waits until the other side has closed; says whether it did.
    async fn is_closed(&mut self) -> bool {
        let mut bytes = [0; 1024];
        let closed = timeout(PATIENCE, async {
            while !matches!(self.stream.read(&mut bytes).await, Ok(0) | Err(_)) {}
        });
        closed.await.is_ok()
    }
}

/// Listens to beacons for where node 2 is.
async fn find(place: &Namespace) -> (tokio::runtime::Runtime, SocketAddrV6) {
    let runtime = place.runtime();
    let found = runtime.spawn(async {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, BEACON_PORT)).await.expect("free");
        let scope = name_to_index(&socket, "fab0").expect("the interface");
        socket.join_multicast_v6(&BEACON_GROUP, scope).expect("joined");
        let mut bytes = [0; 512];
        loop {
            let (count, from) = socket.recv_from(&mut bytes).await.expect("heard");
            let Some(beacon) = Beacon::try_decode(&bytes[..count]) else { continue };
            let std::net::SocketAddr::V6(from) = from else { continue };
            if beacon.node == NodeId(2) {
                return SocketAddrV6::new(*from.ip(), beacon.port, 0, scope);
            }
        }
    });
    let address = timeout(PATIENCE, found).await.expect("in time").expect("no panic");
    (runtime, address)
}

#[tokio::test]
async fn malformed_bytes_end_the_connection_and_nothing_else() {
    let segment = Segment::new(2);
    let ca = Arc::new(keys::make_ca(FABRIC).expect("keys"));
    let mut two = Node::start(&segment.places[1], &ca, 2).await;
    let (runtime, address) = find(&segment.places[0]).await;

    // Bytes that are not TLS.
    let noise = runtime.spawn(async move {
        let mut tcp = TcpStream::connect(address).await.expect("it listens");
        tcp.write_all(&[0xff; 4096]).await.expect("connected");
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer).await;
    });
    timeout(PATIENCE, noise).await.expect("closed").expect("no panic");

    // A valid key, then each kind of nonsense.
    let nonsense: [&[u8]; 3] = [
        &[0x77; 64],
        &Header { kind: Kind::Call, topic: Some(TOPIC), length: u32::MAX, id: 1 }.encode(),
        &Header { kind: Kind::StreamData, topic: None, length: 1, id: 0 }.encode(),
    ];
    for bytes in nonsense {
        let (ca, bytes) = (ca.clone(), bytes.to_vec());
        let spoken = runtime.spawn(async move {
            let mut lanes = Vec::new();
            for lane in Lane::ALL {
                let mut by_hand = ByHand::dial(&ca, address).await;
                by_hand.greet(lane).await;
                lanes.push(by_hand);
            }
            lanes[0].stream.write_all(&bytes).await.expect("connected");
            // A body for the frame that is well formed but on the wrong lane.
            let _ = lanes[0].stream.write_all(&[0]).await;
            for lane in &mut lanes {
                assert!(lane.is_closed().await);
            }
        });
        timeout(PATIENCE, spoken).await.expect("closed").expect("refused");
        two.until_up(1).await;
        two.until_down(1).await;
    }

    // The node is well: a real node 1 joins.
    runtime.shutdown_background();
    let mut one = Node::start(&segment.places[0], &ca, 1).await;
    one.until_up(2).await;
    two.until_up(1).await;
}

#[tokio::test]
async fn a_false_beacon_does_not_hide_a_node() {
    let segment = Segment::new(3);
    let ca = keys::make_ca(FABRIC).expect("keys");
    let runtime = segment.places[2].runtime();
    // Someone claims to be node 2, accepts connections and says nothing.
    runtime.spawn(async {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let beacon = Beacon::new(FABRIC, NodeId(2), 66, port, false).encode().expect("short");
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await.expect("a port");
        let scope = name_to_index(&socket, "fab0").expect("the interface");
        let to = SocketAddrV6::new(BEACON_GROUP, BEACON_PORT, 0, scope);
        let mut kept = Vec::new();
        loop {
            let _ = socket.send_to(&beacon, to).await;
            if let Ok(Ok((tcp, _))) = timeout(Duration::from_millis(20), listener.accept()).await {
                kept.push(tcp);
            }
        }
    });
    let mut one = Node::start(&segment.places[0], &ca, 1).await;
    let mut two = Node::start(&segment.places[1], &ca, 2).await;
    one.until_up(2).await;
    two.until_up(1).await;
    runtime.shutdown_background();
}
