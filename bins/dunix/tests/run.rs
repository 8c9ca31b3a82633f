//! `dunix run` against a fake fabric: standard streams, exit statuses, signals.

mod fake;

use fake::{ABSENT, Fabric};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::ExitStatusExt,
    process::{Child, Stdio},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

/// How long anything may take before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(20);

fn code(fabric: &Fabric, arguments: &[&str]) -> Option<i32> {
    fabric.output(&[&["run"], arguments].concat()).status.code()
}

fn spawn(fabric: &Fabric, arguments: &[&str]) -> Child {
    let mut command = fabric.dunix(&[&["run"], arguments].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn exit_statuses_are_a_shells() {
    let fabric = Fabric::start("status");
    assert_eq!(code(&fabric, &["true"]), Some(0));
    assert_eq!(code(&fabric, &["--", "sh", "-c", "exit 7"]), Some(7));
    assert_eq!(code(&fabric, &["sh", "-c", "kill -KILL $$"]), Some(137));
    assert_eq!(code(&fabric, &["no-such-program"]), Some(127));
    assert_eq!(code(&fabric, &["/etc/passwd"]), Some(126));
}

#[test]
fn an_unknown_node_is_not_the_programs_failure() {
    let fabric = Fabric::start("node");
    let output = fabric.output(&["run", "--node", "n9", "true"]);
    assert_eq!(output.status.code(), Some(125));
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(message, "dunix: no node n9; there are n1, n2\n");
}

#[test]
fn streams_are_relayed_unchanged_and_apart() {
    let fabric = Fabric::start("streams");
    let data: Vec<u8> = (0..8_000_000u32).map(|i| (i ^ (i >> 8)).to_le_bytes()[0]).collect();
    let mut child = spawn(&fabric, &["sh", "-c", "echo apart >&2; cat"]);
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let sent = data.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let mut received = Vec::new();
    stdout.read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert!(received == data, "{} bytes of {}", received.len(), data.len());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b"apart\n"[..]));
}

#[test]
fn environment_and_directory_are_the_callers() {
    let fabric = Fabric::start("env");
    let script = "echo $A $B; pwd";
    let arguments = ["run", "-e", "B=2", "sh", "-c", script];
    let output = fabric.dunix(&arguments).env("A", "1").current_dir("/usr").output().unwrap();
    assert_eq!(output.stdout, b"1 2\n/usr\n");
    let output = fabric.output(&["run", "--cwd", "/etc", "pwd"]);
    assert_eq!(output.stdout, b"/etc\n");
}

#[test]
fn a_directory_that_is_not_there_matters_only_if_asked_for() {
    let fabric = Fabric::start("cwd");
    let output = fabric.dunix(&["run", "pwd"]).current_dir(ABSENT).output().unwrap();
    assert_eq!(output.stdout, b"/\n");
    let note = format!("dunix: there is no {ABSENT} here; running in /\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), note);
    assert_eq!(code(&fabric, &["--cwd", ABSENT, "pwd"]), Some(125));
}

#[test]
fn a_blocked_output_holds_up_nothing_else() {
    let fabric = Fabric::start("blocked");
    // Nobody reads standard output, and the program writes far more than all buffers hold.
    let script = "head -c 4000000 /dev/zero & sleep 0.2; echo here >&2; wait";
    let mut child = spawn(&fabric, &["sh", "-c", script]);
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "here\n");
    assert!(child.try_wait().unwrap().is_none(), "backpressure reaches the program");
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 4_000_000));
}

#[test]
fn a_reader_that_leaves_ends_the_writer() {
    let fabric = Fabric::start("sigpipe");
    let mut child = spawn(&fabric, &["yes"]);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "y\n");
    assert_eq!(child.wait().unwrap().code(), Some(128 + 13));
}

#[test]
fn open_input_does_not_delay_the_exit() {
    let fabric = Fabric::start("input");
    let mut child = spawn(&fabric, &["sh", "-c", "read line; echo $line"]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"one\ntwo\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    drop(stdin);
}

#[test]
fn what_outlives_the_program_does_not_delay_the_exit() {
    let fabric = Fabric::start("orphan");
    let start = Instant::now();
    let output = fabric.output(&["run", "sh", "-c", "sleep 30 & echo $!; echo done"]);
    assert!(start.elapsed() < PATIENCE);
    let text = String::from_utf8(output.stdout).unwrap();
    let (pid, done) = text.split_once('\n').unwrap();
    assert_eq!(done, "done\n");
    kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn signals_reach_the_program() {
    let fabric = Fabric::start("signal");
    let script = "trap 'exit 3' INT; echo ready; while :; do sleep 0.02; done";
    for (sent, expected) in [(Signal::INT, 3), (Signal::TERM, 128 + 15)] {
        let mut child = spawn(&fabric, &["sh", "-c", script]);
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        signal(&child, sent);
        assert_eq!(child.wait().unwrap().code(), Some(expected));
    }
}

#[test]
fn a_lost_client_hangs_the_program_up() {
    let fabric = Fabric::start("hangup");
    let mut child = spawn(&fabric, &["sh", "-c", "echo ready; exec sleep 1000"]);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    signal(&child, Signal::KILL);
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    let deadline = Instant::now() + PATIENCE;
    while fabric.backend.hang_ups.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < deadline, "no hang-up");
        std::thread::yield_now();
    }
}
