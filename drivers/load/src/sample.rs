//! Measures this node: runnable guests, CPUs, pressure, memory.
//!
//! Reads the node's own `/proc` (which lists the node's processes only), and its cgroup's
//! `cpu.pressure` where the host has it. What cannot be read counts as zero load, or as all the
//! memory there could be: a node that cannot measure itself still takes work.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A sample older than this is taken again when it is needed: a sequence of short programs must not
/// look like as many at once.
const FRESH: Duration = Duration::from_millis(5);
/// Nor is more than this share of the time spent on sampling (one in so many).
const EFFORT: u32 = 10;

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

/// Takes samples, at most one in [`FRESH`], fewer if that costs much.
pub(crate) struct Sampler {
    proc: PathBuf,
    pressure: Option<PathBuf>,
    own_pid: u32,
    cpus_centi: u32,
    last: Option<Taken>,
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
        if let Some(Taken { at, keep, sample }) = self.last
            && now.saturating_duration_since(at) < keep
        {
            return sample;
        }
        let start = Instant::now();
        let sample = Sample {
            runnable_centi: self.runnable().saturating_mul(100),
            cpus_centi: self.cpus_centi,
            pressure: self.pressure(),
            memory_free_mib: self.memory_free_mib(),
        };
        let keep = FRESH.max(start.elapsed().saturating_mul(EFFORT));
        self.last = Some(Taken { at: now, keep, sample });
        sample
    }

    /// Counts threads that run or wait for a CPU, but for this process's.
    fn runnable(&self) -> u32 {
        let others = numbers(&self.proc).filter(|pid| *pid != self.own_pid);
        others.map(|pid| self.runnable_of(pid)).fold(0, u32::saturating_add)
    }

    fn runnable_of(&self, pid: u32) -> u32 {
        let process = self.proc.join(pid.to_string());
        let Some(stat) = stat_of(&process) else { return 0 };
        if stat.threads <= 1 {
            return u32::from(stat.runs);
        }
        let tasks = process.join("task");
        let threads = numbers(&tasks).filter_map(|tid| stat_of(&tasks.join(tid.to_string())));
        u32::try_from(threads.filter(|stat| stat.runs).count()).unwrap_or(u32::MAX)
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

#[derive(Clone, Copy)]
struct Taken {
    at: Instant,
    keep: Duration,
    sample: Sample,
}

/// The entries of a directory that are numbers.
fn numbers(directory: &Path) -> impl Iterator<Item = u32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stat {
    runs: bool,
    threads: u32,
}

fn stat_of(process: &Path) -> Option<Stat> {
    parse_stat(&fs::read_to_string(process.join("stat")).ok()?)
}

/// Reads `/proc/<pid>/stat` (proc(5)): the state is the first field after the name, which may hold
/// anything; the number of threads the 18th.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let runs = fields.next()? == "R";
    let threads = fields.nth(16).and_then(|threads| threads.parse().ok()).unwrap_or(1);
    Some(Stat { runs, threads })
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
        let stat = "12 (a b) R) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 21 0 99";
        assert_eq!(parse_stat(stat), Some(Stat { runs: false, threads: 21 }));
        assert_eq!(parse_stat("12 (cc1) R 1"), Some(Stat { runs: true, threads: 1 }));
        assert_eq!(parse_stat("12 (cc1"), None);
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

    #[test]
    fn threads_count() {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (stop, stopped) = std::sync::mpsc::channel::<()>();
                let spin = move || {
                    let empty = Err(std::sync::mpsc::TryRecvError::Empty);
                    while stopped.try_recv() == empty {
                        std::hint::spin_loop();
                    }
                };
                (stop, std::thread::spawn(spin))
            })
            .collect();
        let mut sampler = Sampler::new(SampleConfig::default());
        // As another process would see this one.
        let own = std::mem::replace(&mut sampler.own_pid, 0);
        assert!(sampler.runnable_of(own) >= 2);
        for (stop, thread) in threads {
            drop(stop);
            thread.join().expect("no panic");
        }
    }
}
