//! Fabrics of some size: the same seeds on every run. `DUNIX_SEED=n` replays one seed, `DUNIX_SEEDS=n` tries as
//! many, `DUNIX_WATCH=text` prints the events that contain it.

use dunix_sim::{Plan, Report, idle, run};

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn reports(count: u64, plan: Plan) -> Vec<Report> {
    let seeds = match number("DUNIX_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("DUNIX_SEEDS").unwrap_or(count),
    };
    seeds.map(|seed| run(seed, plan)).collect()
}

#[test]
fn a_fabric_without_faults_keeps_every_promise() {
    for nodes in [5, 20] {
        for report in reports(2, Plan::calm(nodes)) {
            let is_enough = report.execs > 50 && report.moves > 50 && report.refusals > 10;
            assert!(is_enough && report.answers > 500, "the plan does too little: {report}");
            assert_eq!(report.fenced, 0, "nobody was cut off");
        }
    }
}

#[test]
fn deaths_of_nodes_lose_only_what_was_there() {
    reports(6, Plan { crashes: 3, ..Plan::calm(6) });
    reports(2, Plan { crashes: 5, ..Plan::calm(20) });
}

#[test]
fn slow_links_and_deaths_together() {
    reports(4, Plan { crashes: 2, latency_us_max: 100_000, ..Plan::calm(5) });
}

#[test]
fn who_is_cut_off_is_fenced_and_nobody_else_notices() {
    reports(6, Plan { cuts: 3, ..Plan::calm(6) });
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let plan = Plan { crashes: 2, cuts: 1, ..Plan::calm(8) };
    assert_eq!(run(7, plan), run(7, plan));
    assert_ne!(run(7, plan).hash, run(8, plan).hash);
}
