//! Times of work on files: on the host, on the node that serves the tree, and on another node.

use super::{
    script::{Times, natively, timed, times},
    stats::{Ratio, Series},
};
use crate::fabric::Fabric;
use anyhow::Result;
use std::path::Path;

const RUNS: usize = 7;

struct Work {
    name: &'static str,
    /// Before the time is taken, in the work's own new folder.
    prepare: &'static str,
    script: &'static str,
    /// Ratios: on the node that serves the tree, on the other one.
    what: [&'static str; 2],
}

const WORKS: [Work; 5] = [
    Work {
        name: "cc -c, 600 functions",
        prepare: "seq 600 | sed 's/.*/int f&(int a) { char x[9]; snprintf(x, 9, \"%d\", a); return x[1]; }/' \
                  | cat <(echo '#include <stdio.h>') - > b.c",
        script: "cc -c b.c",
        what: ["cc -c, on the tree's node / native", "cc -c, on another node / native"],
    },
    Work {
        name: "attributes of what /usr/share/doc holds",
        prepare: "true",
        script: "ls -l /usr/share/doc/*",
        what: ["ls -l, on the tree's node / native", "ls -l, on another node / native"],
    },
    Work {
        name: "200 MiB written",
        prepare: "true",
        script: "dd if=/dev/zero of=d bs=1M count=200",
        what: [
            "writing 200 MiB, on the tree's node / native",
            "writing 200 MiB, on another node / native",
        ],
    },
    Work {
        name: "200 MiB read",
        prepare: "dd if=/dev/zero of=d bs=1M count=200 status=none",
        script: "dd if=d of=/dev/null bs=1M",
        what: [
            "reading 200 MiB, on the tree's node / native",
            "reading 200 MiB, on another node / native",
        ],
    },
    Work {
        name: "1000 files made and removed",
        prepare: "true",
        script: "mkdir m && (cd m && seq 1000 | xargs touch) && rm -r m",
        what: ["1000 files, on the tree's node / native", "1000 files, on another node / native"],
    },
];

pub(super) fn measure(binaries: &Path) -> Result<Vec<Ratio>> {
    println!("\nwork on files, s");
    let fabric = Fabric::start(binaries, "bench", 2, &[])?;
    let mut ratios = Vec::new();
    for work in &WORKS {
        println!(" {}", work.name);
        let script = script(work);
        let mut native = Series::new("native", "s");
        // The first node of a lab serves the tree.
        let mut at_tree = Series::new("dunix, on the tree's node", "s");
        let mut away = Series::new("dunix, on another node", "s");
        for run in 0..=RUNS {
            let took =
                [natively(&script)?, on(&fabric, "n1", &script)?, on(&fabric, "n2", &script)?];
            // The first run fills caches everywhere.
            if run > 0 {
                for (series, took) in [&mut native, &mut at_tree, &mut away].into_iter().zip(took) {
                    series.push(took.real);
                }
            }
        }
        println!("{native}\n{at_tree}\n{away}");
        ratios.push(Ratio::new(work.what[0], &at_tree, &native));
        ratios.push(Ratio::new(work.what[1], &away, &native));
    }
    Ok(ratios)
}

/// In a new folder, which goes again; whatever it starts stays on its node.
fn script(work: &Work) -> String {
    format!(
        "export DUNIX_PLACE=local; d=$(mktemp -d) && cd $d && {} && {}; s=$?; rm -r $d; exit $s",
        work.prepare,
        timed(work.script),
    )
}

fn on(fabric: &Fabric, node: &str, script: &str) -> Result<Times> {
    times(&mut fabric.dunix(&["run", "--node", node, "--", "bash"]), script)
}
