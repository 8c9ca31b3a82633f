//! Sources of the machine's Debian packages, from where apt gets the packages: tests of some come with the sources only.

use crate::{
    interrupt,
    packages::{self, Tool},
};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Fetches the sources of a package and unpacks what its authors wrote, and below `debian` what Debian added.
pub(super) fn sources(package: &str, folder: &Path) -> Result<PathBuf> {
    packages::ensure(&[
        Tool { program: "xz", package: "xz-utils" },
        Tool { program: "bzip2", package: "bzip2" },
    ])?;
    let place = folder.join(format!("{package}-sources"));
    fs::create_dir_all(place.join("lists/partial"))?;
    let list = place.join("sources.list");
    fs::write(&list, origins()?)?;
    apt(&place, &["update"]).context("sources of packages")?;
    apt(&place, &["source", "--download-only", package]).with_context(|| package.to_owned())?;
    let tree = place.join("tree");
    fs::create_dir(&tree)?;
    unpack(&place, ".orig.tar.", &tree, true)?;
    unpack(&place, ".debian.tar.", &tree, false)?;
    Ok(tree)
}

/// Where the machine's packages come from, as origins of sources.
fn origins() -> Result<String> {
    let format = "deb-src $(SITE) $(RELEASE) $(COMPONENT)";
    let mut ask = Command::new("apt-get");
    ask.args(["indextargets", "--format", format, "Created-By: Packages", "Origin: Debian"]);
    let answer = String::from_utf8(interrupt::output(&mut ask)?).context("apt-get indextargets")?;
    let mut lines: Vec<&str> = answer.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    if lines.is_empty() {
        bail!("apt knows no packages of Debian here");
    }
    Ok(lines.join("\n") + "\n")
}

/// apt with lists of its own, in the folder.
fn apt(place: &Path, arguments: &[&str]) -> Result<()> {
    let place_of = |name: &str| place.join(name).to_string_lossy().into_owned();
    let mut command = Command::new("apt-get");
    command.current_dir(place).args(["-qq", "-o", "Dir::Etc::sourceparts=-"]);
    command.args(["-o", "APT::Sandbox::User=root"]);
    command.args(["-o", &format!("Dir::Etc::sourcelist={}", place_of("sources.list"))]);
    command.args(["-o", &format!("Dir::State::Lists={}", place_of("lists"))]);
    interrupt::output(command.args(arguments)).map(drop)
}

fn unpack(place: &Path, mark: &str, to: &Path, is_whole: bool) -> Result<()> {
    let mut names = fs::read_dir(place)?.flatten().map(|entry| entry.path());
    let archive = names.find(|path| path.to_string_lossy().contains(mark));
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(archive.with_context(|| format!("no {mark} came"))?).arg("-C").arg(to);
    if is_whole {
        tar.args(["--strip-components", "1"]);
    }
    interrupt::run(&mut tar)
}
