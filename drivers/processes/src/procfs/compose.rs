//! The files about a process that runs here, or is a zombie here.

use super::ProcFacts;
use super::place::{FILES, LINKS};
use crate::host::link;
use crate::node::Node;
use dunix_guest_abi::proc_text::{Names, stat, status};
use dunix_ids::Pid;
use dunix_linux::Errno;
use dunix_proc_table::HostTarget;
use dunix_wire::processes::procfs::{PROC_PATH_BYTES_MAX, PROC_TEXT_BYTES_MAX};
use dunix_wire::processes::{ProcFile, ProcQuestion, ProcessSummary, RunState, Rusage};
use std::fmt::Write;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// Clock ticks a second (`USER_HZ`).
const TICKS: u64 = 100;
/// By how much a text grows at most when it is rewritten.
const GROWTH_BYTES: usize = 512;
/// The first major number of pseudo-terminals, and how many each has.
const TERMINAL_MAJOR: u32 = 136;
const TERMINAL_MINORS: u32 = 256;

/// What the fabric knows of a process.
pub(super) struct About {
    id: Pid,
    process: ProcessSummary,
    terminal: Option<(u32, Pid)>,
    used: (Rusage, Rusage),
    ids_base: u32,
    facts: ProcFacts,
}

/// When the kernel started, in seconds since 1970 (`/proc/stat`).
pub(super) fn boot_time() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|word| word.trim().parse().ok()).unwrap_or(0)
}

impl About {
    pub(super) fn names(&self) -> Names<'_> {
        let process = &self.process;
        let started = process.started_seconds;
        let since = started.saturating_sub(self.facts.clock_zero_s).max(1);
        let (used, children) = (&self.used.0.0, &self.used.1.0);
        Names {
            id: self.id.get(),
            pid: process.pid.get(),
            parent: process.ppid,
            group: process.pgid.get(),
            session: process.sid.get(),
            terminal: self.terminal.map_or(0, |(pts, _)| device_of(pts)),
            foreground: self.terminal.map_or(-1, |(_, group)| group.get().cast_signed()),
            start_ticks: if started == 0 { 0 } else { since.saturating_mul(TICKS) },
            used_ticks: [
                ticks(used[0], used[1]),
                ticks(used[2], used[3]),
                ticks(children[0], children[1]),
                ticks(children[2], children[3]),
            ],
            ids_base: 0,
            node: &self.facts.node_name,
        }
    }

    /// What the host would say in `stat`, had it the process: of zombies, and those that start.
    fn bare_stat(&self) -> String {
        let letter = if self.process.state == RunState::Zombie { 'Z' } else { 'S' };
        // Beyond what is rewritten, one thread, and all else nothing.
        let mut text = format!("0 ({}) {letter} 0 0 0 0 0", self.process.comm);
        for field in 9..=52 {
            let value = match field {
                18 => 20,
                20 => 1,
                _ => 0,
            };
            let _ = write!(text, " {value}");
        }
        text.push('\n');
        text
    }

    /// The same for `status`.
    fn bare_status(&self) -> String {
        let state =
            if self.process.state == RunState::Zombie { "Z (zombie)" } else { "S (sleeping)" };
        let (name, uid) = (&self.process.comm, self.process.uid + self.ids_base);
        format!(
            "Name:\t{name}\nState:\t{state}\nTgid:\t0\nNgid:\t0\nPid:\t0\nPPid:\t0\nTracerPid:\t0\n\
             Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{uid}\t{uid}\t{uid}\t{uid}\nThreads:\t1\n"
        )
    }
}

impl Node {
    /// Composes a file about a process of this node. `ESRCH`: it is not here; `ENOENT`: no such file.
    pub(crate) async fn proc_file(
        self: &Arc<Node>,
        question: ProcQuestion,
    ) -> Result<ProcFile, Errno> {
        if question.path.len() > PROC_PATH_BYTES_MAX {
            return Err(Errno::NOENT);
        }
        let terminal = if question.contents && question.path == b"stat" {
            self.terminal_of(question.id).await
        } else {
            None
        };
        let node = self.clone();
        // The host's files wait for locks of the process that they tell of.
        let composed = self.runtime.spawn_blocking(move || node.compose(&question, terminal));
        composed.await.unwrap_or(Err(Errno::IO))
    }

