//! Threads besides the first of each process. They live and end where they were made.

use crate::{ProcTable, limits};
use alloc::collections::BTreeMap;
use core::time::Duration;
use dunix_ids::Pid;
use dunix_wire::processes::Errno;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Thread {
    pub(crate) process: Pid,
    pub(crate) host: Option<u32>,
}

#[derive(Debug, Default)]
pub(crate) struct Threads {
    by_tid: BTreeMap<Pid, Thread>,
    by_host: BTreeMap<u32, Pid>,
}

impl Threads {
    pub(crate) fn get(&self, tid: Pid) -> Option<Thread> {
        self.by_tid.get(&tid).copied()
    }

    pub(crate) fn of_host(&self, host: u32) -> Option<Pid> {
        self.by_host.get(&host).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Pid, Thread)> + '_ {
        self.by_tid.iter().map(|(tid, thread)| (*tid, *thread))
    }

    fn remove(&mut self, tid: Pid) -> Option<Thread> {
        let thread = self.by_tid.remove(&tid)?;
        if let Some(host) = thread.host {
            self.by_host.remove(&host);
        }
        Some(thread)
    }
}

impl ProcTable {
    /// Allocates a TID for a new thread of a process that runs here.
    ///
    /// # Errors
    /// `ESRCH`; `EAGAIN` if the process is leaving, or TIDs or entries have run out.
    pub fn thread_prepare(&mut self, now: Duration, pid: Pid) -> Result<Pid, Errno> {
        self.begin(now);
        let process = self.processes.get(&pid).ok_or(Errno::SRCH)?;
        if process.is_zombie() {
            return Err(Errno::SRCH);
        }
        if process.leaving.is_some() || self.threads.by_tid.len() >= limits::THREADS_MAX {
            return Err(Errno::AGAIN);
        }
        let tid = self.allocate_thread();
        self.finish();
        let tid = tid.ok_or(Errno::AGAIN)?;
        self.threads.by_tid.insert(tid, Thread { process: pid, host: None });
        if let Some(process) = self.processes.get_mut(&pid) {
            process.threads.insert(tid);
        }
        Ok(tid)
    }

    /// The host's clone made the thread. The host may use a number again before the end of its
    /// last owner is known here: the newest owner has it.
    ///
    /// # Errors
    /// `ESRCH` if there is no such thread; `EPROTO` if it has a host number already.
    pub fn thread_bound(&mut self, now: Duration, tid: Pid, host_tid: u32) -> Result<(), Errno> {
        self.begin(now);
        let thread = self.threads.by_tid.get_mut(&tid).ok_or(Errno::SRCH)?;
        if thread.host.is_some() {
            return Err(Errno::PROTO);
        }
        thread.host = Some(host_tid);
        if let Some(stale) = self.threads.by_host.insert(host_tid, tid)
            && let Some(thread) = self.threads.by_tid.get_mut(&stale)
        {
            thread.host = None;
        }
        Ok(())
    }

    /// A thread other than the first has ended, or its clone failed. Unknown TIDs are ignored.
    pub fn thread_exited(&mut self, now: Duration, tid: Pid) {
        self.begin(now);
        if let Some(thread) = self.threads.remove(tid)
            && let Some(process) = self.processes.get_mut(&thread.process)
        {
            process.threads.remove(&tid);
        }
        self.free_thread_number(tid);
        self.finish();
    }

    /// All threads but the first are gone: exec, exit, departure.
    pub(crate) fn drop_threads(&mut self, pid: Pid) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        for tid in core::mem::take(&mut process.threads) {
            self.threads.remove(tid);
            self.free_thread_number(tid);
        }
    }
}
