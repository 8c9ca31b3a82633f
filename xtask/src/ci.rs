//! `cargo xtask ci`: everything that a change must pass, cheapest first.

use crate::{interrupt, layers, test, workspace::cargo};
use anyhow::Result;

/// Runs every check; the first that fails ends it.
pub(crate) fn run() -> Result<()> {
    eprintln!("format ...");
    interrupt::run(&mut cargo(&["fmt", "--all", "--check"]))?;
    eprintln!("layers ...");
    layers::run()?;
    eprintln!("lints ...");
    let clippy = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    interrupt::run(&mut cargo(&clippy))?;
    test::run(false)
}
