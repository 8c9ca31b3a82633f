//! The command line against a running lab.

use dunix_conformance::{Lab, Outcome, Scenario, Verdict, run_within};
use serde_json::Value;
use std::{
    io::Write,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(20);

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("run_passes_statuses_on", run_passes_statuses_on),
    Scenario::new("run_relays_input", run_relays_input),
    Scenario::new("unknown_node_is_named", unknown_node_is_named),
    Scenario::new("dead_pids_are_errors", dead_pids_are_errors),
    Scenario::new("foreign_binaries_are_refused", foreign_binaries_are_refused),
    Scenario::new("same_name_is_refused", same_name_is_refused),
    Scenario::new("node_is_obeyed", node_is_obeyed),
    Scenario::new("own_name_is_known", own_name_is_known),
    Scenario::new("spread_spreads", spread_spreads),
    Scenario::new("kill_from_outside", kill_from_outside),
    Scenario::new("interrupted_runs_leave_nothing", interrupted_runs_leave_nothing),
];

fn expect(outcome: &Outcome, status: i32, message: &str) -> Verdict {
    if outcome.status == status && outcome.stderr.contains(message) {
        return Ok(());
    }
    Err(format!("{outcome}; expected status {status} and {message:?}"))
}

fn run_passes_statuses_on(lab: &Lab) -> Verdict {
    expect(&lab.dunix(&["run", "true"])?, 0, "")?;
    expect(&lab.dunix(&["run", "sh", "-c", "exit 7"])?, 7, "")?;
    expect(&lab.dunix(&["run", "--node", "n2", "sh", "-c", "kill -KILL $$"])?, 137, "")?;
    expect(&lab.dunix(&["run", "no-such-program"])?, 127, "no-such-program")?;
    expect(&lab.dunix(&["run", "--node", "n3", "no-such-program"])?, 127, "no-such-program")?;
    expect(&lab.dunix(&["run", "/etc/passwd"])?, 126, "/etc/passwd")?;
    expect(&lab.dunix(&["run", "--cwd", "/no/such", "true"])?, 125, "/no/such")
}

/// The fabric's own name leads to a program that listens there, on whatever node.
fn own_name_is_known(lab: &Lab) -> Verdict {
    const TALK: &str = r#"python3 -c '
import os, socket, subprocess
name = socket.gethostname()
server = socket.create_server((name, 0))
say = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2]))).sendall(b\"x\")"
subprocess.run(["python3", "-c", say, name, str(server.getsockname()[1])], check=True)
print(server.accept()[0].recv(1))
'"#;
    for placement in ["--local", "--spread"] {
        let outcome = lab.dunix(&["run", placement, "sh", "-c", TALK])?;
        expect(&outcome, 0, "")?;
        if outcome.stdout != "b'x'\n" {
            return Err(format!("{placement}: {outcome}"));
        }
    }
    Ok(())
}

fn run_relays_input(lab: &Lab) -> Verdict {
    for node in ["n1", "n2"] {
        let mut child = spawn(lab, &["run", "--node", node, "wc", "-c"], Stdio::piped())?;
        let data = vec![b'x'; 1_000_000];
        let mut stdin = child.stdin.take().ok_or("no input")?;
        stdin.write_all(&data).map_err(|error| error.to_string())?;
        drop(stdin);
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        if output.stdout != b"1000000\n" {
            return Err(format!("{node}: {output:?}"));
        }
    }
    Ok(())
}

fn unknown_node_is_named(lab: &Lab) -> Verdict {
    expect(&lab.dunix(&["run", "--node", "n9", "true"])?, 125, "there are n1, n2, n3")
}

fn dead_pids_are_errors(lab: &Lab) -> Verdict {
    expect(&lab.dunix(&["kill", "1000000"])?, 1, "1000000")?;
    expect(&lab.dunix(&["explain", "1000000"])?, 1, "1000000")?;
    expect(&lab.dunix(&["run", "--near", "1000000", "true"])?, 125, "1000000")
}

/// An ELF file for i386, as far as anyone reads it before refusing it.
fn foreign_binaries_are_refused(lab: &Lab) -> Verdict {
    let file = "/var/tmp/foreign";
    let header = r"\177ELF\1\1\1\0\0\0\0\0\0\0\0\0\2\0\3\0";
    let script =
        format!("printf '{header}' > {file}; head -c 200 /dev/zero >> {file}; chmod 755 {file}");
    expect(&lab.script("--local", &script)?, 0, "")?;
    expect(&lab.dunix(&["run", file])?, 126, "foreign")?;
    expect(&lab.script("--local", &format!("{file}; echo $?"))?, 0, "foreign")
}

