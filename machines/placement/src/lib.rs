//! Where a program is to run: one pure policy, with the reason in words.
//!
//! Owns: the order of the rules, every weight, what children of a program usually do ([`Habits`]), and which of the
//! processes that run are to go elsewhere ([`leavers`]). Refuses: measuring, probing, remembering: its
//! caller brings loads, randomness and the spread's cursor.
//!
//! ```text
//! forced node ------> there, or nowhere if it is not up
//! local only -------> here
//! spread -----------> the next node in turn
//! else: room here --> here
//!       no room ----> ask two peers at random, then the best of the two and this node
//! ```
//!
//! Simulated (`simulation.rs`: 80% utilisation, 20% of the nodes originate 80% of the work): programs
//! wait a quarter of their run time, a seventh of what a random choice costs; staying local never
//! catches up. The best node by second-old news is known to be worse than random: everyone herds.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod balance;
#[cfg(test)]
mod balancing;
mod habits;
mod reason;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use balance::{BALANCE_ROUND, Candidate, MOVES_PER_ROUND, leavers, surplus, without_one};
pub use habits::{ChildDid, Habits};
pub use reason::Reason;

use dunix_ids::NodeId;

/// Every weight of the policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Weights {
    /// What a new program is expected to add; hundredths of a CPU.
    pub program_centi: u32,
    /// How much busier than the other, per CPU, this node must be before it sends a program away:
    /// the price of the way there, of pipes that cross, of cold caches; hundredths of a program.
    pub distance_centi: u32,
    /// A node with less free memory than this takes nothing while another has more, MiB.
    pub memory_low_mib: u32,
}

impl Weights {
    pub const DEFAULT: Weights =
        Weights { program_centi: 100, distance_centi: 25, memory_low_mib: 64 };
}

/// How busy a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeLoad {
    /// Programs that run or wait for a CPU, reservations included; hundredths.
    pub runnable_centi: u32,
    /// CPUs; hundredths.
    pub cpus_centi: u32,
    /// Free memory, MiB.
    pub memory_free_mib: u32,
}

/// What the user or the lab wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// On this node and no other.
    Forced(NodeId),
    /// Each program on the next node, loads notwithstanding.
    Spread,
    /// Here.
    Local,
    /// Wherever it is best.
    Best,
}

/// What a decision is made from.
#[derive(Clone, Copy, Debug)]
pub struct PlacementInput<'a> {
    pub own: NodeId,
    pub own_load: NodeLoad,
    /// The peers that are up, in the order of their numbers.
    pub peers: &'a [NodeId],
    pub wish: Wish,
    /// Any number; decides whom to ask.
    pub random: u64,
    /// How often this node has spread the program before.
    pub cursor: u64,
    pub weights: Weights,
}

/// Where the program is to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// On this node, perhaps the own one.
    On { node: NodeId, why: Reason },
    /// Ask these peers (twice the same if there is only one) and call [`settle`].
    Ask([NodeId; 2]),
    /// Nowhere: the forced node is not up.
    Nowhere(NodeId),
}

/// Decides, or says whom to ask first.
#[must_use]
pub fn place(input: &PlacementInput<'_>) -> Placement {
    let own = input.own;
    match input.wish {
        Wish::Forced(node) if node == own || input.peers.contains(&node) => {
            Placement::On { node, why: Reason::Forced }
        }
        Wish::Forced(node) => Placement::Nowhere(node),
        Wish::Local => Placement::On { node: own, why: Reason::Local },
        Wish::Spread => Placement::On { node: in_turn(input), why: Reason::Spread },
        Wish::Best if input.peers.is_empty() => Placement::On { node: own, why: Reason::Alone },
        Wish::Best if has_room(&input.own_load, input.weights) => {
            Placement::On { node: own, why: Reason::Room { load: input.own_load } }
        }
        Wish::Best => Placement::Ask(two_of(input.peers, input.random)),
    }
}

/// Decides after the peers were asked; `None` stands for no answer.
#[must_use]
pub fn settle(
    input: &PlacementInput<'_>,
    answers: &[(NodeId, Option<NodeLoad>)],
) -> (NodeId, Reason) {
    let weights = input.weights;
    let here = cost(&input.own_load, weights);
    let answered = answers.iter().filter_map(|(node, load)| load.map(|load| (*node, load)));
    let best = answered.min_by_key(|(node, load)| (cost(load, weights), *node));
    let Some((node, load)) = best else {
        return (input.own, Reason::NobodyAnswered { load: input.own_load });
    };
    let (memory, busyness) = cost(&load, weights);
    if (memory, busyness.saturating_add(weights.distance_centi)) < here {
        (node, Reason::LessBusy { here: input.own_load, there: load })
    } else {
        (input.own, Reason::NoBetter { here: input.own_load, there: load })
    }
}

/// Whether one more program would find a CPU free.
fn has_room(load: &NodeLoad, weights: Weights) -> bool {
    load.runnable_centi.saturating_add(weights.program_centi) <= load.cpus_centi
        && load.memory_free_mib >= weights.memory_low_mib
}

/// Short of memory first, then programs per CPU with the new one; less is better.
fn cost(load: &NodeLoad, weights: Weights) -> (bool, u32) {
    let runnable = u64::from(load.runnable_centi) + u64::from(weights.program_centi);
    let per_cpu = runnable * 100 / u64::from(load.cpus_centi.max(1));
    (load.memory_free_mib < weights.memory_low_mib, u32::try_from(per_cpu).unwrap_or(u32::MAX))
}

/// The first goes to the node after this one, so that nodes that begin at once do not collide.
fn in_turn(input: &PlacementInput<'_>) -> NodeId {
    let peers = input.peers;
    let nodes = peers.len() as u64 + 1;
    let after_own = peers.partition_point(|peer| *peer < input.own) as u64;
    // Positions: the peers after this node, those before it, this node.
    let position = input.cursor % nodes;
    if position == nodes - 1 {
        return input.own;
    }
    let index = (after_own + position) % (nodes - 1);
    usize::try_from(index).ok().and_then(|index| peers.get(index)).copied().unwrap_or(input.own)
}

/// Two different peers, each pair equally likely; `peers` is not empty.
fn two_of(peers: &[NodeId], random: u64) -> [NodeId; 2] {
    let count = peers.len() as u64;
    let first = (random & 0xffff_ffff) % count;
    let second = if count > 1 { (first + 1 + (random >> 32) % (count - 1)) % count } else { first };
    [first, second].map(|index| peers[usize::try_from(index).unwrap_or(0)])
}
