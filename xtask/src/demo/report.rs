//! What the demo found: a table for each node, times, and every comparison.

use super::{Program, seconds};
use crate::fabric::Fabric;
use anyhow::Result;
use serde_json::Value;
use std::time::Duration;

/// Collects comparisons and times.
pub(super) struct Report {
    checks: Vec<(bool, String)>,
    times: Vec<(&'static str, Duration)>,
    /// The nodes before anything ran.
    before: Vec<Value>,
}

impl Report {
    /// Starts with the nodes' counters as they are.
    pub(super) fn new(fabric: &Fabric) -> Result<Report> {
        Ok(Report { checks: Vec::new(), times: Vec::new(), before: fabric.nodes()? })
    }

    pub(super) fn check(&mut self, holds: bool, what: String) {
        self.checks.push((holds, what));
    }

    pub(super) fn time(&mut self, what: &'static str, time: Duration) {
        self.times.push((what, time));
    }

    pub(super) fn holds(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|(holds, _)| *holds)
    }

    /// Prints everything.
    pub(super) fn print(&self, fabric: &Fabric, programs: &[Program]) -> Result<()> {
        println!("\nnode  programs  compilers  stream bytes out  message bytes out");
        for node in fabric.nodes()? {
            let id = node["id"].as_u64().unwrap_or(0);
            let here = || programs.iter().filter(|program| program.node == id);
            println!(
                "{:<4}  {:>8}  {:>9}  {:>16}  {:>17}",
                node["name"].as_str().unwrap_or("?"),
                here().count(),
                here().filter(|program| program.name == "cc1").count(),
                self.grown(&node, "stream_bytes_sent"),
                self.grown(&node, "message_bytes_sent"),
            );
        }
        println!();
        for (what, time) in &self.times {
            println!("{what:<18} {:>9}", seconds(*time));
        }
        println!();
        for (holds, what) in &self.checks {
            println!("{}  {what}", if *holds { "ok  " } else { "FAIL" });
        }
        Ok(())
    }

    /// How much a node's counter has grown since the start.
    fn grown(&self, node: &Value, counter: &str) -> u64 {
        let value = |node: &Value| node["traffic"][counter].as_u64().unwrap_or(0);
        let before = self.before.iter().find(|before| before["id"] == node["id"]);
        value(node).saturating_sub(before.map_or(0, value))
    }
}
