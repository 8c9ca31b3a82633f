//! Fabrics of some size: the same seeds on every run. `DUNIX_SEED=n` replays one seed, `DUNIX_SEEDS=n` tries as
//! many, `DUNIX_WATCH=text` prints the events that contain it.

use dunix_sim::{Plan, Report, idle, run};

/// How much the cost per idle node may differ between fabrics of different size.
const TOLERANCE: f64 = 1.2;

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
        for report in reports(4, Plan::calm(nodes)) {
            let is_enough = report.execs > 50 && report.moves > 50 && report.refusals > 10;
            assert!(is_enough && report.answers > 500, "the plan does too little: {report}");
            assert_eq!(report.fenced, 0, "nobody was cut off");
        }
    }
}

#[test]
fn slow_links_do_not_reorder_what_matters() {
    reports(6, Plan { latency_us_max: 200_000, ..Plan::calm(4) });
}

#[test]
fn numbers_come_round_without_meeting_their_last_holder() {
    reports(1, Plan { steps: 15_000, latency_us_max: 2000, ..Plan::calm(2) });
}

#[test]
fn deaths_of_nodes_lose_only_what_was_there() {
    reports(12, Plan { crashes: 3, ..Plan::calm(6) });
    reports(2, Plan { crashes: 5, ..Plan::calm(20) });
}

#[test]
fn slow_links_and_deaths_together() {
    reports(8, Plan { crashes: 2, latency_us_max: 100_000, ..Plan::calm(5) });
}

#[test]
fn who_is_cut_off_is_fenced_and_nobody_else_notices() {
    reports(12, Plan { cuts: 3, ..Plan::calm(6) });
}

/// Each showed a fault of a machine.
#[test]
fn seeds_that_failed() {
    // Fenced by one node, and alive for all others.
    let _ = run(0, Plan { cuts: 3, ..Plan::calm(6) });
    // A group ended while its leader had not been told of yet: the leader's child was made an orphan.
    let _ = run(228, Plan { crashes: 4, ..Plan::calm(8) });
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let plan = Plan { crashes: 2, cuts: 1, ..Plan::calm(8) };
    assert_eq!(run(7, plan), run(7, plan));
    assert_ne!(run(7, plan).hash, run(8, plan).hash);
}

/// Five of fifty nodes work; the others hear nothing of it (checked by the run itself).
#[test]
fn bystanders_hear_of_nothing() {
    for report in reports(2, Plan { active: 5, ..Plan::calm(50) }) {
        assert!(report.forks > 100 && report.execs + report.moves > 100, "too little: {report}");
    }
}

/// What a node costs per second while nothing happens does not depend on how many there are.
#[test]
fn an_idle_node_costs_the_same_in_any_fabric() {
    let [few, many] = [50, 200].map(|nodes| idle(1, nodes, 12));
    println!("{few}\n{many}");
    assert!((few.others, many.others) == (0.0, 0.0), "tables and moves say nothing");
    let of_beacons = many.beacons / few.beacons;
    let of_proofs = many.proofs / few.proofs;
    for ratio in [of_beacons, of_proofs] {
        assert!((1.0 / TOLERANCE..TOLERANCE).contains(&ratio), "{few}; {many}");
    }
}

/// The largest fabric: the same checks, and what blocks of PIDs cost there.
#[test]
#[ignore = "takes minutes: part of `cargo xtask test --full`"]
fn a_thousand_nodes() {
    let report = run(1, Plan { steps: 1000, ..Plan::calm(1000) });
    let blocks = report.of_blocks();
    println!("{report}");
    println!("blocks of PIDs: {:.1} messages per node", blocks.messages as f64 / 1000.0);
    assert!(report.forks > 500 && report.moves > 50, "the plan does too little");
}
