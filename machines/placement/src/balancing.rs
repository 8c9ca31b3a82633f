//! Balancing simulated: one node of a fabric gets all the work at once.

extern crate std;

use crate::{
    Candidate, NodeLoad, Placement, PlacementInput, Weights, Wish, leavers, place, settle, surplus,
    without_one,
};
use core::time::Duration;
use dunix_ids::{NodeId, Pid};
use std::{println, vec::Vec};

/// Rounds of half a second.
const ROUND: Duration = crate::BALANCE_ROUND;
const BALANCED_WITHIN: Duration = Duration::from_secs(10);

struct Process {
    pid: u32,
    node: usize,
    wanted: Duration,
    here_since: Duration,
    moves: u8,
}

struct Fabric {
    cpus: Vec<u32>,
    processes: Vec<Process>,
    now: Duration,
    random: u64,
    moves: usize,
}

impl Fabric {
    /// Nodes with so many CPUs (hundredths), and all processes on the first.
    fn new(cpus: &[u32], processes: u32, seed: u64) -> Fabric {
        let new = |pid| Process {
            pid,
            node: 0,
            wanted: Duration::ZERO,
            here_since: Duration::ZERO,
            moves: 0,
        };
        let processes = (1..=processes).map(new).collect();
        Fabric { cpus: cpus.to_vec(), processes, now: Duration::ZERO, random: seed, moves: 0 }
    }

    fn count(&self, node: usize) -> usize {
        self.processes.iter().filter(|process| process.node == node).count()
    }

    fn load(&self, node: usize) -> NodeLoad {
        NodeLoad {
            runnable_centi: u32::try_from(self.count(node) * 100).unwrap_or(u32::MAX),
            cpus_centi: self.cpus[node],
            memory_free_mib: 1000,
        }
    }

    /// Every process computes for a round, or waits to.
    fn compute(&mut self) {
        self.now += ROUND;
        for process in &mut self.processes {
            process.wanted += ROUND;
        }
    }

    fn balance(&mut self) {
        for node in 0..self.cpus.len() {
            let load = self.load(node);
            let here = self.processes.iter().filter(|process| process.node == node);
            let candidates: Vec<_> = here
                .map(|process| Candidate {
                    pid: Pid::new(process.pid).expect("no zero"),
                    wanted: process.wanted,
                    recent: ROUND,
                    resident_mib: 10,
                    here_for: self.now - process.here_since,
                    moves: process.moves,
                })
                .collect();
            for pid in leavers(&load, &candidates) {
                let Some(to) = self.better_than(node) else { break };
                let now = self.now;
                let leaver = self.processes.iter_mut().find(|process| process.pid == pid.get());
                let leaver = leaver.expect("one of these");
                (leaver.node, leaver.here_since, leaver.moves) = (to, now, leaver.moves + 1);
                leaver.wanted = Duration::ZERO;
                self.moves += 1;
            }
        }
    }

    fn better_than(&mut self, node: usize) -> Option<usize> {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let number = |index: usize| NodeId(u32::try_from(index).unwrap_or(0));
        let peers: Vec<_> = (0..self.cpus.len()).filter(|n| *n != node).map(number).collect();
        let input = PlacementInput {
            own: number(node),
            own_load: without_one(self.load(node), Weights::DEFAULT),
            peers: &peers,
            wish: Wish::Best,
            random: self.random.rotate_left(17),
            cursor: 0,
            weights: Weights::DEFAULT,
        };
        let Placement::Ask(asked) = place(&input) else { return None };
        let answers = asked.map(|peer| (peer, Some(self.load(peer.0 as usize))));
        let chosen = settle(&input, &answers).0.0 as usize;
        (chosen != node).then_some(chosen)
    }

    /// By how much CPUs of the busiest node have more to do than on average, in parts of that.
    fn imbalance(&self) -> f64 {
        let busy = (0..self.cpus.len())
            .map(|node| self.count(node) as f64 / f64::from(self.cpus[node]))
            .fold(0.0, f64::max);
        let all =
            self.processes.len() as f64 / self.cpus.iter().map(|c| f64::from(*c)).sum::<f64>();
        busy / all - 1.0
    }
}

/// Balanced to within a tenth in ten seconds, and then nothing moves any more.
fn settles(cpus: &[u32], processes: u32) {
    for seed in 1..=8 {
        let mut fabric = Fabric::new(cpus, processes, seed);
        while fabric.now < BALANCED_WITHIN {
            fabric.compute();
            fabric.balance();
        }
        let (imbalance, moves) = (fabric.imbalance(), fabric.moves);
        println!(
            "{} nodes, {processes} processes, seed {seed}: {imbalance:.3} after {moves} moves",
            cpus.len()
        );
        assert!(imbalance <= 0.1, "seed {seed}: {imbalance}");
        assert!(moves <= processes as usize * 3 / 2, "seed {seed}: {moves} moves");
        for _ in 0..240 {
            fabric.compute();
            fabric.balance();
        }
        assert!(fabric.imbalance() <= imbalance, "seed {seed}: it went apart again");
        assert!(fabric.moves <= moves + processes as usize / 10, "seed {seed}: it does not stop");
        let late = fabric.moves;
        (0..240).for_each(|_| {
            fabric.compute();
            fabric.balance();
        });
        assert_eq!(fabric.moves, late, "seed {seed}: it moves for ever");
    }
}

#[test]
fn a_step_of_load_is_balanced_in_ten_seconds_and_then_nothing_moves() {
    settles(&[200; 6], 60);
    settles(&[25; 6], 66);
    settles(&[400; 20], 240);
}

#[test]
fn nodes_of_different_size_get_what_they_can_do() {
    settles(&[100, 200, 400, 800], 120);
}

#[test]
fn nothing_moves_while_cpus_are_free() {
    let mut fabric = Fabric::new(&[400; 4], 4, 1);
    for _ in 0..40 {
        assert_eq!(surplus(&fabric.load(0)), 0);
        fabric.compute();
        fabric.balance();
    }
    assert_eq!(fabric.moves, 0);
}
