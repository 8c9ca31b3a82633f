//! CPU time of ordinary programs in a lab of one node, against the same natively.

use super::{
    meter::Meter,
    stats::{Ratio, Series},
};
use crate::interrupt;
use anyhow::{Context, Result, bail};
use std::{
    path::Path,
    process::{Command, Stdio},
};

const RUNS: usize = 7;

struct Work {
    name: &'static str,
    script: &'static str,
    what: &'static str,
}

const WORKS: [Work; 3] = [
    Work {
        name: "find",
        script: "find /usr/include /usr/lib /usr/share -name '*a*' | wc -l",
        what: "CPU of find / native",
    },
    Work {
        name: "tar",
        script: "tar cPf - /usr/include /usr/share/perl | wc -c",
        what: "CPU of tar / native",
    },
    Work {
        name: "fork + exec, 300 times",
        script: "for i in {1..300}; do /bin/true; done",
        what: "CPU of a fork + exec loop / native",
    },
];

pub(super) fn measure(binaries: &Path) -> Result<Vec<Ratio>> {
    println!("\nCPU time in a lab of one node (daemon included), s");
    let (meter, fabric) = Meter::start(binaries, 1, &[])?;
    let mut ratios = Vec::new();
    for work in &WORKS {
        println!(" {}", work.name);
        let mut native = Series::new("native", "s");
        let mut inside = Series::new("dunix", "s");
        for run in 0..=RUNS {
            let by_host = native_seconds(work.script)?;
            let before = meter.seconds()?;
            let mut command = fabric.dunix(&["run", "--", "bash", "-c", work.script]);
            let status = command.stdout(Stdio::null()).status()?;
            interrupt::check()?;
            if !status.success() {
                bail!("{}: {status}", work.name);
            }
            // The first run fills caches on both sides.
            if run > 0 {
                native.push(by_host);
                inside.push(meter.seconds()? - before);
            }
        }
        println!("{native}\n{inside}");
        ratios.push(Ratio::new(work.what, &inside, &native));
    }
    Ok(ratios)
}

/// User and system time of a script and all that it waits for, by bash.
fn native_seconds(script: &str) -> Result<f64> {
    let timed = format!("TIMEFORMAT='%3U %3S'; time {{ {script}; }} > /dev/null 2>&1");
    let output = Command::new("bash").args(["-c", &timed]).stdin(Stdio::null()).output()?;
    interrupt::check()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let times: Option<Vec<f64>> = text.split_whitespace().map(|time| time.parse().ok()).collect();
    Ok(times.context("bash's time")?.iter().sum())
}
