//! Measures this node: runnable guests, CPUs, pressure, memory.
//!
//! Reads the node's own `/proc` (which lists the node's processes only), and its cgroup's
//! `cpu.pressure` where the host has it. What cannot be read counts as zero load, or as all the
//! memory there could be: a node that cannot measure itself still takes work.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

/// A sample older than this is taken again when it is needed.
const FRESH: Duration = Duration::from_millis(50);

/// What a node is and where its load is read.
#[derive(Clone, Debug, Default)]
pub struct SampleConfig {
    /// CPUs that the node may use, hundredths; `None`: all that the scheduler lets it have.
    pub cpus_centi: Option<u32>,
    /// The node's cgroup (version 2) directory, for `cpu.pressure`; `None`: no pressure is known.
    pub cgroup: Option<PathBuf>,
    /// Where `/proc` of the node's PID namespace is; `None`: `/proc`.
    pub proc: Option<PathBuf>,
}

/// One measurement; units as in the wire's `LoadEntry`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sample {
    pub(crate) runnable_centi: u32,
    pub(crate) cpus_centi: u32,
    pub(crate) pressure: u16,
    pub(crate) memory_free_mib: u32,
}

/// Takes samples, at most one in [`FRESH`].
pub(crate) struct Sampler {
    proc: PathBuf,
    pressure: Option<PathBuf>,
    own_pid: u32,
    cpus_centi: u32,
    last: Option<(Instant, Sample)>,
}

impl Sampler {
    pub(crate) fn new(config: SampleConfig) -> Sampler {
        Sampler {
            proc: config.proc.unwrap_or_else(|| PathBuf::from("/proc")),
            pressure: config.cgroup.map(|cgroup| cgroup.join("cpu.pressure")),
            own_pid: std::process::id(),
            cpus_centi: config.cpus_centi.unwrap_or_else(all_cpus).max(1),
            last: None,
        }
    }

    pub(crate) fn fresh(&mut self, now: Instant) -> Sample {
        if let Some((taken, sample)) = self.last
            && now.saturating_duration_since(taken) < FRESH
        {
            return sample;
        }
        let sample = Sample {
            runnable_centi: self.runnable().saturating_mul(100),
            cpus_centi: self.cpus_centi,
            pressure: self.pressure(),
            memory_free_mib: self.memory_free_mib(),
        };
        self.last = Some((now, sample));
        sample
    }

    /// Counts processes that run or wait for a CPU, but for this one.
    fn runnable(&self) -> u32 {
        let Ok(entries) = fs::read_dir(&self.proc) else { return 0 };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let others = pids.filter(|pid: &u32| *pid != self.own_pid);
        let runs = |pid: &u32| {
            let stat = fs::read_to_string(self.proc.join(pid.to_string()).join("stat"));
            stat.is_ok_and(|stat| state_of(&stat) == Some('R'))
        };
        u32::try_from(others.filter(runs).count()).unwrap_or(u32::MAX)
    }

    fn pressure(&self) -> u16 {
        let text = self.pressure.as_ref().and_then(|path| fs::read_to_string(path).ok());
        text.as_deref().and_then(pressure_of).unwrap_or(0)
    }

    fn memory_free_mib(&self) -> u32 {
        let text = fs::read_to_string(self.proc.join("meminfo"));
        text.ok().as_deref().and_then(available_mib).unwrap_or(u32::MAX)
    }
}

fn all_cpus() -> u32 {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cpus).unwrap_or(u32::MAX).saturating_mul(100)
}

/// The state in `/proc/<pid>/stat`: the first field after the name, which may hold anything.
fn state_of(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Reads `some avg10=12.34 ...` as 1234.
fn pressure_of(text: &str) -> Option<u16> {
    let some = text.lines().find_map(|line| line.strip_prefix("some avg10="))?;
    let (whole, part) = some.split_whitespace().next()?.split_once('.')?;
    whole.parse::<u16>().ok()?.checked_mul(100)?.checked_add(part.parse().ok()?)
}

/// Reads `MemAvailable:  123456 kB` as MiB.
fn available_mib(text: &str) -> Option<u32> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    u32::try_from(kib >> 10).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_texts_are_read() {
        assert_eq!(state_of("12 (a b) R) S 1 12"), Some('S'));
        assert_eq!(state_of("12 (cc1"), None);
        let pressure = "some avg10=12.34 avg60=1.00 avg300=0.10 total=99\nfull avg10=0.00";
        assert_eq!(pressure_of(pressure), Some(1234));
        assert_eq!(pressure_of("some avg10=9999.00"), None);
        assert_eq!(available_mib("MemTotal: 9 kB\nMemAvailable:   204800 kB\n"), Some(200));
    }

    #[test]
    fn this_machine_can_be_measured() {
        let mut sampler = Sampler::new(SampleConfig::default());
        let now = Instant::now();
        let sample = sampler.fresh(now);
        assert!(sample.cpus_centi >= 100 && sample.memory_free_mib < u32::MAX);
        assert_eq!(sampler.fresh(now), sample, "not measured twice at once");
    }
}
