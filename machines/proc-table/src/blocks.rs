//! Blocks of PIDs: who leases which, who stands in for a dead leaser, who grants further ones.
//!
//! The coordinator is the founder, and after its death the lowest live node. It also *owns* (keeps
//! locations and homes for) the blocks of dead nodes, from which nobody allocates again. Every
//! node computes this from its own view of who lives; what a node has told a dead owner it tells
//! the next one when the death has been settled.

use crate::{Note, ProcTable, limits};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::time::Duration;
use dunix_ids::{NodeId, Pid};
use dunix_wire::processes::{
    ProcMessage, ProcessRecord,
    record::LESSEES_MAX,
    table::{BLOCK_PIDS, BLOCKS, NODE_BLOCKS_MAX},
};

/// Numbers that are never allocated: 0 is none, 1 is the reaper.
const RESERVED: u32 = 2;

#[derive(Debug, Default)]
pub(crate) struct Blocks {
    /// Ours, to allocate from.
    leased: BTreeSet<u32>,
    /// Who leases the others, as far as known.
    lessees: BTreeMap<u32, NodeId>,
    /// The number at which the search for a free one goes on.
    cursor: u32,
    /// The first block never granted, if this node is the coordinator.
    grant_next: Option<u32>,
    /// A block was asked for and has not come.
    is_asking: bool,
    /// Messages for the owners of blocks whose lessee is being asked for.
    parked: BTreeMap<u32, Vec<(Pid, ProcMessage)>>,
    ask_again_at: Option<Duration>,
}

impl Blocks {
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.ask_again_at
    }

    pub(crate) fn leased(&self) -> impl Iterator<Item = u32> + '_ {
        self.leased.iter().copied()
    }

    fn greatest_known(&self) -> u32 {
        let leased = self.leased.last().copied().unwrap_or(0);
        leased.max(self.lessees.last_key_value().map_or(0, |(block, _)| *block))
    }

    fn parked_count(&self) -> usize {
        self.parked.values().map(Vec::len).sum()
    }
}

pub(crate) const fn block_of(pid: Pid) -> u32 {
    pid.get() / BLOCK_PIDS
}

