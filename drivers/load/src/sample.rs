//! Measures this node: runnable guests, CPUs, pressure, memory.
//!
//! A program that has just been forked counts as runnable whatever it does: it loads its libraries and
//! waits for files now, and will want a CPU in a moment. One that has ended does not, so a sequence of
//! short programs never looks like as many at once.
//!
//! Reads the node's own `/proc` (which lists the node's processes only), and its cgroup's
//! `cpu.pressure` where the host has it. What cannot be read counts as zero load, or as all the
//! memory there could be: a node that cannot measure itself still takes work.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A sample older than this is taken again when it is needed.
const FRESH: Duration = Duration::from_millis(1);
/// Nor is more than this share of the time spent on sampling (one in so many).
const EFFORT: u32 = 10;
/// A process younger than this counts even while it waits. In ticks of `/proc` (`USER_HZ`, 100 a
/// second on every architecture that matters here).
const YOUNG_TICKS: u64 = 10;
const TICKS_PER_SECOND: u64 = 100;

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
    /// Running or waiting for a CPU.
    pub(crate) running: u32,
    /// Just started, and waiting for something else.
    pub(crate) young: u32,
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

    /// Returns a sample, and whether it was taken just now.
    pub(crate) fn fresh(&mut self, now: Instant) -> (Sample, bool) {
        if let Some(Taken { at, keep, sample }) = self.last
            && now.saturating_duration_since(at) < keep
        {
            return (sample, false);
        }
        let start = Instant::now();
        let (running, young) = self.runnable();
        let sample = Sample {
            running,
            young,
            cpus_centi: self.cpus_centi,
            pressure: self.pressure(),
            memory_free_mib: self.memory_free_mib(),
        };
        let keep = FRESH.max(start.elapsed().saturating_mul(EFFORT));
        self.last = Some(Taken { at: now, keep, sample });
        (sample, true)
    }

    /// Counts threads that run or wait for a CPU, and young processes that do not; all but this one.
    fn runnable(&self) -> (u32, u32) {
        let uptime = fs::read_to_string(self.proc.join("uptime"));
        let uptime = uptime.ok().as_deref().and_then(ticks_of);
        let (mut running, mut young) = (0u32, 0u32);
        for pid in numbers(&self.proc).filter(|pid| *pid != self.own_pid) {
            let process = self.proc.join(pid.to_string());
            let Some(stat) = stat_of(&process) else { continue };
            let runs = self.running_threads(&process, stat);
            running = running.saturating_add(runs);
            let age = uptime.map(|uptime| uptime.saturating_sub(stat.started_ticks));
            let is_young = age.is_some_and(|age| age < YOUNG_TICKS);
            young += u32::from(runs == 0 && stat.state == State::Waits && is_young);
        }
        (running, young)
    }

    fn running_threads(&self, process: &Path, stat: Stat) -> u32 {
        if stat.threads <= 1 {
            return u32::from(stat.state == State::Runs);
        }
        let tasks = process.join("task");
        let threads = numbers(&tasks).filter_map(|tid| stat_of(&tasks.join(tid.to_string())));
        let running = threads.filter(|stat| stat.state == State::Runs);
        u32::try_from(running.count()).unwrap_or(u32::MAX)
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
enum State {
    Runs,
    Waits,
    /// Stopped, or ended and not yet reaped.
    Still,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stat {
    state: State,
    threads: u32,
    started_ticks: u64,
}

fn stat_of(process: &Path) -> Option<Stat> {
    parse_stat(&fs::read_to_string(process.join("stat")).ok()?)
}

/// Reads `/proc/<pid>/stat` (proc(5)): the name may hold anything; after it the state is the first
/// field, the number of threads the 18th, the start the 20th.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = match fields.next()? {
        "R" => State::Runs,
        "S" | "D" | "I" => State::Waits,
        _ => State::Still,
    };
    let threads = fields.nth(16)?.parse().ok()?;
    let started_ticks = fields.nth(1)?.parse().ok()?;
    Some(Stat { state, threads, started_ticks })
}

/// Reads the first field of `/proc/uptime`, `12.34`, as 1234.
fn ticks_of(uptime: &str) -> Option<u64> {
    let (seconds, part) = uptime.split_whitespace().next()?.split_once('.')?;
    let (seconds, part): (u64, u64) = (seconds.parse().ok()?, part.parse().ok()?);
    Some(seconds * TICKS_PER_SECOND + part)
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
        let stat = "12 (a b) R) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 21 0 99 5";
        let expected = Stat { state: State::Waits, threads: 21, started_ticks: 99 };
        assert_eq!(parse_stat(stat), Some(expected));
        assert_eq!(parse_stat("12 (cc1) R 1"), None);
        assert_eq!(parse_stat("12 (cc1"), None);
        assert_eq!(ticks_of("12.34 99.00\n"), Some(1234));
        let pressure = "some avg10=12.34 avg60=1.00 avg300=0.10 total=99\nfull avg10=0.00";
        assert_eq!(pressure_of(pressure), Some(1234));
        assert_eq!(pressure_of("some avg10=9999.00"), None);
        assert_eq!(available_mib("MemTotal: 9 kB\nMemAvailable:   204800 kB\n"), Some(200));
    }

    #[test]
    fn this_machine_can_be_measured() {
        let mut sampler = Sampler::new(SampleConfig::default());
        let now = Instant::now();
        let (sample, _) = sampler.fresh(now);
        assert!(sample.cpus_centi >= 100 && sample.memory_free_mib < u32::MAX);
        assert_eq!(sampler.fresh(now), (sample, false), "not measured twice at once");
    }

    #[test]
    fn a_young_program_counts_and_a_dead_or_idle_one_does_not() {
        let proc = std::env::temp_dir().join(format!("dunix-sample-{}", std::process::id()));
        let programs = [(1, "S", 90), (2, "S", 99), (3, "Z", 99), (4, "R", 99), (5, "R", 1)];
        for (pid, state, started) in programs {
            let directory = proc.join((1_000_000 + pid).to_string());
            fs::create_dir_all(&directory).expect("writable");
            let between = "0 ".repeat(16);
            let stat = format!("{pid} (x) {state} {between}1 0 {started} 0");
            fs::write(directory.join("stat"), stat).expect("writable");
        }
        fs::write(proc.join("uptime"), "1.00 1.00\n").expect("writable");
        let config = SampleConfig { proc: Some(proc.clone()), ..SampleConfig::default() };
        let (sample, is_new) = Sampler::new(config).fresh(Instant::now());
        fs::remove_dir_all(&proc).expect("ours");
        assert!(is_new);
        assert_eq!((sample.running, sample.young), (2, 1));
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
        sampler.own_pid = 0;
        let own = Path::new("/proc/self");
        let stat = stat_of(own).expect("readable");
        assert!(sampler.running_threads(own, stat) >= 2);
        for (stop, thread) in threads {
            drop(stop);
            thread.join().expect("no panic");
        }
    }
}
