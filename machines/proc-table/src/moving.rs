//! A process that moves while it runs.
//!
//! ```text
//! source:  running --begin_move--> frozen --commit_move--> decided --departed--> tombstone
//!                                    |--stayed, target's death--> running (or ended)
//!                                    |                        |--stayed--> running (or ended)
//!                                    |                        `--target's death--> tombstone
//! target:                                                  adopt_moving --bind_host--> running
//! ```
//! It is the same process afterwards: number, threads, children, groups and what was sent to it.
//! What comes for it while it is frozen is held by the source and handed over when it has left; until
//! then the target gives it nothing else. So whatever one sender sends arrives once and in its order,
//! whichever way it takes. SIGKILL alone does not wait.

use crate::{
    Effect, ProcTable, SIGSTOP, limits,
    process::{Held, Way},
};
use alloc::vec::Vec;
use core::time::Duration;
use dunix_ids::{NodeId, Pid};
use dunix_wire::processes::{
    Errno, ProcMessage, ProcessBody, ProcessRecord, Refusal, RunState, Rusage, SignalRequest,
    moving::THREADS_MAX,
    table::{HANDED_OVER_MAX, HeldForMove},
};

impl ProcTable {
    /// Whether a node is up, this one included.
    #[must_use]
    pub fn is_node_live(&self, node: NodeId) -> bool {
        self.is_live(node)
    }

    /// Whether a node was declared dead, by whomever: the table has acted upon it.
    #[must_use]
    pub fn is_declared_dead(&self, node: NodeId) -> bool {
        self.peers.is_dead(node)
    }

    /// Says whether a process of this node could begin to move now.
    ///
    /// # Errors
    /// [`Refusal::NoSuchProcess`], `Ended`, `Starting`, `Stopped`, `AlreadyMoving`, `StillArriving`,
    /// `Regrouping`, `TooLarge`.
    pub fn check_move(&self, pid: Pid) -> Result<(), Refusal> {
        let process = self.processes.get(&pid).ok_or(Refusal::NoSuchProcess)?;
        match process.state {
            RunState::Zombie => return Err(Refusal::Ended),
            RunState::Starting => return Err(Refusal::Starting),
            RunState::Stopped(signal) => return Err(Refusal::Stopped { signal }),
            RunState::Running | RunState::Leaving(_) => {}
        }
        if process.leaving.is_some() {
            return Err(Refusal::AlreadyMoving);
        }
        if process.awaits.is_some() {
            return Err(Refusal::StillArriving);
        }
        if process.is_joining {
            return Err(Refusal::Regrouping);
        }
        if process.threads.len() > THREADS_MAX {
            return Err(Refusal::TooLarge { what: "threads".into() });
        }
        Ok(())
    }

    /// Begins a move. The process is frozen and what comes for it from now on is held. `used`: what
    /// its host process has used. Ends by [`ProcTable::stayed`] or, after [`ProcTable::commit_move`],
    /// by [`ProcTable::departed`].
    ///
    /// # Errors
    /// As [`ProcTable::check_move`]; [`Refusal::NodeNotLive`].
    pub fn begin_move(
        &mut self,
        now: Duration,
        pid: Pid,
        to: NodeId,
        used: Rusage,
    ) -> Result<ProcessRecord, Refusal> {
        self.begin(now);
        self.check_move(pid)?;
        if to == self.config.node || !self.is_live(to) {
            return Err(Refusal::NodeNotLive);
        }
        let process = self.processes.get_mut(&pid).ok_or(Refusal::NoSuchProcess)?;
        process.leaving = Some(to);
        process.way = Way::Move;
        let mut record = process.record(pid);
        record.threads = process.threads.iter().copied().collect();
        record.used.add(&used);
        record.lessees = self.lessees_of(&record);
        Ok(record)
    }

    /// Whether the frozen process here was killed, which the host has not reported yet.
    #[must_use]
    pub fn is_struck(&self, pid: Pid) -> bool {
        let held = self.processes.get(&pid).map(|process| process.held.as_slice());
        held.unwrap_or_default().iter().any(|held| matches!(held, Held::Struck(_)))
    }

    /// From now on the process may run at its target, and is lost with it. Returns false if it is not
    /// about to move: the target was declared dead, and it stays.
    pub fn commit_move(&mut self, pid: Pid) -> bool {
        match self.processes.get_mut(&pid) {
            Some(process) if process.is_frozen() => {
                process.way = Way::Decided;
                true
            }
            _ => false,
        }
    }

