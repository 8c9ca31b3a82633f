//! What `nodes`, `ps` and `explain` show.

use alloc::{string::String, vec::Vec};
use dunix_ids::{NodeId, Pid};
use serde::{Deserialize, Serialize};

/// One node of the fabric, as the answering node knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeInfo {
    pub id: NodeId,
    pub name: String,
    pub state: NodeState,
    /// The node that answers the request.
    pub answering: bool,
    /// Holds the tree's authority.
    pub tree_authority: bool,
    /// Address on the fabric's link.
    pub address: String,
    /// CPUs that it may use, in thousandths.
    pub cpus_milli: u32,
    /// Runnable processes, averaged, in thousandths; `None` if unknown.
    pub load_milli: Option<u32>,
    pub processes: u32,
    pub memory_bytes_total: u64,
    pub memory_bytes_free: u64,
    /// Round trip to the answering node.
    pub rtt_us: Option<u32>,
    pub traffic: Traffic,
}

/// Bytes that a node's daemon has exchanged with its peers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Traffic {
    /// Payload of byte streams (pipes, sockets between nodes).
    pub stream_bytes_sent: u64,
    pub stream_bytes_received: u64,
    /// Everything else (file requests, process messages).
    pub message_bytes_sent: u64,
    pub message_bytes_received: u64,
}

/// Whether a node can be used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    Up,
    /// Does not answer; not yet declared dead.
    Suspect,
    /// Takes no new processes.
    Draining,
    Down,
}

/// One process of the fabric.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessInfo {
    pub pid: Pid,
    pub ppid: Pid,
    pub pgid: Pid,
    pub sid: Pid,
    pub node: NodeId,
    /// Its number at the node's kernel, in the node's PID namespace.
    pub host_pid: Option<u32>,
    /// Real user in the fabric.
    pub uid: u32,
    pub state: ProcessState,
    pub threads: u32,
    /// Milliseconds since 1970.
    pub started_unix_ms: u64,
    /// User and system time, with waited-for children left out.
    pub cpu_ms: u64,
    pub resident_bytes: u64,
    /// `/dev/...` name of the controlling terminal, without `/dev/`.
    pub terminal: Option<String>,
    /// The command's name, as in `/proc/PID/comm`.
    pub comm: String,
    /// argv, lossily as UTF-8; empty for a zombie.
    pub args: Vec<String>,
}

/// What a process does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessState {
    /// Not yet bound to a host process.
    Starting,
    Running,
    Sleeping,
    /// In an uninterruptible wait.
    Waiting,
    Stopped,
    Moving,
    Zombie,
}

/// All that is known of one process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Explanation {
    pub process: ProcessInfo,
    pub exe: String,
    pub cwd: String,
    /// Why it runs where it runs.
    pub placed: String,
    /// What it waits for, if it waits.
    pub waits_for: Option<String>,
    /// Why it cannot move, or `None` if it can.
    pub unmovable: Option<String>,
    /// The node that keeps its location entry.
    pub pid_leaser: NodeId,
    /// The node that is home of its process group and session.
    pub group_home: NodeId,
    pub epoch: Option<u64>,
    pub descriptors: Vec<DescriptorInfo>,
    /// Further facts, name and value.
    pub notes: Vec<(String, String)>,
}

/// One open descriptor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DescriptorInfo {
    pub fd: u32,
    /// `file`, `pipe`, `socket`, `terminal`, ...
    pub kind: String,
    /// Path or other name.
    pub name: String,
    /// The node that executes calls on it, if it is another node than the process's.
    pub home: Option<NodeId>,
    /// `r`, `w` or `rw`, and how it crosses nodes (`local`, `relayed`, `remote`).
    pub mode: String,
}
