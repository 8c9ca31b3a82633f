//! The simulator: the machines of many nodes together, over a network that is slow, loses connections,
//! falls apart and whose nodes die. One seed means one run, to the last event.
//!
//! ```text
//! actions --> world: queue of events by time ----> node: membership, process table, moves
//!               ^                                    |
//!               |   network: links, partitions <-----+ effects
//!               |   hosts: processes that start, stop, end
//!               `-- truth: what is so, kept apart from the tables; checks compare
//! ```
//!
//! Owns: the virtual clock, chance, the network, hosts, and the truth about every process. Refuses: wall
//! clocks, threads, and drivers: what they do between the machines is done here in a few lines.

mod actions;
mod checks;
mod counts;
mod members;
mod moving;
mod network;
mod processes;
mod report;
mod run;
mod truth;
mod world;

pub use counts::{PerNode, Traffic};
pub use report::{Idle, Report};
pub use run::{idle, run};

/// What a run is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    pub nodes: u32,
    /// Programs run on the first so many nodes.
    pub active: u32,
    /// Things that programs do.
    pub steps: u64,
    /// Nodes that die.
    pub crashes: u32,
    /// Times that the network falls apart for a while, or one connection is lost.
    pub cuts: u32,
    /// How long a message takes at most, microseconds.
    pub latency_us_max: u64,
    /// The time between two steps, at most, microseconds.
    pub pause_us_max: u64,
    /// Most processes that live at a time.
    pub alive_max: usize,
}

impl Plan {
    /// A fabric in which nothing goes wrong.
    #[must_use]
    pub const fn calm(nodes: u32) -> Plan {
        Plan {
            nodes,
            active: nodes,
            steps: 1500,
            crashes: 0,
            cuts: 0,
            latency_us_max: 5000,
            pause_us_max: 10_000,
            alive_max: if nodes > 60 { 2 * nodes as usize } else { 120 },
        }
    }
}
