//! `cargo xtask bench`: figures as ratios to their peers, measured in the same run.
//!
//! ```text
//! start   `true` through dunix run, on this node and on another   : fork+exec, ssh
//! exec    a shell's loop of `true` on one node and over two        : the same natively
//! stream  a pipe between nodes, GiB/s and CPU seconds a GiB        : TCP, TCP with TLS
//! move    a running process to the other node and back             : waking a CPU, copying memory
//! tree    compiling, reading, writing, making files, on two nodes  : the same natively
//! calls   single system calls, trapped and from rewritten sites    : the same natively
//! cpu     find, tar, python3, gcc, bash in labs of one node         : the same natively
//! ```
//!
//! Runs of a figure and its peers are interleaved, so that other load meets all of them; a figure is
//! the median, with the interval that holds it with 95% confidence. There are no bounds to pass:
//! `docs/BENCHMARKS.md` says what was measured, and what each figure is made of.

mod calls;
mod cpu;
mod exec;
mod meter;
mod moves;
mod script;
mod ssh;
mod start;
mod stats;
mod stream;
mod tree;

use crate::{
    packages::{self, CC, IP, SSH, SSHD},
    source::Scratch,
    workspace,
};
use anyhow::Result;
use std::fs;

/// Measures and prints.
pub(crate) fn run() -> Result<()> {
    packages::ensure(&[CC, IP, SSH, SSHD])?;
    let binaries = workspace::build(&["dunix", "dunix-benches"])?;
    let scratch = Scratch::new("bench")?;
    print_conditions();
    let mut ratios = Vec::new();
    ratios.extend(start::measure(&binaries, &scratch)?);
    ratios.extend(exec::measure(&binaries)?);
    ratios.extend(stream::measure(&binaries)?);
    ratios.extend(moves::measure(&binaries, &scratch)?);
    ratios.extend(tree::measure(&binaries)?);
    ratios.extend(calls::measure(&binaries, &scratch)?);
    ratios.extend(cpu::measure(&binaries)?);
    println!("\nload   {}", read("/proc/loadavg"));
    println!("\nratios of medians");
    for ratio in &ratios {
        println!("  {ratio}");
    }
    Ok(())
}

/// What the figures depend on.
fn print_conditions() {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("kernel {}", read("/proc/sys/kernel/osrelease"));
    println!("CPUs   {cores} x {}", field("/proc/cpuinfo", "model name"));
    println!("memory {}", field("/proc/meminfo", "MemTotal"));
    let load = read("/proc/loadavg");
    println!("load   {load}");
    let busy = load.split(' ').next().and_then(|load| load.parse::<f64>().ok()).unwrap_or(0.0);
    if busy > cores as f64 {
        println!(
            "\nThis machine is busy. Labs are control groups with a share of the CPUs of their own, so \
             that times beside native ones flatter them; figures of CPU time hold."
        );
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The first value of a name in a file of `name : value` lines.
fn field(path: &str, name: &str) -> String {
    let text = read(path);
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
    value.map_or("unknown", |(_, value)| value.trim()).to_owned()
}
