//! Work that is spread: how much longer a fan-out takes on small nodes than on one machine with the same CPU time, and
//! a loop of short programs on many nodes than on one.

use super::{
    calls,
    limited::Limited,
    script::{Times, timed, times},
    stats::{Ratio, Series},
};
use crate::{fabric::Fabric, source::Scratch};
use anyhow::Result;
use std::{path::Path, process::Command};

const RUNS: usize = 5;
const NODES: u32 = 6;
/// Of each node.
const CPUS: &str = "0.25";
/// Of the group that the native runs are in: as much as all nodes together.
const ALL_CPUS: f64 = 1.5;
/// The most that a fan-out may take of the native time.
const BOUND: f64 = 1.15;
/// Programs of the loop.
const LOOP: &str = "for i in {1..300}; do /bin/true; done";

pub(super) fn measure(binaries: &Path, scratch: &Scratch) -> Result<Vec<Ratio>> {
    println!(
        "\n64 programs that compute, on {NODES} nodes of {CPUS} CPUs; a loop of 300 short ones"
    );
    let program = calls::compile(scratch, "computes")?;
    // Where the nodes' tree shows it as it is now.
    let program = format!("cp {program} /tmp/computes && cd /tmp");
    let fabric = Fabric::start(binaries, "bench", NODES, &["--cpus-per-node", CPUS])?;
    let alone = Fabric::start(binaries, "bench-alone", 1, &["--cpus-per-node", CPUS])?;
    let limited = Limited::new("place", ALL_CPUS)?;
    within(&fabric, &program)?;
    natively(&limited, &program)?;
    let by_fork = [Series::new("forked, natively", "s"), Series::new("forked, dunix", "s")];
    let by_exec = [Series::new("by bash, natively", "s"), Series::new("by bash, dunix", "s")];
    let mut fan_outs = [
        ("64 forked programs that compute / native", "/tmp/computes 64 0.25", by_fork),
        (
            "64 programs started by bash that compute / native",
            "for i in {1..64}; do /tmp/computes 0 0.25 & done; wait",
            by_exec,
        ),
    ];
    let mut loops = [Series::new("the loop, one node", "s"), Series::new("the loop, 6 nodes", "s")];
    for _ in 0..RUNS {
        for (_, script, [native, dunix]) in &mut fan_outs {
            native.push(natively(&limited, script)?.real);
            dunix.push(within(&fabric, script)?.real);
        }
        loops[0].push(within(&alone, LOOP)?.real);
        loops[1].push(within(&fabric, LOOP)?.real);
    }
    let mut ratios = Vec::new();
    for (what, _, [native, dunix]) in &fan_outs {
        println!("{native}\n{dunix}");
        ratios.push(Ratio::new(what, dunix, native).at_most(BOUND));
    }
    println!("{}\n{}", loops[0], loops[1]);
    ratios.push(Ratio::new("a loop of short programs, 6 nodes / one node", &loops[1], &loops[0]));
    Ok(ratios)
}

fn within(fabric: &Fabric, script: &str) -> Result<Times> {
    times(&mut fabric.dunix(&["run", "-C", "/", "--", "bash"]), &timed(script))
}

fn natively(limited: &Limited, script: &str) -> Result<Times> {
    times(&mut Command::new("bash"), &format!("{}; {}", limited.enter(), timed(script)))
}
