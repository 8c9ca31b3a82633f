//! The target's side: a fresh host process becomes the one that the image describes.

use crate::node::{Node, State};
use dunix_ids::NodeId;
use dunix_linux::Errno;
use dunix_wire::processes::{MoveId, ProcessRecord, Refusal};
use std::sync::Arc;
use std::time::Duration;

/// A process that is complete here and does not run. Dropping it ends the host process; it never was
/// here.
pub(crate) struct Arrival {
    bytes: u64,
}

impl Arrival {
    /// Makes everything ready. Waits at most [`PREPARE_WAIT`]; the pages that must be here before it
    /// runs are.
    ///
    /// # Errors
    /// Why it cannot live here; nothing has changed then.
    pub(crate) async fn prepare(
        node: &Arc<Node>,
        from: NodeId,
        id: MoveId,
        record: &ProcessRecord,
        image: &[u8],
    ) -> Result<Arrival, Refusal> {
        let _ = (node, from, id, record, image);
        Err(Refusal::KernelState { what: "arrivals are not built yet".into() })
    }

    /// Bytes of pages that have come.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives the process and its threads their host numbers in the table, which must have adopted the
    /// record just before, and makes it a process of this node. On an error drop the arrival.
    pub(crate) fn bind(&mut self, state: &mut State, now: Duration) -> Result<(), Errno> {
        let _ = (state, now);
        Ok(())
    }

    /// Lets it run: from now on it is here.
    pub(crate) fn release(self) -> Arriving {
        Arriving { bytes: 0 }
    }
}

/// Longest time from the image to a process that could run.
pub(crate) const PREPARE_WAIT: Duration = Duration::from_secs(30);

/// A process that runs while pages of it are on their way.
pub(crate) struct Arriving {
    bytes: u64,
}

impl Arriving {
    /// Waits for the last page; bytes that came since [`Arrival::release`].
    ///
    /// # Errors
    /// [`Refusal::LostPages`]: they will not come. The process was killed.
    pub(crate) async fn complete(self) -> Result<u64, Refusal> {
        Ok(self.bytes)
    }
}
