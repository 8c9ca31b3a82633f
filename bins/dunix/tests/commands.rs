//! The command line against a fake fabric: what it prints, how it exits.

mod fake;

use dunix_admin_api::KillTarget;
use dunix_ids::Pid;
use fake::{Fabric, KNOWN};
use std::{
    fs,
    process::{Command, Output},
};

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn ps_lists_every_process_by_pid() {
    let fabric = Fabric::start("ps");
    let output = fabric.output(&["ps"]);
    let text = stdout(&output);
    assert!(output.status.success(), "{}", stderr(&output));
    let pids: Vec<u32> = text
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(pids.len(), 1001);
    assert!(pids.is_sorted());
    assert!(text.lines().next().unwrap().contains("COMMAND"));
    assert!(!text.contains('\x1b'), "colours without a terminal");

    let list: serde_json::Value =
        serde_json::from_slice(&fabric.output(&["ps", "--json"]).stdout).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 1001);
    assert_eq!(list[0]["args"][0], "sleep");
}

#[test]
fn ps_names_the_nodes_if_one_is_unknown() {
    let fabric = Fabric::start("ps-node");
    let output = fabric.output(&["ps", "--node", "n7"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "dunix: no node n7; there are n1, n2\n");
    assert_eq!(stdout(&fabric.output(&["ps", "-n", "2"])).lines().count(), 1);
}

#[test]
fn nodes_are_in_order() {
    let fabric = Fabric::start("nodes");
    let text = stdout(&fabric.output(&["nodes"]));
    let first: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(first, ["NODE", "n1*", "n2"]);
}

#[test]
fn kill_signals_all_it_can() {
    let fabric = Fabric::start("kill");
    let output = fabric.output(&["kill", "-s", "USR1", "99", &KNOWN.to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "dunix: kill 99: no process 99; see dunix ps\n");
    assert!(fabric.output(&["kill", "-INT", "--", &format!("-{KNOWN}")]).status.success());
    let pid = Pid::new(KNOWN).unwrap();
    assert_eq!(
        *fabric.backend.killed.lock().unwrap(),
        [(KillTarget::Process(pid), 10), (KillTarget::Group(pid), 2)]
    );
    assert_eq!(fabric.output(&["kill", "-s", "NONE", "7"]).status.code(), Some(2));
    assert_eq!(stdout(&fabric.output(&["kill", "-l", "137"])), "KILL\n");
}

#[test]
fn a_move_is_told_or_refused() {
    let fabric = Fabric::start("move");
    let known = KNOWN.to_string();
    let output = fabric.output(&["move", "--safe", "--no-wait", &known, "n2"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("4711 moved from n1 to n2: frozen for 8.2 ms"));
    let asked = fabric.backend.moves.lock().unwrap().pop().unwrap();
    assert!(asked.safe && !asked.wait && asked.node == "n2");

    let refused = fabric.output(&["move", &known, "n1", "--json"]);
    assert_eq!(refused.status.code(), Some(1));
    let stays = "dunix: process 4711 stays where it is: it is on n1 already\n";
    assert_eq!(stderr(&refused), stays);
    let outcome: serde_json::Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(outcome["Refused"]["reason"], "already-there");
    let asked = fabric.backend.moves.lock().unwrap().pop().unwrap();
    assert!(!asked.safe && asked.wait);

    let gone = fabric.output(&["move", "99", "n2"]);
    assert_eq!((gone.status.code(), stdout(&gone).as_str()), (Some(1), ""));
    assert_eq!(stderr(&gone), "dunix: no process 99; see dunix ps\n");
    for no_pid in ["0", "none", "4294967296"] {
        let wrong = fabric.output(&["move", no_pid, "n2"]);
        assert_eq!(wrong.status.code(), Some(2));
        assert!(stderr(&wrong).contains("not a PID: see `dunix ps`"), "{}", stderr(&wrong));
    }
    assert_eq!(fabric.output(&["move", &known]).status.code(), Some(2));
}

#[test]
fn explain_tells_why() {
    let fabric = Fabric::start("explain");
    let text = stdout(&fabric.output(&["explain", &KNOWN.to_string()]));
    assert!(text.contains("spread: its turn") && text.contains("clock_nanosleep"), "{text}");
    assert_eq!(fabric.output(&["explain", "99"]).status.code(), Some(1));
}

#[test]
fn events_end_with_the_subscription() {
    let fabric = Fabric::start("events");
    let output = fabric.output(&["events"]);
    assert!(output.status.success());
    assert!(stdout(&output).contains("node n2 is up"));
}

#[test]
fn without_a_fabric_errors_say_what_to_do() {
    let fabric = Fabric::start("none");
    let other = fabric.output(&["--fabric", "other", "ps"]);
    assert_eq!(other.status.code(), Some(125));
    assert_eq!(stderr(&other), "dunix: no fabric \"other\" runs here; running: fake\n");
    let none = fabric.dunix(&["nodes"]).env("DUNIX_RUN_DIR", "/nonexistent").output().unwrap();
    assert_eq!(none.status.code(), Some(125));
    assert!(stderr(&none).contains("start one with: dunix lab"));
}

#[test]
fn usage_errors_of_run_are_no_status_of_a_program() {
    let fabric = Fabric::start("usage");
    assert_eq!(fabric.output(&["run", "--nonsense", "--", "true"]).status.code(), Some(125));
    assert_eq!(fabric.output(&["ps", "--nonsense"]).status.code(), Some(2));
    assert_eq!(fabric.output(&["run", "--help"]).status.code(), Some(0));
}

#[test]
fn man_pages_and_completions_come_from_the_definitions() {
    let dir = std::env::temp_dir().join(format!("dunix-man-{}", std::process::id()));
    let dunix = || Command::new(env!("CARGO_BIN_EXE_dunix"));
    assert!(dunix().args(["man", "--dir"]).arg(&dir).status().unwrap().success());
    let page = fs::read_to_string(dir.join("dunix-run.1")).unwrap();
    assert!(page.contains("make \\-j12"), "the examples are in the page");
    fs::remove_dir_all(&dir).unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = dunix().args(["completions", shell]).output().unwrap();
        assert!(stdout(&script).contains("explain"), "{shell}");
    }
}

#[test]
fn metrics_are_those_of_the_node_that_is_asked() {
    let fabric = Fabric::start("metrics");
    let of = |arguments: &[&str]| stdout(&fabric.output(&[&["metrics"], arguments].concat()));
    assert_eq!(of(&[]), "# of n1\n# EOF\n");
    assert_eq!(of(&["--node", "n2"]), "# of n2\n# EOF\n");
}
