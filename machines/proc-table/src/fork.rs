//! New processes: roots, children, and the host processes that become theirs.

use crate::{Effect, ProcTable, RootSpec, limits, process::Process, table::Root};
use core::time::Duration;
use dunix_ids::Pid;
use dunix_wire::processes::{
    Child, ChildState, Errno, ExitStatus, ParentLink, RunState, Rusage, record::COMM_BYTES_MAX,
};

impl ProcTable {
    /// Makes a process without a parent, leader of a new session and group (state Starting). Its
    /// exit comes back as [`Effect::RootExited`](crate::Effect::RootExited), wherever it ends.
    ///
    /// # Errors
    /// `EAGAIN` if PIDs or entries have run out.
    pub fn spawn_root(&mut self, now: Duration, spec: RootSpec) -> Result<Pid, Errno> {
        self.begin(now);
        let pid = self.new_number();
        if let Ok(pid) = pid {
            let parent = ParentLink { node: Some(self.config.node), ..ParentLink::ORPHAN };
            let process = Process {
                parent,
                terminal: spec.terminal,
                credentials: spec.credentials,
                comm: cut_comm(spec.comm),
                ..Process::blank(pid)
            };
            self.processes.insert(pid, process);
            self.roots.insert(pid, Root { node: self.config.node, version: 1 });
            self.announce_member(pid, false);
        }
        self.finish();
        pid
    }

    /// Makes a child of `parent` (state Starting: signals for it are held). `exit_signal` goes to
    /// the parent when it ends: SIGCHLD for fork(2), as given for clone(2), 0 for none.
    ///
    /// # Errors
    /// `ESRCH` without such a parent; `EAGAIN` if it is leaving, or PIDs or entries have run out.
    pub fn fork(&mut self, now: Duration, parent: Pid, exit_signal: u8) -> Result<Pid, Errno> {
        self.begin(now);
        let child = self.fork_of(parent, exit_signal);
        self.finish();
        child
    }

    fn fork_of(&mut self, parent: Pid, exit_signal: u8) -> Result<Pid, Errno> {
        match self.processes.get(&parent) {
            None => return Err(Errno::SRCH),
            Some(process) if process.is_zombie() => return Err(Errno::SRCH),
            Some(process) if process.leaving.is_some() => return Err(Errno::AGAIN),
            Some(process)
                if process.children.len() >= dunix_wire::processes::record::CHILDREN_MAX =>
            {
                return Err(Errno::AGAIN);
            }
            Some(_) => {}
        }
        let pid = self.new_number()?;
        let node = self.config.node;
        let Some(process) = self.processes.get_mut(&parent) else { return Err(Errno::SRCH) };
        let child = process.fork(parent, node, exit_signal);
        let entry = Child {
            node,
            version: child.version,
            state: ChildState::Running,
            pgid: child.pgid,
            uid: child.credentials.uid,
            exit_signal,
        };
        process.children.insert(pid, entry);
        self.processes.insert(pid, child);
        self.announce_member(pid, false);
        Ok(pid)
    }

    fn new_number(&mut self) -> Result<Pid, Errno> {
        if self.processes.len() >= limits::PROCESSES_MAX {
            return Err(Errno::AGAIN);
        }
        self.allocate_process().ok_or(Errno::AGAIN)
    }

    /// The host's clone or spawn failed: the child never was. Its parent gets no SIGCHLD.
    pub fn fork_failed(&mut self, now: Duration, child: Pid) {
        self.begin(now);
        let starting = self.processes.get(&child).filter(|p| p.state == RunState::Starting);
        if let Some(parent) = starting.map(|process| process.parent.pid) {
            let forgotten = match self.processes.get_mut(&parent) {
                Some(parent) => parent.children.remove(&child).is_some(),
                None => self.roots.remove(&child).is_some(),
            };
            if forgotten {
                self.bury_zombie(child);
                // A wait may have no child left to wait for.
                self.effects.push_back(Effect::Wake { pid: parent });
            } else {
                let status = ExitStatus::Killed { signal: crate::SIGKILL, dumped: false };
                self.end(child, status, Rusage::default());
            }
        }
        self.finish();
    }

    /// The process has a host process now: after a spawn, a fork, an adoption. Signals that were
    /// held are delivered.
    ///
    /// # Errors
    /// `ESRCH` if there is no such process; `EPROTO` if it has a host process already.
    pub fn bind_host(&mut self, now: Duration, pid: Pid, host_pid: u32) -> Result<(), Errno> {
        self.begin(now);
        let process = self.processes.get_mut(&pid).ok_or(Errno::SRCH)?;
        if process.state != RunState::Starting {
            return Err(Errno::PROTO);
        }
        process.state = RunState::Running;
        process.host = Some(host_pid);
        if let Some(stale) = self.hosts.insert(host_pid, pid)
            && stale != pid
            && let Some(process) = self.processes.get_mut(&stale)
        {
            process.host = None;
        }
        self.deliver_held(pid);
        self.finish();
        Ok(())
    }
}

/// Cuts a command name as the kernel does.
pub(crate) fn cut_comm(mut comm: alloc::string::String) -> alloc::string::String {
    let mut end = comm.len().min(COMM_BYTES_MAX);
    while !comm.is_char_boundary(end) {
        end -= 1;
    }
    comm.truncate(end);
    comm
}
