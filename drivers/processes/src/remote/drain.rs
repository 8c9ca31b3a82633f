//! What a process wrote is at its last home before its end is told: relays from this node, and
//! those that go on from the homes of what it holds.

use super::Relay;
use crate::node::Node;
use dunix_ids::ObjectId;
use dunix_wire::Topic;
use dunix_wire::processes::ProcessesCall;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// A reader may take its time; a home that dies ends the wait.
const FOREVER: Duration = Duration::from_secs(365 * 86400);

/// Where what a process wrote may still be on its way.
#[derive(Debug)]
pub(crate) struct Written {
    /// Relays of this node.
    pub(crate) relays: Vec<Arc<Relay>>,
    /// Objects from whose homes further relays go.
    pub(crate) at: BTreeSet<ObjectId>,
}

impl Written {
    pub(crate) fn is_empty(&self) -> bool {
        self.relays.is_empty() && self.at.is_empty()
    }
}

impl Node {
    /// Waits until all that was written so far has arrived, or never will.
    pub(crate) async fn drain(&self, written: Written) {
        for relay in written.relays {
            relay.drain().await;
            if let Some(beyond) = relay.beyond() {
                self.drain_at(beyond).await;
            }
        }
        for object in written.at {
            self.drain_at(object).await;
        }
    }

    /// Lets the home of an object wait for its relays.
    async fn drain_at(&self, object: ObjectId) {
        let Some(mesh) = &self.mesh else { return };
        let body = dunix_wire::encode(&ProcessesCall::Drain { object: object.serial });
        // Without an answer the home is gone, and with it what was on its way.
        let _ = mesh.call(object.home, Topic::Processes, body, FOREVER).await;
    }

    /// The relays that carry on what was written to an object of this node.
    pub(crate) fn written_to(&self, serial: u64) -> Written {
        Written { relays: self.homes.relays(serial), at: BTreeSet::new() }
    }
}
