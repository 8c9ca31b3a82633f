//! Control groups with a quota, for programs of the host.

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// As the nodes of labs.
const PERIOD_US: u32 = 10_000;
/// Version 1, and where there is none, version 2.
const CPU: &str = "/sys/fs/cgroup/cpu";
const UNIFIED: &str = "/sys/fs/cgroup";

/// How long killed programs may take to go.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// A group whose programs have so many CPUs together; dropped, it ends with all that is in it.
pub(super) struct Limited(PathBuf);

impl Limited {
    /// Makes the group.
    pub(super) fn new(name: &str, cpus: f64) -> Result<Limited> {
        let quota_us = f64::from(PERIOD_US) * cpus;
        let name = format!("dunix-bench-{name}-{}", std::process::id());
        let old = Path::new(CPU).join(&name);
        if fs::create_dir(&old).is_ok() {
            let limited = Limited(old);
            fs::write(limited.0.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
            fs::write(limited.0.join("cpu.cfs_quota_us"), format!("{quota_us:.0}"))?;
            return Ok(limited);
        }
        let folder = Path::new(UNIFIED).join(&name);
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let limited = Limited(folder);
        fs::write(limited.0.join("cpu.max"), format!("{quota_us:.0} {PERIOD_US}"))?;
        Ok(limited)
    }

    /// A shell's command that enters the group.
    pub(super) fn enter(&self) -> String {
        format!("echo $$ > {}", self.0.join("cgroup.procs").display())
    }
}

impl Limited {
    /// Kills what is in the group, and waits until it has gone.
    fn clear(&self) -> Result<()> {
        let deadline = Instant::now() + GONE_WITHIN;
        loop {
            let members = fs::read_to_string(self.0.join("cgroup.procs"))?;
            let members: Vec<i32> = members.lines().filter_map(|pid| pid.parse().ok()).collect();
            if members.is_empty() {
                return Ok(());
            }
            for pid in members.into_iter().filter_map(Pid::from_raw) {
                // It may have ended meanwhile.
                let _ = kill_process(pid, Signal::KILL);
            }
            ensure!(Instant::now() < deadline, "its programs do not end");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            eprintln!("xtask: {}: {error:#}", self.0.display());
        }
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("xtask: {}: {error}", self.0.display());
        }
    }
}
