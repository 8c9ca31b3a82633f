//! Which nodes live, and what a death means.
//!
//! ```text
//! unknown --up--> live --down--> settling --all have settled, or too late--> buried
//! ```
//! A death is acted upon only after every survivor has told what the dead node had handed over to
//! it, and has said so ([`ProcMessage::Settled`]): messages from one node arrive in order, so
//! whatever lives on elsewhere is known by then. What was meant for the dead node meanwhile waits,
//! and then goes wherever it belongs. A dead node never comes back under its number.

use crate::{Effect, ProcTable, limits};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::time::Duration;
use dunix_ids::{NodeId, Pid};
use dunix_wire::processes::{MemberState, ParentLink, ProcMessage, RunState};

#[derive(Debug)]
enum Peer {
    Live,
    Settling {
        awaiting: BTreeSet<NodeId>,
        until: Duration,
        /// What was meant for it: by process or by number.
        parked: Vec<(Pid, ProcMessage)>,
    },
    Buried,
}

#[derive(Debug, Default)]
pub(crate) struct Peers {
    by_node: BTreeMap<NodeId, Peer>,
    /// `(dead, survivor)` that settled before the death was known here.
    settled_early: BTreeSet<(NodeId, NodeId)>,
    /// Until when what a dead leaser knew may still be told anew.
    rebuilt_at: Duration,
    /// What was asked here meanwhile about numbers of which nothing is known yet.
    asked_early: Vec<ProcMessage>,
}

impl Peers {
    /// Questions that wait for others to tell what they know.
    pub(crate) fn waiting(&self) -> usize {
        let parked = |peer: &Peer| match peer {
            Peer::Settling { parked, .. } => parked.len(),
            _ => 0,
        };
        self.asked_early.len() + self.by_node.values().map(parked).sum::<usize>()
    }

    pub(crate) fn is_peer_live(&self, node: NodeId) -> bool {
        matches!(self.by_node.get(&node), Some(Peer::Live))
    }

    /// Whether messages from the node count: not of a dead node. One that is not announced yet
    /// may speak first.
    pub(crate) fn is_heard(&self, node: NodeId) -> bool {
        matches!(self.by_node.get(&node), Some(Peer::Live) | None)
    }

    pub(crate) fn is_settling(&self, node: NodeId) -> bool {
        matches!(self.by_node.get(&node), Some(Peer::Settling { .. }))
    }

    pub(crate) fn is_buried(&self, node: NodeId) -> bool {
        matches!(self.by_node.get(&node), Some(Peer::Buried))
    }

    pub(crate) fn is_dead(&self, node: NodeId) -> bool {
        self.is_settling(node) || self.is_buried(node)
    }

    /// Known, and not buried: duties that it had are still its.
    pub(crate) fn is_trusted(&self, node: NodeId) -> bool {
        matches!(self.by_node.get(&node), Some(Peer::Live | Peer::Settling { .. }))
    }

    pub(crate) fn trusted(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.by_node.iter().filter(|(_, peer)| !matches!(peer, Peer::Buried)).map(|(n, _)| *n)
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.by_node.iter().filter(|(_, peer)| matches!(peer, Peer::Live)).map(|(n, _)| *n)
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let settling = self.by_node.values().filter_map(|peer| match peer {
            Peer::Settling { until, .. } => Some(*until),
            _ => None,
        });
        let rebuilt = Some(self.rebuilt_at).filter(|_| !self.asked_early.is_empty());
        settling.chain(rebuilt).min()
    }

    fn due(&self, now: Duration) -> Vec<NodeId> {
        self.by_node
            .iter()
            .filter(|(_, peer)| match peer {
                Peer::Settling { awaiting, until, .. } => awaiting.is_empty() || *until <= now,
                _ => false,
            })
            .map(|(node, _)| *node)
            .collect()
    }

    /// A survivor has settled a death, or died itself.
    fn settle(&mut self, dead: NodeId, survivor: NodeId) {
        if let Some(Peer::Settling { awaiting, .. }) = self.by_node.get_mut(&dead) {
            awaiting.remove(&survivor);
        }
    }
}

