//! `dunix-sim`: one run of the simulator, and what an idle fabric costs; `cargo xtask sim` builds and starts it.

use dunix_sim::{Plan, idle, run};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask sim --nodes N --seed S [--steps K] [--active A] [--crashes C] [--cuts P] [--latency US]
       cargo xtask sim --idle --nodes N --seed S

  --nodes N      so many nodes (default 20)
  --seed S       of all chance (default 0): the same seed gives the same trace
  --steps K      things that programs do (default 1500)
  --active A     programs run on the first A nodes only (default all)
  --crashes C    nodes that die (default 0)
  --cuts P       times that the network falls apart or a connection is lost (default 0)
  --latency US   how long a message takes at most, microseconds (default 5000)
  --idle         nothing happens: what does a node cost per second?";

/// Virtual seconds over which an idle fabric is measured.
const IDLE_SECONDS: u32 = 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|word| word == "--help" || word == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let Some((seed, plan, is_idle)) = read(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if is_idle {
        println!("{}", idle(seed, plan.nodes, IDLE_SECONDS));
    } else {
        println!("{}", run(seed, plan));
    }
    ExitCode::SUCCESS
}

fn read(arguments: &[String]) -> Option<(u64, Plan, bool)> {
    let is_idle = arguments.iter().any(|argument| argument == "--idle");
    let rest: Vec<&String> = arguments.iter().filter(|argument| *argument != "--idle").collect();
    let value = |name: &str, default: u64| {
        let at = rest.iter().position(|argument| *argument == name);
        at.map_or(Some(default), |at| rest.get(at + 1)?.parse().ok())
    };
    let names = ["--nodes", "--seed", "--steps", "--active", "--crashes", "--cuts", "--latency"];
    let is_known = rest.len().is_multiple_of(2)
        && rest.iter().step_by(2).all(|argument| names.contains(&argument.as_str()));
    let small = |name: &str, default: u64| u32::try_from(value(name, default)?).ok();
    let nodes = small("--nodes", 20).filter(|nodes| is_known && *nodes > 0)?;
    let calm = Plan::calm(nodes);
    let plan = Plan {
        active: small("--active", nodes.into())?.clamp(1, nodes),
        steps: value("--steps", calm.steps)?,
        crashes: small("--crashes", 0)?,
        cuts: small("--cuts", 0)?,
        latency_us_max: value("--latency", calm.latency_us_max)?.max(1),
        ..calm
    };
    Some((value("--seed", 0)?, plan, is_idle))
}
