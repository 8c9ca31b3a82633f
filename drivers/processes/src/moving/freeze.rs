//! The source's side: a process stops where it is, and goes on, gives its pages away, or ends.

use crate::node::Node;
use dunix_ids::{NodeId, Pid};
use dunix_wire::processes::{MoveId, Refusal};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A process whose threads are all parked. It runs no instruction of its own until
/// [`Frozen::thaw`]; the host may still kill it.
///
/// Dropped without a word it goes on if nobody has its image, else it is killed: lost is better than
/// twice.
pub(crate) struct Frozen {
    node: Arc<Node>,
    pid: Pid,
    since: Instant,
}

impl Node {
    /// Freezes a process that runs here: its threads park, or after
    /// [`FREEZE_WAIT`] it goes on and the refusal names the thread that did not.
    pub(crate) async fn freeze(self: &Arc<Node>, pid: Pid) -> Result<Frozen, Refusal> {
        let _ = pid;
        Err(Refusal::KernelState { what: "freezing is not built yet".into() })
    }
}

/// How long the threads of a process may take to park.
pub(crate) const FREEZE_WAIT: Duration = Duration::from_millis(200);

impl Frozen {
    /// Since when it does not run.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// Describes it for a node, as [`Package::image`](dunix_wire::processes::Package) wants it, and
    /// from then on serves its pages to that node. Once for each `Frozen`.
    pub(crate) async fn image(&mut self, id: MoveId, to: NodeId) -> Result<Vec<u8>, Refusal> {
        let _ = (id, to, &self.node, self.pid);
        Err(Refusal::KernelState { what: "images are not built yet".into() })
    }

    /// It goes on here. The table must have it as a process of this node again
    /// ([`stayed`](dunix_proc_table::ProcTable::stayed)) before.
    pub(crate) async fn thaw(self) {}

    /// It lives elsewhere from now on; what remains serves pages. Call it before the table's
    /// [`departed`](dunix_proc_table::ProcTable::departed): the host process keeps its slot, and its
    /// end is nobody's.
    pub(crate) fn donate(self) -> Donor {
        Donor { bytes: 0 }
    }
}

/// The remains of a process that lives elsewhere. Dropping it ends the host process.
pub(crate) struct Donor {
    bytes: u64,
}

impl Donor {
    /// Waits until the target has the last page, then ends the host process; bytes that went since the
    /// commit.
    ///
    /// # Errors
    /// [`Refusal::LostPages`]: the target left before.
    pub(crate) async fn finish(self) -> Result<u64, Refusal> {
        Ok(self.bytes)
    }
}
