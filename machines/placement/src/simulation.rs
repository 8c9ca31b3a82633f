//! A fabric simulated under different policies, the real one among them.
//!
//! Nodes with two CPUs and a queue; a fifth of the nodes originate four fifths of the programs. The
//! same arrivals and run times for each policy, from a fixed seed.

extern crate std;

use super::*;
use std::{
    collections::{BinaryHeap, VecDeque},
    println, vec,
    vec::Vec,
};

const NODES: usize = 100;
const CPUS: u32 = 2;
const PROGRAMS: usize = 60_000;
const RUN_TIME: f64 = 1.0;
const UTILISATION: f64 = 0.8;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Exponentially distributed.
    fn time(&mut self, mean: f64) -> f64 {
        -mean * self.unit().ln()
    }
}

#[derive(Clone, Copy, Debug)]
enum Rule {
    StayLocal,
    AtRandom,
    Policy,
}

#[derive(Default, Clone)]
struct Node {
    running: u32,
    /// When each waiting program came, and how long it will run.
    waiting: VecDeque<(f64, f64)>,
}

impl Node {
    fn load(&self) -> NodeLoad {
        let runnable = self.running as usize + self.waiting.len();
        NodeLoad {
            runnable_centi: u32::try_from(runnable * 100).unwrap_or(u32::MAX),
            cpus_centi: CPUS * 100,
            memory_free_mib: 1000,
        }
    }
}

/// A program ends: ordered by time, earliest first.
#[derive(PartialEq)]
struct End(f64, usize);

impl Eq for End {}

impl Ord for End {
    fn cmp(&self, other: &End) -> core::cmp::Ordering {
        other.0.total_cmp(&self.0).then(other.1.cmp(&self.1))
    }
}

impl PartialOrd for End {
    fn partial_cmp(&self, other: &End) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Returns the mean time that programs wait for a CPU.
fn mean_wait(rule: Rule) -> f64 {
    let mut random = Random(0x00d0_0d1e);
    let mut choices = Random(0x5eed);
    let mut nodes = vec![Node::default(); NODES];
    let mut ends: BinaryHeap<End> = BinaryHeap::new();
    let (mut now, mut waited) = (0.0, 0.0);
    let between = RUN_TIME / (NODES as f64 * f64::from(CPUS) * UTILISATION);
    for _ in 0..PROGRAMS {
        now += random.time(between);
        let run = random.time(RUN_TIME);
        let busy_fifth = random.unit() < 0.8;
        let among = if busy_fifth { NODES / 5 } else { NODES };
        let origin = usize::try_from(random.next() % among as u64).unwrap_or(0);
        while ends.peek().is_some_and(|end| end.0 <= now) {
            if let Some(End(at, node)) = ends.pop() {
                waited += finish(&mut nodes[node], at, node, &mut ends);
            }
        }
        let target = choose(rule, origin, &nodes, &mut choices);
        let node = &mut nodes[target];
        if node.running < CPUS {
            node.running += 1;
            ends.push(End(now + run, target));
        } else {
            node.waiting.push_back((now, run));
        }
    }
    while let Some(End(at, node)) = ends.pop() {
        waited += finish(&mut nodes[node], at, node, &mut ends);
    }
    waited / PROGRAMS as f64
}

fn finish(node: &mut Node, at: f64, index: usize, ends: &mut BinaryHeap<End>) -> f64 {
    let Some((came, run)) = node.waiting.pop_front() else {
        node.running -= 1;
        return 0.0;
    };
    ends.push(End(at + run, index));
    at - came
}

fn choose(rule: Rule, origin: usize, nodes: &[Node], random: &mut Random) -> usize {
    let number = |index: usize| NodeId(u32::try_from(index).unwrap_or(0));
    match rule {
        Rule::StayLocal => origin,
        Rule::AtRandom => usize::try_from(random.next() % NODES as u64).unwrap_or(0),
        Rule::Policy => {
            let peers: Vec<NodeId> = (0..NODES).filter(|n| *n != origin).map(number).collect();
            let input = PlacementInput {
                own: number(origin),
                own_load: nodes[origin].load(),
                peers: &peers,
                wish: Wish::Best,
                random: random.next(),
                cursor: 0,
                weights: Weights::DEFAULT,
            };
            let node = match place(&input) {
                Placement::On { node, .. } => node,
                Placement::Ask(asked) => {
                    settle(&input, &asked.map(|node| (node, Some(nodes[node.0 as usize].load())))).0
                }
                Placement::Nowhere(_) => panic!("nothing was forced"),
            };
            node.0 as usize
        }
    }
}

#[test]
fn the_policy_waits_far_less_than_its_rivals() {
    let [local, random, policy] = [Rule::StayLocal, Rule::AtRandom, Rule::Policy].map(mean_wait);
    println!("mean wait in run times: local {local:.2}, random {random:.3}, policy {policy:.4}");
    assert!(policy * 5.0 < random, "policy {policy}, random {random}");
    assert!(random * 5.0 < local, "random {random}, local {local}");
}
