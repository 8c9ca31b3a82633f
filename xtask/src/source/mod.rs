//! Real C code bases, out of packages that carry them.
//!
//! Cargo fetches the packages (see `xtask/c-sources`); the C files are copied to a folder that anyone may read.

mod libgit2;
mod zstd;

use crate::{interrupt, workspace};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

pub(crate) use libgit2::unpack as unpack_libgit2;
pub(crate) use zstd::{concatenate, unpack, unpack_small};

/// A folder below `/var/tmp`, removed when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes a fresh folder that anyone may read.
    pub(crate) fn new(name: &str) -> Result<Scratch> {
        let path = PathBuf::from(format!("/var/tmp/dunix-{name}-{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o755)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        open_to_all(&path)?;
        Ok(Scratch(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("xtask: {}: {error}", self.0.display());
        }
    }
}

/// A folder of a package's sources in cargo's own store.
fn fetch(package: &str, below: &str) -> Result<PathBuf> {
    let manifest = workspace::root().join("xtask/c-sources/Cargo.toml");
    let mut fetch = workspace::cargo(&["fetch", "--quiet", "--locked", "--manifest-path"]);
    interrupt::run(fetch.arg(&manifest))?;
    let metadata = workspace::metadata(&manifest, &["--locked", "--offline"])?;
    let packages = metadata["packages"].as_array().context("cargo metadata: packages")?;
    let found = packages.iter().find(|found| found["name"] == package);
    let manifest = found.and_then(|found| found["manifest_path"].as_str());
    let manifest = manifest.with_context(|| format!("no package {package}"))?;
    let folder = Path::new(manifest).with_file_name(below);
    if !folder.is_dir() {
        bail!("{} is missing", folder.display());
    }
    Ok(folder)
}

/// Copies the C files and headers of one folder; returns the number of C files.
fn copy(from: &Path, to: &Path) -> Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let (Some(name), Some(extension)) = (path.file_name(), path.extension()) else { continue };
        if extension == "c" || extension == "h" {
            write(&to.join(name), &fs::read(&path)?)?;
            files += usize::from(extension == "c");
        }
    }
    Ok(files)
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir(path)?;
    open_to_all(path)
}

fn open_to_all(path: &Path) -> Result<()> {
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o644))?)
}

/// Adds a file that anyone may read.
pub(crate) fn add(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    write(&folder.join(name), bytes)
}
