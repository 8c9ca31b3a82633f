//! What the guest runtime costs by itself, with a bound for each figure: CPU time in a lab of one node that has the
//! host's root (`--root host`), so that no server of files is in it, daemon included.
//!
//! Each pair runs a work natively and in the lab, one after the other, and takes off what an empty script costs there;
//! what counts is the median of the pairs' ratios. Both see the host's root by an overlay, whose price is the file
//! tree's and not in the figure; some runs in the host's root itself show it.

mod memory;
mod overlay;

use super::{
    calls,
    meter::{HostMeter, Meter},
    stats::{Ratio, Series},
};
use crate::{
    interrupt,
    packages::{self, Tool},
    source::Scratch,
};
use anyhow::{Context, Result, ensure};
use overlay::Overlay;
use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
};

const PAIRS: usize = 21;
/// So many times a work runs in the host's root itself.
const PLAIN_RUNS: usize = 7;
const WORKS_SCRIPT: &str = include_str!("works.sh");
/// What an exec may cost beyond the share, in seconds.
const EXEC_S_MAX: f64 = 0.15e-3;
const SHARE_MAX: f64 = 1.03;

struct Work {
    /// A function of `works.sh`.
    name: &'static str,
    what: &'static str,
    /// Programs that it executes, for which there is an allowance.
    execs: u32,
    share_max: f64,
    /// It has preparations.
    is_prepared: bool,
}

const fn work(name: &'static str, what: &'static str, execs: u32) -> Work {
    Work { name, what, execs, share_max: SHARE_MAX, is_prepared: false }
}

impl Work {
    const fn prepared(self) -> Work {
        Work { is_prepared: true, ..self }
    }

    const fn at_most(self, share_max: f64) -> Work {
        Work { share_max, ..self }
    }
}

const WORKS: [Work; 13] = [
    work("python", "python3 -c pass / native", 20),
    work("gcc", "gcc -O2 of 5,000 lines / native", 3).prepared(),
    work("find", "find | wc / native", 2),
    work("tar", "tar | wc / native", 2),
    work("builtins", "a bash loop of built-ins / native", 0),
    work("git", "git status of 20,000 files / native", 5).prepared(),
    work("redis", "redis-benchmark / native", 4),
    work("redis_pipelined", "redis-benchmark, pipelined / native", 4),
    work("pgbench", "pgbench -S / native", 8).prepared(),
    work("wrk", "a request of wrk to nginx / native", 0).prepared(),
    work("bash_exec", "fork + exec + wait by bash / native", 0).at_most(1.15),
    work("spawn", "posix_spawn(3) + wait / native", 0).at_most(1.15),
    work("fork", "fork + exit + wait / native", 0).at_most(1.10),
];

const PROGRAMS: [Tool<'_>; 8] = [
    Tool { program: "/usr/bin/python3", package: "python3" },
    Tool { program: "git", package: "git" },
    Tool { program: "redis-server", package: "redis-server" },
    Tool { program: "redis-benchmark", package: "redis-tools" },
    Tool { program: "psql", package: "postgresql" },
    Tool { program: "nginx", package: "nginx-light" },
    Tool { program: "wrk", package: "wrk" },
    Tool { program: "curl", package: "curl" },
];

pub(super) fn measure(binaries: &Path, scratch: &Scratch) -> Result<Vec<Ratio>> {
    packages::ensure(&PROGRAMS)?;
    calls::compile(scratch, "births")?;
    println!(
        "\nCPU time in a lab of one node with the host's root (daemon included), s; {PAIRS} pairs\n\
         native: in an overlay of the host's root, as in the lab; plain: in the host's root itself"
    );
    let bench = Bench::start(binaries, scratch)?;
    let mut ratios = Vec::new();
    for work in &WORKS {
        ratios.push(bench.measure(work)?);
    }
    ratios.extend(calls::bounded(&bench.lab.fabric, scratch)?);
    ratios.push(memory::measure(&bench.lab.fabric)?);
    Ok(ratios)
}

struct Bench {
    lab: Meter,
    host: HostMeter,
    overlay: Overlay,
    folder: String,
    script: String,
    port: u16,
}

impl Bench {
    fn start(binaries: &Path, scratch: &Scratch) -> Result<Bench> {
        let script = scratch.path().join("works.sh");
        fs::write(&script, WORKS_SCRIPT)?;
        let view = scratch.path().join("overlay");
        fs::create_dir(&view)?;
        // Free a moment ago; a lab has a network of its own.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        Ok(Bench {
            lab: Meter::start(binaries, "bench-guest", 1, &["--root", "host"])?,
            host: HostMeter::new("bench-host")?,
            overlay: Overlay::start(&view)?,
            folder: scratch.path().to_string_lossy().into_owned(),
            script: script.to_string_lossy().into_owned(),
            port,
        })
    }

    fn measure(&self, work: &Work) -> Result<Ratio> {
        println!(" {}", work.name);
        if work.is_prepared {
            self.script(Command::new("bash"), &format!("prepare_{}", work.name))?;
        }
        let mut native = Series::new("native", "s");
        let mut inside = Series::new("dunix", "s");
        let mut ratios = Series::new("ratio", "");
        let mut plain = Series::new("plain", "s");
        for pair in 0..=PAIRS {
            let by_host = self.natively(work)?;
            let by_lab = self.inside(work)?;
            if (1..=PLAIN_RUNS).contains(&pair) {
                plain.push(self.plainly(work)?);
            }
            // The first pair fills caches on both sides.
            if pair > 0 {
                native.push(by_host);
                inside.push(by_lab);
                ratios.push(by_lab / by_host);
            }
        }
        println!("{plain}\n{native}\n{inside}\n{ratios}");
        let allowance = f64::from(work.execs) * EXEC_S_MAX / native.median();
        Ok(Ratio::of(work.what, ratios.median()).at_most(work.share_max + allowance))
    }

    fn plainly(&self, work: &Work) -> Result<f64> {
        self.cost(work, || self.host.seconds(), || self.host.command("bash"))
    }

    fn natively(&self, work: &Work) -> Result<f64> {
        let command = || {
            let (program, arguments) = self.overlay.entry();
            let mut command = self.host.command(program);
            command.args(arguments).arg("bash");
            command
        };
        self.cost(work, || self.host.seconds(), command)
    }

    fn inside(&self, work: &Work) -> Result<f64> {
        let command = || self.lab.fabric.dunix(&["run", "--", "bash"]);
        self.cost(work, || self.lab.seconds(), command)
    }

    /// CPU seconds of a work (of one of its parts, if it says how many it did), without those of an empty one.
    fn cost(
        &self,
        work: &Work,
        seconds: impl Fn() -> Result<f64>,
        command: impl Fn() -> Command,
    ) -> Result<f64> {
        let start = seconds()?;
        self.script(command(), "work_nothing")?;
        let middle = seconds()?;
        let parts = self.script(command(), &format!("work_{}", work.name))?;
        let end = seconds()?;
        Ok(((end - middle) - (middle - start)) / parts)
    }

    /// Runs a function of the script; returns what it says to have done.
    fn script(&self, mut bash: Command, function: &str) -> Result<f64> {
        let environment =
            format!("FOLDER={} PORT={}; source {} \"$0\"", self.folder, self.port, self.script);
        bash.args(["-c", &environment, function]).stdin(Stdio::null());
        let output = bash.output()?;
        interrupt::check()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{function}: {}: {said}{errors}", output.status);
        let done = said.lines().find_map(|line| line.strip_prefix("done "));
        done.map_or(Ok(1.0), |done| done.parse().context("what was done"))
    }
}
