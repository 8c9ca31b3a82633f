//! What remains of a process at its old node: frozen for ever, and read until its last page has gone.

use super::calls;
use super::hall::Hall;
use super::pager::{ServeError, Serving};
use super::script::{Particulars, Script};
use crate::node::Node;
use dunix_ids::Pid;
use dunix_linux::Errno;
use dunix_wire::processes::Refusal;
use std::sync::Arc;

/// The remains of a process that lives elsewhere. Dropping it ends the host process.
pub(crate) struct Donor {
    pub(super) hall: Arc<Hall>,
    pub(super) serving: Option<Serving>,
}

impl Donor {
    /// Waits until the target wants no more pages, then ends the host process; bytes that went since
    /// the commit, or 0 if it has left before the last: it knows why.
    ///
    /// # Errors
    /// [`Refusal::LostPages`]: there are no more to be had from here.
    pub(crate) async fn finish(mut self) -> Result<u64, Refusal> {
        let Some(serving) = &mut self.serving else { return Ok(0) };
        match serving.finish().await {
            Ok(sent) => Ok(sent.after),
            Err(ServeError::TargetLeft) => Ok(0),
            // Killed meanwhile, with its memory: that is no fault of the move.
            Err(ServeError::Host(Errno::SRCH)) => Err(Refusal::LostPages),
            Err(error) => {
                tracing::error!(%error, "pages could not be sent");
                Err(Refusal::LostPages)
            }
        }
    }
}

impl Drop for Donor {
    fn drop(&mut self) {
        self.hall.kill();
    }
}

/// Closes what a donor has open: who shares it is to see the process's next node alone.
pub(super) async fn close_all(node: Arc<Node>, hall: Arc<Hall>, pid: Pid) {
    let mut script = Script::new();
    script.may(calls::CLOSE_RANGE, [0, u64::from(u32::MAX), 0, 0, 0, 0]);
    let done = node.run_script(&hall, pid.get(), &script, &Particulars::default()).await;
    if let Err(refusal) = done {
        // Its end, which comes with the last page if not before, closes everything as well.
        tracing::debug!(%pid, %refusal, "what remains of a process keeps its descriptors");
    }
}
