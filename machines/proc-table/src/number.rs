//! What a leaser keeps for each number in use: where the process is, and the group and session of
//! that number (whose home it is). A number is free when nothing is left of all these, and then
//! rests in quarantine.

use crate::{Note, ProcTable, group_home::GroupHome, limits};
use alloc::collections::{BTreeMap, VecDeque};
use core::time::Duration;
use dunix_ids::{NodeId, Pid};
use dunix_wire::processes::ProcMessage;

/// Where the process of a number is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Place {
    /// There is none (any more).
    #[default]
    None,
    /// It runs there, or is a zombie there.
    At { node: NodeId, version: u64 },
    /// Its node died. `claimed`: a parent holds the zombie; else the number goes free at the end of
    /// the claim's wait.
    Lost { claimed: bool },
    /// It is a thread of that process, which told so in this version from there.
    Thread { process: Pid, node: NodeId, version: u64 },
}

#[derive(Debug, Default)]
pub(crate) struct Number {
    pub(crate) place: Place,
    pub(crate) group: Option<GroupHome>,
    /// Groups of the session of this number, and their homes.
    pub(crate) session: BTreeMap<Pid, NodeId>,
}

impl Number {
    fn is_free(&self) -> bool {
        self.place == Place::None && self.group.is_none() && self.session.is_empty()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Numbers {
    pub(crate) used: BTreeMap<Pid, Number>,
    /// Until when a number rests.
    resting: BTreeMap<Pid, Duration>,
    rests: VecDeque<(Duration, Pid)>,
    /// When the numbers of lost processes go free unless claimed.
    claims: VecDeque<(Duration, Pid)>,
    /// `(group, member)` that left at a version: older news of the membership is stale. With the
    /// time until which this is remembered.
    left: BTreeMap<(Pid, Pid), (u64, Duration)>,
    left_ages: VecDeque<(Duration, (Pid, Pid))>,
}

impl Numbers {
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.claims.front().map(|(until, _)| *until)
    }

    pub(crate) fn is_available(&self, pid: Pid) -> bool {
        !self.used.contains_key(&pid) && !self.resting.contains_key(&pid)
    }

    pub(crate) fn resting(&self) -> usize {
        self.resting.len()
    }

    pub(crate) fn place(&self, pid: Pid) -> Place {
        self.used.get(&pid).map_or(Place::None, |number| number.place)
    }

    pub(crate) fn group(&self, pgid: Pid) -> Option<&GroupHome> {
        self.used.get(&pgid)?.group.as_ref()
    }

    pub(crate) fn group_mut(&mut self, pgid: Pid) -> Option<&mut GroupHome> {
        self.used.get_mut(&pgid)?.group.as_mut()
    }

    /// Ends what is due: quarantine and the memory of those who left.
    pub(crate) fn age(&mut self, now: Duration) {
        while let Some((until, pid)) = self.rests.front().copied()
            && until <= now
        {
            self.rests.pop_front();
            // It may have been used, and rest, again.
            match self.resting.get(&pid) {
                Some(later) if *later > now => self.rests.push_back((*later, pid)),
                _ => drop(self.resting.remove(&pid)),
            }
        }
        while let Some((until, key)) = self.left_ages.front().copied()
            && until <= now
        {
            self.left_ages.pop_front();
            if self.left.get(&key).is_some_and(|(_, last)| *last == until) {
                self.left.remove(&key);
            }
        }
    }

    /// Notes that a member left at this version.
    pub(crate) fn remember_left(&mut self, now: Duration, pgid: Pid, pid: Pid, version: u64) {
        if self.left.len() >= limits::LEFT_MAX
            && let Some((_, oldest)) = self.left_ages.pop_front()
        {
            self.left.remove(&oldest);
        }
        let until = now + limits::TOMBSTONE_LIFETIME;
        let newest = self.left.entry((pgid, pid)).or_insert((version, until));
        *newest = (newest.0.max(version), until);
        self.left_ages.push_back((until, (pgid, pid)));
    }

    /// Whether news of this version about a member is older than its leaving.
    pub(crate) fn has_left(&self, pgid: Pid, pid: Pid, version: u64) -> bool {
        self.left.get(&(pgid, pid)).is_some_and(|(left, _)| version <= *left)
    }

    /// Lets a number rest if nothing is left of it.
    pub(crate) fn try_free(&mut self, now: Duration, pid: Pid) {
        if self.used.get(&pid).is_some_and(Number::is_free) {
            self.used.remove(&pid);
            self.rest(now, pid);
        }
    }

    /// The same for one of which more may still be told: it does not rest.
    fn forget_unused(&mut self, pid: Pid) {
        if self.used.get(&pid).is_some_and(Number::is_free) {
            self.used.remove(&pid);
        }
    }

    pub(crate) fn rest(&mut self, now: Duration, pid: Pid) {
        let until = now + limits::QUARANTINE;
        if self.resting.insert(pid, until).is_none() {
            self.rests.push_back((until, pid));
        }
    }

    fn lose(&mut self, now: Duration, pid: Pid, claimed: bool) {
        self.used.entry(pid).or_default().place = Place::Lost { claimed };
        if !claimed {
            self.claims.push_back((now + limits::CLAIM_WAIT, pid));
        }
    }
}

impl ProcTable {
    /// Takes a number for a new process.
    pub(crate) fn allocate_process(&mut self) -> Option<Pid> {
        let place = Place::At { node: self.config.node, version: 1 };
        self.allocate(place)
    }

