//! A build with make(1): on six small nodes beside one of them, and beside distcc(1) on six machines as small.

use super::{
    distcc::Farm,
    script::{Times, timed, times},
    stats::{Ratio, Series},
};
use crate::{
    fabric::Fabric,
    packages::{self, DISTCC, MAKE},
    source::{self, Scratch},
};
use anyhow::Result;
use std::path::Path;

const RUNS: usize = 3;
const NODES: u32 = 6;
/// Of each node, and of each machine of the peer.
const CPUS: f64 = 0.25;
/// How much slower six nodes may be than a sixth of one node's time: 5 times its speed.
const SHARE: f64 = 0.2;

pub(super) fn measure(binaries: &Path, scratch: &Scratch) -> Result<Vec<Ratio>> {
    packages::ensure(&[MAKE, DISTCC])?;
    println!(
        "\nmake -j12 of 200 C files, on {NODES} nodes of {CPUS} CPUs, on one, and with distcc"
    );
    let code = scratch.path().join("libgit2");
    source::unpack_libgit2(&code)?;
    let (code, cpus) = (code.display(), CPUS.to_string());
    let limits = ["--cpus-per-node", &cpus];
    let mut one = Series::new("one node", "s");
    let mut six = Series::new("six nodes", "s");
    let mut peer = Series::new("distcc on six", "s");
    for run in 0..RUNS {
        let build = |compiler| {
            let folder = format!("/var/tmp/dunix-make-{}-{run}", std::process::id());
            let prepare = format!("cp -r {code} {folder} && cd {folder}");
            (prepare, format!("make -s -j12 CC='{compiler}'"), format!("rm -r {folder}"))
        };
        six.push(in_lab(binaries, NODES, &limits, &build("cc"))?.real);
        peer.push(by_distcc(&build("distcc cc"))?.real);
        one.push(in_lab(binaries, 1, &limits, &build("cc"))?.real);
    }
    println!("{one}\n{six}\n{peer}");
    Ok(vec![
        Ratio::new("make -j12, six nodes / one node", &six, &one).at_most(SHARE),
        Ratio::new("make -j12, six nodes / distcc on six machines", &six, &peer).at_most(1.0),
    ])
}

/// What comes before, what is timed, what comes after.
type Build = (String, String, String);

fn in_lab(binaries: &Path, nodes: u32, limits: &[&str], build: &Build) -> Result<Times> {
    let fabric = Fabric::start(binaries, "bench-make", nodes, limits)?;
    run(&mut |script| times(&mut fabric.dunix(&["run", "-C", "/", "--", "bash"]), script), build)
}

fn by_distcc(build: &Build) -> Result<Times> {
    let farm = Farm::start(NODES, CPUS)?;
    run(&mut |script| farm.times(script), build)
}

fn run(times: &mut dyn FnMut(&str) -> Result<Times>, build: &Build) -> Result<Times> {
    let (before, build, after) = build;
    let checked = format!("{}; ./git2 hash-object Makefile > /dev/null || exit", timed(build));
    times(&format!("{before} || exit; {checked}; cd /; {after}"))
}