impl ProcTable {
    /// Returns whether PIDs can be allocated here: a block is leased.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.blocks.leased.is_empty()
    }

    /// Whether all numbers are in use, and a further block has been asked for and has not come.
    #[must_use]
    pub fn awaits_numbers(&self) -> bool {
        self.blocks.is_asking && self.free_numbers() == 0
    }

    /// The founder's first act.
    pub(crate) fn found(&mut self) {
        if self.config.node == self.config.founder {
            self.blocks.grant_next = Some(1);
            self.gain_block(0);
        } else {
            self.blocks.is_asking = true;
            self.blocks.ask_again_at = Some(Duration::ZERO);
        }
    }

    /// Who grants blocks and stands in for the dead; `None` while the founder is not yet known.
    pub(crate) fn coordinator(&self) -> Option<NodeId> {
        let founder = self.config.founder;
        if founder == self.config.node || self.peers.is_trusted(founder) {
            return Some(founder);
        }
        if !self.peers.is_buried(founder) {
            return None;
        }
        let lowest = self.peers.trusted().next().unwrap_or(self.config.node);
        Some(lowest.min(self.config.node))
    }

    /// Who keeps what is known of this number; `None` if that must be asked for.
    pub(crate) fn owner(&self, pid: Pid) -> Option<NodeId> {
        let block = block_of(pid);
        if self.blocks.leased.contains(&block) {
            return Some(self.config.node);
        }
        let lessee = *self.blocks.lessees.get(&block)?;
        if self.peers.is_buried(lessee) { self.coordinator() } else { Some(lessee) }
    }

    pub(crate) fn owns(&self, pid: Pid) -> bool {
        self.owner(pid) == Some(self.config.node)
    }

    /// Whether this node allocates the number, rather than standing in for a dead node.
    pub(crate) fn leases(&self, pid: Pid) -> bool {
        self.blocks.leased.contains(&block_of(pid))
    }

    /// Sends to whoever keeps what is known of this number, when that is known.
    pub(crate) fn send_owner(&mut self, number: Pid, message: ProcMessage) {
        match self.owner(number) {
            Some(node) if self.is_live(node) => self.send(node, message),
            Some(node) => self.park_for_dead(node, number, message),
            None => self.park_for_block(number, message),
        }
    }

    fn park_for_block(&mut self, number: Pid, message: ProcMessage) {
        if self.blocks.parked_count() >= limits::PARKED_MAX {
            return self.undeliverable(message);
        }
        let block = block_of(number);
        let parked = self.blocks.parked.entry(block).or_default();
        parked.push((number, message));
        if parked.len() == 1 {
            self.query_block(block);
        }
        self.ask_later();
    }

    fn query_block(&mut self, block: u32) {
        if let Some(coordinator) = self.coordinator()
            && self.is_live(coordinator)
        {
            self.send(coordinator, ProcMessage::BlockQuery { block });
        }
    }

    fn ask_later(&mut self) {
        self.blocks.ask_again_at.get_or_insert(self.now + limits::ASK_AGAIN);
    }

    pub(crate) fn ask_coordinator_again(&mut self) {
        if self.blocks.ask_again_at.is_none_or(|at| at > self.now) {
            return;
        }
        self.blocks.ask_again_at = None;
        if self.blocks.is_asking {
            self.request_block();
        }
        let blocks: Vec<u32> = self.blocks.parked.keys().copied().collect();
        for block in blocks {
            self.query_block(block);
            self.ask_later();
        }
    }

    /// Asks at once for what has waited for a coordinator.
    pub(crate) fn ask_coordinator_now(&mut self) {
        if self.blocks.is_asking || !self.blocks.parked.is_empty() {
            self.blocks.ask_again_at = Some(self.now);
            self.ask_coordinator_again();
        }
    }

    fn request_block(&mut self) {
        self.blocks.is_asking = true;
        if let Some(coordinator) = self.coordinator()
            && self.is_live(coordinator)
        {
            self.send(coordinator, ProcMessage::BlockRequest);
        }
        self.ask_later();
    }

    fn free_numbers(&self) -> u32 {
        let all = u32::try_from(self.blocks.leased.len()).unwrap_or(u32::MAX) * BLOCK_PIDS;
        let taken = self.numbers.used.len() + self.numbers.resting();
        all.saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX))
    }

    pub(crate) fn ask_for_block_if_low(&mut self) {
        let may_ask = !self.blocks.is_asking && self.blocks.leased.len() < NODE_BLOCKS_MAX;
        if may_ask && self.free_numbers() < limits::PIDS_LOW {
            self.request_block();
        }
    }

    /// The next free number of our blocks, going round.
    pub(crate) fn next_free_number(&mut self) -> Option<Pid> {
        let start = self.blocks.cursor;
        let first = self.free_number_from(start).or_else(|| self.free_number_from(RESERVED))?;
        self.blocks.cursor = first.get() + 1;
        Some(first)
    }

    fn free_number_from(&self, start: u32) -> Option<Pid> {
        let start = start.max(RESERVED);
        self.blocks
            .leased
            .range(start / BLOCK_PIDS..)
            .flat_map(|block| (block * BLOCK_PIDS).max(start)..(block + 1) * BLOCK_PIDS)
            .filter_map(Pid::new)
            .find(|pid| self.numbers.is_available(*pid))
    }

    fn gain_block(&mut self, block: u32) {
        self.blocks.is_asking = false;
        self.blocks.lessees.remove(&block);
        if self.blocks.leased.insert(block) {
            self.blocks.cursor = block * BLOCK_PIDS;
            self.note(Note::BlockGranted { block });
        }
    }

    pub(crate) fn handle_block_request(&mut self, from: NodeId) {
        if self.coordinator() != Some(self.config.node) {
            return; // The asker's view is older or newer than ours; it asks again.
        }
        let Some(block) = self.blocks.grant_next.filter(|block| *block < BLOCKS) else { return };
        self.blocks.grant_next = Some(block + 1);
        if from != self.config.node {
            self.blocks.lessees.insert(block, from);
        }
        self.send(from, ProcMessage::BlockGranted { block });
    }

    pub(crate) fn handle_block_granted(&mut self, from: NodeId, block: u32) {
        let is_ours_to_have = self.blocks.lessees.get(&block).is_none_or(|n| *n == self.node());
        if self.coordinator() == Some(from) && block < BLOCKS && is_ours_to_have {
            self.gain_block(block);
        }
    }

    pub(crate) fn handle_block_query(&mut self, from: NodeId, block: u32) {
        let me = self.config.node;
        let Some(grant_next) = self.blocks.grant_next else { return };
        if self.coordinator() != Some(me) {
            return;
        }
        let node = if self.blocks.leased.contains(&block) {
            Some(me)
        } else if block < grant_next {
            // A block that nobody alive has claimed is a dead node's: we stand in for it.
            Some(self.blocks.lessees.get(&block).copied().unwrap_or(me))
        } else {
            None
        };
        self.send(from, ProcMessage::BlockOwner { block, node });
    }

    pub(crate) fn handle_block_owner(&mut self, from: NodeId, block: u32, node: Option<NodeId>) {
        if self.coordinator() != Some(from) {
            return;
        }
        if let Some(node) = node
            && !self.blocks.leased.contains(&block)
        {
            self.blocks.lessees.insert(block, node);
        }
        for (number, message) in self.blocks.parked.remove(&block).unwrap_or_default() {
            match node {
                Some(_) => self.send_owner(number, message),
                None => self.undeliverable(message),
            }
        }
    }

    /// Names the lessees that the target of a move will have to speak to.
    pub(crate) fn lessees_of(&self, record: &ProcessRecord) -> Vec<(u32, NodeId)> {
        let numbers = [record.pid, record.pgid, record.sid, record.parent.pid];
        let children = record.children.iter().map(|(child, _)| *child);
        let threads = record.threads.iter().copied();
        let numbers = numbers.into_iter().chain(threads).chain(children);
        let blocks: BTreeSet<u32> = numbers.map(block_of).collect();
        blocks
            .into_iter()
            .filter_map(|block| {
                let is_ours = self.blocks.leased.contains(&block);
                let lessee = self.blocks.lessees.get(&block).copied();
                Some((block, if is_ours { self.config.node } else { lessee? }))
            })
            .take(LESSEES_MAX)
            .collect()
    }

    /// Learns from a peer who leases what, where nothing is known yet.
    pub(crate) fn learn_lessees(&mut self, lessees: &[(u32, NodeId)]) {
        for (block, node) in lessees.iter().filter(|(block, _)| *block < BLOCKS) {
            if !self.blocks.leased.contains(block) && *node != self.config.node {
                self.blocks.lessees.entry(*block).or_insert(*node);
            }
        }
    }

    /// A node says which blocks are its own.
    pub(crate) fn learn_blocks(&mut self, of: NodeId, blocks: &[u32]) {
        for block in blocks.iter().take(NODE_BLOCKS_MAX).filter(|block| **block < BLOCKS) {
            if !self.blocks.leased.contains(block) {
                self.blocks.lessees.insert(*block, of);
            }
        }
    }

    /// A death has been settled; the coordinator may be another one now.
    pub(crate) fn succeed_coordinator(&mut self, dead: NodeId) {
        let me = self.config.node;
        if self.coordinator() == Some(me) {
            if self.blocks.grant_next.is_none() {
                let first = self.blocks.greatest_known() + 1 + limits::TAKEOVER_GAP;
                self.blocks.grant_next = Some(first);
            }
            let taken: Vec<u32> =
                self.blocks.lessees.iter().filter(|(_, n)| **n == dead).map(|(b, _)| *b).collect();
            for block in taken {
                self.note(Note::BlockTakenOver { block, from: dead });
            }
        }
        self.ask_coordinator_now();
    }
}
