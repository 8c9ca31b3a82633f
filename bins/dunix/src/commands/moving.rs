//! `dunix move`: a running process to another node.

use super::{Failure, moving_tree, table};
use crate::{
    admin::{client, discovery::Fabric},
    cli::MoveArgs,
};
use dunix_admin_api::{MoveOutcome, MoveRequest, Moved};
use dunix_ids::Pid;
use std::io::Write;

/// Moves the process and says what came of it.
pub async fn run(fabric: &Fabric, args: &MoveArgs) -> Result<(), Failure> {
    if args.with_children {
        return moving_tree::run(fabric, args).await;
    }
    let pid = args.pid;
    let request =
        MoveRequest { pid, node: args.node.clone(), safe: args.safe, wait: !args.no_wait };
    let outcome = client::move_process(fabric, request).await?;
    let mut stdout = std::io::stdout();
    if args.json {
        serde_json::to_writer(&mut stdout, &outcome).map_err(std::io::Error::from)?;
        stdout.write_all(b"\n")?;
    }
    match outcome {
        MoveOutcome::Moved(moved) if !args.json => {
            Ok(writeln!(stdout, "{}", in_words(pid, &moved))?)
        }
        MoveOutcome::Moved(_) => Ok(()),
        MoveOutcome::Refused(refused) => {
            let what = if refused.gone { "is gone" } else { "stays where it is" };
            let why = table::printable(&refused.message);
            Err(Failure::failed(format!("process {pid} {what}: {why}")))
        }
    }
}

pub(super) fn in_words(pid: Pid, moved: &Moved) -> String {
    let followed = match moved.bytes_after {
        Some(bytes) => format!("{} followed", table::bytes(bytes)),
        None => "the rest follows".to_owned(),
    };
    format!(
        "process {pid} moved from {} to {}: frozen for {}; {} sent before it ran, {followed}; {} in all",
        moved.from,
        moved.to,
        table::milliseconds(moved.frozen_us),
        table::bytes(moved.bytes_before),
        table::milliseconds(moved.total_us),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunix_ids::NodeId;

    #[test]
    fn a_move_in_words() {
        let mut moved = Moved {
            from: NodeId(1),
            to: NodeId(3),
            frozen_us: 8_240,
            total_us: 61_000,
            bytes_before: 150_000,
            bytes_after: Some(20 << 20),
        };
        let begin = "process 7 moved from n1 to n3: frozen for 8.2 ms; 146K sent before it ran, ";
        let words = |moved: &Moved| in_words(Pid::new(7).unwrap(), moved);
        assert_eq!(words(&moved), format!("{begin}20M followed; 61 ms in all"));
        moved.bytes_after = None;
        assert_eq!(words(&moved), format!("{begin}the rest follows; 61 ms in all"));
    }
}
