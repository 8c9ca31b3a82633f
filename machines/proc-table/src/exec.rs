//! exec: here, and onto another node.
//!
//! ```text
//! source:  running --depart--> leaving --departed--> tombstone
//!                                 |------stayed-----> running (or ended)
//!                                 \--target's death-> tombstone, and lost unless it lives elsewhere
//! target:                      adopt --bind_host--> running
//! ```
//! Between `depart` and its outcome the process lives at the source; whatever arrives for it is
//! held, and follows it or is delivered. The target has adopted it before `departed` is called, so
//! nothing that follows can come too early.

use crate::{
    Effect, ProcTable, fork, limits,
    process::{Held, Process, Way},
    tombstone::Tombstone,
};
use alloc::string::String;
use core::time::Duration;
use dunix_ids::{NodeId, Pid};
use dunix_wire::processes::{
    Answer, Credentials, Errno, ParentLink, ProcMessage, ProcessBody, ProcessRecord, RunState,
    record::{CHILDREN_MAX, LESSEES_MAX, SERIALS_MAX},
    table::ChildChange,
};

impl ProcTable {
    /// A local exec succeeded: the other threads are gone, and setpgid by the parent answers
    /// `EACCES` from now on.
    ///
    /// # Errors
    /// `ESRCH` if no such process lives here.
    pub fn exec(
        &mut self,
        now: Duration,
        pid: Pid,
        comm: String,
        credentials: Credentials,
    ) -> Result<(), Errno> {
        self.begin(now);
        let process = self.processes.get_mut(&pid).filter(|p| !p.is_zombie()).ok_or(Errno::SRCH)?;
        process.has_execed = true;
        process.comm = fork::cut_comm(comm);
        process.credentials = credentials;
        self.drop_threads(pid);
        self.finish();
        Ok(())
    }

    /// Begins a remote exec. The record goes to `to`, whose answer is reported by
    /// [`ProcTable::departed`] or [`ProcTable::stayed`].
    ///
    /// # Errors
    /// `ESRCH`; `EBUSY` if a setpgid or setsid of it is in flight, it has no host process yet, or is
    /// leaving already (exec here instead); `EHOSTUNREACH` if `to` is not live.
    pub fn depart(&mut self, now: Duration, pid: Pid, to: NodeId) -> Result<ProcessRecord, Errno> {
        self.begin(now);
        if to == self.config.node || !self.is_live(to) {
            return Err(Errno::HOSTUNREACH);
        }
        let process = self.processes.get_mut(&pid).filter(|p| !p.is_zombie()).ok_or(Errno::SRCH)?;
        if process.is_in_between() || process.is_joining {
            return Err(Errno::BUSY);
        }
        process.leaving = Some(to);
        process.way = Way::Exec;
        let mut record = process.record(pid);
        record.has_execed = true;
        record.lessees = self.lessees_of(&record);
        Ok(record)
    }

    /// The other node has adopted it. The end of its host process here means nothing any more.
    /// Returns false if the table knows nothing of such a departure: the other node was declared
    /// dead first, and the process counts as lost with it.
    pub fn departed(&mut self, now: Duration, pid: Pid) -> bool {
        self.begin(now);
        let to = self.processes.get(&pid).and_then(|process| process.leaving);
        if let Some(to) = to {
            self.leave(pid, to);
        }
        self.finish();
        to.is_some()
    }

    pub(crate) fn leave(&mut self, pid: Pid, to: NodeId) {
        let Some(way) = self.processes.get(&pid).map(|process| process.way) else { return };
        if way == Way::Exec {
            self.drop_threads(pid);
        }
        let threads = self.threads.forget_all_of(pid);
        let Some(mut process) = self.processes.remove(&pid) else { return };
        self.unbind_host(&process, pid);
        self.effects.push_back(Effect::Gone { pid });
        let held = core::mem::take(&mut process.held);
        let watchers = core::mem::take(&mut process.watchers);
        let tombstone = Tombstone {
            to,
            pgid: process.pgid,
            parent: process.parent,
            children: process.children.keys().copied().collect(),
            version: process.version,
            serials: process.serials,
            threads,
        };
        self.tombstones.insert(self.now, pid, tombstone);
        self.tell_watchers(watchers, Answer::Node(to));
        if way == Way::Exec {
            for held in held {
                self.send_after(pid, to, held);
            }
        } else {
            self.hand_over(pid, to, held);
        }
    }

