//! `cargo xtask test --vm`: a fabric of two machines with kernels of their own.
//!
//! ```text
//! image    kernel (Debian's cloud kernel), initramfs, disk with Debian: kept in target/vm
//! machine  one QEMU process, its console
//! ```
//! Both machines boot from the same disk, whose changes are thrown away; a virtual cable joins them.
//! What they do is in `xtask/vm/`: `init` (drivers, disk), `start` (`dunix node`), `checks` (on the
//! first machine). The verdict is what the first machine's console says.

mod image;
mod initramfs;
mod machine;

use crate::{
    interrupt,
    packages::{self, CC, DEBOOTSTRAP, MAKE, MKE2FS, QEMU},
    source, workspace,
};
use anyhow::{Result, bail};
use image::Image;
use initramfs::Initramfs;
use machine::Machine;
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// Machines of the fabric.
const MACHINES: u32 = 2;
/// How long everything may take once the machines are on: emulation is slow.
const DONE_WITHIN: Duration = Duration::from_secs(20 * 60);
/// How often the console is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Checks that must have been reported; fewer mean that the script did not get to its end.
const CHECKS_MIN: usize = 12;

/// Boots the machines and reports what the checks say.
pub(crate) fn run() -> Result<()> {
    packages::ensure(&[MAKE, CC, QEMU, DEBOOTSTRAP, MKE2FS])?;
    let binaries = workspace::build(&["dunix"])?;
    let image = Image::prepare(&workspace::root().join("target/vm"))?;
    let scratch = source::Scratch::new("vm")?;
    let folder = scratch.path();
    let initramfs = folder.join("initramfs");
    fs::write(&initramfs, payload(&image, &binaries, folder)?)?;
    eprintln!("starting {MACHINES} machines (software emulation) ...");
    let cable = folder.join("cable");
    let start = |number| Machine::start(&image, &initramfs, &cable, number, folder);
    // The first one holds the cable's socket.
    let mut machines = (1..=MACHINES).map(start).collect::<Result<Vec<_>>>()?;
    let report = follow(&mut machines)?;
    judge(&report)
}

/// The initramfs: what boots, and below /payload what the machines are to run.
fn payload(image: &Image, binaries: &Path, folder: &Path) -> Result<Vec<u8>> {
    let mut archive = Initramfs::default();
    archive.add_program("init", include_bytes!("../../vm/init"));
    archive.add_program("bin/busybox", &fs::read(&image.busybox)?);
    archive.add_folder("modules");
    let mut order = String::new();
    for module in &image.modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.add_file(&format!("modules/{name}"), &fs::read(module)?);
        order += &format!("{name}\n");
    }
    archive.add_file("modules/order", order.as_bytes());
    archive.add_folder("payload");
    archive.add_program("payload/start", include_bytes!("../../vm/start"));
    archive.add_program("payload/checks", include_bytes!("../../vm/checks"));
    archive.add_file("payload/compute.py", include_bytes!("../../demo/compute.py"));
    let dunix = binaries.join("dunix");
    archive.add_program("payload/dunix", &fs::read(&dunix)?);
    let keys = folder.join("keys");
    let mut init = std::process::Command::new(dunix);
    init.args(["init", "vm", "--nodes", &MACHINES.to_string(), "--dir"]).arg(&keys);
    interrupt::output(&mut init)?;
    archive.add_tree("payload", &keys)?;
    source::unpack_small(&folder.join("source"))?;
    archive.add_folder("payload/source");
    archive.add_tree("payload/source", &folder.join("source"))?;
    Ok(archive.finish())
}

/// Shows what the first machine reports, until it is done.
fn follow(machines: &mut [Machine]) -> Result<Vec<String>> {
    let deadline = Instant::now() + DONE_WITHIN;
    let mut report = Vec::new();
    loop {
        interrupt::sleep(LOOK_EVERY)?;
        let lines = machines[0].report()?;
        for line in lines.iter().skip(report.len()) {
            println!("{line}");
        }
        report = lines;
        if report.last().is_some_and(|line| line == "done") {
            return Ok(report);
        }
        let ended = machines.iter_mut().map(Machine::has_ended).collect::<Result<Vec<_>>>()?;
        if let Some(at) = ended.iter().position(|ended| *ended) {
            bail!("machine {} ended: {}", at + 1, machines[at].console_tail());
        }
        if Instant::now() >= deadline {
            bail!("not done after {DONE_WITHIN:?}: {}", machines[0].console_tail());
        }
    }
}

fn judge(report: &[String]) -> Result<()> {
    let count = |word: &str| report.iter().filter(|line| line.starts_with(word)).count();
    let (passed, failed) = (count("ok "), count("FAIL "));
    println!("{passed} passed, {failed} failed");
    if failed > 0 || passed < CHECKS_MIN {
        bail!("the fabric of virtual machines does not do what it should");
    }
    Ok(())
}
