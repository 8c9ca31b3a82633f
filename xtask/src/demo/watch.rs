//! A live view of what runs where, from `dunix events --json`.

use crate::{fabric::Fabric, interrupt};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, IsTerminal},
    process::{Child, ChildStdout, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Greatest characters of a command that are shown.
const COMMAND_CHARS_MAX: usize = 90;
/// How long the events of programs that have ended may take to arrive.
const QUIET: Duration = Duration::from_millis(500);
const QUIET_SECONDS_MAX: u64 = 10;

/// A program that a process started to run.
pub(super) struct Program {
    pub(super) node: u64,
    /// The last part of its path.
    pub(super) name: String,
}

/// Watches a fabric until dropped.
pub(super) struct Watch {
    events: Child,
    seen: Arc<Mutex<Seen>>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    programs: Vec<Program>,
    last: Option<Instant>,
    lost: u64,
}

impl Watch {
    /// Subscribes, and shows from now on.
    pub(super) fn start(fabric: &Fabric) -> Result<Watch> {
        let mut command = fabric.dunix(&["events", "--json"]);
        let mut events = command.stdout(Stdio::piped()).spawn().context("dunix events")?;
        let output = events.stdout.take().context("dunix events: no output")?;
        let seen = Arc::<Mutex<Seen>>::default();
        let shared = Arc::clone(&seen);
        let reader = thread::spawn(move || read(output, &shared));
        Ok(Watch { events, seen, reader: Some(reader) })
    }

    /// Waits until no more events come and takes the programs seen since the last time.
    pub(super) fn take(&self) -> Result<Vec<Program>> {
        let deadline = Instant::now() + Duration::from_secs(QUIET_SECONDS_MAX);
        loop {
            interrupt::sleep(QUIET / 5)?;
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let quiet = seen.last.is_none_or(|last| last.elapsed() > QUIET);
            if quiet || Instant::now() > deadline {
                if seen.lost > 0 {
                    bail!("{} events were lost: the counts would be wrong", seen.lost);
                }
                return Ok(std::mem::take(&mut seen.programs));
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended with the fabric.
        let _ = self.events.kill();
        let _ = self.events.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn read(output: ChildStdout, seen: &Mutex<Seen>) {
    let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.last = Some(Instant::now());
        seen.lost += event["kind"]["Lost"]["events"].as_u64().unwrap_or(0);
        let executed = &event["kind"]["Executed"];
        let (Some(node), Some(args)) = (event["node"].as_u64(), executed["args"].as_array()) else {
            continue;
        };
        let args: Vec<&str> = args.iter().filter_map(Value::as_str).collect();
        let name = args.first().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        show(node, executed["pid"].as_u64().unwrap_or(0), name, &args, colours);
        seen.programs.push(Program { node, name: name.to_owned() });
    }
}

fn show(node: u64, pid: u64, name: &str, args: &[&str], colours: bool) {
    let rest = args.get(1..).unwrap_or_default().join(" ");
    let command: String = format!("{name} {rest}")
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(COMMAND_CHARS_MAX)
        .collect();
    if colours {
        println!("  \x1b[{}mn{node}\x1b[0m {pid:>7}  {command}", 31 + node % 6);
    } else {
        println!("  n{node} {pid:>7}  {command}");
    }
}
