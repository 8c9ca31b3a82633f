//! What this node says of itself.

use super::{metrics, overview::Local};
use dunix_admin_api::{
    DescriptorInfo, Event, EventKind, ExitStatus, Explanation, NodeConfig, NodeInfo, NodeState,
    ProcessInfo, ProcessState, Traffic,
};
use dunix_ids::Pid;
use dunix_load::Load;
use dunix_processes::{ProcessDetails, ProcessEvent, Processes};
use dunix_transport::Mesh;
use dunix_wire::processes::{self as wire, ProcessSummary, RunState};
use std::fs;
use tokio::sync::broadcast::{self, error::RecvError};

/// Most arguments of a process in a list.
const ARGUMENTS_MAX: usize = 64;

/// This node, for [`Overview`](super::overview::Overview).
pub(super) struct ThisNode {
    config: NodeConfig,
    mesh: Mesh,
    load: Load,
    processes: Processes,
}

impl ThisNode {
    pub(super) fn new(
        config: NodeConfig,
        mesh: Mesh,
        load: Load,
        processes: Processes,
    ) -> ThisNode {
        ThisNode { config, mesh, load, processes }
    }

    fn traffic(&self) -> Traffic {
        let mut traffic = Traffic::default();
        for peer in self.mesh.traffic() {
            if peer.node == self.config.node {
                continue;
            }
            let total = peer.total();
            traffic.stream_bytes_sent += total.stream_bytes_sent;
            traffic.stream_bytes_received += total.stream_bytes_received;
            traffic.message_bytes_sent += total.message_bytes_sent;
            traffic.message_bytes_received += total.message_bytes_received;
        }
        traffic
    }

    fn info(&self, summary: ProcessSummary) -> ProcessInfo {
        let mut args = summary.arguments;
        args.truncate(ARGUMENTS_MAX);
        ProcessInfo {
            pid: summary.pid,
            ppid: Pid::new(summary.ppid).unwrap_or(Pid::INIT),
            pgid: summary.pgid,
            sid: summary.sid,
            node: self.config.node,
            host_pid: summary.host_pid,
            uid: summary.uid,
            state: state_of(summary.state, summary.host_pid),
            threads: summary.threads,
            started_unix_ms: summary.started_seconds.saturating_mul(1000),
            cpu_ms: summary.cpu_micros / 1000,
            resident_bytes: summary.resident_bytes,
            terminal: None,
            comm: summary.comm,
            args,
        }
    }

    fn explanation(&self, details: ProcessDetails) -> Explanation {
        let descriptors = details.descriptors.into_iter().map(|(fd, name, home)| {
            let home = home.map(|object| object.home).filter(|home| *home != self.config.node);
            let mode = if home.is_some() { "remote" } else { "local" }.to_owned();
            DescriptorInfo { fd, kind: kind_of(&name).to_owned(), name, home, mode }
        });
        let story = self.processes.explain(details.summary.pid);
        let leaser = |pid| self.processes.leaser(pid).unwrap_or(self.config.authority);
        Explanation {
            exe: details.exe_path,
            cwd: details.working_directory,
            placed: details.placed,
            waits_for: details.waits_in,
            unmovable: details.unmovable.map(|refusal| refusal.to_string()),
            pid_leaser: leaser(details.summary.pid),
            group_home: leaser(details.summary.pgid),
            epoch: None,
            descriptors: descriptors.collect(),
            notes: story.into_iter().map(|line| ("story".to_owned(), line)).collect(),
            process: self.info(details.summary),
        }
    }
}

impl Local for ThisNode {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn node(&self) -> NodeInfo {
        let (memory_bytes_total, memory_bytes_free) = memory();
        NodeInfo {
            id: self.config.node,
            name: self.config.name.clone(),
            state: NodeState::Up,
            answering: false,
            tree_authority: self.config.node == self.config.authority,
            address: String::new(),
            cpus_milli: thousandths(self.config.cpus),
            load_milli: Some(self.load.own().runnable_centi.saturating_mul(10)),
            processes: u32::try_from(self.processes.list().len()).unwrap_or(u32::MAX),
            memory_bytes_total,
            memory_bytes_free,
            rtt_us: None,
            traffic: self.traffic(),
        }
    }

