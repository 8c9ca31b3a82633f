//! `dunix explain`: all that is known of one process, in words.

use super::{Failure, ps, table};
use crate::{
    admin::{client, discovery::Fabric},
    cli::ExplainArgs,
};
use dunix_admin_api::Explanation;
use std::io::Write;

/// Prints the explanation.
pub async fn run(fabric: &Fabric, args: &ExplainArgs) -> Result<(), Failure> {
    let explanation = client::explain(fabric, args.pid).await?;
    let mut stdout = std::io::stdout();
    if args.json {
        serde_json::to_writer(&mut stdout, &explanation).map_err(std::io::Error::from)?;
        stdout.write_all(b"\n")?;
    } else {
        stdout.write_all(in_words(&explanation).as_bytes())?;
    }
    Ok(())
}

pub(crate) fn in_words(explanation: &Explanation) -> String {
    let process = &explanation.process;
    let host = process.host_pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let mut facts = vec![
        ("command", ps::command(process)),
        ("program", explanation.exe.clone()),
        ("directory", explanation.cwd.clone()),
        ("node", format!("{} (host pid {host})", process.node)),
        ("placed", explanation.placed.clone()),
        ("state", format!("{:?}", process.state).to_lowercase()),
        ("waits for", explanation.waits_for.clone().unwrap_or_else(|| "nothing".to_owned())),
        (
            "movable",
            explanation.unmovable.as_ref().map_or_else(|| "yes".into(), |why| format!("no: {why}")),
        ),
        ("parent", process.ppid.to_string()),
        ("group", format!("{} (home {})", process.pgid, explanation.group_home)),
        ("session", process.sid.to_string()),
        ("location kept by", explanation.pid_leaser.to_string()),
    ];
    if let Some(epoch) = explanation.epoch {
        facts.push(("epoch", epoch.to_string()));
    }
    facts.extend(explanation.notes.iter().map(|(name, value)| (name.as_str(), value.clone())));
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut out = format!("process {}\n", process.pid);
    for (name, value) in facts {
        out.push_str(&format!("  {name:<width$}  {}\n", table::printable(&value)));
    }
    for descriptor in &explanation.descriptors {
        let home = descriptor.home.map_or_else(String::new, |home| format!(", home {home}"));
        out.push_str(&format!(
            "  fd {:<3} {} {} ({}{home})\n",
            descriptor.fd,
            descriptor.kind,
            table::printable(&descriptor.name),
            descriptor.mode,
        ));
    }
    out
}
