//! CPU time of a whole lab, ended processes and daemons included, by the kernel's control groups.
//!
//! Version 2: the lab's own group. Version 1: a group of the `cpuacct` hierarchy, which labs do not
//! use; the lab is started inside and everything that it starts inherits it.

use crate::fabric::Fabric;
use anyhow::{Context, Result};
use std::{fs, path::Path, path::PathBuf};

const CPUACCT: &str = "/sys/fs/cgroup/cpuacct";
const UNIFIED: &str = "/sys/fs/cgroup";

/// A lab and its account.
pub(super) struct Meter {
    /// Goes first: its processes are in the account's group.
    pub(super) fabric: Fabric,
    account: Account,
}

enum Account {
    /// A folder with `cpuacct.usage`, in ns; removed when dropped.
    Version1(PathBuf),
    /// A folder with `cpu.stat`, in us.
    Version2(PathBuf),
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

impl Account {
    fn seconds(&self) -> Result<f64> {
        match self {
            Account::Version1(folder) => {
                let text = fs::read_to_string(folder.join("cpuacct.usage"))?;
                Ok(text.trim().parse::<f64>()? / 1e9)
            }
            Account::Version2(folder) => {
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
        if let Account::Version1(folder) = self
            && let Err(error) = fs::remove_dir(&*folder)
        {
            eprintln!("xtask: {}: {error}", folder.display());
        }
    }
}
