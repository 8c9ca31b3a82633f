//! `dunix run` with a terminal on both ends, against a fake fabric.

#[expect(dead_code, reason = "each test program uses a part of the fake")]
mod fake;
mod screen;

use fake::Fabric;
use rustix::process::{Pid, Signal, kill_process};
use screen::{Screen, resize};

/// Starts `dunix run` on a terminal.
fn start(fabric: &Fabric, arguments: &[&str]) -> Screen {
    Screen::start(&fabric.dunix(&[&["run"], arguments].concat()))
}

#[test]
fn the_program_gets_a_terminal_of_the_callers_size() {
    let fabric = Fabric::start("tty-size");
    let script = "test -t 0 -a -t 1 -a -t 2 && stty size; read line; echo got $line; exit 5";
    let mut screen = start(&fabric, &["sh", "-c", script]);
    screen.wait_for("31 97\r\n");
    assert!(screen.is_raw());
    screen.type_in("hello\r");
    screen.wait_for("got hello\r\n");
    assert_eq!(screen.exit_code(), 5);
}

#[test]
fn a_new_size_reaches_the_program() {
    let fabric = Fabric::start("tty-resize");
    let script = "echo ready; while ! stty size | grep '40 100'; do sleep 0.02; done";
    let mut screen = start(&fabric, &["sh", "-c", script]);
    screen.wait_for("ready");
    resize(&screen.master, 40, 100);
    screen.wait_for("40 100");
    assert_eq!(screen.exit_code(), 0);
}

#[test]
fn a_signal_restores_the_terminal() {
    let fabric = Fabric::start("tty-signal");
    let mut screen = start(&fabric, &["sh", "-c", "echo ready; exec sleep 1000"]);
    screen.wait_for("ready");
    assert!(screen.is_raw());
    // setsid(1) executes the program in its own process, unless it leads a group.
    kill_process(Pid::from_child(&screen.child), Signal::TERM).unwrap();
    assert_eq!(screen.exit_code(), 128 + 15);
}

#[test]
fn never_means_never() {
    let fabric = Fabric::start("tty-never");
    let mut screen = start(&fabric, &["--pty", "never", "sh", "-c", "test -t 1; echo $?"]);
    screen.wait_for("1\r\n");
    assert_eq!(screen.exit_code(), 0);
}
