//! The workspace as cargo sees it: where it is, what it holds, where it builds to.

use crate::interrupt;
use anyhow::{Context, Result};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The folder of the workspace's `Cargo.toml`.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Cargo, in the workspace's folder.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// What `cargo metadata` says of a package.
pub(crate) fn metadata(manifest: &Path, arguments: &[&str]) -> Result<Value> {
    let mut command = cargo(&["metadata", "--format-version", "1", "--manifest-path"]);
    let text = interrupt::output(command.arg(manifest).args(arguments))?;
    serde_json::from_slice(&text).context("cargo metadata")
}

/// Uses the binaries of this folder instead of building them.
const BINARIES_VARIABLE: &str = "DUNIX_BINARIES";

/// Builds packages for release and returns the folder of the binaries.
pub(crate) fn build(packages: &[&str]) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(BINARIES_VARIABLE) {
        eprintln!("using the binaries in {}", folder.display());
        return Ok(folder.into());
    }
    eprintln!("building {} (release) ...", packages.join(", "));
    let mut build = cargo(&["build", "--release", "--quiet"]);
    build.args(packages.iter().flat_map(|package| ["--package", package]));
    interrupt::run(&mut build)?;
    let metadata = metadata(&root().join("Cargo.toml"), &["--no-deps"])?;
    let target = metadata["target_directory"].as_str().context("cargo metadata: target")?;
    Ok(Path::new(target).join("release"))
}