    /// Sends what was held after the process.
    fn send_after(&mut self, pid: Pid, to: NodeId, held: Held) {
        let message = match held {
            Held::Body(body) => ProcMessage::ToProcess { pid, hops: 1, body },
            Held::Group { pgid, serial, request } => {
                self.tombstones.note_serial(pid, serial);
                ProcMessage::SignalMembers { pgid, serial, request, hops: 1 }
            }
            Held::Stopped(_) | Held::Continued | Held::Struck(_) => return,
        };
        if self.is_live(to) {
            self.send(to, message);
        } else {
            self.park_for_dead(to, pid, message);
        }
    }

    /// The other node has refused, or was never reached: the process lives here as before, or ends
    /// now if its host process has ended meanwhile. An answer that does not come is no refusal.
    pub fn stayed(&mut self, now: Duration, pid: Pid) {
        self.begin(now);
        self.stay(pid);
        self.finish();
    }

    fn stay(&mut self, pid: Pid) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.leaving.take().is_none() {
            return;
        }
        process.way = Way::Exec;
        let end = process.end.take();
        if end.is_some()
            && let Some(host) = process.host.take()
            && self.hosts.get(&host) == Some(&pid)
        {
            self.hosts.remove(&host); // No signal can reach it.
        }
        // While it was leaving, others may have died that were to know of it.
        self.tell_all_of(pid);
        self.deliver_held(pid);
        self.effects.push_back(Effect::Wake { pid });
        if let Some((status, rusage)) = end {
            self.end(pid, status, rusage);
        }
    }

    /// The target of these departures has died without an answer. What it could not run yet stays. The
    /// others it may have adopted, run, even handed on: they must not run here as well, so they count
    /// as departed, and what became of them is found out as of all that was there.
    pub(crate) fn leave_all_to(&mut self, dead: NodeId) {
        let leaving: alloc::vec::Vec<Pid> = self
            .processes
            .iter()
            .filter(|(_, process)| process.leaving == Some(dead))
            .map(|(pid, _)| *pid)
            .collect();
        for pid in leaving {
            match self.processes.get(&pid) {
                Some(process) if process.is_frozen() => self.stay(pid),
                _ => self.leave(pid, dead),
            }
        }
    }

    /// Takes over a process that `from` handed to this node (state Starting until
    /// [`ProcTable::bind_host`]). From its success on the process lives here; answer `from` after it.
    ///
    /// # Errors
    /// `EHOSTUNREACH` if `from` is not live; `EPROTO` if the record is not sound; `EAGAIN` if the
    /// table is full.
    pub fn adopt(
        &mut self,
        now: Duration,
        from: NodeId,
        record: ProcessRecord,
    ) -> Result<(), Errno> {
        self.begin(now);
        self.take_in(from, record)?;
        self.finish();
        Ok(())
    }

    pub(crate) fn take_in(&mut self, from: NodeId, record: ProcessRecord) -> Result<(), Errno> {
        if from == self.config.node || !self.is_live(from) {
            return Err(Errno::HOSTUNREACH);
        }
        let pid = record.pid;
        let sound = record.children.len() <= CHILDREN_MAX
            && record.serials.len() <= SERIALS_MAX
            && record.lessees.len() <= LESSEES_MAX
            && record.exit_signal <= crate::SIGNAL_MAX
            && record.version < u64::MAX / 2
            && !self.processes.contains_key(&pid)
            && ![pid, record.pgid, record.sid].contains(&Pid::INIT)
            && !record.children.iter().any(|(child, _)| *child == pid || *child == Pid::INIT);
        if !sound {
            return Err(Errno::PROTO);
        }
        if self.processes.len() >= limits::PROCESSES_MAX {
            return Err(Errno::AGAIN);
        }
        self.tombstones.remove(pid);
        self.learn_lessees(&record.lessees);
        let mut process = Process::of_record(record, from);
        process.comm = fork::cut_comm(process.comm);
        let launcher = process.parent.node.filter(|_| process.parent.pid == Pid::INIT);
        if launcher.is_some_and(|node| self.peers.is_buried(node)) {
            process.parent = ParentLink::ORPHAN;
        }
        let doubtful: alloc::vec::Vec<Pid> = process
            .children
            .iter()
            .filter(|(_, child)| !crate::wait::has_ended(child) && self.peers.is_buried(child.node))
            .map(|(child, _)| *child)
            .collect();
        self.processes.insert(pid, process);
        self.tell_all_of(pid);
        for child in doubtful {
            self.confirm_child(pid, child);
        }
        Ok(())
    }

    /// Tells everyone who keeps something about the process that it is here: the leaser, the
    /// group's home, the parent, the children.
    pub(crate) fn tell_all_of(&mut self, pid: Pid) {
        let node = self.config.node;
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.version += 1;
        let version = process.version;
        let is_ended = process.is_zombie();
        self.send_owner(pid, ProcMessage::Located { pid, node, version });
        self.tell_threads(pid);
        if !is_ended {
            self.tell_parent(pid, ChildChange::Moved);
        }
        self.announce_member(pid, false);
        self.tell_children(pid, |parent, process| ProcessBody::ParentChanged {
            parent,
            version: process.version,
            node,
            group: (process.pgid, process.sid),
        });
    }

    /// Says the same to every child; zombies too must know whom to outlive.
    pub(crate) fn tell_children(&mut self, pid: Pid, body: impl Fn(Pid, &Process) -> ProcessBody) {
        let Some(process) = self.processes.get(&pid) else { return };
        let body = body(pid, process);
        let children: alloc::vec::Vec<(Pid, NodeId)> =
            process.children.iter().map(|(child, entry)| (*child, entry.node)).collect();
        for (child, node) in children {
            self.send_process(child, Some(node), body.clone());
        }
    }

    /// Tells those who may never have heard from the node to which it went, and which has died. If
    /// it had moved on from there, the leaser has been told, and they are to ask.
    pub(crate) fn mourn(&mut self, pid: Pid, tombstone: &Tombstone) {
        let version = tombstone.version.saturating_add(1);
        self.send_owner(pid, ProcMessage::LostOnTheWay { pid, version });
        let left = ProcMessage::MemberLeft { pgid: tombstone.pgid, pid, version };
        self.send_owner(tombstone.pgid, left);
        self.send_threads(pid, None, version, &tombstone.threads);
        let parent = tombstone.parent;
        if parent.pid != Pid::INIT || parent.node.is_some() {
            self.send_doubt((parent.pid, parent.node), pid, tombstone.to, version);
        }
        for child in &tombstone.children {
            self.send_process(*child, None, ProcessBody::ParentDoubtful { parent: pid });
        }
    }

    pub(crate) fn unbind_host(&mut self, process: &Process, pid: Pid) {
        if let Some(host) = process.host
            && self.hosts.get(&host) == Some(&pid)
        {
            self.hosts.remove(&host);
            self.former_hosts.remember(host, pid);
        }
    }

    /// Delivers what was held, as far as the process can take it now.
    pub(crate) fn deliver_held(&mut self, pid: Pid) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        for held in core::mem::take(&mut process.held) {
            match held {
                Held::Body(body) => self.handle_to_process(pid, 0, body),
                Held::Group { pgid, serial, request } => {
                    self.signal_local_members(pgid, serial, &request);
                }
                Held::Stopped(signal) => self.stop(pid, signal),
                Held::Continued => self.go_on(pid),
                Held::Struck(_) => {}
            }
        }
    }

    /// Whether the process is here and not ended.
    #[must_use]
    pub fn is_alive(&self, pid: Pid) -> bool {
        self.processes.get(&pid).is_some_and(|process| process.state != RunState::Zombie)
    }
}
