//! What a run says in the end.

use crate::{
    Plan,
    counts::{Counts, PerNode, Traffic},
};
use dunix_ids::NodeId;
use std::{collections::BTreeMap, fmt, time::Duration};

/// What happened in a run.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    pub seed: u64,
    pub plan: Plan,
    /// Of every event, in order: two runs of a seed have the same.
    pub hash: u64,
    /// The virtual time that passed.
    pub lasted: Duration,
    pub events: u64,
    pub forks: u64,
    pub exits: u64,
    pub waits: u64,
    pub execs: u64,
    pub moves: u64,
    pub refusals: u64,
    pub deaths: u64,
    pub fenced: u64,
    pub answers: u64,
    /// By the name of the message.
    pub kinds: BTreeMap<String, Traffic>,
    pub nodes: BTreeMap<NodeId, PerNode>,
    /// When every node was linked with every other and had numbers to give out.
    pub stood_after: Duration,
}

/// What a fabric costs in which nothing happens: messages per node and second that arrive.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Idle {
    pub nodes: u32,
    pub beacons: f64,
    /// Proofs of life, asked for and given; a lane each.
    pub proofs: f64,
    /// All others.
    pub others: f64,
}

impl Report {
    pub(crate) fn of(seed: u64, plan: Plan, hash: u64, lasted: Duration, counts: Counts) -> Report {
        Report {
            seed,
            plan,
            hash,
            lasted,
            events: counts.events,
            forks: counts.forks,
            exits: counts.exits,
            waits: counts.waits,
            execs: counts.execs,
            moves: counts.moves,
            refusals: counts.refusals,
            deaths: 0,
            fenced: counts.fenced,
            answers: 0,
            kinds: counts.kinds,
            nodes: counts.nodes,
            stood_after: Duration::ZERO,
        }
    }

    /// Messages of a kind that arrived, and their bytes.
    #[must_use]
    pub fn kind(&self, name: &str) -> Traffic {
        self.kinds.get(name).copied().unwrap_or_default()
    }

    /// What blocks of PIDs cost.
    #[must_use]
    pub fn of_blocks(&self) -> Traffic {
        let blocks = self.kinds.iter().filter(|(name, _)| name.starts_with("Block"));
        blocks.fold(Traffic::default(), |sum, (_, traffic)| Traffic {
            messages: sum.messages + traffic.messages,
            bytes: sum.bytes + traffic.bytes,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { seed, plan, .. } = self;
        writeln!(f, "{} nodes, seed {seed}, {} steps:", plan.nodes, plan.steps)?;
        writeln!(
            f,
            "  {:.1} s of virtual time, {} events; all stood after {:.1} s",
            self.lasted.as_secs_f64(),
            self.events,
            self.stood_after.as_secs_f64()
        )?;
        writeln!(
            f,
            "  {} forks, {} execs elsewhere, {} moves ({} refused), {} ends, {} waits, {} answers",
            self.forks, self.execs, self.moves, self.refusals, self.exits, self.waits, self.answers
        )?;
        writeln!(f, "  {} nodes died, {} were fenced", self.deaths, self.fenced)?;
        let blocks = self.of_blocks();
        writeln!(f, "  blocks of PIDs: {} messages, {} bytes", blocks.messages, blocks.bytes)?;
        writeln!(f, "  {:>10} {:>12}  message", "count", "bytes")?;
        for (name, traffic) in &self.kinds {
            writeln!(f, "  {:>10} {:>12}  {name}", traffic.messages, traffic.bytes)?;
        }
        let busiest = self.nodes.iter().max_by_key(|(_, node)| node.of_processes);
        if let Some((node, busiest)) = busiest {
            let all: u64 = self.nodes.values().map(|node| node.of_processes).sum();
            writeln!(
                f,
                "  messages of processes by receiver: {} on average, {} at {node}, the busiest",
                all / self.nodes.len() as u64,
                busiest.of_processes
            )?;
        }
        write!(f, "trace hash {:016x}", self.hash)
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Idle { nodes, beacons, proofs, others } = self;
        write!(
            f,
            "{nodes} idle nodes, a node and second: {beacons:.1} beacons, {proofs:.1} proofs of life, {others:.1} others"
        )
    }
}