fn same_name_is_refused(lab: &Lab) -> Verdict {
    let mut second = lab.command(&["lab", "--nodes", "1", "--name", &lab.name, "--", "true"]);
    expect(&run_within(&mut second, LIMIT)?, 125, &lab.name)?;
    // The first is none the worse for it.
    expect(&lab.dunix(&["run", "true"])?, 0, "")
}

fn spawn(lab: &Lab, arguments: &[&str], stdin: Stdio) -> Result<Child, String> {
    let mut command = lab.command(arguments);
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(|error| error.to_string())
}

/// Waits until `count` processes have this argument, and returns them.
fn wait_for(lab: &Lab, argument: &str, count: usize) -> Result<Vec<Value>, String> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut list = lab.list("ps")?;
        list.retain(|process| {
            let args = process["args"].as_array().map_or(&[][..], Vec::as_slice);
            args.first().is_some_and(|name| name == "sleep") && args.iter().any(|a| a == argument)
        });
        if list.len() == count {
            return Ok(list);
        }
        if Instant::now() > deadline {
            return Err(format!("{} processes of {count}: {list:?}", list.len()));
        }
    }
}

fn finish(child: Child, status: i32) -> Verdict {
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    match output.status.code() {
        Some(code) if code == status => Ok(()),
        _ => Err(format!("{output:?}; expected {status}")),
    }
}

fn node_is_obeyed(lab: &Lab) -> Verdict {
    for node in 1..=3 {
        let argument = format!("1000.0{node}");
        let name = format!("n{node}");
        let child = spawn(lab, &["run", "--node", &name, "sleep", &argument], Stdio::null())?;
        let found = wait_for(lab, &argument, 1)?;
        if found[0]["node"] != node {
            return Err(format!("{name}: {}", found[0]));
        }
        let near =
            ["run", "--near", &found[0]["pid"].to_string(), "grep", "Node:", "/proc/self/status"];
        let near = lab.dunix(&near)?;
        if near.stdout != format!("Node:\t{name}\n") {
            return Err(format!("near one at {name}: {near}"));
        }
        expect(&lab.dunix(&["kill", "-KILL", &found[0]["pid"].to_string()])?, 0, "")?;
        finish(child, 137)?;
    }
    Ok(())
}

fn spread_spreads(lab: &Lab) -> Verdict {
    let script = "sleep 1000.1 & sleep 1000.1 & sleep 1000.1 & wait";
    let child = spawn(lab, &["run", "--spread", "sh", "-c", script], Stdio::null())?;
    let found = wait_for(lab, "1000.1", 3)?;
    let mut nodes: Vec<u64> = found.iter().filter_map(|p| p["node"].as_u64()).collect();
    nodes.sort_unstable();
    for process in &found {
        expect(&lab.dunix(&["kill", &process["pid"].to_string()])?, 0, "")?;
    }
    finish(child, 0)?;
    if nodes == [1, 2, 3] { Ok(()) } else { Err(format!("nodes: {nodes:?}")) }
}

fn kill_from_outside(lab: &Lab) -> Verdict {
    let child = spawn(lab, &["run", "--node", "n3", "sleep", "1000.2"], Stdio::null())?;
    let found = wait_for(lab, "1000.2", 1)?;
    let pid = found[0]["pid"].to_string();
    let explained = lab.dunix(&["explain", &pid])?;
    if !(explained.stdout.contains("n3") && explained.stdout.contains("placed")) {
        return Err(format!("explain: {explained}"));
    }
    expect(&lab.dunix(&["kill", "-s", "TERM", &pid])?, 0, "")?;
    finish(child, 143)
}

/// A caller that is killed hangs its program up.
fn interrupted_runs_leave_nothing(lab: &Lab) -> Verdict {
    let mut child = spawn(lab, &["run", "--node", "n2", "sleep", "1000.3"], Stdio::null())?;
    wait_for(lab, "1000.3", 1)?;
    child.kill().map_err(|error| error.to_string())?;
    child.wait().map_err(|error| error.to_string())?;
    wait_for(lab, "1000.3", 0).map(|_| ())
}
