//! Many tables, random forks, execs, exits, waits, signals, groups and deaths; outside checkers
//! judge. The same seed gives the same trace. `DUNIX_SEED=n` replays one seed.

mod actions;
mod rng;
mod truth;
mod world;

use actions::{Plan, run};

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("DUNIX_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (0..count).collect(),
    }
}

const CALM: Plan = Plan { nodes: 4, steps: 1500, deaths: 0, delay_us_max: 5_000 };

#[test]
fn a_fabric_without_deaths_keeps_every_promise() {
    let (mut moves, mut answers) = (0, 0);
    for seed in seeds(30) {
        let outcome = run(seed, CALM);
        moves += outcome.moves;
        answers += outcome.answers;
    }
    assert!(moves > 100 && answers > 1000, "the plan does too little: {moves} {answers}");
}

#[test]
fn slow_links_do_not_reorder_what_matters() {
    for seed in seeds(20) {
        run(seed, Plan { delay_us_max: 200_000, ..CALM });
    }
}

#[test]
fn deaths_of_nodes_lose_only_what_was_there() {
    for seed in seeds(60) {
        run(seed, Plan { nodes: 6, deaths: 3, ..CALM });
    }
}

#[test]
fn slow_links_and_deaths_together() {
    for seed in seeds(40) {
        run(seed, Plan { nodes: 5, deaths: 2, delay_us_max: 100_000, ..CALM });
    }
}

#[test]
fn numbers_come_round_without_meeting_their_last_holder() {
    for seed in seeds(2) {
        run(seed, Plan { nodes: 2, steps: 30_000, deaths: 0, delay_us_max: 2_000 });
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let plan = Plan { nodes: 5, deaths: 2, ..CALM };
    assert_eq!(run(7, plan).hash, run(7, plan).hash);
    assert_ne!(run(7, plan).hash, run(8, plan).hash);
}
