//! `dunix move`: a running process to another node.

use super::{Failure, table};
use crate::{
    admin::{client, discovery::Fabric},
    cli::MoveArgs,
};
use dunix_admin_api::{MoveOutcome, MoveRequest, Moved};
use dunix_ids::Pid;
use std::io::Write;

/// Moves the process and says what came of it.
pub async fn run(fabric: &Fabric, args: &MoveArgs) -> Result<(), Failure> {
    let pid = Pid::new(args.pid)
        .ok_or_else(|| Failure::failed(format!("{} is no PID: see dunix ps", args.pid)))?;
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
            let why = table::printable(&refused.message);
            Err(Failure::failed(format!("process {pid} stays where it is: {why}")))
        }
    }
}

fn in_words(pid: Pid, moved: &Moved) -> String {
    let threads = match moved.threads {
        1 => "1 thread".to_owned(),
        threads => format!("{threads} threads"),
    };
    format!(
        "process {pid} moved from {} to {}: frozen for {}, {threads}, {} then and {} after, {} in all",
        moved.from,
        moved.to,
        table::milliseconds(moved.freeze_us),
        table::bytes(moved.bytes_frozen),
        table::bytes(moved.bytes_after),
        table::milliseconds(moved.total_us),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunix_ids::NodeId;

    #[test]
    fn a_move_in_words() {
        let moved = Moved {
            from: NodeId(1),
            to: NodeId(3),
            freeze_us: 8_240,
            total_us: 61_000,
            threads: 2,
            bytes_frozen: 150_000,
            bytes_after: 20 << 20,
        };
        assert_eq!(
            in_words(Pid::new(7).unwrap(), &moved),
            "process 7 moved from n1 to n3: frozen for 8.2 ms, 2 threads, 146K then and 20M after, 61 ms in all"
        );
    }
}
