//! `cargo xtask layers`: who may depend on whom, and where unsafe code may be.
//!
//! ```text
//! bins -> drivers -> platform, machines -> abi        proof, xtask: nothing depends on them
//! ```
//!
//! Checked from `cargo metadata` and from the sources' own words; nothing is built. Dependencies of
//! tests are free, except that nothing but tests of the same layers may reach into proof.

use crate::workspace;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The one driver that drivers may depend on: it carries their messages.
const TRANSPORT: &str = "drivers/transport";
/// What the machines' tests share, which knows no I/O driver either.
const SCENARIOS: &str = "proof/scenarios";
/// `dunix lab` is a command of the product, and proof's laboratory is what it runs.
const LAB: (&str, &str) = ("bins/dunix", "proof/lab");
/// Where unsafe code may be: crates that say so in their own lints.
const UNSAFE_ROOMS: [&str; 2] = ["guest/shim", "guest/programs"];

/// Checks; every breach is named.
pub(crate) fn run() -> Result<()> {
    let root = workspace::root();
    let metadata = workspace::metadata(&root.join("Cargo.toml"), &["--no-deps"])?;
    let packages = packages(&metadata, root)?;
    let mut breaches = Vec::new();
    for package in packages.values() {
        check_dependencies(package, &packages, &mut breaches);
        check_sources(package, root, &mut breaches)?;
    }
    for breach in &breaches {
        eprintln!("layers: {breach}");
    }
    if breaches.is_empty() { Ok(()) } else { bail!("{} breaches of the layers", breaches.len()) }
}

struct Package {
    /// Folder below the root, such as `drivers/files`.
    folder: String,
    /// Names of what it depends on, tests and build scripts apart.
    dependencies: Vec<String>,
}

fn packages(metadata: &Value, root: &Path) -> Result<BTreeMap<String, Package>> {
    let list = metadata["packages"].as_array().context("cargo metadata: packages")?;
    let mut packages = BTreeMap::new();
    for package in list {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let manifest = PathBuf::from(text(&package["manifest_path"]));
        let folder = manifest.parent().and_then(|folder| folder.strip_prefix(root).ok());
        let folder = folder.context("a package outside of the workspace")?;
        let dependencies = package["dependencies"].as_array().map_or(&[][..], Vec::as_slice);
        let dependencies = dependencies
            .iter()
            .filter(|dependency| dependency["kind"].is_null())
            .map(|dependency| text(&dependency["name"]))
            .collect();
        let folder = folder.to_string_lossy().into_owned();
        packages.insert(text(&package["name"]), Package { folder, dependencies });
    }
    Ok(packages)
}

fn layer(folder: &str) -> &str {
    folder.split('/').next().unwrap_or_default()
}

fn check_dependencies(
    package: &Package,
    packages: &BTreeMap<String, Package>,
    breaches: &mut Vec<String>,
) {
    for name in &package.dependencies {
        let Some(target) = packages.get(name) else { continue };
        if !may_depend(&package.folder, &target.folder) {
            breaches.push(format!("{} may not depend on {}", package.folder, target.folder));
        }
    }
}

fn may_depend(from: &str, to: &str) -> bool {
    match (layer(from), layer(to)) {
        _ if (from, to) == LAB => true,
        (_, "proof") => layer(from) == "proof",
        (_, "xtask" | "bins") => false,
        ("proof", _) => from != SCENARIOS || matches!(layer(to), "machines" | "abi"),
        ("bins", _) => true,
        ("drivers", "drivers") => to == TRANSPORT,
        ("drivers", to) => matches!(to, "platform" | "machines" | "abi"),
        ("machines", to) => to == "abi",
        ("platform", to) => matches!(to, "platform" | "abi"),
        ("guest", to) => matches!(to, "guest" | "abi"),
        ("abi", to) => to == "abi",
        _ => false,
    }
}

fn check_sources(package: &Package, root: &Path, breaches: &mut Vec<String>) -> Result<()> {
    let folder = root.join(&package.folder);
    let has_unsafe_room =
        layer(&package.folder) == "platform" || UNSAFE_ROOMS.contains(&package.folder.as_str());
    let manifest = fs::read_to_string(folder.join("Cargo.toml"))?;
    if !has_unsafe_room && !manifest.contains("[lints]\nworkspace = true") {
        breaches.push(format!("{} does not take the workspace's lints", package.folder));
    }
    if layer(&package.folder) == "machines" {
        let library = fs::read_to_string(folder.join("src/lib.rs"))?;
        for attribute in ["#![no_std]", "#![forbid(unsafe_code)]"] {
            if !library.contains(attribute) {
                breaches.push(format!("{} lacks {attribute}", package.folder));
            }
        }
    }
    if has_unsafe_room {
        return Ok(());
    }
    for file in rust_files(&folder)? {
        let text = fs::read_to_string(&file)?;
        if lifts_the_ban(&text) {
            let file = file.strip_prefix(root).unwrap_or(&file);
            breaches.push(format!("{} allows unsafe code", file.display()));
        }
    }
    Ok(())
}

/// Whether a source lifts the workspace's ban on unsafe code.
fn lifts_the_ban(text: &str) -> bool {
    let words: String = text.split_whitespace().collect();
    ["allow", "expect", "warn"].iter().any(|lint| words.contains(&format!("{lint}(unsafe_code")))
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
            if path.is_dir() && !hidden && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_go_down_only() {
        let allowed = [
            ("bins/dunix", "drivers/files"),
            ("bins/dunix", "proof/lab"),
            ("drivers/files", "drivers/transport"),
            ("drivers/files", "machines/registry"),
            ("machines/registry", "abi/ids"),
            ("proof/conformance", "proof/lab"),
        ];
        let refused = [
            ("drivers/files", "drivers/names"),
            ("drivers/transport", "bins/dunix"),
            ("machines/registry", "machines/streams"),
            ("machines/registry", "platform/linux"),
            ("abi/wire", "machines/streams"),
            ("drivers/files", "proof/lab"),
            ("proof/scenarios", "drivers/files"),
            ("guest/shim", "platform/linux"),
        ];
        for (from, to) in allowed {
            assert!(may_depend(from, to), "{from} -> {to}");
        }
        for (from, to) in refused {
            assert!(!may_depend(from, to), "{from} -> {to}");
        }
    }

    #[test]
    fn a_lifted_ban_is_seen_over_line_ends() {
        // Put together here, so that this file does not lift it.
        assert!(lifts_the_ban(&["#![expect(\n    unsafe", "_code, reason = \"x\")]"].concat()));
        assert!(!lifts_the_ban("#![forbid(unsafe_code)]"));
    }
}
