//! A fabric of two machines: `dunix init`, and `dunix node` on each. The machines are network and
//! mount namespaces of the test's own, joined by a veth pair.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Instant;

const DUNIX: &str = env!("CARGO_BIN_EXE_dunix");
/// How long a machine's node may take to end after SIGTERM.
const ENDS_WITHIN: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Two network namespaces with one end of a link each.
struct Link {
    spaces: [String; 2],
}

impl Link {
    fn new() -> Link {
        let name = |side: char| format!("dunix-{side}{}", std::process::id());
        let link = Link { spaces: [name('a'), name('b')] };
        for space in &link.spaces {
            ip(&["netns", "add", space]);
        }
        let [a, b] = &link.spaces;
        ip(&["link", "add", "port", "netns", a, "type", "veth", "peer", "port", "netns", b]);
        for space in &link.spaces {
            ip(&["-n", space, "link", "set", "port", "up"]);
        }
        link
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for space in &self.spaces {
            let _ = Command::new("ip").args(["netns", "delete", space]).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("ip runs");
    assert!(status.success(), "ip {arguments:?}");
}

/// A machine on which a node runs.
struct Machine {
    node: Child,
    said: BufReader<ChildStderr>,
}

impl Machine {
    fn start(space: &str, file: &str) -> Machine {
        let script = "exec 9<\"$SPACE\" && mount -t tmpfs run /run && mkdir -p /var/lib/dunix \
             && mount -t tmpfs store /var/lib/dunix \
             && exec nsenter --net=/proc/self/fd/9 \"$DUNIX\" node \"$FILE\" --interface port";
        let node = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .env("SPACE", format!("/run/netns/{space}"))
            .env("DUNIX", DUNIX)
            .env("FILE", file)
            .stderr(Stdio::piped())
            .spawn();
        let mut node = node.expect("unshare starts");
        let said = BufReader::new(node.stderr.take().expect("piped"));
        Machine { node, said }
    }

    fn wait_until_up(&mut self) {
        let mut said = String::new();
        // The node speaks when it is up, or when it gives up.
        self.said.read_line(&mut said).expect("read");
        assert!(said.contains("is up at port"), "{said}");
    }

    fn dunix(&self, arguments: &[&str]) -> String {
        let target = self.node.id().to_string();
        let output = Command::new("nsenter")
            .args(["--mount", "--target", &target, DUNIX])
            .args(arguments)
            .output()
            .expect("nsenter runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn end(mut self) {
        let pid = Pid::from_child(&self.node);
        kill_process(pid, Signal::TERM).expect("alive");
        let ended = pidfd_open(pid, PidfdFlags::empty()).expect("a child");
        let mut ended = [PollFd::new(&ended, PollFlags::IN)];
        let events = poll(&mut ended, Some(&ENDS_WITHIN)).expect("poll");
        assert_eq!(events, 1, "it does not end");
        let status = self.node.wait().expect("wait");
        let mut said = String::new();
        self.said.read_to_string(&mut said).expect("read");
        assert_eq!(status.code(), Some(128 + 15), "{status}: {said}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.node.kill();
        let _ = self.node.wait();
    }
}

fn keys(fabric: &str) -> PathBuf {
    let directory =
        std::env::temp_dir().join(format!("dunix-keys-{}-{fabric}", std::process::id()));
    let path = directory.to_str().expect("plain");
    let made = Command::new(DUNIX).args(["init", fabric, "--nodes", "2", "--dir", path]).output();
    assert!(made.expect("dunix runs").status.success());
    directory
}

#[test]
fn two_machines_are_one_fabric() {
    let link = Link::new();
    let begun = Instant::now();
    let directory = keys("machines");
    let mut machines = [0, 1].map(|at| {
        let file = directory.join(format!("n{}.json", at + 1));
        Machine::start(&link.spaces[at], file.to_str().expect("plain"))
    });
    machines.iter_mut().for_each(Machine::wait_until_up);
    let [one, two] = machines;
    let nodes = two.dunix(&["nodes"]);
    assert!(nodes.contains("n1") && nodes.contains("n2"), "{nodes}");
    let script = "echo written on n2 > /tmp/note; exec cat /proc/sys/kernel/hostname";
    let host = one.dunix(&["run", "--node", "n2", "--", "sh", "-c", script]);
    assert_eq!(host, "machines\n");
    assert_eq!(one.dunix(&["run", "--", "cat", "/tmp/note"]), "written on n2\n");
    // Elapsed time counts from the fabric's beginning on both, whatever their kernels count.
    for node in ["n1", "n2"] {
        let uptime = one.dunix(&["run", "--node", node, "--", "cut", "-d.", "-f1", "/proc/uptime"]);
        let seconds: u64 = uptime.trim().parse().expect("a number");
        assert!(seconds <= begun.elapsed().as_secs() + 2, "{node}: {uptime}");
    }
    one.end();
    two.end();
    std::fs::remove_dir_all(directory).expect("removed");
}

#[test]
fn a_missing_interface_and_a_file_that_is_none_are_named() {
    let directory = keys("errors");
    let file = directory.join("n1.json");
    let run = |file: &str, interface: &str| {
        let output = Command::new(DUNIX).args(["node", file, "--interface", interface]).output();
        let output = output.expect("dunix runs");
        assert_eq!(output.status.code(), Some(125));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let absent = run(file.to_str().expect("plain"), "absent0");
    assert!(absent.contains("there is no interface absent0"), "{absent}");
    let none = run("/etc/passwd", "lo");
    assert!(none.contains("no node's file"), "{none}");
    std::fs::remove_dir_all(directory).expect("removed");
}
