//! Many nodes and processes, random moves, a network that loses, doubles and reorders, ends of host
//! processes, failures and deaths of nodes at any moment; an outside checker counts where each process
//! runs. The same seed gives the same run. `DUNIX_SEED=n` replays one seed, `DUNIX_SEEDS=n` tries as many.

mod world;

use world::{Plan, World};

const CALM: Plan = Plan {
    nodes: 3,
    processes: 4,
    steps: 4000,
    pause_us_max: 4000,
    losses: 0,
    doubles: 0,
    failures: 0,
    deaths: 0,
};
/// The network loses packages, too, which only patience notices.
const LOSSY: Plan = Plan { losses: 10, doubles: 20, pause_us_max: 200_000, ..CALM };

/// Moves close to one another, and with time for patience to end.
fn pause(seed: u64) -> u64 {
    if seed.is_multiple_of(2) { 4000 } else { 200_000 }
}

fn seeds(count: u64) -> Vec<u64> {
    let number = |variable: &str| std::env::var(variable).ok()?.parse().ok();
    match number("DUNIX_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("DUNIX_SEEDS").unwrap_or(count)).collect(),
    }
}

fn run(seed: u64, plan: Plan) -> World {
    let outcome = std::panic::catch_unwind(|| {
        let mut world = World::new(seed, plan);
        world.run();
        world
    });
    outcome.unwrap_or_else(|panic| {
        eprintln!("seed {seed} failed");
        std::panic::resume_unwind(panic)
    })
}

#[test]
fn in_order_and_without_failures_every_move_is_done() {
    for seed in seeds(40) {
        let world = run(seed, CALM);
        assert!(world.moves > 100, "seed {seed}: only {} moves", world.moves);
        assert_eq!(world.refused, 0, "seed {seed}");
        assert_eq!(world.lost, 0, "seed {seed}");
    }
}

#[test]
fn a_bad_network_costs_time_only() {
    for seed in seeds(100) {
        let world = run(seed, Plan { losses: 20, doubles: 30, ..LOSSY });
        assert!(world.moves > 20, "seed {seed}: only {} moves", world.moves);
        assert_eq!(world.lost, 0, "seed {seed}");
    }
}

#[test]
fn failures_and_ends_leave_nobody_twice() {
    let mut refused = 0;
    for seed in seeds(100) {
        let plan = Plan { failures: 10, processes: 12, pause_us_max: pause(seed), ..LOSSY };
        refused += run(seed, plan).refused;
    }
    assert!(refused > 1000, "the plan fails too seldom: {refused}");
}

#[test]
fn deaths_of_nodes_cost_only_what_had_a_part_there() {
    let (mut moves, mut lost) = (0, 0);
    for seed in seeds(150) {
        let plan = Plan {
            nodes: 5,
            processes: 12,
            failures: 3,
            deaths: 3,
            steps: 2500,
            pause_us_max: pause(seed),
            ..LOSSY
        };
        let world = run(seed, plan);
        moves += world.moves;
        lost += world.lost;
    }
    assert!(moves > 1000 && lost > 100, "the plan does too little: {moves} {lost}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let plan = Plan { nodes: 4, losses: 10, doubles: 10, failures: 5, deaths: 1, ..CALM };
    assert_eq!(run(7, plan).hash, run(7, plan).hash);
    assert_ne!(run(7, plan).hash, run(8, plan).hash);
}
