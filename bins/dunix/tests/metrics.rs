//! The counts of a real lab: their form, and that they rise when something happens.

use openmetrics_parser::openmetrics::parse_openmetrics;
use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    time::Duration,
};

/// Longest wait for an answer on the socket.
const PATIENCE: Duration = Duration::from_secs(10);

fn dunix(fabric: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dunix"));
    let output = command.args(["--fabric", fabric]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The value of a line that begins with a name and its labels.
fn value(text: &str, name: &str) -> f64 {
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

fn by_http(socket: &str, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // In two parts: what a client writes need not come at once.
    stream.write_all(b"GE").unwrap();
    stream.write_all(format!("T {path} HTTP/1.1\r\nHost: n1\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn counts_rise_when_something_happens() {
    let lacks = dunix_lab::check_host(2, false);
    if !lacks.is_empty() {
        eprintln!("skipped, this host lacks {lacks:?}");
        return;
    }
    let name = format!("metrics-{}", std::process::id());
    let mut lab = Command::new(env!("CARGO_BIN_EXE_dunix"))
        .args(["lab", "--nodes", "2", "--name", &name, "--", "sh", "-c", "echo up; read line"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(lab.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");

    let before = dunix(&name, &["metrics", "--node", "n1"]);
    // Two forks here, and a program that n1 sends to n2.
    dunix(&name, &["run", "--node", "n1", "--", "sh", "-c", "(:); (:); :"]);
    dunix(&name, &["run", "--node", "n2", "--", "true"]);
    let after = dunix(&name, &["metrics", "--node", "n1"]);
    let risen = |name: &str| value(&after, name) - value(&before, name);
    assert!(risen("dunix_forks_total") >= 2.0, "{after}");
    assert!(risen("dunix_execs_total{at=\"here\"}") >= 1.0, "{after}");
    assert!(risen("dunix_doorbell_calls_total{call=\"start\"}") >= 1.0, "{after}");
    let sent = "dunix_messages_total{peer=\"n2\",topic=\"processes\",direction=\"sent\"}";
    assert!(risen(sent) >= 1.0, "{after}");
    assert!(value(&after, "dunix_processes") >= 1.0);

    let socket = format!("/run/dunix/{name}/n1.sock");
    let answer = by_http(&socket, "/metrics");
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(value(text, "dunix_forks_total") >= value(&after, "dunix_forks_total"));
    assert!(by_http(&socket, "/").starts_with("HTTP/1.1 404 "));

    lab.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(lab.wait().unwrap().success());
    for text in [&before[..], &after, text] {
        parse_openmetrics(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    }
}
