//! Threads besides the first of each process. They are where their process is; the leasers of their
//! numbers are told when that changes.

use crate::{ProcTable, blocks::block_of, limits, number::Place};
use alloc::{collections::BTreeMap, vec::Vec};
use core::time::Duration;
use dunix_ids::{NodeId, Pid};
use dunix_wire::processes::{Errno, ProcMessage, moving::THREADS_MAX};

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

    /// Forgets the threads of a process that takes them along.
    pub(crate) fn forget_all_of(&mut self, process: Pid) -> Vec<Pid> {
        let of_it = self.by_tid.iter().filter(|(_, thread)| thread.process == process);
        let tids: Vec<Pid> = of_it.map(|(tid, _)| *tid).collect();
        for tid in &tids {
            self.remove(*tid);
        }
        tids
    }

    pub(crate) fn insert(&mut self, tid: Pid, process: Pid) {
        self.by_tid.insert(tid, Thread { process, host: None });
    }

    pub(crate) fn has_room(&self, count: usize) -> bool {
        self.by_tid.len().saturating_add(count) <= limits::THREADS_MAX
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
        let tid = self.allocate_thread(pid);
        self.finish();
        let tid = tid.ok_or(Errno::AGAIN)?;
        self.threads.insert(tid, pid);
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
            self.free_thread_numbers(thread.process, &[tid]);
        }
        self.finish();
    }

    /// All threads but the first are gone: exec, exit, departure by exec.
    pub(crate) fn drop_threads(&mut self, pid: Pid) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let tids: Vec<Pid> = core::mem::take(&mut process.threads).into_iter().collect();
        for tid in &tids {
            self.threads.remove(*tid);
        }
        self.free_thread_numbers(pid, &tids);
    }

    fn free_thread_numbers(&mut self, pid: Pid, tids: &[Pid]) {
        if tids.is_empty() {
            return;
        }
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.version += 1;
        let version = process.version;
        self.send_threads(pid, None, version, tids);
    }

    /// Tells the leasers where the threads of a process are.
    pub(crate) fn tell_threads(&mut self, pid: Pid) {
        let Some(process) = self.processes.get(&pid) else { return };
        let tids: Vec<Pid> = process.threads.iter().copied().collect();
        let version = process.version;
        self.send_threads(pid, Some(self.config.node), version, &tids);
    }

    pub(crate) fn send_threads(
        &mut self,
        process: Pid,
        node: Option<NodeId>,
        version: u64,
        tids: &[Pid],
    ) {
        let same_block = |a: &Pid, b: &Pid| block_of(*a) == block_of(*b);
        for tids in tids.chunk_by(same_block) {
            if let Some(first) = tids.first() {
                let tids = tids.to_vec();
                self.send_owner(*first, ProcMessage::ThreadsAt { process, node, version, tids });
            }
        }
    }

    /// The leaser's side.
    pub(crate) fn handle_threads_at(
        &mut self,
        process: Pid,
        node: Option<NodeId>,
        version: u64,
        mut tids: Vec<Pid>,
    ) {
        tids.truncate(THREADS_MAX);
        let Some(first) = tids.first().copied() else { return };
        if !self.owns(first) {
            return self.send_owner(first, ProcMessage::ThreadsAt { process, node, version, tids });
        }
        if node.is_some_and(|node| self.peers.is_buried(node)) {
            return;
        }
        tids.retain(|tid| block_of(*tid) == block_of(first) && *tid != Pid::INIT);
        for tid in tids {
            self.place_thread(tid, process, node, version);
        }
    }

    fn place_thread(&mut self, tid: Pid, process: Pid, node: Option<NodeId>, version: u64) {
        let is_news = match self.numbers.place(tid) {
            Place::Thread { process: known, version: newest, .. } => {
                known == process && newest < version
            }
            // Of a block that was taken over nothing is known, so everything is news; a number of
            // our own that is not in use has been given back.
            Place::None => !self.leases(tid) && self.numbers.is_available(tid),
            Place::At { .. } | Place::Lost { .. } => false,
        };
        match node {
            _ if !is_news => {}
            Some(node) => {
                let place = Place::Thread { process, node, version };
                self.numbers.used.entry(tid).or_default().place = place;
            }
            None if self.numbers.used.contains_key(&tid) => self.vacate(tid),
            None => self.numbers.rest(self.now, tid),
        }
    }
}