    pub(crate) fn allocate_thread(&mut self, process: Pid) -> Option<Pid> {
        self.allocate(Place::Thread { process, node: self.config.node, version: 0 })
    }

    fn allocate(&mut self, place: Place) -> Option<Pid> {
        self.numbers.age(self.now);
        let pid = self.next_free_number();
        self.ask_for_block_if_low();
        let pid = pid?;
        self.numbers.used.insert(pid, Number { place, ..Number::default() });
        Some(pid)
    }

    /// Whether the process of a number is here to stay: then nobody else has a say about it.
    fn is_ours(&self, pid: Pid) -> bool {
        self.processes.get(&pid).is_some_and(|process| process.leaving.is_none())
    }

    pub(crate) fn handle_located(&mut self, pid: Pid, node: NodeId, version: u64) {
        if !self.owns(pid) {
            return self.send_owner(pid, ProcMessage::Located { pid, node, version });
        }
        if node != self.config.node && self.is_ours(pid) {
            return;
        }
        // A number of our own that is not in use has been released: late news of it is stale. Of a
        // block that was taken over nothing is known, so everything is news.
        let is_known = self.numbers.used.contains_key(&pid);
        if !is_known && (self.leases(pid) || !self.numbers.is_available(pid)) {
            return;
        }
        let number = self.numbers.used.entry(pid).or_default();
        match number.place {
            Place::At { version: newest, .. } if version <= newest => {}
            Place::Thread { .. } => {}
            _ => number.place = Place::At { node, version },
        }
    }

    /// Only the node that has the process can release it, or anyone if that node is dead.
    pub(crate) fn handle_released(&mut self, pid: Pid, by: NodeId, version: u64) {
        if !self.owns(pid) {
            return self.send_owner(pid, ProcMessage::Released { pid, node: by, version });
        }
        if !self.leases(pid) && !self.numbers.used.contains_key(&pid) {
            // What is still told of it is older.
            return self.numbers.rest(self.now, pid);
        }
        if self.is_ours(pid) {
            return;
        }
        let may_release = match self.numbers.place(pid) {
            Place::At { node, version: newest } => {
                node == by || newest < version || self.peers.is_dead(node)
            }
            Place::Lost { .. } => true,
            Place::None | Place::Thread { .. } => false,
        };
        if may_release {
            self.vacate(pid);
        }
    }

    /// A group or a session of this number has ended. While others still tell what a dead leaser knew,
    /// the process of that number may not have been told of yet.
    pub(crate) fn free_after_group(&mut self, number: Pid) {
        if self.is_rebuilding() && !self.leases(number) {
            self.numbers.forget_unused(number);
        } else {
            self.numbers.try_free(self.now, number);
        }
    }

    pub(crate) fn vacate(&mut self, pid: Pid) {
        if let Some(number) = self.numbers.used.get_mut(&pid) {
            number.place = Place::None;
            self.numbers.try_free(self.now, pid);
        }
    }

    pub(crate) fn handle_held(&mut self, pid: Pid) {
        if !self.owns(pid) {
            return self.send_owner(pid, ProcMessage::Held { pid });
        }
        let is_lost = match self.numbers.place(pid) {
            Place::Lost { .. } => true,
            // Nothing is known of it, unless it has just been released.
            Place::None => !self.leases(pid) && self.numbers.is_available(pid),
            Place::At { .. } | Place::Thread { .. } => false,
        };
        if is_lost {
            self.numbers.lose(self.now, pid, true);
        }
    }

    pub(crate) fn handle_lost_on_the_way(&mut self, pid: Pid, version: u64) {
        if !self.owns(pid) {
            return self.send_owner(pid, ProcMessage::LostOnTheWay { pid, version });
        }
        if let Place::At { version: newest, .. } = self.numbers.place(pid)
            && newest < version
            && !self.is_ours(pid)
        {
            self.numbers.lose(self.now, pid, false);
        }
    }

    /// The processes that were on a node that died, as this node knows as their leaser. What is
    /// already lost must be claimed again: its claimant may have been there.
    pub(crate) fn lose_numbers_of(&mut self, node: NodeId) {
        let (mut lost, mut to_claim) = (alloc::vec::Vec::new(), alloc::vec::Vec::new());
        let mut threads = alloc::vec::Vec::new();
        for (pid, number) in &self.numbers.used {
            match number.place {
                Place::At { node: at, .. } if at == node => lost.push(*pid),
                Place::Lost { claimed: true } => to_claim.push(*pid),
                Place::Thread { node: at, .. } if at == node => threads.push(*pid),
                _ => {}
            }
        }
        for tid in threads {
            self.vacate(tid);
        }
        for pid in to_claim {
            self.numbers.lose(self.now, pid, false);
        }
        for pid in lost {
            self.numbers.lose(self.now, pid, false);
            self.note(Note::LostWithNode { pid, node });
        }
    }

    pub(crate) fn expire_claims(&mut self) {
        while let Some((until, pid)) = self.numbers.claims.front().copied()
            && until <= self.now
        {
            self.numbers.claims.pop_front();
            let is_last = !self.numbers.claims.iter().any(|(_, other)| *other == pid);
            if is_last && self.numbers.place(pid) == (Place::Lost { claimed: false }) {
                self.vacate(pid);
            }
        }
    }
}
