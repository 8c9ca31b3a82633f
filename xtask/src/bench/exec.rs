//! What a program costs that a shell starts in a loop: natively, on the shell's own node, and when
//! every second one goes to the other node.
//!
//! Unlike `start`, no client is started for each program, so that this is what a fork, an exec and a
//! wait cost; `true` does nothing else.

use super::{
    meter::Meter,
    script::{Times, natively, timed, times},
    stats::{Ratio, Series},
};
use anyhow::Result;
use std::path::Path;

const RUNS: usize = 9;
const PROGRAMS: u32 = 60;

/// One loop's time and CPU time a program, ms.
struct Cost {
    time: f64,
    cpu: f64,
}

struct Figures {
    time: Series,
    cpu: Series,
}

impl Figures {
    fn new(time: &'static str) -> Figures {
        Figures { time: Series::new(time, "ms"), cpu: Series::new("  its CPU, everything", "ms") }
    }

    fn push(&mut self, cost: &Cost) {
        self.time.push(cost.time);
        self.cpu.push(cost.cpu);
    }
}

pub(super) fn measure(binaries: &Path) -> Result<Vec<Ratio>> {
    println!("\na program that a shell starts and waits for, ms each of {PROGRAMS}");
    let meter = Meter::start(binaries, "bench", 2, &[])?;
    let mut native = Figures::new("native");
    let mut local = Figures::new("on the shell's node");
    let mut remote = Figures::new("on the other node");
    for run in 0..=RUNS {
        let natively = by_host()?;
        let here = within(&meter, "--local")?;
        let both = within(&meter, "--spread")?;
        // The first run fills caches everywhere.
        if run > 0 {
            native.push(&natively);
            // The nodes take turns: one half ran here.
            let there = Cost { time: 2.0 * both.time - here.time, cpu: 2.0 * both.cpu - here.cpu };
            local.push(&here);
            remote.push(&there);
        }
    }
    for figures in [&native, &local, &remote] {
        println!("{}\n{}", figures.time, figures.cpu);
    }
    Ok(vec![
        Ratio::new("fork + exec + wait here / native", &local.time, &native.time),
        Ratio::new("fork + exec + wait on the other node / native", &remote.time, &native.time),
        Ratio::new("fork + exec + wait on the other node / here", &remote.time, &local.time),
        Ratio::new("its CPU / native", &remote.cpu, &native.cpu),
    ])
}

/// The first programs fill caches.
fn script() -> String {
    let programs = timed(&format!("for i in {{1..{PROGRAMS}}}; do /bin/true; done"));
    format!("for i in {{1..3}}; do /bin/true; done; {programs}")
}

fn by_host() -> Result<Cost> {
    let took = natively(&script())?;
    Ok(per_program(took.real, took.user_and_system))
}

fn within(meter: &Meter, how: &str) -> Result<Cost> {
    // What a start without programs costs is not the programs'.
    let idle = cpu_of(meter, how, &timed("true"))?.0;
    let (cpu, took) = cpu_of(meter, how, &script())?;
    Ok(per_program(took.real, cpu - idle))
}

fn cpu_of(meter: &Meter, how: &str, script: &str) -> Result<(f64, Times)> {
    let before = meter.seconds()?;
    let took = times(&mut meter.fabric.dunix(&["run", how, "--", "bash"]), script)?;
    Ok((meter.seconds()? - before, took))
}

fn per_program(seconds: f64, cpu_seconds: f64) -> Cost {
    let each = |seconds: f64| seconds * 1e3 / f64::from(PROGRAMS);
    Cost { time: each(seconds), cpu: each(cpu_seconds) }
}
