//! Questions: those that this node can answer, and those that go to the process.

use crate::{ProcTable, Token, number::Place, operation::Then};
use alloc::{format, string::String, vec::Vec};
use core::time::Duration;
use dunix_ids::{NodeId, ObjectId, Pid};
use dunix_wire::processes::{
    Errno, ProcessBody, ProcessSummary, RunState, Rusage, table::Question,
};

impl ProcTable {
    /// getpgid(2) of any process. Answers `Pid`, `ESRCH`.
    pub fn getpgid(&mut self, now: Duration, token: Token, pid: Pid) {
        self.ask(now, token, pid, Question::Group);
    }

    /// getsid(2) of any process. Answers `Pid`, `ESRCH`.
    pub fn getsid(&mut self, now: Duration, token: Token, pid: Pid) {
        self.ask(now, token, pid, Question::Session);
    }

    /// Asks which node a process runs on. Answers `Node`, `ESRCH`.
    pub fn locate(&mut self, now: Duration, token: Token, pid: Pid) {
        self.ask(now, token, pid, Question::Node);
    }

    /// Waits for the end of a process on any node, as long as an operation may take. Answers `Done`: it
    /// has ended; `Node`: it lives, ask again, by the same `watch`; `ESRCH`: there is none (any more).
    pub fn watch_end(&mut self, now: Duration, token: Token, watch: u64, pid: Pid) {
        self.begin(now);
        if pid == Pid::INIT {
            self.reply_now(token, Err(Errno::SRCH));
        } else if let Some(reply) = self.open_operation(Then::Watch(token)) {
            let question = Question::End { watch };
            self.send_process(pid, None, ProcessBody::Ask { question, reply });
        }
        self.finish();
    }

    /// Whether there is a process, zombies included, or thread of this number here.
    #[must_use]
    pub fn is_here(&self, id: Pid) -> bool {
        self.process_of(id).is_some()
    }

    fn ask(&mut self, now: Duration, token: Token, pid: Pid, question: Question) {
        self.begin(now);
        if pid == Pid::INIT {
            // No program runs as process 1, on no node.
            self.reply_now(token, Err(Errno::SRCH));
        } else if let Some(reply) = self.open_operation(Then::Tell(token)) {
            self.send_process(pid, None, ProcessBody::Ask { question, reply });
        }
        self.finish();
    }

    /// The parent of a process of this node; [`Pid::INIT`] for roots and orphans.
    #[must_use]
    pub fn parent(&self, pid: Pid) -> Option<Pid> {
        self.processes.get(&pid).map(|process| process.parent.pid)
    }

    /// The group of a process of this node.
    #[must_use]
    pub fn group(&self, pid: Pid) -> Option<Pid> {
        self.processes.get(&pid).map(|process| process.pgid)
    }

    /// The members of a group that are here, zombies included.
    #[must_use]
    pub fn group_here(&self, pgid: Pid) -> Vec<Pid> {
        let members = self.processes.iter().filter(|(_, process)| process.pgid == pgid);
        members.map(|(pid, _)| *pid).collect()
    }

    /// The session of a process of this node.
    #[must_use]
    pub fn session(&self, pid: Pid) -> Option<Pid> {
        self.processes.get(&pid).map(|process| process.sid)
    }

    /// The controlling terminal of a process of this node.
    #[must_use]
    pub fn terminal(&self, pid: Pid) -> Option<ObjectId> {
        self.processes.get(&pid)?.terminal
    }

    /// The process or thread of this node with this host number.
    #[must_use]
    pub fn from_host(&self, host: u32) -> Option<Pid> {
        self.hosts.get(&host).copied().or_else(|| self.threads.of_host(host))
    }

    /// The same, or the process that had this host number last.
    #[must_use]
    pub fn was_host(&self, host: u32) -> Option<Pid> {
        self.from_host(host).or_else(|| self.former_hosts.find(host))
    }

    /// Notes what a host process was that has ended before it was bound.
    pub fn note_former_host(&mut self, host: u32, pid: Pid) {
        self.former_hosts.remember(host, pid);
    }

    /// The process of this node that a thread's (or its own) number belongs to.
    #[must_use]
    pub fn process_of(&self, id: Pid) -> Option<Pid> {
        if self.processes.contains_key(&id) {
            return Some(id);
        }
        self.threads.get(id).map(|thread| thread.process)
    }

