//! A link between nodes of one process, for tests and measurements without a mesh.

use crate::{Files, Link};
use bytes::Bytes;
use dunix_ids::NodeId;
use dunix_transport::MeshError;
use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::oneshot;

/// Joins nodes of this process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Loopback(Arc<Mutex<HashMap<NodeId, Files>>>);

impl Loopback {
    /// Returns the link of a node.
    #[must_use]
    pub fn link(&self, me: NodeId) -> Arc<dyn Link> {
        Arc::new(NodeLink { me, nodes: self.clone() })
    }

    /// Makes a node reachable, perhaps again.
    pub fn join(&self, node: NodeId, files: Files) {
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (&other, theirs) in nodes.iter() {
            theirs.node_back(node);
            files.node_back(other);
        }
        nodes.insert(node, files);
    }

    /// Takes a node away, as if its link were cut. Returns it.
    pub fn leave(&self, node: NodeId) -> Option<Files> {
        let mut nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = nodes.remove(&node)?;
        for (&other, theirs) in nodes.iter() {
            theirs.node_gone(node);
            left.node_gone(other);
        }
        Some(left)
    }

    fn node(&self, node: NodeId) -> Result<Files, MeshError> {
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.get(&node).cloned().ok_or(MeshError::Unreachable(node))
    }
}

struct NodeLink {
    me: NodeId,
    nodes: Loopback,
}

impl Link for NodeLink {
    fn call(
        &self,
        to: NodeId,
        body: Vec<u8>,
        deadline: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, MeshError>> + Send + '_>> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            self.nodes.node(to)?.handle(self.me, Bytes::from(body), |body| {
                // Nobody waits any more if the deadline has passed.
                let _ = answer.send(Bytes::from(body));
            });
            match tokio::time::timeout(deadline, answered).await {
                Ok(Ok(body)) => Ok(body),
                Ok(Err(_)) => Err(MeshError::Unanswered(to)),
                Err(_) => Err(MeshError::TimedOut(to)),
            }
        })
    }

    fn send(&self, to: NodeId, body: Vec<u8>) -> Result<(), MeshError> {
        self.nodes.node(to)?.notice(self.me, &body);
        Ok(())
    }
}
