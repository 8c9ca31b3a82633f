//! Many tables, random forks, execs, exits, waits, signals, groups and deaths; outside checkers
//! judge. The same seed gives the same trace. `DUNIX_SEED=n` replays one seed, `DUNIX_SEEDS=n` tries as
//! many, `DUNIX_WATCH=text` prints the events that contain it.

mod actions;
mod moving;
mod truth;
mod world;

use actions::{Plan, run};

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn seeds(count: u64) -> Vec<u64> {
    match number("DUNIX_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("DUNIX_SEEDS").unwrap_or(count)).collect(),
    }
}

const CALM: Plan = Plan { nodes: 4, steps: 1500, deaths: 0, delay_us_max: 5_000 };

#[test]
fn a_fabric_without_deaths_keeps_every_promise() {
    let (mut execs, mut moves, mut refusals, mut answers) = (0, 0, 0, 0);
    for seed in seeds(10) {
        let outcome = run(seed, CALM);
        execs += outcome.execs;
        moves += outcome.moves;
        refusals += outcome.refusals;
        answers += outcome.answers;
    }
    let is_enough = execs > 100 && moves > 100 && refusals > 50 && answers > 1000;
    assert!(is_enough, "the plan does too little: {execs} {moves} {refusals} {answers}");
}

#[test]
fn slow_links_do_not_reorder_what_matters() {
    for seed in seeds(8) {
        run(seed, Plan { delay_us_max: 200_000, ..CALM });
    }
}

#[test]
fn deaths_of_nodes_lose_only_what_was_there() {
    for seed in seeds(20) {
        run(seed, Plan { nodes: 6, deaths: 3, ..CALM });
    }
}

#[test]
fn slow_links_and_deaths_together() {
    for seed in seeds(12) {
        run(seed, Plan { nodes: 5, deaths: 2, delay_us_max: 100_000, ..CALM });
    }
}

#[test]
fn numbers_come_round_without_meeting_their_last_holder() {
    for seed in seeds(1) {
        run(seed, Plan { nodes: 2, steps: 15_000, deaths: 0, delay_us_max: 2_000 });
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let plan = Plan { nodes: 5, deaths: 2, ..CALM };
    assert_eq!(run(7, plan).hash, run(7, plan).hash);
    assert_ne!(run(7, plan).hash, run(8, plan).hash);
}
