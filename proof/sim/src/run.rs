//! A run from beginning to end.

use crate::{
    Idle, Plan, Report,
    actions::{act, spawn},
    checks::{check_bystanders, check_quiet, wind_up},
    world::World,
};
use dunix_ids::NodeId;
use std::{collections::BTreeSet, time::Duration};

/// Steps between two rests, in which everything is checked.
const STEPS_PER_CHECK: u64 = 500;
/// The longest that the network is apart, microseconds: longer than silence is borne.
const APART_US_MAX: u64 = 15_000_000;

/// Runs a plan and judges it.
///
/// # Panics
/// If a check fails, or a machine's own. Then the last events are printed, the step, and how to repeat it.
#[must_use]
pub fn run(seed: u64, plan: Plan) -> Report {
    let mut world = World::new(seed, plan, repeat(seed, &plan));
    world.stand();
    let stood_after = world.now;
    let counts_before = world.counts.nodes.clone();
    for node in world.active_nodes() {
        spawn(&mut world, node);
    }
    let mut faults = Faults { crashes: plan.crashes, cuts: plan.cuts };
    for step in 0..plan.steps {
        world.trace.begin_step(step);
        let pause = Duration::from_micros(world.rng.below(plan.pause_us_max));
        world.run_until(world.now + pause);
        act(&mut world);
        faults.strike(&mut world);
        if step % STEPS_PER_CHECK == STEPS_PER_CHECK - 1 {
            world.rest();
            check_quiet(&mut world);
        }
    }
    world.rest();
    check_quiet(&mut world);
    wind_up(&mut world);
    check_bystanders(&world, &counts_before);
    let deaths = world.truths.dead.len() as u64;
    let answers = world.truths.answers;
    let report = Report::of(seed, plan, world.trace.hash(), world.now, world.counts);
    Report { deaths, answers, stood_after, ..report }
}

/// The command that repeats a run.
fn repeat(seed: u64, plan: &Plan) -> String {
    let Plan { nodes, active, steps, crashes, cuts, latency_us_max, .. } = plan;
    format!(
        "cargo xtask sim --nodes {nodes} --active {active} --seed {seed} --steps {steps} \
         --crashes {crashes} --cuts {cuts} --latency {latency_us_max}"
    )
}

/// What is still to go wrong.
struct Faults {
    crashes: u32,
    cuts: u32,
}

impl Faults {
    fn strike(&mut self, world: &mut World) {
        let steps = world.plan.steps;
        let is_due = |world: &mut World, left: u32, all: u32| {
            left > 0 && world.nodes.len() > 2 && world.rng.below(steps) < 2 * u64::from(all)
        };
        if is_due(world, self.crashes, world.plan.crashes) {
            self.crashes -= 1;
            let nodes = world.live_nodes();
            let lost_power = world.rng.below(2) == 0;
            if let Some(node) = world.rng.pick(&nodes) {
                world.crash(node, lost_power);
            }
        }
        if world.network.is_whole() && is_due(world, self.cuts, world.plan.cuts) {
            self.cuts -= 1;
            cut(world);
        }
    }
}

/// One connection is lost, or some nodes cannot reach the others for a while.
fn cut(world: &mut World) {
    world.truths.has_cuts = true;
    let nodes = world.live_nodes();
    let (Some(one), Some(other)) = (world.rng.pick(&nodes), world.rng.pick(&nodes)) else { return };
    if world.rng.below(2) == 0 {
        return world.lose_connection(one, other);
    }
    let size = 1 + world.rng.below(nodes.len() as u64 / 2);
    let island: BTreeSet<NodeId> = (0..size).filter_map(|_| world.rng.pick(&nodes)).collect();
    let duration = Duration::from_micros(world.rng.below(APART_US_MAX));
    world.fall_apart(&island, duration);
}

/// What a fabric costs while nobody does anything, measured over so many seconds.
///
/// # Panics
/// As [`run`].
#[must_use]
pub fn idle(seed: u64, nodes: u32, seconds: u32) -> Idle {
    let plan = Plan { steps: 0, ..Plan::calm(nodes) };
    let mut world = World::new(seed, plan, repeat(seed, &plan));
    world.stand();
    // The first beacons come faster than the later ones.
    world.run_until(world.now + Duration::from_secs(10));
    let before = world.counts.kinds.clone();
    world.run_until(world.now + Duration::from_secs(seconds.into()));
    let rate = |is_wanted: fn(&str) -> bool| {
        let wanted = world.counts.kinds.iter().filter(|(name, _)| is_wanted(name));
        let new = wanted
            .map(|(name, now)| now.messages - before.get(name).map_or(0, |before| before.messages));
        new.sum::<u64>() as f64 / f64::from(nodes) / f64::from(seconds)
    };
    Idle {
        nodes,
        beacons: rate(|name| name == "Beacon"),
        proofs: rate(|name| matches!(name, "Ping" | "Pong")),
        others: rate(|name| !matches!(name, "Beacon" | "Ping" | "Pong")),
    }
}