    pub(super) fn about(
        &self,
        id: Pid,
        pid: Pid,
        terminal: Option<(u32, Pid)>,
    ) -> Result<About, Errno> {
        let (process, used) = self
            .look(|state| Some((state.table.summary(pid)?, state.table.used_beside(pid)?)))
            .ok_or(Errno::SRCH)?;
        let (ids_base, facts) = (self.ids_base, self.proc_facts());
        Ok(About { id, process, terminal, used, ids_base, facts })
    }

    fn compose(
        &self,
        question: &ProcQuestion,
        terminal: Option<(u32, Pid)>,
    ) -> Result<ProcFile, Errno> {
        let id = question.id;
        if id == Pid::INIT {
            return self.compose_init(question);
        }
        let pid = self.look(|state| state.table.process_of(id)).ok_or(Errno::SRCH)?;
        let about = self.about(id, pid, terminal)?;
        let Some(host) = about.process.host_pid else {
            let contents = bare(&about, question)?;
            return Ok(ProcFile { uid: about.process.uid, gid: about.process.uid, contents });
        };
        let thread = match self.look(|state| state.table.to_host(id)).ok_or(Errno::SRCH)? {
            HostTarget::Process(host) | HostTarget::Thread { thread: host, .. } => host,
        };
        let folder = if question.as_thread {
            format!("/proc/{host}/task/{thread}")
        } else {
            format!("/proc/{thread}")
        };
        let owner = owner_of(&folder, &question.path)?;
        let guest = |id: u32| id.saturating_sub(self.ids_base);
        let contents = if question.contents {
            self.contents(&about, host, &folder, &question.path)?
        } else {
            Vec::new()
        };
        // Its number at the host may have become another's while it was read.
        if self.look(|state| state.host_pid(pid)) != Some(host) {
            return Err(Errno::SRCH);
        }
        Ok(ProcFile { uid: guest(owner.uid()), gid: guest(owner.gid()), contents })
    }

    fn contents(
        &self,
        about: &About,
        host: u32,
        folder: &str,
        path: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let pid = about.process.pid;
        let name = std::str::from_utf8(path).map_err(|_| Errno::NOENT)?;
        match name {
            "stat" | "status" => {
                let names = Names { ids_base: self.ids_base, ..about.names() };
                rewritten(name, &read(&format!("{folder}/{name}"))?, &names)
            }
            "cgroup" => Ok(b"0::/\n".to_vec()),
            "task" => {
                let threads = self.look(|state| state.table.threads_of(pid));
                Ok(listed(threads.into_iter().map(|id| id.to_string())))
            }
            "fd" => numbers_in(&format!("{folder}/fd")),
            "exe" => self
                .look(|state| Some(state.locals.get(&pid)?.exe_path.to_vec()))
                .ok_or(Errno::NOENT),
            _ if LINKS.contains(&name) => link(host, name),
            _ if FILES.iter().any(|(file, _)| *file == name) => read(&format!("{folder}/{name}")),
            _ => match name.strip_prefix("fd/").and_then(|number| number.parse::<u32>().ok()) {
                Some(number) => link(host, &format!("fd/{number}")),
                None => Err(Errno::NOENT),
            },
        }
    }

