//! Streams between an object's home and the node of its holder.

use super::homes::Object;
use super::pump::{Drains, End, receive_into, relay_socket, send_from};
use super::rebuild::PendingRelay;
use crate::node::Node;
use dunix_ids::{NodeId, ObjectId, Pid};
use dunix_transport::MeshStream;
use dunix_wire::Topic;
use dunix_wire::processes::relay::Direction;
use dunix_wire::processes::{StreamHeader, StreamOpening};
use std::os::fd::OwnedFd;
use std::sync::Arc;

impl Node {
    /// Home: a holder has opened the stream of an object.
    pub(crate) fn serve_stream(
        self: &Arc<Node>,
        from: NodeId,
        header: StreamHeader,
        stream: MeshStream,
    ) {
        let Some(object) = self.homes.take_for_relay(header.object, from) else {
            tracing::debug!(node = %self.id, %from, ?header, "a stream to no object");
            return stream.reset();
        };
        // The registry had the only reference: relays are never run as calls.
        let Some(Object { original: fd, .. }) = Arc::into_inner(object) else {
            return stream.reset();
        };
        let node = self.clone();
        self.runtime.spawn(async move {
            let (sender, mut receiver) = stream.split();
            match header.direction {
                Direction::Write => {
                    let mut sender = sender;
                    sender.finish();
                    receive_into(&fd, End::Pipe, &mut receiver, None).await;
                }
                Direction::Read => {
                    drop(receiver);
                    send_from(fd, End::Pipe, sender, Drains::none(), None).await;
                }
                Direction::Both => {
                    let relay = ObjectId { home: node.id, serial: header.object };
                    let bearing = node.bearing(from, relay);
                    relay_socket(fd, sender, receiver, Drains::none(), bearing).await;
                }
            }
        });
    }

    /// Holder: the process lives here, its bytes may flow.
    pub(crate) fn start_relay(self: &Arc<Node>, pid: Pid, pending: PendingRelay) {
        let Some(mesh) = self.mesh.clone() else { return };
        let PendingRelay { object, direction, fd, relay, drains } = pending;
        let header =
            StreamOpening::Descriptor(StreamHeader { object: object.serial, pid, direction });
        let node = self.clone();
        self.runtime.spawn(async move {
            let header = dunix_wire::encode(&header);
            match mesh.open_stream(object.home, Topic::Processes, header).await {
                Ok(stream) if direction == Direction::Both => {
                    let (sender, receiver) = stream.split();
                    let bearing = node.bearing(object.home, object);
                    relay_socket(fd, sender, receiver, drains, bearing).await;
                }
                Ok(stream) => carry(fd, direction, stream, drains).await,
                // The home is gone: closing the descriptor tells the process.
                Err(error) => tracing::debug!(?object, %error, "a relay could not start"),
            }
            relay.set_done();
        });
    }
}

/// A pipe's end.
async fn carry(fd: OwnedFd, direction: Direction, stream: MeshStream, drains: Drains) {
    let (mut sender, mut receiver) = stream.split();
    if direction == Direction::Write {
        drop(receiver);
        send_from(fd, End::Pipe, sender, drains, None).await;
    } else {
        sender.finish();
        receive_into(&fd, End::Pipe, &mut receiver, None).await;
    }
}
