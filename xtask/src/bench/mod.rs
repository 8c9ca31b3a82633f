//! `cargo xtask bench`: figures as ratios to their peers, measured in the same run.

use anyhow::Result;

/// Measures and prints; with `check`, a figure beyond its bound fails.
pub(crate) fn run(_check: bool) -> Result<()> {
    anyhow::bail!("not yet")
}
