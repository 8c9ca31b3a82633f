//! `dunix events`: what happens in the fabric, a line each.

use super::{Failure, signals, table};
use crate::{
    admin::{client::Events, discovery::Fabric},
    cli::EventsArgs,
};
use dunix_admin_api::{Event, EventKind, ExitStatus};
use std::io::Write;

/// Prints events until interrupted.
pub async fn run(fabric: &Fabric, args: &EventsArgs) -> Result<(), Failure> {
    let mut events = Events::open(fabric).await?;
    let mut stdout = std::io::stdout();
    while let Some(event) = events.next().await? {
        let line = if args.json {
            serde_json::to_string(&event).map_err(std::io::Error::from)?
        } else {
            in_words(&event)
        };
        writeln!(stdout, "{line}")?;
    }
    Ok(())
}

fn in_words(event: &Event) -> String {
    let seconds = event.at_unix_ms / 1000;
    let clock = format!(
        "{:02}:{:02}:{:02}.{:03}",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        event.at_unix_ms % 1000
    );
    format!("{clock} {:<4} {}", event.node.to_string(), what(&event.kind))
}

fn what(kind: &EventKind) -> String {
    let line = |args: &[String]| table::printable(&args.join(" "));
    match kind {
        EventKind::Started { pid, ppid, args } => {
            format!("{pid:>7} started by {ppid}: {}", line(args))
        }
        EventKind::Executed { pid, args, reason } => {
            format!("{pid:>7} runs {} [{}]", line(args), table::printable(reason))
        }
        EventKind::Exited { pid, status } => format!("{pid:>7} {}", how(*status)),
        EventKind::Moved { pid, from, frozen_us } => {
            format!("{pid:>7} came from {from}, frozen for {}", table::milliseconds(*frozen_us))
        }
        EventKind::MoveRefused { pid, to, message } => {
            format!("{pid:>7} does not move to {to}: {}", table::printable(message))
        }
        EventKind::NodeUp { name } => format!("node {name} is up"),
        EventKind::NodeDown { name, lost } => format!("node {name} is down, {lost} processes lost"),
        EventKind::Lost { events } => format!("{events} events were lost: too slow a reader"),
    }
}

fn how(status: ExitStatus) -> String {
    match status {
        ExitStatus::Exited(code) => format!("exited with {code}"),
        ExitStatus::Signaled { signal, core_dumped } => format!(
            "was killed by SIG{}{}",
            signals::name(signal).unwrap_or_else(|| signal.to_string()),
            if core_dumped { " (core dumped)" } else { "" }
        ),
    }
}