    /// Takes over a process that moved here as it runs, as [`ProcTable::adopt`] does one that execs.
    /// Give it and its threads their host numbers next, then let it run.
    ///
    /// # Errors
    /// As [`ProcTable::adopt`]; also `EPROTO` if another process here has one of its threads.
    pub fn adopt_moving(
        &mut self,
        now: Duration,
        from: NodeId,
        mut record: ProcessRecord,
    ) -> Result<(), Errno> {
        self.begin(now);
        let (pid, threads) = (record.pid, core::mem::take(&mut record.threads));
        let is_free =
            |tid: &Pid| *tid != pid && *tid != Pid::INIT && self.process_of(*tid).is_none();
        if threads.len() > THREADS_MAX || !threads.iter().all(is_free) {
            return Err(Errno::PROTO);
        }
        if !self.threads.has_room(threads.len()) {
            return Err(Errno::AGAIN);
        }
        self.take_in(from, record)?;
        for tid in &threads {
            self.threads.insert(*tid, pid);
        }
        if let Some(process) = self.processes.get_mut(&pid) {
            process.awaits = Some(from);
            process.threads = threads.into_iter().collect();
        }
        self.tell_threads(pid);
        self.finish();
        Ok(())
    }

    /// Sends what was held after a process that has moved, in order.
    pub(crate) fn hand_over(&mut self, pid: Pid, to: NodeId, held: Vec<Held>) {
        let mut held: Vec<HeldForMove> = held.into_iter().filter_map(for_move).collect();
        for held in &held {
            if let HeldForMove::Group { serial, .. } = held {
                self.tombstones.note_serial(pid, *serial);
            }
        }
        loop {
            let rest = held.split_off(held.len().min(HANDED_OVER_MAX));
            let is_last = rest.is_empty();
            let message = ProcMessage::HandedOver { pid, held, is_last };
            if self.is_live(to) {
                self.send(to, message);
            } else {
                self.park_for_dead(to, pid, message);
            }
            if is_last {
                return;
            }
            held = rest;
        }
    }

    /// The target's side: what came here meanwhile comes after it.
    pub(crate) fn handle_handed_over(
        &mut self,
        from: NodeId,
        pid: Pid,
        held: Vec<HeldForMove>,
        is_last: bool,
    ) {
        let awaiting = self.processes.get_mut(&pid).filter(|p| p.awaits == Some(from));
        let Some(process) = awaiting else { return self.hand_on(pid, held) };
        if process.held.len() >= limits::HELD_MESSAGES_MAX {
            return; // Its source lies: no process gets so much while it is frozen.
        }
        let at = process.handed_over.min(process.held.len());
        process.handed_over = at + held.len();
        process.held.splice(at..at, held.into_iter().map(Held::from));
        if is_last {
            self.await_nothing(pid);
        }
    }

    /// What was handed over comes to nobody who waits for it: the process has ended or the source was
    /// dead for a while.
    pub(crate) fn hand_on(&mut self, pid: Pid, held: Vec<HeldForMove>) {
        let me = self.config.node;
        for held in held {
            match held {
                HeldForMove::Body(body) => self.send_process(pid, None, body),
                HeldForMove::Group { pgid, serial, request } => {
                    self.handle_signal_members(me, pgid, serial, request, 1);
                }
            }
        }
    }

    fn await_nothing(&mut self, pid: Pid) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.awaits = None;
        process.handed_over = 0;
        if process.state != RunState::Starting {
            self.deliver_held(pid);
        }
        self.effects.push_back(Effect::Wake { pid });
        self.effects.push_back(Effect::Arrived { pid });
    }

    /// What a dead node held is lost with it.
    pub(crate) fn await_no_longer(&mut self, dead: NodeId) {
        let awaiting = self.processes.iter().filter(|(_, p)| p.awaits == Some(dead));
        let awaiting: Vec<Pid> = awaiting.map(|(pid, _)| *pid).collect();
        for pid in awaiting {
            self.await_nothing(pid);
        }
    }
}

/// What of the held things follows a process that moves.
fn for_move(held: Held) -> Option<HeldForMove> {
    match held {
        Held::Body(body) => Some(HeldForMove::Body(body)),
        Held::Group { pgid, serial, request } => Some(HeldForMove::Group { pgid, serial, request }),
        // The host stopped what it was frozen in; at the target it is to stop again.
        Held::Stopped(_) => {
            let request = SignalRequest::of_fabric(SIGSTOP);
            let body = ProcessBody::Signal { request, thread: None, reply: None };
            Some(HeldForMove::Body(body))
        }
        Held::Continued => None,
        Held::Struck(held) => for_move(*held),
    }
}

impl From<HeldForMove> for Held {
    fn from(held: HeldForMove) -> Held {
        match held {
            HeldForMove::Body(body) => Held::Body(body),
            HeldForMove::Group { pgid, serial, request } => Held::Group { pgid, serial, request },
        }
    }
}
