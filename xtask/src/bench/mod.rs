//! `cargo xtask bench`: figures as ratios to their peers, measured in the same run.
//!
//! ```text
//! start   `true` through dunix run, on this node and on another   : fork+exec, ssh
//! exec    a shell's loop of `true` on one node and over two        : the same natively
//! stream  a pipe between nodes, GiB/s and CPU seconds a GiB        : TCP, TCP with TLS
//! move    a running process to the other node and back             : waking a CPU, copying memory
//! place   64 programs that compute, on six small nodes              : the same natively under equal quotas
//! make    a build on six small nodes, with bounds                  : one of them, distcc on six as small
//! tree    compiling, reading, writing, making files, on two nodes  : the same natively
//! calls   single system calls, trapped and from rewritten sites    : the same natively
//! cpu     find, tar, python3, gcc, bash in labs of one node         : the same natively
//! guest   what the guest runtime alone costs, with bounds           : the same natively
//! ```
//!
//! Runs of a figure and its peers are interleaved, so that other load meets all of them; a figure is
//! the median, with the interval that holds it with 95% confidence.
//! `docs/BENCHMARKS.md` says what was measured, and what each figure is made of.

mod calls;
mod cpu;
mod distcc;
mod exec;
mod guest;
mod limited;
mod make;
mod meter;
mod moves;
mod place;
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
use anyhow::{Result, bail};
use std::{fs, path::Path};

use stats::Ratio;

type Measure = fn(&Path, &Scratch) -> Result<Vec<Ratio>>;

/// What is measured together, in the order of a run of all.
const GROUPS: [(&str, Measure); 10] = [
    ("start", start::measure),
    ("exec", |binaries, _| exec::measure(binaries)),
    ("stream", |binaries, _| stream::measure(binaries)),
    ("move", moves::measure),
    ("place", place::measure),
    ("make", make::measure),
    ("tree", |binaries, _| tree::measure(binaries)),
    ("calls", calls::measure),
    ("cpu", |binaries, _| cpu::measure(binaries)),
    ("guest", guest::measure),
];

/// Groups that have bounds, and take long.
const BOUNDED: [&str; 2] = ["guest", "make"];

/// Measures and prints the groups of these names. Of none: those without bounds, or with `--check` those with bounds,
/// of which each must hold then.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let names = arguments.iter().copied().filter(|name| *name != "--check").collect::<Vec<_>>();
    let is_check = names.len() < arguments.len();
    if let Some(name) = names.iter().find(|name| GROUPS.iter().all(|(group, _)| group != *name)) {
        let known = GROUPS.map(|(group, _)| group).join(", ");
        bail!("bench: there is no group {name}; there are {known}");
    }
    packages::ensure(&[CC, IP, SSH, SSHD])?;
    let binaries = workspace::build(&["dunix", "dunix-benches"])?;
    let scratch = Scratch::new("bench")?;
    print_conditions();
    let mut ratios = Vec::new();
    for (group, measure) in GROUPS {
        let is_usual = BOUNDED.contains(&group) == is_check;
        if names.contains(&group) || names.is_empty() && is_usual {
            ratios.extend(measure(&binaries, &scratch)?);
        }
    }
    println!("\nload   {}", read("/proc/loadavg"));
    println!("\nratios of medians");
    for ratio in &ratios {
        println!("  {ratio}");
    }
    let missed = ratios.iter().filter(|ratio| !ratio.holds()).count();
    if is_check && missed > 0 {
        bail!("{missed} figures miss their bounds");
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