    /// Process 1, whom no node runs: the parent of roots and orphans, the same on every node.
    fn compose_init(&self, question: &ProcQuestion) -> Result<ProcFile, Errno> {
        let process = ProcessSummary {
            pid: Pid::INIT,
            ppid: 0,
            pgid: Pid::INIT,
            sid: Pid::INIT,
            uid: 0,
            state: RunState::Running,
            threads: 1,
            host_pid: None,
            comm: "dunix".into(),
            arguments: Vec::new(),
            cpu_micros: 0,
            resident_bytes: 0,
            started_seconds: self.proc_facts().clock_zero_s,
        };
        let (ids_base, facts) = (self.ids_base, self.proc_facts());
        let used = Default::default();
        let about = About { id: Pid::INIT, process, terminal: None, used, ids_base, facts };
        let contents = match question.path.as_slice() {
            _ if !question.contents => Vec::new(),
            b"cmdline" => b"dunix\0".to_vec(),
            b"task" => listed(std::iter::once("1".to_owned())),
            _ => bare(&about, question)?,
        };
        Ok(ProcFile { uid: 0, gid: 0, contents })
    }
}

/// Whose a file about a process is: root's, if the process is not its user's to look into (proc(5)).
fn owner_of(folder: &str, path: &[u8]) -> Result<std::fs::Metadata, Errno> {
    let file = std::str::from_utf8(path).map_err(|_| Errno::NOENT)?;
    // The host lacks files that are composed here.
    std::fs::symlink_metadata(format!("{folder}/{file}"))
        .or_else(|_| std::fs::metadata(folder))
        .map_err(|_| Errno::SRCH)
}

/// What is left to tell of a process that the host does not have.
fn bare(about: &About, question: &ProcQuestion) -> Result<Vec<u8>, Errno> {
    if !question.contents {
        return Ok(Vec::new());
    }
    let names = Names { ids_base: about.ids_base, ..about.names() };
    match question.path.as_slice() {
        b"stat" => rewritten("stat", about.bare_stat().as_bytes(), &names),
        b"status" => rewritten("status", about.bare_status().as_bytes(), &names),
        b"comm" => Ok(format!("{}\n", about.process.comm).into_bytes()),
        b"statm" => Ok(b"0 0 0 0 0 0 0\n".to_vec()),
        b"cgroup" => Ok(b"0::/\n".to_vec()),
        b"task" => Ok(listed(std::iter::once(about.process.pid.to_string()))),
        b"cmdline" | b"fd" | b"wchan" => Ok(Vec::new()),
        _ => Err(Errno::NOENT),
    }
}

fn rewritten(name: &str, text: &[u8], names: &Names<'_>) -> Result<Vec<u8>, Errno> {
    let mut out = vec![0; text.len() + GROWTH_BYTES];
    let used =
        if name == "stat" { stat(text, names, &mut out) } else { status(text, names, &mut out) };
    out.truncate(used.ok_or(Errno::SRCH)?);
    Ok(out)
}

fn read(path: &str) -> Result<Vec<u8>, Errno> {
    let mut text = Vec::new();
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let file = std::fs::File::open(path).map_err(|error| match failed(error) {
        // The kernel is built without this file, or the process is gone, which shows afterwards.
        Errno::NOENT => Errno::NOENT,
        errno => errno,
    })?;
    file.take(PROC_TEXT_BYTES_MAX as u64).read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}

fn numbers_in(folder: &str) -> Result<Vec<u8>, Errno> {
    let entries = std::fs::read_dir(folder).map_err(|_| Errno::SRCH)?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut numbers: Vec<u32> = names.collect();
    numbers.sort_unstable();
    Ok(listed(numbers.into_iter().map(|number| number.to_string())))
}

fn listed(names: impl Iterator<Item = String>) -> Vec<u8> {
    names.flat_map(|name| [name.into_bytes(), vec![0]].concat()).collect()
}

/// A time of getrusage(2) in ticks.
fn ticks(seconds: u64, micros: u64) -> u64 {
    seconds.saturating_mul(TICKS).saturating_add(micros / (1_000_000 / TICKS))
}

/// The device of a pseudo-terminal, as `stat` has it.
fn device_of(pts: u32) -> u32 {
    let (major, minor) = (TERMINAL_MAJOR + pts / TERMINAL_MINORS, pts % TERMINAL_MINORS);
    major << 8 | minor
}
