//! `/proc` of the fabric: the numbers of all processes, and the files about each, wherever it runs.
//!
//! ```text
//! guest ── /proc/PID/stat ── shim ──> /dev/.proc/PID/stat ── FUSE ── volume ─┬─ compose      (it runs here)
//!                                                                            └─ mesh ─ compose  (elsewhere)
//! ```
//! Each node composes the files of the processes that it runs ([`compose`]) and serves those of all to its guests
//! ([`volume`]). A list of all asks each node once, a file the node of its process alone. What a process reads of
//! itself comes from its host's own `/proc`, by the shim.

mod compose;
mod place;
mod volume;

use crate::Processes;
use crate::call::{DoorbellCall, errno_of};
use crate::node::Node;
use dunix_fuse::Session;
use dunix_guest_abi::doorbell::{PROC_NODE_AT, PROC_WORDS, PROCESSES_MAX};
use dunix_ids::{NodeId, ObjectId, Pid};
use dunix_linux::Errno;
use dunix_wire::Topic;
use dunix_wire::processes::{ProcFile, ProcQuestion, ProcessesAnswer, ProcessesCall};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// How long a node may take to answer; one that does not is left out of a list.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// How often a process is followed that moves on before it could be asked.
const FOLLOWED_MAX: usize = 8;
/// Threads that take the kernel's requests; none of them waits for an answer.
const THREADS: usize = 1;

/// What files about processes tell of their node.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProcFacts {
    node_name: Vec<u8>,
    /// When the clock began by which starts are told, in seconds since 1970.
    clock_zero_s: u64,
    /// Guests have the files of all processes; else the host's, of those of their node.
    pub(crate) is_served: bool,
}

impl Processes {
    /// Serves the files about the fabric's processes behind `device`, the FUSE descriptor of a mount that guests see at
    /// [`PROCESS_FILES`](dunix_guest_abi::doorbell::PROCESS_FILES); without one, guests see the host's. Blocks until the
    /// kernel has greeted. Before the first guest starts.
    ///
    /// # Errors
    /// The descriptor is not that of a fresh mount, or no threads can be made.
    pub fn serve_files(
        &self,
        device: Option<OwnedFd>,
        node_name: &str,
        clock_zero_s: Option<u64>,
    ) -> std::io::Result<Option<Session>> {
        let clock_zero_s = clock_zero_s.unwrap_or_else(compose::boot_time);
        let (node_name, is_served) = (node_name.as_bytes().to_vec(), device.is_some());
        // Said once, when the node starts.
        let _ = self.0.proc_facts.set(ProcFacts { node_name, clock_zero_s, is_served });
        let volume = Arc::new(volume::ProcVolume::new(self.0.clone()));
        device.map(|device| Session::start(device, volume, THREADS, self.0.ids_base)).transpose()
    }
}

impl Node {
    pub(crate) fn proc_facts(&self) -> ProcFacts {
        self.proc_facts.get().cloned().unwrap_or_default()
    }

    /// The processes of all nodes that answer, zombies included, in order.
    async fn all_processes(&self) -> BTreeSet<Pid> {
        let (here, leased) = self.look(|state| state.table.known_processes());
        let mut all: BTreeSet<Pid> = here.into_iter().chain([Pid::INIT]).collect();
        let mut placed: BTreeSet<Pid> = leased.into_iter().collect();
        for answer in self.ask_all(&ProcessesCall::Numbers).await {
            if let ProcessesAnswer::Numbers { here, leased } = answer {
                all.extend(here);
                placed.extend(leased);
            }
        }
        // They moved while the nodes answered, or they have ended and their leaser has not heard.
        for pid in placed.difference(&all.clone()) {
            if self.node_of(*pid).await.is_some() {
                all.insert(*pid);
            }
        }
        all
    }

    /// Asks all other nodes at once; returns the answers that come in time.
    async fn ask_all(&self, call: &ProcessesCall) -> Vec<ProcessesAnswer> {
        let Some(mesh) = &self.mesh else { return Vec::new() };
        let body = dunix_wire::encode(call);
        let others = mesh.peers().into_iter().filter(|peer| peer.node != self.id);
        let asked: Vec<_> = others
            .map(|peer| mesh.call(peer.node, Topic::Processes, body.clone(), ANSWER_WAIT))
            .map(tokio::spawn)
            .collect();
        let mut answers = Vec::new();
        for answer in asked {
            if let Ok(Ok(body)) = answer.await
                && let Ok(answer) = dunix_wire::decode(&body)
            {
                answers.push(answer);
            }
        }
        answers
    }

    /// Asks the node of a process or thread for a file about it. `near`: where it was when last asked.
    async fn ask_file(
        self: &Arc<Node>,
        question: &ProcQuestion,
        near: Option<NodeId>,
    ) -> Result<(ProcFile, NodeId), Errno> {
        if question.id == Pid::INIT {
            return self.proc_file(question.clone()).await.map(|file| (file, self.id));
        }
        let mut near = near;
        for _ in 0..FOLLOWED_MAX {
            let node = match near.take() {
                Some(node) => node,
                None => self.node_of(question.id).await.ok_or(Errno::SRCH)?,
            };
            match self.file_at(node, question).await {
                // It has moved, or ended: its number's leaser knows.
                Err(Errno::SRCH) => {}
                result => return result.map(|file| (file, node)),
            }
        }
        Err(Errno::SRCH)
    }