impl ProcTable {
    pub(crate) fn is_live(&self, node: NodeId) -> bool {
        node == self.config.node || self.peers.is_peer_live(node)
    }

    /// A peer answers. Told again, this does nothing; one that was declared dead is told so.
    pub fn handle_node_up(&mut self, now: Duration, node: NodeId) {
        self.begin(now);
        if node != self.config.node {
            let is_new = !self.peers.by_node.contains_key(&node);
            self.peers.by_node.entry(node).or_insert(Peer::Live);
            if self.peers.is_dead(node) {
                self.tell_it_is_dead(node);
            }
            if is_new && self.coordinator() == Some(node) {
                self.ask_coordinator_now();
            }
        }
        self.finish();
    }

    /// A node was declared dead.
    pub fn handle_node_down(&mut self, now: Duration, node: NodeId) {
        self.begin(now);
        self.mark_dead(node);
        self.finish();
    }

    fn mark_dead(&mut self, dead: NodeId) {
        let is_new = !self.peers.by_node.contains_key(&dead);
        let is_too_many = is_new && self.peers.by_node.len() >= limits::PEERS_MAX;
        if dead == self.config.node || self.peers.is_dead(dead) || is_too_many {
            return;
        }
        let early = &mut self.peers.settled_early;
        let awaiting: BTreeSet<NodeId> = self
            .peers
            .by_node
            .iter()
            .filter(|(node, peer)| **node != dead && matches!(peer, Peer::Live))
            .map(|(node, _)| *node)
            .filter(|node| !early.remove(&(dead, *node)))
            .collect();
        let survivors: Vec<NodeId> = self.peers.live().filter(|node| *node != dead).collect();
        let until = self.now + limits::SETTLE_WAIT;
        let settling = Peer::Settling { awaiting, until, parked: Vec::new() };
        self.peers.by_node.insert(dead, settling);
        self.fence_in_minority();
        self.forget_replies_of(dead);
        self.tell_what_came_from(dead);
        self.leave_all_to(dead);
        self.await_no_longer(dead);
        // What we say to ourselves may tell others something: before the word that all is said.
        self.finish();
        let blocks: Vec<u32> = self.blocks.leased().collect();
        for survivor in survivors {
            let blocks = blocks.clone();
            self.send(survivor, ProcMessage::Settled { dead, blocks });
        }
        let others: Vec<NodeId> = self.peers.by_node.keys().copied().collect();
        for other in others {
            self.peers.settle(other, dead);
        }
        self.bury_settled();
    }

    fn tell_what_came_from(&mut self, dead: NodeId) {
        let adopted: Vec<Pid> = self
            .processes
            .iter()
            .filter(|(_, process)| process.came_from == Some(dead))
            .map(|(pid, _)| *pid)
            .collect();
        for pid in adopted {
            self.tell_all_of(pid);
        }
    }

    pub(crate) fn handle_settled(&mut self, from: NodeId, dead: NodeId, blocks: &[u32]) {
        if dead == self.config.node {
            return; // We are taken for dead: `fence_if_told` has looked at that.
        }
        if from == dead {
            return self.mark_dead(dead); // It has been fenced.
        }
        self.learn_blocks(from, blocks);
        match self.peers.by_node.get(&dead) {
            // It died before this node knew it.
            None => {
                self.mark_dead(dead);
                self.peers.settle(dead, from);
            }
            Some(Peer::Live) => {
                self.peers.settled_early.insert((dead, from));
                if from < dead && self.config.node < dead {
                    self.tell_it_is_dead(dead);
                }
            }
            Some(_) => self.peers.settle(dead, from),
        }
        self.bury_settled();
    }

    pub(crate) fn expire_settling(&mut self) {
        self.bury_settled();
        if self.peers.rebuilt_at <= self.now {
            for message in core::mem::take(&mut self.peers.asked_early) {
                self.send(self.config.node, message);
            }
        }
    }

