//! Memory that the guest runtime adds to a process: the proportional set sizes (`Pss` of `smaps_rollup`, proc(5)) of
//! many that sleep, natively and in a lab.

use super::super::stats::{Ratio, Series};
use crate::{fabric::Fabric, interrupt};
use anyhow::{Context, Result, ensure};
use std::process::{Command, Stdio};

const RUNS: usize = 7;
const ADDED_KIB_MAX: f64 = 200.0;
/// Starts sleepers, waits until each has executed `sleep` and stands still, prints their sizes in KiB.
const SLEEPERS: &str = "
for _ in {1..20}; do sleep 60 & sleepers+=($!); done
trap 'kill ${sleepers[*]}' EXIT
for sleeper in ${sleepers[*]}; do
    until read -r _ name state _ < /proc/$sleeper/stat && [ \"$name $state\" = '(sleep) S' ]; do :; done
    while read -r name size _; do [ $name != Pss: ] || echo $size; done < /proc/$sleeper/smaps_rollup
done";

pub(super) fn measure(fabric: &Fabric) -> Result<Ratio> {
    println!("\nproportional set size of a sleeping process, KiB");
    let mut native = Series::new("native", "KiB");
    let mut inside = Series::new("dunix", "KiB");
    for _ in 0..RUNS {
        native.push(size(Command::new("bash"))?);
        inside.push(size(fabric.dunix(&["run", "--", "bash"]))?);
    }
    println!("{native}\n{inside}");
    let bound = (native.median() + ADDED_KIB_MAX) / native.median();
    Ok(Ratio::new("proportional set size of a process / native", &inside, &native).at_most(bound))
}

/// The mean of the sleepers.
fn size(mut bash: Command) -> Result<f64> {
    let output = bash.args(["-c", SLEEPERS]).stdin(Stdio::null()).output()?;
    interrupt::check()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "sleepers: {}: {errors}", output.status);
    let text = String::from_utf8(output.stdout)?;
    let sizes: Vec<f64> = text.lines().map(str::parse).collect::<Result<_, _>>().context(text)?;
    ensure!(!sizes.is_empty(), "sleepers: no sizes: {errors}");
    Ok(sizes.iter().sum::<f64>() / sizes.len() as f64)
}
