//! Messages about the fabric's loopback ports ([`Topic::Names`](crate::Topic::Names)).

use alloc::vec::Vec;
use core::net::SocketAddr;
use dunix_ids::NodeId;
use serde::{Deserialize, Serialize};

/// A question of one node to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NameCall {
    /// To the coordinator: the asker wants to bind this TCP port.
    Reserve(u16),
    /// To the coordinator: who holds this TCP port?
    Holder(u16),
    /// To a holder: is any socket bound to this TCP port?
    IsBound(u16),
    /// To a holder: does a socket listen where a connection to this loopback address arrives?
    IsListening(SocketAddr),
    /// To the coordinator: the asker wants to bind this UDP port.
    ReserveDatagrams(u16),
    /// To a holder: is any socket bound to this UDP port?
    IsBoundDatagrams(u16),
    /// To the coordinator: who holds this UDP port? Whenever that changes, the asker is told.
    Watch(u16),
    /// From the coordinator to who watches a UDP port: it has changed hands. Answered once datagrams from
    /// there reach the new holder.
    Changed(PortNews),
}

/// Who holds a UDP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortNews {
    pub port: u16,
    pub holder: Option<NodeId>,
    /// Greater in later news.
    pub version: u64,
}

/// The answer to a [`NameCall`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NameReply {
    /// [`NameCall::Reserve`]: granted, or held by another node.
    Reserved(bool),
    /// [`NameCall::Holder`].
    Holder(Option<NodeId>),
    /// [`NameCall::IsBound`], [`NameCall::IsBoundDatagrams`] and [`NameCall::IsListening`].
    Is(bool),
    /// [`NameCall::Watch`], and [`NameCall::ReserveDatagrams`] if it is granted.
    News(PortNews),
    /// [`NameCall::Changed`].
    Done,
}

/// A one-way message about datagrams on loopback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NameMessage {
    /// A datagram for a socket of the node that it is sent to.
    Datagram(Datagram),
    /// To the sender's node: nobody receives what was sent (`ECONNREFUSED`).
    Refused {
        /// As in the [`Datagram`].
        from: SocketAddr,
        /// As in the [`Datagram`].
        to: SocketAddr,
    },
}

/// A datagram that crosses nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datagram {
    /// Where its sender is bound, at its sender's node.
    pub from: SocketAddr,
    /// The receiver's loopback address at its node.
    pub to: SocketAddr,
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// Opens a stream that leads a loopback connection to the listener's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Where the client connected to, a loopback address.
    pub server: SocketAddr,
    /// Where it connected from; the far side's socket takes the same port if it is free there.
    pub client: SocketAddr,
}
