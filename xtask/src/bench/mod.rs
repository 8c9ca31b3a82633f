//! `cargo xtask bench`: figures as ratios to their peers, measured in the same run.
//!
//! ```text
//! start   `true` through dunix run, on this node and on another   : fork+exec, ssh
//! stream  a pipe between nodes, GiB/s and CPU seconds a GiB        : TCP, TCP with TLS
//! cpu     find, tar, a fork+exec loop in a lab of one node         : the same natively
//! ```
//!
//! Runs of a figure and its peers are interleaved, so that other load meets all of them; a figure is
//! the median, with the interval that holds it with 95% confidence.

mod cpu;
mod meter;
mod ssh;
mod start;
mod stats;
mod stream;

use crate::{
    packages::{self, IP, SSH, SSHD},
    source::Scratch,
    workspace,
};
use anyhow::{Result, bail};
use stats::Ratio;
use std::fs;

/// Measures and prints; with `check`, a figure beyond its bound fails.
pub(crate) fn run(check: bool) -> Result<()> {
    packages::ensure(&[IP, SSH, SSHD])?;
    let binaries = workspace::build(&["dunix", "dunix-benches"])?;
    let scratch = Scratch::new("bench")?;
    print_conditions();
    let mut ratios = Vec::new();
    ratios.extend(start::measure(&binaries, &scratch)?);
    ratios.extend(stream::measure(&binaries)?);
    ratios.extend(cpu::measure(&binaries)?);
    println!("\nratios (bound)");
    let mut beyond = 0;
    for ratio in &ratios {
        println!("  {ratio}");
        beyond += usize::from(!ratio.holds());
    }
    if check && beyond > 0 {
        bail!("{beyond} figures are beyond their bounds");
    }
    Ok(())
}

/// What the figures depend on.
fn print_conditions() {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("kernel {}", read("/proc/sys/kernel/osrelease").trim());
    println!("cores  {cores}");
    println!("load   {}", read("/proc/loadavg").trim());
}

/// Divides a series' median by its peer's.
fn ratio(what: &'static str, figure: &stats::Series, peer: &stats::Series, bound: f64) -> Ratio {
    Ratio { what, value: figure.median() / peer.median(), bound }
}
