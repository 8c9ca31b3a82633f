//! Descriptors that come with the bytes of a relayed socket (unix(7), `SCM_RIGHTS`).
//!
//! ```text
//!  send_from --all before has arrived--> bear --call: bytes, images--> admit -> receive_into
//! ```
//! A message with descriptors leaves the stream: it is a call, made once all earlier bytes have been
//! consumed and answered once its own are in the other socket. So it keeps its place, and what is not
//! delivered is let go on both sides.

use super::calls::outcome_of;
use super::hands::Hands;
use super::passing::Passed;
use crate::node::{Node, lock};
use bytes::Bytes;
use dunix_ids::{NodeId, ObjectId};
use dunix_linux::{Errno, Result};
use dunix_transport::StreamSender;
use dunix_wire::Topic;
use dunix_wire::processes::{BorneMessage, CallExtra, CallOutcome, DescriptorImage, ProcessesCall};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// A message may wait for room in its socket for ever, as its bytes may.
const FOREVER: Duration = Duration::from_secs(365 * 86400);

/// The relayed sockets of this node, by the object at the home, and who is at the other end.
#[derive(Debug, Default)]
pub(crate) struct Bearings(Mutex<BTreeMap<ObjectId, (NodeId, mpsc::Sender<Message>)>>);

/// A message for a socket of this node.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
    /// Told when all is in the socket.
    pub(super) done: oneshot::Sender<()>,
}

/// Sends messages from a relayed socket of this node.
pub(super) struct Bearer {
    node: Arc<Node>,
    to: NodeId,
    relay: ObjectId,
}

/// The messages for a relayed socket of this node, as long as it is relayed.
pub(super) struct Borne {
    node: Weak<Node>,
    relay: ObjectId,
    messages: mpsc::Receiver<Message>,
}

impl Drop for Borne {
    fn drop(&mut self) {
        if let Some(node) = self.node.upgrade() {
            lock(&node.bearings.0).remove(&self.relay);
        }
    }
}

impl Borne {
    pub(super) async fn next(&mut self) -> Message {
        match self.messages.recv().await {
            Some(message) => message,
            None => std::future::pending().await,
        }
    }
}

impl Bearer {
    pub(super) fn hands(&self) -> &Arc<Hands> {
        self.node.passing.hands()
    }

    /// Sends a message in its place behind what the stream has sent; an error if the other end is gone.
    /// Descriptors that cannot be sent are lost, their bytes are not.
    pub(super) async fn bear(
        &self,
        stream: &mut StreamSender,
        bytes: Bytes,
        descriptors: Vec<OwnedFd>,
    ) -> core::result::Result<(), ()> {
        let Ok(mut offer) = self.node.describe_received(self.to, descriptors).await else {
            return stream.send(bytes).await.map_err(drop);
        };
        stream.drained().await.map_err(drop)?;
        let Some(mesh) = &self.node.mesh else { return Err(()) };
        let message = BorneMessage {
            relay: self.relay,
            bytes: bytes.to_vec(),
            descriptors: std::mem::take(&mut offer.descriptors),
        };
        let body = dunix_wire::encode(&ProcessesCall::Bear(message));
        let answer = tokio::select! {
            answer = mesh.call(self.to, Topic::Processes, body, FOREVER) => answer,
            _ = stream.closed() => return Err(()),
        };
        let outcome = outcome_of(answer.ok().as_deref());
        if outcome.extra == CallExtra::Taken {
            offer.was_taken();
        }
        if outcome.value < 0 { Err(()) } else { Ok(()) }
    }
}

impl Node {
    /// What carries messages from and to a relayed socket of this node.
    pub(super) fn bearing(self: &Arc<Node>, to: NodeId, relay: ObjectId) -> (Bearer, Borne) {
        let (sender, messages) = mpsc::channel(1);
        lock(&self.bearings.0).insert(relay, (to, sender));
        let borne = Borne { node: Arc::downgrade(self), relay, messages };
        (Bearer { node: self.clone(), to, relay }, borne)
    }

    /// A peer has borne a message here.
    pub(super) async fn take_borne(
        self: &Arc<Node>,
        from: NodeId,
        message: BorneMessage,
    ) -> CallOutcome {
        let BorneMessage { relay, bytes, descriptors } = message;
        let known = lock(&self.bearings.0).get(&relay).cloned();
        let Some((_, sender)) = known.filter(|(peer, _)| *peer == from) else {
            return super::execute::failed(Errno::PIPE);
        };
        let _in_hand = self.passing.hands().take();
        let descriptors = self.delivered(descriptors).await.unwrap_or_else(|error| {
            tracing::warn!(node = %self.id, %from, %error, "descriptors of a message are lost");
            Vec::new()
        });
        let (done, told) = oneshot::channel();
        let message = Message { bytes, descriptors, done };
        let is_done = sender.send(message).await.is_ok() && told.await.is_ok();
        let outcome =
            if is_done { CallOutcome::default() } else { super::execute::failed(Errno::PIPE) };
        // Delivered or not, the descriptors were this node's to let go.
        CallOutcome { extra: CallExtra::Taken, ..outcome }
    }

    /// What goes into a socket of this node for what a peer has described.
    pub(super) async fn delivered(
        self: &Arc<Node>,
        images: Vec<DescriptorImage>,
    ) -> Result<Vec<OwnedFd>> {
        let admitted: Vec<Passed> = self.admit(images).await?;
        admitted.into_iter().map(|passed| self.underway(passed)).collect()
    }
}
