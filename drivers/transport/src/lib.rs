//! The mesh: finds peers on the link, speaks mutual TLS, carries messages, calls and byte streams.
//!
//! The lowest driver: other drivers may depend on it, and on no other driver.
//!
//! ```text
//! discovery  beacons on the interface      ->  membership machine  ->  who is dialled, up, down
//! connect    TCP + TLS + greeting          ->  link: three lanes to one peer
//! lane       frames on one connection      <-> link: calls, streams, messages of one peer
//! stream     credit, half-close            <-  streams machine
//! inbox      what came, until its handler takes it; events: peers come and go
//! ```
//!
//! Invariants: a handler hears of a peer's `Up` before anything from that peer, and of nothing from
//! it after `Down`; a call is answered, refused or fails, within its deadline; every queue is bounded.

mod connect;
mod discovery;
mod events;
mod inbox;
pub mod keys;
mod lane;
mod link;
mod local;
mod members;
mod mesh;
mod outbox;
mod statistics;
mod stream;
mod stream_table;
mod tls;

pub use link::Responder;
pub use mesh::Mesh;
pub use statistics::{PeerTraffic, TopicTraffic};
pub use stream::{MeshStream, StreamEnd, StreamError, StreamReceiver, StreamSender};

use bytes::Bytes;
use dunix_ids::NodeId;
use std::net::Ipv6Addr;

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
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    pub node: NodeId,
    pub name: String,
    pub address: Ipv6Addr,
    /// Different after each start of the peer's daemon.
    pub instance: u64,
}

/// What happened to a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerEvent {
    Up(Peer),
    Down(NodeId),
}

/// Why something did not reach a peer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MeshError {
    #[error("node {0} is not known or not reachable")]
    Unreachable(NodeId),
    #[error("node {0} did not answer in time")]
    TimedOut(NodeId),
    #[error("the connection to node {0} broke")]
    Broken(NodeId),
    /// The peer has no handler for the topic, or the handler dropped its [`Responder`].
    #[error("node {0} has no answer to this call")]
    Unanswered(NodeId),
    /// More waits for this peer than the mesh holds; nothing was sent.
    #[error("too much waits for node {0}")]
    Congested(NodeId),
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    #[error("{0}")]
    Host(String),
}

/// What a driver does with what peers send on its topic. All methods are called on the runtime that the
/// mesh was started in, never from within a method of the mesh (but [`Mesh::register`] tells of the
/// peers that are up already). One that waits delays what else comes from that peer, and no proof of
/// life. Of [`Topic::Files`](dunix_wire::Topic::Files) alone they are called on the mesh's own threads
/// and may not block, nor take a lock under which anybody blocks: what others wait for waits for nobody.
pub trait Handler: Send + Sync + 'static {
    /// A one-way message. Messages and calls of one topic from one peer arrive in the order sent.
    fn handle_message(&self, from: NodeId, body: Bytes);
    /// A call; the answer may be given later, from anywhere.
    fn handle_call(&self, from: NodeId, body: Bytes, reply: Responder);
    /// A byte stream that a peer opened.
    fn handle_stream(&self, from: NodeId, header: Bytes, stream: MeshStream);
    /// A peer came or went. May not call [`Mesh::register`].
    fn handle_peer(&self, event: &PeerEvent);
}
