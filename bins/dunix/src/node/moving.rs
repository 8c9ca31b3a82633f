//! Moving running processes: what the admin socket asks and what the process driver answers.

use dunix_admin_api::{AdminError, ErrorKind, MoveOutcome, MoveRequest};
use dunix_ids::NodeId;
use dunix_processes::Processes;

/// Moves a process to a node that is known to exist.
pub(super) async fn move_process(
    _processes: &Processes,
    request: &MoveRequest,
    to: NodeId,
) -> Result<MoveOutcome, AdminError> {
    let message = format!("process {} cannot move to {to}: not available yet", request.pid);
    Err(AdminError::new(ErrorKind::Unsupported, message))
}
