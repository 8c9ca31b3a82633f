//! Beacons on the link: says where this node is, hears where others claim to be.
//!
//! Refuses: trust; see `abi/wire/src/beacon.rs`.

use crate::MeshError;
use dunix_ids::NodeId;
use dunix_membership::Endpoint;
use dunix_wire::beacon::{BEACON_BYTES_MAX, BEACON_GROUP, BEACON_PORT, Beacon};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    time::Duration,
};
use tokio::net::{TcpListener, UdpSocket};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 256;
/// While the interface has no usable address yet.
pub(crate) const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The node's place on the link.
pub(crate) struct Place {
    pub(crate) beacons: UdpSocket,
    pub(crate) listener: TcpListener,
    pub(crate) scope: u32,
    pub(crate) port: u16,
}

/// Opens the sockets for beacons and connections on an interface.
pub(crate) fn open(interface: &str) -> Result<Place, MeshError> {
    let host = |error: io::Error| MeshError::Host(format!("interface {interface}: {error}"));
    let beacons = beacon_socket(interface).map_err(host)?;
    let scope = rustix::net::netdevice::name_to_index(&beacons, interface);
    let scope = scope.map_err(|error| host(error.into()))?;
    beacons.join_multicast_v6(&BEACON_GROUP, scope).map_err(host)?;
    beacons.set_multicast_if_v6(scope).map_err(host)?;
    let beacons = UdpSocket::from_std(beacons.into()).map_err(host)?;
    let listener = listening_socket(interface).map_err(host)?;
    let listener = TcpListener::from_std(listener.into()).map_err(host)?;
    let port = listener.local_addr().map_err(host)?.port();
    Ok(Place { beacons, listener, scope, port })
}

fn beacon_socket(interface: &str) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_only_v6(true)?;
    // Several nodes may share a machine.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.set_multicast_hops_v6(1)?;
    socket.set_multicast_loop_v6(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&any(BEACON_PORT).into())?;
    Ok(socket)
}

fn listening_socket(interface: &str) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(true)?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&any(0).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0))
}

/// Sends one beacon to everyone on the link.
pub(crate) async fn say(place: &UdpSocket, scope: u32, beacon: &Beacon) -> io::Result<()> {
    let bytes = beacon.encode().ok_or_else(|| io::Error::other("the fabric's name is too long"))?;
    let to = SocketAddrV6::new(BEACON_GROUP, BEACON_PORT, 0, scope);
    place.send_to(&bytes, SocketAddr::V6(to)).await.map(|_| ())
}

/// A beacon of this fabric that was heard.
pub(crate) struct Heard {
    pub(crate) node: NodeId,
    pub(crate) endpoint: Endpoint,
    pub(crate) asks: bool,
}

/// Hears beacons for a node.
pub(crate) struct Ear<'a> {
    pub(crate) fabric: &'a str,
    pub(crate) own: NodeId,
    pub(crate) instance: u64,
    /// The last other node that claimed this node's number; each is complained of once.
    pub(crate) double: Option<u64>,
}

impl Ear<'_> {
    /// Waits for the next beacon of the fabric from another node.
    pub(crate) async fn hear(&mut self, place: &UdpSocket) -> io::Result<Heard> {
        let mut bytes = [0; BEACON_BYTES_MAX + 1];
        loop {
            let (count, from) = place.recv_from(&mut bytes).await?;
            let beacon = Beacon::try_decode(&bytes[..count]);
            if let (Some(beacon), SocketAddr::V6(from)) = (beacon, from)
                && beacon.fabric == self.fabric
                && let Some(heard) = self.judge(&beacon, *from.ip())
            {
                return Ok(heard);
            }
        }
    }

    fn judge(&mut self, beacon: &Beacon, address: Ipv6Addr) -> Option<Heard> {
        if beacon.node == self.own {
            let other = beacon.instance != self.instance;
            if other && self.double.replace(beacon.instance) != Some(beacon.instance) {
                tracing::warn!(%address, "someone else claims to be {}", self.own);
            }
            return None;
        }
        let endpoint = Endpoint { address, port: beacon.port };
        Some(Heard { node: beacon.node, endpoint, asks: beacon.asks })
    }
}
