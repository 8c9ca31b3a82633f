//! `cargo xtask sim`: the simulator, built for release.

use crate::{interrupt, workspace::cargo};
use anyhow::Result;

/// Builds and runs it; it reads the arguments itself.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let start = ["run", "--release", "--quiet", "--package", "dunix-sim", "--"];
    interrupt::run(cargo(&start).args(arguments))
}
