//! Single system calls, ns each: natively, trapped by SIGSYS, and from a site that the shim has rewritten.
//!
//! `guest/programs/calls.c` makes each call from its own text, which is rewritten, and from memory that
//! never is (with `DUNIX_REWRITE=0` neither is). Native runs and runs in a lab of one node take turns.

use super::stats::{Ratio, Series};
use crate::{fabric::Fabric, interrupt, source::Scratch, workspace};
use anyhow::{Context, Result, ensure};
use std::{path::Path, process::Command};

const RUNS: usize = 15;
const CALLS: &str = "20000";

/// A call, and what is said of it.
struct Figure {
    name: &'static str,
    /// The shim knows the answer.
    is_answered: bool,
    native: Series,
    trapped: Series,
    rewritten: Series,
    ratios: [&'static str; 2],
}

macro_rules! figure {
    ($name:literal) => {
        figure!($name, false)
    };
    ($name:literal, $is_answered:literal) => {
        Figure {
            name: $name,
            is_answered: $is_answered,
            native: Series::new("native", "ns"),
            trapped: Series::new("trapped", "ns"),
            rewritten: Series::new("rewritten", "ns"),
            ratios: [concat!($name, ", trapped / native"), concat!($name, ", rewritten / native")],
        }
    };
}

pub(super) fn measure(binaries: &Path, scratch: &Scratch) -> Result<Vec<Ratio>> {
    let fabric = Fabric::start(binaries, "bench-calls", 1, &[])?;
    let mut ratios = Vec::new();
    for figure in figures(&fabric, scratch)? {
        ratios.push(Ratio::new(figure.ratios[0], &figure.trapped, &figure.native));
        ratios.push(Ratio::new(figure.ratios[1], &figure.rewritten, &figure.native));
    }
    Ok(ratios)
}

/// What a call from a rewritten site may cost: a passed-on one's native time and 50 ns more; one that the shim answers
/// less than the kernel's.
pub(super) fn bounded(fabric: &Fabric, scratch: &Scratch) -> Result<Vec<Ratio>> {
    const ADDED_NS_MAX: f64 = 50.0;
    let bounded = |figure: Figure| {
        let ratio = Ratio::new(figure.ratios[1], &figure.rewritten, &figure.native);
        let native = figure.native.median();
        ratio.at_most(if figure.is_answered { 1.0 } else { (native + ADDED_NS_MAX) / native })
    };
    Ok(figures(fabric, scratch)?.into_iter().map(bounded).collect())
}

fn figures(fabric: &Fabric, scratch: &Scratch) -> Result<[Figure; 7]> {
    println!("\nsingle calls, ns each");
    let program = compile(scratch, "calls")?;
    let mut figures = [
        figure!("getpid", true),
        figure!("getppid", true),
        figure!("read_1"),
        figure!("read_4096"),
        figure!("write_1"),
        figure!("rt_sigprocmask"),
        figure!("poll"),
    ];
    for _ in 0..RUNS {
        let native = costs(Command::new(&program).arg(CALLS))?;
        let inside = costs(&mut fabric.dunix(&["run", "--", &program, CALLS]))?;
        for ((figure, native), inside) in figures.iter_mut().zip(native).zip(inside) {
            ensure!(
                native.0 == figure.name && inside.0 == figure.name,
                "{} comes next",
                figure.name
            );
            figure.native.push(native.1);
            figure.rewritten.push(inside.1);
            figure.trapped.push(inside.2);
        }
    }
    for figure in &figures {
        println!(" {}\n{}\n{}\n{}", figure.name, figure.native, figure.trapped, figure.rewritten);
        let added = figure.rewritten.median() - figure.native.median();
        println!("    rewritten - native {added:>29.1} ns");
    }
    Ok(figures)
}

/// Compiles one of `guest/programs`.
pub(super) fn compile(scratch: &Scratch, name: &str) -> Result<String> {
    let program = scratch.path().join(name);
    let source = workspace::root().join("guest/programs").join(name).with_extension("c");
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-w", "-o"]).arg(&program).arg(source);
    interrupt::output(&mut compiler).context("cc")?;
    Ok(program.to_string_lossy().into_owned())
}

/// Name, ns from text, ns from memory of its own.
fn costs(command: &mut Command) -> Result<Vec<(String, f64, f64)>> {
    let text = String::from_utf8(interrupt::output(command)?)?;
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        Some((name, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    text.lines().map(line).collect::<Option<_>>().with_context(|| format!("costs: {text}"))
}
