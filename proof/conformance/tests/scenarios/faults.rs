//! What happens when a part of a lab dies. Each scenario has a lab of its own.

use dunix_conformance::{Lab, Scenario, Verdict, run_within, wait_within};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(40);

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("lab_passes_the_status_on", lab_passes_the_status_on),
    Scenario::new("daemon_killed_during_a_run", daemon_killed_during_a_run),
    Scenario::new("forks_in_a_lab_that_is_just_up", forks_in_a_lab_that_is_just_up),
    Scenario::new("killed_lab_leaves_no_process", killed_lab_leaves_no_process),
    Scenario::new("a_machine_that_stood_still_loses_no_node", a_machine_that_stood_still),
];

fn lab_passes_the_status_on(lab: &Lab) -> Verdict {
    let name = format!("{}-own", lab.name);
    let mut command = lab.command(&["lab", "--nodes", "2", "--name", &name, "--"]);
    command.args(["sh", "-c", "echo inside; exit 9"]);
    let outcome = run_within(&mut command, LIMIT)?;
    if outcome.status != 9 || outcome.stdout != "inside\n" {
        return Err(format!("{outcome}"));
    }
    for place in ["/run/dunix", "/var/lib/dunix"] {
        if Path::new(place).join(&name).exists() {
            return Err(format!("{place}/{name} is left behind"));
        }
    }
    Ok(())
}

/// The run ends with an error or as killed; nothing hangs.
fn daemon_killed_during_a_run(_: &Lab) -> Verdict {
    let lab = Lab::start(2)?;
    let mut command = lab.command(&["run", "--node", "n2", "sleep", "1000.7"]);
    let mut run = command.stderr(Stdio::null()).spawn().map_err(|error| error.to_string())?;
    let started = Instant::now();
    while !lab.list("ps")?.iter().any(|process| process["args"][1] == "1000.7") {
        if started.elapsed() > LIMIT {
            return Err("the program did not start".to_owned());
        }
    }
    let daemon = daemons(lab.pid()).pop().ok_or("no daemon found")?;
    kill_process(daemon, Signal::KILL).map_err(|error| error.to_string())?;
    let Some(status) = wait_within(&mut run, LIMIT).map_err(|error| error.to_string())? else {
        let _ = run.kill();
        let _ = run.wait();
        return Err("the run hangs".to_owned());
    };
    match status.code() {
        Some(125 | 137) => Ok(()),
        code => Err(format!("the run ended with {code:?}")),
    }
}

/// A node that is up may have no numbers for processes yet: a fork waits for them.
fn forks_in_a_lab_that_is_just_up(_: &Lab) -> Verdict {
    const NODES: usize = 3;
    let lab = Lab::start(NODES)?;
    for node in (1..=NODES).rev() {
        let node = format!("n{node}");
        let script = "for i in {1..4}; do (exit $i) || s=$s$?; done; echo $s";
        let outcome = lab.dunix(&["run", "--node", &node, "--", "bash", "-c", script])?;
        if (outcome.stdout.as_str(), outcome.stderr.as_str()) != ("1234\n", "") {
            return Err(format!("{node}: {outcome}"));
        }
    }
    Ok(())
}

fn killed_lab_leaves_no_process(_: &Lab) -> Verdict {
    let lab = Lab::start(2)?;
    let before = descendants(lab.pid());
    let pid = i32::try_from(lab.pid()).ok().and_then(Pid::from_raw).ok_or("no pid")?;
    kill_process(pid, Signal::KILL).map_err(|error| error.to_string())?;
    let started = Instant::now();
    while before.iter().any(|pid| Path::new("/proc").join(pid.to_string()).exists()) {
        if started.elapsed() > LIMIT {
            return Err("processes of the lab live on".to_owned());
        }
        // The lab itself is the test's child: it goes when it is waited for.
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Longer than a peer may be silent.
const STANDSTILL: Duration = Duration::from_secs(8);
/// How long all nodes are watched afterwards: who blames another does so at once.
const AFTERWARDS: Duration = Duration::from_secs(3);

/// A machine that is suspended, or has no processor for its nodes, is no dead node.
fn a_machine_that_stood_still(_: &Lab) -> Verdict {
    const NODES: usize = 3;
    let lab = Lab::start(NODES)?;
    let daemons = daemons(lab.pid());
    let tell_all = |signal| daemons.iter().try_for_each(|daemon| kill_process(*daemon, signal));
    let stopped = tell_all(Signal::STOP);
    std::thread::sleep(STANDSTILL);
    stopped.and(tell_all(Signal::CONT)).map_err(|error| error.to_string())?;
    let since = Instant::now();
    while since.elapsed() < AFTERWARDS {
        lab.check_nodes(NODES)?;
    }
    let outcome = lab.dunix(&["run", "--node", "n3", "true"])?;
    if outcome.status == 0 { Ok(()) } else { Err(format!("{outcome}")) }
}

/// Host PIDs of the daemons of a lab, by PID.
fn daemons(lab: u32) -> Vec<Pid> {
    let is_daemon = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|argument| argument == b"--daemon")
    };
    let mut pids: Vec<u32> = descendants(lab).into_iter().filter(is_daemon).collect();
    pids.sort_unstable();
    pids.into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).collect()
}

/// Host PIDs of the processes below a process.
fn descendants(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    found.retain(|pid| *pid != root);
    found
}
