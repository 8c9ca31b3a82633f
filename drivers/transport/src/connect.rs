//! From a socket to an authenticated lane: TCP, TLS, greeting.
//!
//! Refuses: certificates of other authorities, other fabrics and versions, a node that claims this
//! node's number, and whoever takes longer than [`HANDSHAKE_TIME_MAX`].

use crate::{MeshConfig, MeshError, Peer, lane::Secured, tls};
use dunix_ids::NodeId;
use dunix_membership::Endpoint;
use dunix_wire::frame::{HEADER_BYTES, Header, Hello, Kind, Lane, PROTOCOL_VERSION};
use std::{
    io,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Time for connecting, TLS and greeting together.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);

/// Why there is no lane.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Includes what TLS has against the peer's key.
    #[error("{0}")]
    Socket(#[from] io::Error),
    #[error("no greeting within {} s", HANDSHAKE_TIME_MAX.as_secs())]
    Slow,
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Mesh(#[from] MeshError),
}

/// A lane whose peer is proven.
pub(crate) struct LaneMade {
    pub(crate) peer: Peer,
    pub(crate) link: u64,
    pub(crate) lane: Lane,
    pub(crate) secured: Secured,
}

/// What this node says of itself.
#[derive(Clone)]
pub(crate) struct Greeter {
    pub(crate) config: MeshConfig,
    pub(crate) tls: tls::Tls,
    pub(crate) instance: u64,
    pub(crate) scope: u32,
}

impl Greeter {
    /// Dials all lanes of a link.
    pub(crate) async fn dial(
        &self,
        node: NodeId,
        endpoint: Endpoint,
        link: u64,
    ) -> Result<Vec<LaneMade>, ConnectError> {
        let dialled = async {
            let [a, b, c] = Lane::ALL.map(|lane| self.dial_lane(node, endpoint, link, lane));
            tokio::try_join!(a, b, c)
        };
        let (a, b, c) =
            timeout(HANDSHAKE_TIME_MAX, dialled).await.map_err(|_| ConnectError::Slow)??;
        Ok(vec![a, b, c])
    }

    async fn dial_lane(
        &self,
        node: NodeId,
        endpoint: Endpoint,
        link: u64,
        lane: Lane,
    ) -> Result<LaneMade, ConnectError> {
        let address = SocketAddrV6::new(endpoint.address, endpoint.port, 0, self.scope);
        let tcp = TcpStream::connect(SocketAddr::V6(address)).await?;
        tcp.set_nodelay(true)?;
        let connector = tokio_rustls::TlsConnector::from(self.tls.client.clone());
        let mut stream = connector.connect(tls::server_name(node)?, tcp).await?;
        self.greet(&mut stream, link, lane).await?;
        let hello = self.hear(&mut stream).await?;
        if (hello.link, hello.lane) != (link, lane) {
            return Err(ConnectError::Refused("it greeted for another link".to_owned()));
        }
        let peer = peer(node, endpoint.address, &hello);
        let (tcp, tls) = stream.into_inner();
        Ok(LaneMade { peer, link, lane, secured: Secured { tcp, tls: tls.into() } })
    }

    /// Answers a dialler.
    pub(crate) async fn accept(
        &self,
        tcp: TcpStream,
        from: SocketAddr,
    ) -> Result<LaneMade, ConnectError> {
        let accepted = timeout(HANDSHAKE_TIME_MAX, self.accept_lane(tcp, from)).await;
        accepted.map_err(|_| ConnectError::Slow)?
    }

    async fn accept_lane(
        &self,
        tcp: TcpStream,
        from: SocketAddr,
    ) -> Result<LaneMade, ConnectError> {
        tcp.set_nodelay(true)?;
        let acceptor = tokio_rustls::TlsAcceptor::from(self.tls.server.clone());
        let mut stream = acceptor.accept(tcp).await?;
        let node = tls::peer_of(stream.get_ref().1.peer_certificates())
            .ok_or_else(|| ConnectError::Refused("its certificate names no node".to_owned()))?;
        let hello = self.hear(&mut stream).await?;
        // The lower number dials; a higher one that does is confused, the same one an impostor.
        if node >= self.config.node {
            let own = self.config.node;
            return Err(ConnectError::Refused(format!("{node} dialled {own}, it should wait")));
        }
        self.greet(&mut stream, hello.link, hello.lane).await?;
        let address = match from {
            SocketAddr::V6(address) => *address.ip(),
            SocketAddr::V4(address) => address.ip().to_ipv6_mapped(),
        };
        let peer = peer(node, address, &hello);
        let (tcp, tls) = stream.into_inner();
        let secured = Secured { tcp, tls: tls.into() };
        Ok(LaneMade { peer, link: hello.link, lane: hello.lane, secured })
    }

    async fn greet<S: AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        link: u64,
        lane: Lane,
    ) -> io::Result<()> {
        let hello = Hello {
            version: PROTOCOL_VERSION,
            fabric: self.config.fabric.clone(),
            name: self.config.name.clone(),
            instance: self.instance,
            link,
            lane,
        };
        let body = hello.encode();
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let header = Header { kind: Kind::Hello, topic: None, length, id: 0 };
        let bytes = [header.encode().as_slice(), &body].concat();
        stream.write_all(&bytes).await?;
        stream.flush().await
    }

    async fn hear<S: AsyncRead + Unpin>(&self, stream: &mut S) -> Result<Hello, ConnectError> {
        let mut head = [0; HEADER_BYTES];
        stream.read_exact(&mut head).await?;
        let refused = |reason: String| ConnectError::Refused(reason);
        let header =
            Header::decode(&head).map_err(|error| refused(format!("malformed: {error}")))?;
        if header.kind != Kind::Hello {
            return Err(refused("it did not greet".to_owned()));
        }
        let mut body = vec![0; header.length as usize];
        stream.read_exact(&mut body).await?;
        let hello =
            Hello::try_decode(&body).ok_or_else(|| refused("malformed greeting".to_owned()))?;
        if hello.version != PROTOCOL_VERSION {
            return Err(refused(format!("it speaks version {}", hello.version)));
        }
        if hello.fabric != self.config.fabric {
            return Err(refused(format!("it is of fabric {:?}", hello.fabric)));
        }
        Ok(hello)
    }
}

fn peer(node: NodeId, address: Ipv6Addr, hello: &Hello) -> Peer {
    Peer { node, name: hello.name.clone(), address, instance: hello.instance }
}
