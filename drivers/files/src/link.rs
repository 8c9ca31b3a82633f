//! What the tree needs of the mesh.

use bytes::Bytes;
use dunix_ids::NodeId;
use dunix_transport::{Mesh, MeshError};
use dunix_wire::Topic;
use std::{future::Future, pin::Pin, time::Duration};

/// Carries calls and notices between nodes, on one topic. Those of one node arrive in the order sent.
pub trait Link: Send + Sync + 'static {
    /// Calls a node and waits for its answer.
    fn call(
        &self,
        to: NodeId,
        body: Vec<u8>,
        deadline: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, MeshError>> + Send + '_>>;

    /// Sends a one-way message.
    ///
    /// # Errors
    /// The node cannot be reached; it is then taken to be gone, with all that was open.
    fn send(&self, to: NodeId, body: Vec<u8>) -> Result<(), MeshError>;
}

impl Link for Mesh {
    fn call(
        &self,
        to: NodeId,
        body: Vec<u8>,
        deadline: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, MeshError>> + Send + '_>> {
        Box::pin(Mesh::call(self, to, Topic::Files, body, deadline))
    }

    fn send(&self, to: NodeId, body: Vec<u8>) -> Result<(), MeshError> {
        Mesh::send(self, to, Topic::Files, body)
    }
}
