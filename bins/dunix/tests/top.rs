//! `dunix top` on a terminal: in a lab, against a fake fabric, and without any.

#[expect(dead_code, reason = "each test program uses a part of the fake")]
mod fake;
mod screen;

use fake::Fabric;
use rustix::process::{Pid, Signal, kill_process};
use screen::{Screen, resize};
use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

/// Leaves the alternate screen (xterm's control sequences, DECSET 1049).
const LEFT: &str = "\x1b[?1049l";

#[test]
fn shows_a_process_of_a_lab_and_kills_it() {
    let lacks = dunix_lab::check_host(2, false);
    if !lacks.is_empty() {
        eprintln!("skipped, this host lacks {lacks:?}");
        return;
    }
    let name = format!("top-{}", std::process::id());
    // The shell's own command line must not look like the one of what it starts.
    let program = "echo up; sleep $((86000 + 423)); echo ended $?";
    let mut lab = Command::new(env!("CARGO_BIN_EXE_dunix"))
        .args(["lab", "--nodes", "2", "--name", &name, "--", "sh", "-c", program])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(lab.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "up");
    let mut top = Command::new(env!("CARGO_BIN_EXE_dunix"));
    let mut screen = Screen::start(top.args(["--fabric", &name, "top", "--interval", "0.2"]));
    screen.wait_for("86423");
    assert!(screen.is_raw());
    screen.type_in("/86423\rk\r");
    assert_eq!(lines.next().unwrap().unwrap(), "ended 143");
    assert_eq!(lab.wait().unwrap().code(), Some(0));
    // The lab's end is the view's, unless it was left before.
    screen.type_in("q");
    screen.wait_for(LEFT);
    assert!(!screen.is_raw());
    screen.exit_code();
}

fn start(fabric: &Fabric) -> Screen {
    let mut screen = Screen::start(&fabric.dunix(&["top", "--interval", "0.1"]));
    screen.wait_for("4711");
    assert!(screen.is_raw());
    screen
}

#[test]
fn keys_end_it_with_the_terminal_restored() {
    for (test, key) in [("top-q", "q"), ("top-int", "\x03")] {
        let fabric = Fabric::start(test);
        let mut screen = start(&fabric);
        screen.type_in(key);
        screen.wait_for(LEFT);
        assert_eq!(screen.exit_code(), 0);
    }
}

#[test]
fn a_signal_restores_the_terminal() {
    let fabric = Fabric::start("top-signal");
    let mut screen = start(&fabric);
    kill_process(Pid::from_child(&screen.child), Signal::TERM).unwrap();
    screen.wait_for(LEFT);
    assert_eq!(screen.exit_code(), 128 + 15);
}

#[test]
fn a_new_size_is_drawn() {
    let fabric = Fabric::start("top-resize");
    let mut screen = start(&fabric);
    resize(&screen.master, 40, 120);
    // The line of keys goes to the new last row.
    screen.wait_for("\x1b[40;1H");
    screen.type_in("q");
    assert_eq!(screen.exit_code(), 0);
}

#[test]
fn a_fabric_that_goes_away_is_told_on_the_restored_terminal() {
    let fabric = Fabric::start("top-gone");
    let mut screen = start(&fabric);
    // Nobody can connect any more.
    std::fs::remove_dir_all(&fabric.run_dir).unwrap();
    screen.wait_for("dunix: fabric \"fake\" does not answer");
    assert_eq!(screen.exit_code(), 125);
}

#[test]
fn without_a_terminal_it_says_so() {
    let fabric = Fabric::start("top-none");
    let output = fabric.output(&["top"]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("needs a terminal"), "{message}");
}
