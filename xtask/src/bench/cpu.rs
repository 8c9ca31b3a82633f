//! CPU time of ordinary programs in labs of one node, against the same natively: in one with the usual
//! tree, and in one with the host's root (`--root host`), where no server of files is in the figure.

use super::{
    meter::Meter,
    script::{natively, timed},
    stats::{Ratio, Series},
};
use crate::interrupt;
use anyhow::{Result, bail};
use std::{path::Path, process::Stdio};

const RUNS: usize = 7;

struct Work {
    name: &'static str,
    script: &'static str,
    /// Ratios: with the usual tree, with the host's root.
    what: [&'static str; 2],
}

const WORKS: [Work; 6] = [
    Work {
        name: "python3 -c pass, 20 times",
        script: "for i in {1..20}; do /usr/bin/python3 -c pass; done",
        what: ["CPU of python3 -c pass / native", "CPU of python3 -c pass, --root host / native"],
    },
    Work {
        name: "a bash loop of built-ins",
        script: "for i in {1..20000}; do [ -e /etc/passwd ] && read x < /etc/hostname; done",
        what: [
            "CPU of a bash loop of built-ins / native",
            "CPU of a bash loop of built-ins, --root host / native",
        ],
    },
    Work {
        name: "gcc -O2 of 5,000 lines",
        script: "for i in {1..1250}; do printf 'int f%d(int *a, int n) {\\n int s = 0; for (int i = 0; i < n; i++)\\n s += a[i] * %d + s / (i + %d);\\n return s; }\\n' $i $i $i; done | gcc -O2 -c -x c -o /dev/null -",
        what: ["CPU of gcc -O2 / native", "CPU of gcc -O2, --root host / native"],
    },
    Work {
        name: "find",
        script: "find /usr/include /usr/lib /usr/share -name '*a*' | wc -l",
        what: ["CPU of find / native", "CPU of find, --root host / native"],
    },
    Work {
        name: "tar",
        script: "tar cPf - /usr/include /usr/share/perl | wc -c",
        what: ["CPU of tar / native", "CPU of tar, --root host / native"],
    },
    Work {
        name: "fork + exec, 300 times",
        script: "for i in {1..300}; do /bin/true; done",
        what: [
            "CPU of a fork + exec loop / native",
            "CPU of a fork + exec loop, --root host / native",
        ],
    },
];

pub(super) fn measure(binaries: &Path) -> Result<Vec<Ratio>> {
    println!("\nCPU time in labs of one node (daemon included), s");
    let labs = [
        Meter::start(binaries, "bench", 1, &[])?,
        Meter::start(binaries, "bench-host", 1, &["--root", "host"])?,
    ];
    let mut ratios = Vec::new();
    for work in &WORKS {
        println!(" {}", work.name);
        let mut native = Series::new("native", "s");
        let mut inside = [Series::new("dunix", "s"), Series::new("dunix, --root host", "s")];
        for run in 0..=RUNS {
            let by_host = natively(&timed(work.script))?.user_and_system;
            let mut took = Vec::new();
            for meter in &labs {
                let before = meter.seconds()?;
                let mut command = meter.fabric.dunix(&["run", "--", "bash", "-c", work.script]);
                let status = command.stdout(Stdio::null()).status()?;
                interrupt::check()?;
                if !status.success() {
                    bail!("{}: {status}", work.name);
                }
                took.push(meter.seconds()? - before);
            }
            // The first run fills caches on both sides.
            if run > 0 {
                native.push(by_host);
                inside.iter_mut().zip(took).for_each(|(series, took)| series.push(took));
            }
        }
        println!("{native}\n{}\n{}", inside[0], inside[1]);
        let pairs = work.what.iter().zip(&inside);
        ratios.extend(pairs.map(|(what, inside)| Ratio::new(what, inside, &native)));
    }
    Ok(ratios)
}
