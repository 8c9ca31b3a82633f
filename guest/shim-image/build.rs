//! Builds the shim by a nested cargo run in the profile `shim`, into a target folder of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let here =
        PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets the folder"));
    let guest = here.parent().expect("the crate lies in guest/");
    for watched in ["shim/src", "shim/shim.ld", "shim/build.rs", "shim/Cargo.toml", "shim-core/src"]
    {
        println!("cargo:rerun-if-changed={}", guest.join(watched).display());
    }
    println!("cargo:rerun-if-changed={}", guest.join("../abi/guest-abi/src").display());
    let target = out.join("shim-target");
    build(&guest.join("shim/Cargo.toml"), &target);
    let shim = target.join("x86_64-unknown-linux-gnu/shim/dunix-shim");
    std::fs::copy(&shim, out.join("dunix-shim")).expect("the nested build leaves the shim here");
}

fn build(manifest: &Path, target: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--profile", "shim", "--bin", "dunix-shim"])
        .args(["--target", "x86_64-unknown-linux-gnu"])
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(target);
    // What the outer build set for itself must not leak into the shim: wrappers, flags, coverage.
    for variable in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET",
        "CARGO_MAKEFLAGS",
    ] {
        command.env_remove(variable);
    }
    let status = command.status().expect("cargo can be run");
    assert!(status.success(), "the nested build of the shim failed");
}
