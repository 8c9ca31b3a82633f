//! Where processes went that were here: what still arrives for them is sent after them.

use crate::limits::{TOMBSTONE_LIFETIME, TOMBSTONES_MAX};
use crate::process::take_serial;
use alloc::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    vec::Vec,
};
use core::time::Duration;
use dunix_ids::{NodeId, Pid};
use dunix_wire::processes::{ParentLink, SignalSerial};

#[derive(Clone, Debug)]
pub(crate) struct Tombstone {
    pub(crate) to: NodeId,
    pub(crate) pgid: Pid,
    /// For the case that nobody ever hears of it again.
    pub(crate) parent: ParentLink,
    pub(crate) children: Vec<Pid>,
    /// Its threads besides the first, if they went along.
    pub(crate) threads: Vec<Pid>,
    /// The version with which it left.
    pub(crate) version: u64,
    /// Group signals that it had when it left, or that were sent after it.
    pub(crate) serials: Vec<SignalSerial>,
}

impl Tombstone {
    fn take_serial(&mut self, serial: SignalSerial) -> bool {
        take_serial(&mut self.serials, serial)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    by_pid: BTreeMap<Pid, (Duration, Tombstone)>,
    /// In order of age; entries that were replaced or removed are skipped.
    ages: VecDeque<(Duration, Pid)>,
}

impl Tombstones {
    pub(crate) fn insert(&mut self, now: Duration, pid: Pid, tombstone: Tombstone) {
        while self.ages.front().is_some_and(|(made, _)| {
            self.ages.len() >= TOMBSTONES_MAX || *made + TOMBSTONE_LIFETIME <= now
        }) {
            self.drop_oldest();
        }
        self.by_pid.insert(pid, (now, tombstone));
        self.ages.push_back((now, pid));
    }

    fn drop_oldest(&mut self) {
        if let Some((made, pid)) = self.ages.pop_front()
            && self.by_pid.get(&pid).is_some_and(|(current, _)| *current == made)
        {
            self.by_pid.remove(&pid);
        }
    }

    pub(crate) fn remove(&mut self, pid: Pid) {
        self.by_pid.remove(&pid);
    }

    /// Notes that a group signal follows the process.
    pub(crate) fn note_serial(&mut self, pid: Pid, serial: SignalSerial) {
        if let Some((_, tombstone)) = self.by_pid.get_mut(&pid) {
            tombstone.take_serial(serial);
        }
    }

    pub(crate) fn next_node(&self, pid: Pid) -> Option<NodeId> {
        self.by_pid.get(&pid).map(|(_, tombstone)| tombstone.to)
    }

    /// The nodes that members of this group went to without this signal; they count as having it
    /// from now on. So each departure sends each signal on at most once.
    pub(crate) fn take_nodes_without(
        &mut self,
        pgid: Pid,
        serial: SignalSerial,
    ) -> BTreeSet<NodeId> {
        self.by_pid
            .values_mut()
            .filter(|(_, tombstone)| tombstone.pgid == pgid)
            .filter_map(|(_, tombstone)| tombstone.take_serial(serial).then_some(tombstone.to))
            .collect()
    }

    /// The processes that were members of this group when they left.
    pub(crate) fn members_of(&self, pgid: Pid) -> impl Iterator<Item = Pid> + '_ {
        self.by_pid.iter().filter(move |(_, (_, t))| t.pgid == pgid).map(|(pid, _)| *pid)
    }

    /// Takes out what went to a node that has died.
    pub(crate) fn take_of_node(&mut self, node: NodeId) -> Vec<(Pid, Tombstone)> {
        let pids: Vec<Pid> =
            self.by_pid.iter().filter(|(_, (_, t))| t.to == node).map(|(pid, _)| *pid).collect();
        pids.into_iter()
            .filter_map(|pid| self.by_pid.remove(&pid).map(|(_, tombstone)| (pid, tombstone)))
            .collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_pid.len()
    }
}
