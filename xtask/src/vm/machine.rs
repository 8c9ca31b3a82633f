//! One virtual machine: a QEMU process that ends with this value, and its console.

use super::image::Image;
use crate::interrupt;
use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Memory of a machine, MiB; the initramfs is in it twice while it boots.
const MEMORY_MIB: u32 = 2048;
/// Marks the lines of the console that are the report.
const MARK: &str = "vm: ";
/// How long QEMU may take to make the cable's socket, and how often it is looked at.
const CABLE_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Lines of the console that an error shows.
const TAIL_LINES: usize = 30;

/// A running machine.
pub(crate) struct Machine {
    process: Child,
    console: PathBuf,
    /// What QEMU itself says.
    complaints: PathBuf,
}

impl Machine {
    /// Turns a machine on. The first one listens at the cable's socket, which the second needs.
    pub(crate) fn start(
        image: &Image,
        initramfs: &Path,
        cable: &Path,
        number: u32,
        folder: &Path,
    ) -> Result<Machine> {
        let console = folder.join(format!("console{number}"));
        let server = if number == 1 { "on" } else { "off" };
        let complaints = folder.join(format!("qemu{number}"));
        let plug = format!("addr.type=unix,addr.path={}", cable.display());
        let process = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-nographic"])
            .args(["-no-reboot", "-nodefaults", "-m", &MEMORY_MIB.to_string()])
            .arg("-kernel")
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", &format!("console=ttyS0 quiet panic=-1 dunix.node={number}")])
            .args([
                "-drive",
                &format!("file={},format=raw,if=virtio,snapshot=on", image.disk.display()),
            ])
            .args(["-netdev", &format!("stream,id=cable,server={server},{plug}")])
            .args([
                "-device",
                &format!("virtio-net-pci,netdev=cable,romfile=,mac=02:00:00:00:00:{number:02x}"),
            ])
            .args(["-serial", &format!("file:{}", console.display())])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&complaints)?)
            .spawn()
            .context("qemu-system-x86_64")?;
        let mut machine = Machine { process, console, complaints };
        machine.wait_for(cable)?;
        Ok(machine)
    }

    /// Waits until the cable's socket is there.
    fn wait_for(&mut self, cable: &Path) -> Result<()> {
        let deadline = Instant::now() + CABLE_WITHIN;
        while !cable.exists() {
            if self.has_ended()? || Instant::now() >= deadline {
                bail!("the machine does not start: {}", self.console_tail());
            }
            interrupt::sleep(LOOK_EVERY)?;
        }
        Ok(())
    }

    /// The lines of the report so far, whole ones only.
    pub(crate) fn report(&self) -> Result<Vec<String>> {
        let console = self.console_text();
        let whole = console.rfind('\n').map_or("", |end| &console[..end]);
        let lines = whole.lines().filter_map(|line| line.trim_end().strip_prefix(MARK));
        Ok(lines.map(str::to_owned).collect())
    }

    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.process.try_wait()?.is_some())
    }

    /// The last lines of the console, then what QEMU says, for errors.
    pub(crate) fn console_tail(&self) -> String {
        let complaints = fs::read(&self.complaints).unwrap_or_default();
        let text = self.console_text() + &String::from_utf8_lossy(&complaints);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    fn console_text(&self) -> String {
        // QEMU makes the file a little after it started.
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