    fn processes(&self) -> Vec<ProcessInfo> {
        self.processes.list().into_iter().map(|summary| self.info(summary)).collect()
    }

    fn explain(&self, pid: Pid) -> Option<Explanation> {
        self.processes.details(pid).map(|details| self.explanation(details))
    }

    fn metrics(&self) -> String {
        metrics::in_text(&self.node(), &self.processes.totals(), &self.mesh.traffic())
    }

    fn events(&self) -> Events {
        Events { node: self.config.node, source: self.processes.events() }
    }
}

/// A subscription to what happens on this node. Without any, the driver has nothing to tell.
pub(super) struct Events {
    node: dunix_ids::NodeId,
    source: broadcast::Receiver<ProcessEvent>,
}

impl Events {
    /// Waits for the next event; a subscriber that is too slow is told how many it missed. `None` when
    /// the driver has ended.
    pub(super) async fn next(&mut self) -> Option<Event> {
        let kind = match self.source.recv().await {
            Ok(ProcessEvent::Started { pid, parent }) => {
                EventKind::Started { pid, ppid: parent, args: Vec::new() }
            }
            Ok(ProcessEvent::Executed { pid, arguments }) => {
                EventKind::Executed { pid, args: arguments, reason: String::new() }
            }
            Ok(ProcessEvent::Exited { pid, status }) => {
                EventKind::Exited { pid, status: exit_status(status) }
            }
            Ok(ProcessEvent::Moved { pid, from, frozen_micros }) => {
                EventKind::Moved { pid, from, frozen_us: frozen_micros }
            }
            Ok(ProcessEvent::MoveRefused { pid, to, message }) => {
                EventKind::MoveRefused { pid, to, message }
            }
            Err(RecvError::Lagged(events)) => EventKind::Lost { events },
            Err(RecvError::Closed) => return None,
        };
        Some(Event { at_unix_ms: unix_ms(), node: self.node, kind })
    }
}

/// Milliseconds since 1970.
fn unix_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// The admin protocol's word for how a process ended.
pub(super) fn exit_status(status: wire::ExitStatus) -> ExitStatus {
    match status {
        wire::ExitStatus::Exited(code) => ExitStatus::Exited(code),
        wire::ExitStatus::Killed { signal, dumped } => {
            ExitStatus::Signaled { signal, core_dumped: dumped }
        }
        // Its node died, which is a kill (SIGKILL) to whoever waits.
        wire::ExitStatus::Lost => ExitStatus::Signaled { signal: 9, core_dumped: false },
    }
}

fn state_of(state: RunState, host_pid: Option<u32>) -> ProcessState {
    match state {
        RunState::Starting => ProcessState::Starting,
        RunState::Stopped(_) => ProcessState::Stopped,
        RunState::Leaving(_) => ProcessState::Moving,
        RunState::Zombie => ProcessState::Zombie,
        RunState::Running => host_pid.map_or(ProcessState::Starting, host_state),
    }
}

/// The state letter of `/proc/PID/stat` (proc(5)).
fn host_state(host_pid: u32) -> ProcessState {
    let text = fs::read_to_string(format!("/proc/{host_pid}/stat")).unwrap_or_default();
    let letter = text.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    match letter {
        Some('R') => ProcessState::Running,
        Some('D') => ProcessState::Waiting,
        Some('Z' | 'X') => ProcessState::Zombie,
        _ => ProcessState::Sleeping,
    }
}

fn kind_of(name: &str) -> &'static str {
    match name {
        name if name.starts_with("pipe:") => "pipe",
        name if name.starts_with("socket:") => "socket",
        name if name.starts_with("/dev/pts/") || name == "/dev/tty" => "terminal",
        name if name.starts_with("anon_inode:") => "anonymous",
        name if name.starts_with("/dev/") => "device",
        _ => "file",
    }
}

/// Total and available memory of the host, in bytes.
fn memory() -> (u64, u64) {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib.saturating_mul(1024))
    };
    (field("MemTotal:").unwrap_or(0), field("MemAvailable:").unwrap_or(0))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the range of u32 first"
)]
fn thousandths(value: f64) -> u32 {
    (value * 1000.0).clamp(0.0, f64::from(u32::MAX)) as u32
}