    /// Whether others may still tell what a dead leaser knew.
    pub(crate) fn is_rebuilding(&self) -> bool {
        self.now < self.peers.rebuilt_at
    }

    /// Keeps a question about a number of a dead leaser, of which nothing is known here, while
    /// others may still tell. Returns the message if it is to be answered now.
    pub(crate) fn hold_for_rebuild(
        &mut self,
        number: Pid,
        message: ProcMessage,
    ) -> Option<ProcMessage> {
        let is_early = self.is_rebuilding() && !self.leases(number);
        if is_early && self.peers.asked_early.len() < limits::PARKED_MAX {
            self.peers.asked_early.push(message);
            return None;
        }
        Some(message)
    }

    fn bury_settled(&mut self) {
        for node in self.peers.due(self.now) {
            // What has been said so far is heard first.
            self.finish();
            self.bury(node);
        }
    }

    fn bury(&mut self, dead: NodeId) {
        let moved = self.numbers_of_owner(dead);
        self.forget_groups_of(dead);
        let was = self.peers.by_node.insert(dead, Peer::Buried);
        self.peers.settled_early.retain(|(node, survivor)| *node != dead && *survivor != dead);
        self.peers.rebuilt_at = self.now + limits::REBUILD_WAIT;
        self.succeed_coordinator(dead);
        self.lose_numbers_of(dead);
        self.lose_members_of(dead);
        // What waited is older than what follows.
        if let Some(Peer::Settling { parked, .. }) = was {
            for (number, message) in parked {
                self.send_again(number, message);
            }
        }
        self.tell_new_owners(&moved);
        self.lose_children_on(dead);
        self.lose_parents_on(dead);
        for (pid, tombstone) in self.tombstones.take_of_node(dead) {
            self.mourn(pid, &tombstone);
        }
        self.repeat_ends();
    }

    /// Sends what was meant for a dead node to wherever it belongs now. What told it how things are
    /// on this node is old: whatever still holds is told anew. What others told is passed on.
    fn send_again(&mut self, number: Pid, message: ProcMessage) {
        use ProcMessage as M;
        match message {
            M::ToProcess { pid, body, .. } => self.send_process(pid, None, body),
            M::Member { state: MemberState { node, .. }, .. }
            | M::Located { node, .. }
            | M::Released { node, .. }
            | M::ThreadsAt { node: Some(node), .. }
            | M::SessionGroup { home: node, .. }
                if node == self.config.node => {}
            message => self.send_owner(number, message),
        }
    }

    /// Keeps a message for a dead node until its death is settled.
    pub(crate) fn park_for_dead(&mut self, node: NodeId, number: Pid, message: ProcMessage) {
        match self.peers.by_node.get_mut(&node) {
            Some(Peer::Settling { parked, .. }) if parked.len() < limits::PARKED_MAX => {
                parked.push((number, message));
            }
            // A node that is known by its blocks only, and not up yet here: it lives.
            None => self.effects.push_back(Effect::Send { to: node, message }),
            _ => self.undeliverable(message),
        }
    }

    /// The numbers that this node has told something to their owner about, if that is `owner`.
    fn numbers_of_owner(&self, owner: NodeId) -> BTreeSet<Pid> {
        let of_processes = self.processes.iter().flat_map(|(pid, process)| [*pid, process.pgid]);
        let of_processes = of_processes.chain(self.threads.iter().map(|(tid, _)| tid));
        let of_homes =
            self.numbers.used.values().filter_map(|n| n.group.as_ref()).map(|g| g.session);
        of_processes.chain(of_homes).filter(|number| self.owner(*number) == Some(owner)).collect()
    }

    /// Sessions forget the groups whose home died: the next home tells of those that go on.
    fn forget_groups_of(&mut self, dead: NodeId) {
        let stale: Vec<(Pid, Pid)> = self
            .numbers
            .used
            .iter()
            .flat_map(|(sid, number)| number.session.iter().map(|group| (*sid, group)))
            .filter(|(_, (_, home))| **home == dead)
            .map(|(sid, (pgid, _))| (sid, *pgid))
            .collect();
        for (sid, pgid) in stale {
            self.handle_session_group(sid, pgid, dead, false);
        }
    }

