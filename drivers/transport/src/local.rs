//! What a node sends to itself: handed over in order by a task of its own, without the network, and
//! where what comes from peers is.
//!
//! Not handed over within the sender's call, because the sender may hold what the handler needs.

use crate::{MeshError, inbox::Delivery, mesh::Core};
use dunix_wire::frame::Lane;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Greatest number of deliveries that wait on one lane.
const WAITING_MAX: usize = 65_536;

/// One queue for each lane, as towards any peer.
pub(crate) struct Local {
    lanes: [mpsc::Sender<Delivery>; 3],
}

pub(crate) type Inboxes = [mpsc::Receiver<Delivery>; 3];

impl Local {
    pub(crate) fn new() -> (Local, Inboxes) {
        let pairs = Lane::ALL.map(|_| mpsc::channel(WAITING_MAX));
        let [(a, x), (b, y), (c, z)] = pairs;
        (Local { lanes: [a, b, c] }, [x, y, z])
    }

    pub(crate) fn deliver(
        &self,
        core: &Core,
        lane: Lane,
        delivery: Delivery,
    ) -> Result<(), MeshError> {
        let own = core.config.node;
        self.lanes[lane as usize].try_send(delivery).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => MeshError::Congested(own),
            mpsc::error::TrySendError::Closed(_) => MeshError::Unreachable(own),
        })
    }
}

/// Hands over what comes through one queue.
pub(crate) async fn run(core: Arc<Core>, mut inbox: mpsc::Receiver<Delivery>) {
    let own = core.config.node;
    while let Some(delivery) = inbox.recv().await {
        let _callers = core.callers.enter();
        delivery.hand_over(&core, own);
    }
}
