//! Messages about the fabric's loopback ports ([`Topic::Names`](crate::Topic::Names)).

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
}

/// The answer to a [`NameCall`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NameReply {
    /// [`NameCall::Reserve`]: granted, or held by another node.
    Reserved(bool),
    /// [`NameCall::Holder`].
    Holder(Option<NodeId>),
    /// [`NameCall::IsBound`] and [`NameCall::IsListening`].
    Is(bool),
}

/// Opens a stream that leads a loopback connection to the listener's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Where the client connected to, a loopback address.
    pub server: SocketAddr,
    /// Where it connected from; the far side's socket takes the same port if it is free there.
    pub client: SocketAddr,
}
