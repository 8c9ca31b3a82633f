//! flock(2) of a description that has its home here, for a process elsewhere.

use super::capture::is_of_this_node;
use super::execute::Done;
use super::homes::Object;
use crate::config::{FlockAnswer, FlockWish};
use crate::node::Node;
use dunix_linux::{Errno, Result};
use dunix_wire::processes::CallOutcome;
use rustix::fs::{FlockOperation, flock, major, minor};
use std::sync::Arc;
use tokio::sync::{Notify, oneshot};

/// The number of flock(2).
pub(super) const FLOCK: u32 = 73;
const LOCK_SH: u64 = 1;
const LOCK_EX: u64 = 2;
const LOCK_NB: u64 = 4;
const LOCK_UN: u64 = 8;

impl Node {
    /// Locks or unlocks, as the fabric lets it; a wait ends when it is cancelled.
    pub(super) async fn flock(
        self: &Arc<Node>,
        object: &Arc<Object>,
        operation: u64,
        cancelled: &Notify,
    ) -> Result<Done> {
        let is_exclusive = match operation & 0xffff_ffff & !LOCK_NB {
            LOCK_SH => false,
            LOCK_EX => true,
            LOCK_UN => {
                flock(&object.original, FlockOperation::NonBlockingUnlock)?;
                return Ok(CallOutcome::default());
            }
            _ => return Err(Errno::INVAL),
        };
        let described = object.clone();
        let describe = move || {
            let descriptor = described.duplicate()?;
            // Asks the tree, and may wait for it.
            let is_trees = !is_of_this_node(&descriptor)?;
            Ok::<_, Errno>((descriptor, described.file().filter(|_| is_trees)))
        };
        let described = self.runtime.spawn_blocking(describe).await;
        let (descriptor, file) = described.unwrap_or(Err(Errno::IO))?;
        let file = file.map(|(device, ino)| ((major(device), minor(device)), ino));
        let waits = operation & LOCK_NB == 0;
        let (answer, outcome) = oneshot::channel();
        let wish = FlockWish { descriptor, file, is_exclusive, waits };
        self.extension.handle_flock_call(wish, FlockAnswer(answer));
        let locked = tokio::select! {
            outcome = outcome => outcome.unwrap_or(Err(Errno::IO)),
            () = cancelled.notified() => Err(Errno::INTR),
        };
        locked.map(|()| CallOutcome::default())
    }
}
