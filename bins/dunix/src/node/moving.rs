//! Moving running processes: what the admin socket asks and what the process driver answers.

use dunix_admin_api::{AdminError, ErrorKind, MoveOutcome, MoveRefused, MoveRequest, Moved};
use dunix_ids::NodeId;
use dunix_processes::Processes;
use dunix_wire::processes::{MoveReport, MoveWish, Refusal};
use std::time::{Duration, Instant};

/// Moves a process to a node that is known to exist.
pub(super) async fn move_process(
    processes: &Processes,
    request: &MoveRequest,
    to: NodeId,
) -> Result<MoveOutcome, AdminError> {
    let asked = Instant::now();
    let wish = MoveWish { safe: request.safe, no_wait: !request.wait };
    match processes.move_to(request.pid, to, wish).await {
        Err(Refusal::NoSuchProcess) => {
            let message = format!("no process {}; see `dunix ps`", request.pid);
            Err(AdminError::new(ErrorKind::NoSuchProcess, message))
        }
        result => Ok(outcome(result, asked.elapsed())),
    }
}

/// The admin protocol's word for what came of a move.
fn outcome(result: Result<MoveReport, Refusal>, took: Duration) -> MoveOutcome {
    match result {
        Ok(report) => MoveOutcome::Moved(Moved {
            from: report.source,
            to: report.target,
            frozen_us: report.frozen_micros,
            total_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            bytes_before: report.bytes_before,
            bytes_after: report.bytes_after,
        }),
        Err(refusal) => MoveOutcome::Refused(MoveRefused {
            reason: refusal.name().to_owned(),
            message: refusal.to_string(),
            gone: refusal.is_fatal(),
        }),
    }
}