    pub(crate) async fn node_of(&self, id: Pid) -> Option<NodeId> {
        if self.look(|state| state.table.is_here(id)) {
            return Some(self.id);
        }
        self.locate(id).await
    }

    async fn file_at(
        self: &Arc<Node>,
        node: NodeId,
        question: &ProcQuestion,
    ) -> Result<ProcFile, Errno> {
        if node == self.id {
            return self.proc_file(question.clone()).await;
        }
        match self.ask_peer(node, &ProcessesCall::ProcFile(question.clone())).await? {
            ProcessesAnswer::ProcFile(result) => result.map_err(errno_of),
            _ => Err(Errno::PROTO),
        }
    }

    async fn ask_peer(&self, node: NodeId, call: &ProcessesCall) -> Result<ProcessesAnswer, Errno> {
        let mesh = self.mesh.as_ref().ok_or(Errno::SRCH)?;
        let body = dunix_wire::encode(call);
        let answer = mesh.call(node, Topic::Processes, body, ANSWER_WAIT).await;
        let answer = answer.map_err(|_| Errno::IO)?;
        dunix_wire::decode(&answer).map_err(|_| Errno::PROTO)
    }

    /// A controlling terminal whose home is here: its number in devpts, and its foreground group.
    pub(crate) fn terminal_here(&self, terminal: ObjectId) -> Option<(u32, Pid)> {
        self.look(|state| {
            state.terminals.get(&terminal).map(|terminal| (terminal.pts, terminal.foreground))
        })
    }

    /// The same wherever its home is.
    async fn terminal_of(&self, pid: Pid) -> Option<(u32, Pid)> {
        let terminal = self.look(|state| state.table.terminal(pid))?;
        if terminal.home == self.id {
            return self.terminal_here(terminal);
        }
        match self.ask_peer(terminal.home, &ProcessesCall::Terminal { terminal }).await {
            Ok(ProcessesAnswer::Terminal(found)) => found,
            _ => None,
        }
    }

    // The doorbell.

    pub(crate) fn handle_processes(self: &Arc<Node>, call: DoorbellCall) {
        let node = self.clone();
        self.runtime.spawn(async move {
            let after = u32::try_from(call.arg(1)).unwrap_or(u32::MAX);
            let room = usize::try_from(call.arg(3)).unwrap_or(0).min(PROCESSES_MAX);
            let all = node.all_processes().await;
            let rest = all.iter().map(|pid| pid.get()).filter(|pid| *pid > after).take(room);
            let bytes: Vec<u8> = rest.flat_map(u32::to_ne_bytes).collect();
            let written = call.memory().write(call.arg(2), &bytes);
            let count = i64::try_from(bytes.len() / size_of::<u32>()).unwrap_or(0);
            call.conclude(written.map(|()| count));
        });
    }

    pub(crate) fn handle_proc_names(self: &Arc<Node>, call: DoorbellCall) {
        let asked = call.caller().and_then(|caller| Ok(call.pid_arg(2)?.unwrap_or(caller.pid)));
        let pid = match asked {
            Ok(pid) => pid,
            Err(errno) => return call.refuse(errno),
        };
        let elsewhere = self.look(|state| state.table.terminal(pid)).map(|terminal| terminal.home);
        if elsewhere.is_none_or(|home| home == self.id) {
            let terminal = self.look(|state| state.table.terminal(pid));
            let terminal = terminal.and_then(|terminal| self.terminal_here(terminal));
            return self.tell_names(call, pid, terminal);
        }
        let node = self.clone();
        self.runtime.spawn(async move {
            let terminal = node.terminal_of(pid).await;
            node.tell_names(call, pid, terminal);
        });
    }

    fn tell_names(&self, call: DoorbellCall, pid: Pid, terminal: Option<(u32, Pid)>) {
        let written = self.proc_words(pid, terminal).and_then(|words| {
            let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_ne_bytes).collect();
            call.memory().write(call.arg(1), &bytes)
        });
        call.conclude(written.map(|()| 0));
    }

    fn proc_words(
        &self,
        pid: Pid,
        terminal: Option<(u32, Pid)>,
    ) -> Result<[u64; PROC_WORDS], Errno> {
        let about = self.about(pid, pid, terminal)?;
        let names = about.names();
        let mut words = [0; PROC_WORDS];
        words[..4].copy_from_slice(
            &[names.parent, names.group, names.session, names.terminal].map(u64::from),
        );
        words[4] = i64::from(names.foreground).cast_unsigned();
        words[5] = names.start_ticks;
        words[6..PROC_NODE_AT].copy_from_slice(&names.used_ticks);
        for (word, bytes) in words[PROC_NODE_AT..].iter_mut().zip(names.node.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(padded);
        }
        Ok(words)
    }
}