    /// Who leases the block of a number (or stands in for a dead leaser), as far as this node knows.
    #[must_use]
    pub fn leaser(&self, pid: Pid) -> Option<NodeId> {
        self.owner(pid)
    }

    /// Where a process is, as far as this node knows without asking.
    #[must_use]
    pub fn known_location(&self, pid: Pid) -> Option<NodeId> {
        if self.processes.contains_key(&pid) {
            return Some(self.config.node);
        }
        match self.numbers.place(pid) {
            Place::At { node, .. } => Some(node),
            _ => self.tombstones.next_node(pid),
        }
    }

    /// The processes of a terminal's session on this node.
    #[must_use]
    pub fn with_terminal(&self, terminal: ObjectId) -> Vec<Pid> {
        self.processes
            .iter()
            .filter(|(_, process)| process.terminal == Some(terminal))
            .map(|(pid, _)| *pid)
            .collect()
    }

    /// The threads of a process of this node, its first included.
    #[must_use]
    pub fn threads_of(&self, pid: Pid) -> Vec<Pid> {
        let Some(process) = self.processes.get(&pid) else { return Vec::new() };
        core::iter::once(pid).chain(process.threads.iter().copied()).collect()
    }

    /// The members of a group and their nodes, zombies included, if this node is its home.
    #[must_use]
    pub fn group_members(&self, pgid: Pid) -> Option<Vec<(Pid, NodeId)>> {
        let group = self.numbers.group(pgid)?;
        Some(group.members.iter().map(|(pid, member)| (*pid, member.node)).collect())
    }

    /// The numbers that are in use as this node, their leaser or stand-in, sees it.
    #[must_use]
    pub fn numbers_in_use(&self) -> Vec<Pid> {
        self.numbers.used.keys().copied().collect()
    }

    /// The processes, zombies included, that are here, and those that this node knows anywhere as the leaser
    /// of their numbers. The latter of all nodes have every process at any instant, also one that is on its way, and for
    /// a short while some that are gone.
    #[must_use]
    pub fn known_processes(&self) -> (Vec<Pid>, Vec<Pid>) {
        let placed = self.numbers.used.iter();
        let placed = placed.filter(|(_, number)| matches!(number.place, Place::At { .. }));
        (self.processes.keys().copied().collect(), placed.map(|(pid, _)| *pid).collect())
    }

    /// What a process of this node used on the nodes that it was on before, and its children that were
    /// waited for.
    #[must_use]
    pub fn used_beside(&self, pid: Pid) -> Option<(Rusage, Rusage)> {
        self.processes.get(&pid).map(|process| (process.used, process.children_rusage))
    }

    /// Says what this node keeps of a number as its leaser or home, for people; empty if nothing.
    #[must_use]
    pub fn describe_number(&self, number: Pid) -> String {
        self.numbers.used.get(&number).map_or_else(String::new, |number| format!("{number:?}"))
    }

    /// Operations and questions without an answer so far.
    #[must_use]
    pub fn open_operations(&self) -> usize {
        self.operations.len() + self.fans.len() + self.peers.waiting()
    }

    /// What is on this node, zombies included, by PID. Arguments, memory and the CPU time that it has
    /// used on this node are the driver's to fill in.
    #[must_use]
    pub fn list(&self) -> Vec<ProcessSummary> {
        self.processes.keys().filter_map(|pid| self.summary(*pid)).collect()
    }

    /// One line of [`ProcTable::list`].
    #[must_use]
    pub fn summary(&self, pid: Pid) -> Option<ProcessSummary> {
        let process = self.processes.get(&pid)?;
        Some(ProcessSummary {
            pid,
            ppid: process.parent.pid.get(),
            pgid: process.pgid,
            sid: process.sid,
            uid: process.credentials.uid,
            state: process.leaving.map_or(process.state, RunState::Leaving),
            threads: u32::try_from(process.threads.len()).unwrap_or(u32::MAX).saturating_add(1),
            host_pid: process.host,
            comm: process.comm.clone(),
            arguments: Vec::new(),
            cpu_micros: processor_micros(&process.used),
            resident_bytes: 0,
            started_seconds: process.started_seconds,
        })
    }
}

/// User and system time, in microseconds (getrusage(2)).
fn processor_micros(used: &Rusage) -> u64 {
    let [user_s, user_us, system_s, system_us, ..] = used.0;
    let seconds = user_s.saturating_add(system_s);
    seconds.saturating_mul(1_000_000).saturating_add(user_us).saturating_add(system_us)
}
