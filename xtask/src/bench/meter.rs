//! CPU time of a whole lab, or of a program and all that it starts, by the kernel's control groups.
//!
//! Version 2: the lab's own group, and one for programs of the host. Version 1: groups of the `cpuacct` hierarchy,
//! which labs do not use; the lab is started inside and everything that it starts inherits it.

use crate::fabric::Fabric;
use anyhow::{Context, Result};
use std::{fs, path::Path, path::PathBuf, process::Command};

const CPUACCT: &str = "/sys/fs/cgroup/cpuacct";
const UNIFIED: &str = "/sys/fs/cgroup";

/// A lab and its account.
pub(super) struct Meter {
    /// Goes first: its processes are in the account's group.
    pub(super) fabric: Fabric,
    account: Account,
}

/// An account for programs of the host.
pub(super) struct HostMeter {
    account: Account,
    /// Whom it counts: a PID written here, and all that this process starts.
    members: PathBuf,
}

enum Account {
    /// A folder with `cpuacct.usage`, in ns; removed when dropped.
    Version1(PathBuf),
    /// A folder with `cpu.stat`, in us.
    Version2(PathBuf),
    /// The same; removed when dropped.
    OwnVersion2(PathBuf),
}

impl Meter {
    /// Starts a lab under a meter.
    pub(super) fn start(binaries: &Path, name: &str, nodes: u32, more: &[&str]) -> Result<Meter> {
        let folder = PathBuf::from(format!("{CPUACCT}/dunix-{name}-{}", std::process::id()));
        if fs::create_dir(&folder).is_err() {
            let fabric = Fabric::start(binaries, name, nodes, more)?;
            let account = Account::Version2(format!("{UNIFIED}/dunix-{}", fabric.name()).into());
            account.seconds()?;
            return Ok(Meter { fabric, account });
        }
        let account = Account::Version1(folder.clone());
        enter(&folder)?;
        let fabric = Fabric::start(binaries, name, nodes, more);
        enter(Path::new(CPUACCT))?;
        Ok(Meter { fabric: fabric?, account })
    }

    /// CPU seconds so far.
    pub(super) fn seconds(&self) -> Result<f64> {
        self.account.seconds()
    }
}

impl HostMeter {
    /// Makes the group.
    pub(super) fn new(name: &str) -> Result<HostMeter> {
        let name = format!("dunix-{name}-{}", std::process::id());
        let old = Path::new(CPUACCT).join(&name);
        if fs::create_dir(&old).is_ok() {
            let members = old.join("cgroup.procs");
            return Ok(HostMeter { account: Account::Version1(old), members });
        }
        let folder = Path::new(UNIFIED).join(&name);
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let members = folder.join("cgroup.procs");
        Ok(HostMeter { account: Account::OwnVersion2(folder), members })
    }

    /// A command that is counted; its arguments are to be added.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(&self.members).arg(program);
        command
    }

    /// CPU seconds so far.
    pub(super) fn seconds(&self) -> Result<f64> {
        self.account.seconds()
    }
}

impl Account {
    fn seconds(&self) -> Result<f64> {
        match self {
            Account::Version1(folder) => {
                let text = fs::read_to_string(folder.join("cpuacct.usage"))?;
                Ok(text.trim().parse::<f64>()? / 1e9)
            }
            Account::Version2(folder) | Account::OwnVersion2(folder) => {
                let text = fs::read_to_string(folder.join("cpu.stat")).context("no CPU account")?;
                let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
                Ok(line.context("cpu.stat")?.parse::<f64>()? / 1e6)
            }
        }
    }
}

fn enter(folder: &Path) -> Result<()> {
    Ok(fs::write(folder.join("cgroup.procs"), std::process::id().to_string())?)
}

impl Drop for Account {
    fn drop(&mut self) {
        if let Account::Version1(folder) | Account::OwnVersion2(folder) = self
            && let Err(error) = fs::remove_dir(&*folder)
        {
            eprintln!("xtask: {}: {error}", folder.display());
        }
    }
}
