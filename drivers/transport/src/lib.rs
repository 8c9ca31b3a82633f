//! The mesh: finds peers on the link, speaks mutual TLS, carries messages, calls and byte streams.
//!
//! The lowest driver: other drivers may depend on it, and on no other driver.

use bytes::Bytes;
use dunix_ids::NodeId;
use dunix_wire::Topic;
use std::{net::Ipv6Addr, sync::Arc, time::Duration};

/// Who a node is and how it reaches its fabric.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    pub fabric: String,
    pub node: NodeId,
    pub name: String,
    /// The network interface that the fabric's link is on.
    pub interface: String,
    /// PEM: the fabric's CA, this node's certificate chain, its key.
    pub ca_pem: String,
    pub cert_pem: String,
    pub key_pem: String,
}

/// A peer that answers.
#[derive(Clone, Debug)]
pub struct Peer {
    pub node: NodeId,
    pub name: String,
    pub address: Ipv6Addr,
}

/// What happened to a peer.
#[derive(Clone, Debug)]
pub enum PeerEvent {
    Up(Peer),
    Down(NodeId),
}

#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    #[error("node {0} is not known or not reachable")]
    Unreachable(NodeId),
    #[error("node {0} did not answer in time")]
    TimedOut(NodeId),
    #[error("the connection to node {0} broke")]
    Broken(NodeId),
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    #[error("{0}")]
    Host(String),
}

/// What a driver does with what peers send on its topic. No method may block.
pub trait Handler: Send + Sync + 'static {
    /// A one-way message. Messages and calls of one topic from one peer arrive in the order sent.
    fn handle_message(&self, from: NodeId, body: Bytes);
    /// A call; the answer may be given later, from anywhere.
    fn handle_call(&self, from: NodeId, body: Bytes, reply: Responder);
    /// A byte stream that a peer opened.
    fn handle_stream(&self, from: NodeId, header: Bytes, stream: MeshStream);
    /// A peer came or went.
    fn handle_peer(&self, event: &PeerEvent);
}

/// Answers one call.
pub struct Responder {}

impl Responder {
    pub fn send(self, _body: Vec<u8>) {}
}

/// A byte stream to or from a peer: two directions, each with its own end.
///
/// A receiver calls [`MeshStream::consumed`] when the bytes have reached their descriptor; only then do
/// the sender's credit and its [`MeshStream::drained`] move on.
pub struct MeshStream {}

/// This node's part of the mesh. Cheap to clone.
#[derive(Clone)]
pub struct Mesh(#[expect(dead_code, reason = "under construction")] Arc<()>);

impl Mesh {
    pub async fn start(_config: MeshConfig) -> Result<Mesh, MeshError> {
        Ok(Mesh(Arc::new(())))
    }
    pub fn register(&self, _topic: Topic, _handler: Arc<dyn Handler>) {}
    pub fn peers(&self) -> Vec<Peer> {
        Vec::new()
    }
    pub fn send(&self, to: NodeId, _topic: Topic, _body: Vec<u8>) -> Result<(), MeshError> {
        Err(MeshError::Unreachable(to))
    }
    pub async fn call(
        &self,
        to: NodeId,
        _topic: Topic,
        _body: Vec<u8>,
        _deadline: Duration,
    ) -> Result<Bytes, MeshError> {
        Err(MeshError::Unreachable(to))
    }
    pub async fn open_stream(
        &self,
        to: NodeId,
        _topic: Topic,
        _header: Vec<u8>,
    ) -> Result<MeshStream, MeshError> {
        Err(MeshError::Unreachable(to))
    }
}
