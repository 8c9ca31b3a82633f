//! Whatever process of a lab is killed, the lab ends and nothing of it is left on the host.

#[allow(dead_code, reason = "each test program uses its part of the rig")]
mod rig;

use rig::{Rig, assert_gone, can_run};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a killed process may take to end.
const ENDED_WITHIN: Duration = Duration::from_secs(10);

fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn wait_until_ended(pid: u32) {
    let deadline = Instant::now() + ENDED_WITHIN;
    let stat = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let has_ended =
        |stat: &str| stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'));
    while !has_ended(&stat()) {
        assert!(Instant::now() < deadline, "process {pid} does not end: {}", stat());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Kills the process that `choose` picks, and expects the end of the lab without being asked, and
/// that an owner which is still there can say why.
fn ends_with(test: &str, choose: impl Fn(&Rig) -> u32) {
    if !can_run() {
        return;
    }
    let mut rig = Rig::start(test, 3);
    let chosen = choose(&rig);
    let mut traces = rig.traces();
    assert!(traces.paths().len() > 2, "{:?}", traces.paths());
    let owner = rig.owner_pid();
    traces.processes.retain(|pid| *pid != owner || chosen == owner);
    kill(chosen);
    assert_gone(&traces);
    if chosen != owner {
        rig.close_input();
        let said = rig.rest();
        assert!(said.contains("ended: ") && said.contains(" died"), "{said}");
    }
}

#[test]
fn an_asked_end_leaves_nothing() {
    if !can_run() {
        return;
    }
    let mut rig = Rig::start("asked", 3);
    let traces = rig.traces();
    rig.close_input();
    assert!(rig.owner.wait().unwrap().success());
    assert_gone(&traces);
}

#[test]
fn ends_with_its_owner() {
    ends_with("owner", Rig::owner_pid);
}

#[test]
fn ends_with_its_switch() {
    ends_with("switch", |rig| rig.helper("__lab-switch"));
}

#[test]
fn ends_with_its_janitor() {
    ends_with("janitor", |rig| rig.helper("__lab-janitor"));
}

#[test]
fn ends_with_the_first_keeper() {
    ends_with("keeper1", |rig| rig.keepers[0]);
}

#[test]
fn ends_with_the_last_keeper() {
    ends_with("keeper3", |rig| rig.keepers[2]);
}

#[test]
fn ends_with_a_daemon() {
    ends_with("daemon", |rig| {
        let processes = rig.node_processes(2);
        assert_eq!(processes.len(), 2, "a keeper and its daemon");
        processes[1]
    });
}

#[test]
fn what_a_massacre_leaves_the_next_lab_removes() {
    if !can_run() {
        return;
    }
    let rig = Rig::start("massacre", 2);
    let traces = rig.traces();
    let helpers = ["__lab-janitor", "__lab-switch"].map(|role| rig.helper(role));
    // All at one time: the owner must not notice the end of the others, nor the janitor the owner's.
    signal(rig.owner_pid(), Signal::STOP);
    helpers.into_iter().for_each(kill);
    kill(rig.owner_pid());
    // Until a killed process has run once more, it holds what it held, the lab's lock among it.
    helpers.into_iter().for_each(wait_until_ended);
    let left = traces.paths();
    let mut next = Rig::start_after(rig, "next", 1);
    assert_gone(&traces);
    next.close_input();
    assert!(next.owner.wait().unwrap().success());
    eprintln!("the massacre had left {left:?}");
}

#[test]
fn a_name_is_taken_once() {
    if !can_run() {
        return;
    }
    let rig = Rig::start("twice", 1);
    let second = Command::new(env!("CARGO_BIN_EXE_lab-placeholder"))
        .args(["lab", &rig.name, "1"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("runs already"), "{said}");
    assert_eq!(rig.heard(1), ["1"], "the first lab goes on");
}
