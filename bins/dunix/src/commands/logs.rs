//! `dunix logs`: what the daemons of a lab on this machine have logged, by time.

use super::{Failure, table};
use crate::{admin::discovery::Fabric, cli::LogsArgs};
use dunix_lab::STORE_DIRECTORY;
use serde::Serialize;
use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
    time::Duration,
};

/// Between two looks for more.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Most bytes of one log that are read at a time.
const READ_BYTES_MAX: u64 = 16 << 20;

/// One node's log, read so far.
struct Log {
    node: String,
    file: File,
    /// Of a line that is not complete yet.
    rest: Vec<u8>,
}

/// For `--json`.
#[derive(Serialize)]
struct Line<'a> {
    node: &'a str,
    line: &'a str,
}

/// Prints what there is, and with `--follow` what comes.
pub async fn run(fabric: &Fabric, args: &LogsArgs) -> Result<(), Failure> {
    let mut logs = open(&Path::new(STORE_DIRECTORY).join(&fabric.name), args.node.as_deref())?;
    loop {
        let is_all = print(&mut logs, args.json)?;
        if is_all {
            if !args.follow {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn open(folder: &Path, node: Option<&str>) -> Result<Vec<Log>, Failure> {
    let entries = std::fs::read_dir(folder).map_err(|error| {
        let why = if error.kind() == io::ErrorKind::NotFound {
            "it is no lab of this machine: `dunix node` logs to its standard error".to_owned()
        } else {
            error.to_string()
        };
        Failure::failed(format!("no logs in {}: {why}", folder.display()))
    })?;
    let mut logs = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        // By name, or number alone, as elsewhere.
        let is_meant = node.is_none_or(|node| node == name || name.strip_prefix('n') == Some(node));
        if is_log && is_meant {
            logs.push(Log { node: name, file: File::open(&path)?, rest: Vec::new() });
        }
    }
    if logs.is_empty() {
        let which = node.map_or(String::new(), |node| format!(" of node {node}"));
        return Err(Failure::failed(format!("no log{which} in {}", folder.display())));
    }
    logs.sort_by(|a, b| (a.node.len(), &a.node).cmp(&(b.node.len(), &b.node)));
    Ok(logs)
}

/// Prints the complete lines that were added; whether that was all.
fn print(logs: &mut [Log], json: bool) -> io::Result<bool> {
    let (mut lines, mut is_all) = (Vec::new(), true);
    for log in logs.iter_mut() {
        let read = (&log.file).take(READ_BYTES_MAX).read_to_end(&mut log.rest)?;
        is_all &= u64::try_from(read).unwrap_or(0) < READ_BYTES_MAX;
        lines.extend(log.complete().into_iter().map(|(time, line)| (time, &*log.node, line)));
    }
    // Of one node they are in order already.
    lines.sort_by(|a, b| a.0.cmp(&b.0));
    let mut stdout = io::stdout().lock();
    for (_, node, line) in &lines {
        if json {
            serde_json::to_writer(&mut stdout, &Line { node, line })?;
            writeln!(stdout)?;
        } else {
            writeln!(stdout, "{node:<4} {}", table::printable(line))?;
        }
    }
    stdout.flush()?;
    Ok(is_all)
}

impl Log {
    /// Takes what has been read of complete lines, each with the time that it begins with; one that begins with none has that
    /// of the line before.
    fn complete(&mut self) -> Vec<(String, String)> {
        let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let bytes: Vec<u8> = self.rest.drain(..end).collect();
        let mut time = String::new();
        let timed = |line: &str| {
            let first = line.split(' ').next().unwrap_or_default();
            if first.contains('T') && first.ends_with('Z') {
                first.clone_into(&mut time);
            }
            (time.clone(), line.to_owned())
        };
        String::from_utf8_lossy(&bytes).lines().map(timed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_printed_when_they_are_complete_each_with_its_time() {
        let folder = std::env::temp_dir().join(format!("dunix-logs-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let lines = b"2026-01-01T00:00:00.5Z  INFO up\n  at line 7\n2026-01-01T00:00:01Z half";
        std::fs::write(folder.join("n10.log"), lines).unwrap();
        std::fs::write(folder.join("n2.log"), b"").unwrap();
        std::fs::write(folder.join("other"), b"").unwrap();
        let names = |node| -> Vec<String> {
            open(&folder, node).unwrap().into_iter().map(|log| log.node).collect()
        };
        assert_eq!(names(None), ["n2", "n10"]);
        assert_eq!((names(Some("10")), names(Some("n2"))), (vec!["n10".into()], vec!["n2".into()]));
        assert!(open(&folder, Some("n3")).is_err() && open(&folder.join("none"), None).is_err());
        let mut log = open(&folder, Some("n10")).unwrap().remove(0);
        std::fs::remove_dir_all(&folder).unwrap();
        log.file.read_to_end(&mut log.rest).unwrap();
        let time = "2026-01-01T00:00:00.5Z".to_owned();
        let wanted = [(time.clone(), format!("{time}  INFO up")), (time, "  at line 7".into())];
        assert_eq!(log.complete(), wanted);
        log.rest.extend(b" done\n");
        assert_eq!(log.complete()[0].1, "2026-01-01T00:00:01Z half done");
    }
}
