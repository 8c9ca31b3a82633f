//! A lab that a chore starts, uses through the command line, and takes down.

use crate::interrupt;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long a lab may take until every node is up.
const START_SECONDS_MAX: u64 = 60;
/// How long it may take to leave nothing behind.
const STOP_SECONDS_MAX: u64 = 30;
/// Between two looks: a lab without a program says nothing when it is up.
const POLL_PAUSE: Duration = Duration::from_millis(100);

/// A running lab; dropped, it is taken down.
pub(crate) struct Fabric {
    dunix: PathBuf,
    name: String,
    lab: Child,
}

impl Fabric {
    /// Starts `dunix lab` and waits until every node is up.
    pub(crate) fn start(binaries: &Path, name: &str, nodes: u32, more: &[&str]) -> Result<Fabric> {
        let dunix = binaries.join("dunix");
        let name = format!("{name}-{}", std::process::id());
        let mut command = Command::new(&dunix);
        command.args(["lab", "--nodes", &nodes.to_string(), "--name", &name]).args(more);
        // ^C is for this process, which then takes the lab down in order.
        command.stdin(Stdio::null()).process_group(0);
        let lab = command.spawn().context("dunix lab")?;
        let mut fabric = Fabric { dunix, name, lab };
        fabric.wait_until_up(nodes)?;
        Ok(fabric)
    }

    fn wait_until_up(&mut self, nodes: u32) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(START_SECONDS_MAX);
        loop {
            interrupt::sleep(POLL_PAUSE)?;
            if let Some(status) = self.lab.try_wait()? {
                bail!("the lab ended: {status}");
            }
            let up = self.nodes().is_ok_and(|list| {
                list.iter().filter(|node| node["state"] == "up").count() == nodes as usize
            });
            if up {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the lab has not come up within {START_SECONDS_MAX} s");
            }
        }
    }

    /// The lab's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The process that holds the lab.
    pub(crate) fn pid(&self) -> u32 {
        self.lab.id()
    }

    /// The command line, with this fabric chosen.
    pub(crate) fn dunix(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.dunix);
        command.args(["--fabric", &self.name]).args(arguments).stdin(Stdio::null());
        command
    }

    /// `dunix nodes --json`.
    pub(crate) fn nodes(&self) -> Result<Vec<Value>> {
        let text = interrupt::output(self.dunix(&["nodes", "--json"]).stderr(Stdio::null()))?;
        serde_json::from_slice(&text).context("dunix nodes --json")
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        let Some(pid) = i32::try_from(self.lab.id()).ok().and_then(Pid::from_raw) else { return };
        // It may have ended already.
        let _ = kill_process(pid, Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(STOP_SECONDS_MAX);
        while Instant::now() < deadline {
            match self.lab.try_wait() {
                Ok(None) => std::thread::sleep(POLL_PAUSE),
                _ => return,
            }
        }
        eprintln!("xtask: the lab did not end within {STOP_SECONDS_MAX} s: killed");
        let _ = self.lab.kill();
        let _ = self.lab.wait();
    }
}
