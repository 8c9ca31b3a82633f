//! What the machines boot from: kernel, drivers, a busybox and a disk with Debian. Made once.

use crate::interrupt;
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The package that names the current cloud kernel by its dependency.
const KERNEL: &str = "linux-image-cloud-amd64";
/// Drivers in the order in which they are loaded, without `.ko`.
const MODULES: [&str; 11] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "fuse",
    "macvlan",
];
/// What the disk holds beside Debian's smallest system.
const PACKAGES: &str = "gcc,libc6-dev,make,python3";
const RELEASE: &str = "bookworm";
/// Size of the disk, MiB.
const DISK_MIB: u32 = 1536;

/// Files that machines boot from.
pub(crate) struct Image {
    pub(crate) kernel: PathBuf,
    pub(crate) modules: Vec<PathBuf>,
    pub(crate) busybox: PathBuf,
    pub(crate) disk: PathBuf,
}

impl Image {
    /// Makes what is missing in `folder`.
    pub(crate) fn prepare(folder: &Path) -> Result<Image> {
        fs::create_dir_all(folder)?;
        let boot = folder.join("boot");
        if !boot.exists() {
            make_boot(folder, &boot)?;
        }
        let disk = folder.join("disk");
        if !disk.exists() {
            make_disk(folder, &disk)?;
        }
        let kernel = find(&boot.join("boot"), |name| name.starts_with("vmlinuz-"))?;
        let drivers = boot.join("lib/modules");
        let module = |name: &&str| find(&drivers, |file| file == format!("{name}.ko"));
        let modules = MODULES.iter().map(module).collect::<Result<Vec<_>>>()?;
        Ok(Image { kernel, modules, busybox: boot.join("bin/busybox"), disk })
    }
}

/// Unpacks the packages that the machines boot with; they are not installed here.
fn make_boot(folder: &Path, boot: &Path) -> Result<()> {
    eprintln!("fetching Debian's cloud kernel ...");
    let depends = interrupt::output(Command::new("apt-cache").args(["depends", KERNEL]))?;
    let depends = String::from_utf8(depends)?;
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image"));
    let package = package.with_context(|| format!("apt knows no {KERNEL}"))?;
    let fresh = fresh_folder(&folder.join("boot.new"))?;
    let mut download = Command::new("apt-get");
    // The folder is root's: apt would warn that its own user cannot write there.
    download.args(["-qq", "-o", "APT::Sandbox::User=root", "download", "busybox-static"]);
    download.arg(format!("linux-image{package}"));
    interrupt::run(download.current_dir(&fresh))?;
    for entry in fs::read_dir(&fresh)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            interrupt::run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&fresh))?;
            fs::remove_file(path)?;
        }
    }
    fs::rename(fresh, boot).context("keep the kernel")
}

fn make_disk(folder: &Path, disk: &Path) -> Result<()> {
    eprintln!("making a disk with Debian (debootstrap) ...");
    let root = fresh_folder(&folder.join("root.new"))?;
    // What it mounts in the new root, and the processes it starts there, end with it, also if it is
    // killed: a mount that stayed would be emptied with the folder.
    let mut debootstrap = Command::new("unshare");
    debootstrap.args(["--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]);
    debootstrap.args(["debootstrap", "--variant=minbase", &format!("--include={PACKAGES}")]);
    debootstrap.arg(RELEASE).arg(&root);
    interrupt::output(&mut debootstrap)?;
    fs::remove_dir_all(root.join("var/cache/apt"))?;
    let fresh = folder.join("disk.new");
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d"]).arg(&root).arg(&fresh);
    interrupt::run(mke2fs.arg(format!("{DISK_MIB}M")))?;
    fs::remove_dir_all(root)?;
    fs::rename(fresh, disk).context("keep the disk")
}

fn fresh_folder(path: &Path) -> Result<PathBuf> {
    if path.exists() {
        fs::remove_dir_all(path)?;
    }
    fs::create_dir(path)?;
    Ok(path.to_owned())
}

/// Finds the one file below a folder whose name fits.
fn find(folder: &Path, fits: impl Fn(&str) -> bool + Copy) -> Result<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if fits(&entry.file_name().to_string_lossy()) {
                return Ok(entry.path());
            }
        }
    }
    bail!("{}: not all that is needed is there", folder.display())
}