    /// Tells the new owners of these numbers all that this node knows of them.
    fn tell_new_owners(&mut self, moved: &BTreeSet<Pid>) {
        let node = self.config.node;
        // One that is leaving is told of by its next node, or when it stays.
        let staying = self.processes.iter().filter(|(_, process)| process.leaving.is_none());
        let processes: Vec<Pid> = staying.map(|(pid, _)| *pid).collect();
        for pid in processes {
            if moved.contains(&pid)
                && let Some(process) = self.processes.get_mut(&pid)
            {
                process.version += 1;
                let version = process.version;
                self.send_owner(pid, ProcMessage::Located { pid, node, version });
            }
            if self.group(pid).is_some_and(|pgid| moved.contains(&pgid)) {
                self.announce_member(pid, false);
            }
            if self.threads_of(pid).iter().skip(1).any(|tid| moved.contains(tid)) {
                self.tell_threads(pid);
            }
        }
        let groups: Vec<(Pid, Pid)> = self
            .numbers
            .used
            .iter()
            .filter_map(|(pgid, number)| Some((*pgid, number.group.as_ref()?.session)))
            .filter(|(_, sid)| moved.contains(sid))
            .collect();
        for (pgid, sid) in groups {
            self.send_owner(sid, ProcMessage::SessionGroup { sid, pgid, home: node, exists: true });
        }
    }

    /// Roots that were there are lost: they tell this node of each move. Children are if their
    /// leaser says so: their news may be on a longer way. Of zombies whose nodes are dead the numbers are
    /// claimed (again).
    fn lose_children_on(&mut self, dead: NodeId) {
        let (mut doubtful, mut lost, mut held) = (Vec::new(), Vec::new(), Vec::new());
        for (parent, process) in &self.processes {
            for (child, entry) in &process.children {
                // Of an earlier death too: who asked about it may have been on this node.
                if self.peers.is_buried(entry.node) && !crate::wait::has_ended(entry) {
                    doubtful.push((*parent, *child));
                }
                if self.peers.is_buried(entry.node) && crate::wait::has_ended(entry) {
                    held.push(*child);
                }
            }
        }
        for (root, entry) in self.roots.iter().filter(|(_, entry)| entry.node == dead) {
            lost.push((*root, entry.version.saturating_add(1)));
        }
        for pid in held {
            self.send_owner(pid, ProcMessage::Held { pid });
        }
        for (parent, child) in doubtful {
            self.confirm_child(parent, child);
        }
        for (root, version) in lost {
            self.lose_child(Pid::INIT, root, dead, version);
        }
    }

    /// Launchers that were there are gone. All other parents that are not here are looked for: they
    /// may have been there, or the word of their end may have been lost on its way through there.
    fn lose_parents_on(&mut self, dead: NodeId) {
        let children: Vec<Pid> = self
            .processes
            .iter()
            .filter(|(_, process)| {
                let parent = process.parent;
                let is_launcher = parent.pid == Pid::INIT && parent.node == Some(dead);
                is_launcher
                    || (parent.pid != Pid::INIT && !self.processes.contains_key(&parent.pid))
            })
            .map(|(pid, _)| *pid)
            .collect();
        for pid in children {
            match self.processes.get_mut(&pid) {
                Some(process) if process.parent.pid != Pid::INIT => {
                    process.parent.node = None;
                    self.look_for_parent(pid);
                }
                _ => self.orphan(pid),
            }
        }
    }

    /// News of an end may have been lost on the way through the dead node.
    fn repeat_ends(&mut self) {
        let zombies: Vec<Pid> = self
            .processes
            .iter()
            .filter(|(_, process)| {
                process.state == RunState::Zombie && process.parent != ParentLink::ORPHAN
            })
            .map(|(pid, _)| *pid)
            .collect();
        for pid in zombies {
            self.tell_end(pid);
        }
    }
}
