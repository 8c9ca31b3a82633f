//! `dunix lab` with real nodes: its exit status, its end by signals and by the death of any of its
//! processes, after which nothing is left; and what its nodes share while guests run, which is nothing.

use dunix_lab::isolation::{OWNER, Party, shared};
use dunix_lab::traces::{Traces, descendants};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the end of a lab may take to complete.
const GONE_WITHIN: Duration = Duration::from_secs(2);
/// One lab a time: the numbers of namespaces, which tests compare, are used again.
static ALONE: Mutex<()> = Mutex::new(());

/// A lab of three nodes whose program waits for a line.
struct Running {
    owner: Child,
    input: ChildStdin,
    name: String,
    traces: Traces,
    _alone: MutexGuard<'static, ()>,
}

/// Starts a lab, or says why this host cannot.
fn start(test: &str, program: &str) -> Option<Running> {
    let lacks = dunix_lab::check_host(3, true);
    if !lacks.is_empty() {
        eprintln!("skipped, this host lacks {lacks:?}");
        return None;
    }
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let name = format!("{test}-{}", std::process::id());
    let mut owner = Command::new(env!("CARGO_BIN_EXE_dunix"))
        .args(["lab", "--nodes", "3", "--cpus-per-node", "0.8", "--name", &name, "--"])
        .args(["sh", "-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = owner.stdin.take().unwrap();
    let mut line = String::new();
    BufReader::new(owner.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n", "{:?}", owner.try_wait());
    let traces = Traces::of(&name, owner.id());
    Some(Running { owner, input, name, traces, _alone: alone })
}

impl Running {
    /// Waits for the lab's end; returns its exit status as a shell shows it.
    fn end(mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let status = self.owner.wait().unwrap();
        let left = self.traces.wait_until_gone(GONE_WITHIN);
        assert!(left.is_empty(), "left after {GONE_WITHIN:?}: {left:#?}");
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
    }

    /// The first process of the lab whose arguments hold a word.
    fn with_argument(&self, word: &str) -> u32 {
        let has = |pid: &&u32| arguments(**pid).iter().any(|argument| argument == word);
        *self.traces.processes.iter().find(has).unwrap()
    }

    fn keepers(&self) -> Vec<u32> {
        // A keeper's nursery is a fork of it, under a name of its own.
        let name = |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let is_keeper = |pid: &u32| {
            arguments(*pid) == ["/dunix", "node", "--keeper"] && name(*pid) != "nursery\n"
        };
        self.traces.processes.iter().copied().filter(is_keeper).collect()
    }
}

fn arguments(pid: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).into_owned();
    line.trim_end_matches('\0').split('\0').map(str::to_owned).collect()
}

fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

const WAITS: &str = "echo up; read line; exit $line";

#[test]
fn passes_the_program_s_status_on() {
    let Some(mut lab) = start("status", WAITS) else { return };
    lab.input.write_all(b"7\n").unwrap();
    assert_eq!(lab.end(), 7);
}

#[test]
fn a_killed_program_shows_as_in_a_shell() {
    let Some(mut lab) = start("killed", "echo up; read line; kill -9 $$") else { return };
    lab.input.write_all(b"\n").unwrap();
    assert_eq!(lab.end(), 137);
}

#[test]
fn signals_end_it_with_their_status() {
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let Some(lab) = start("signal", WAITS) else { return };
        send(lab.owner.id(), signal);
        assert_eq!(lab.end(), status);
    }
}

/// Kills one process and tells the lab's status.
fn status_after(test: &str, choose: impl Fn(&Running) -> u32) -> Option<i32> {
    let lab = start(test, WAITS)?;
    send(choose(&lab), Signal::KILL);
    Some(lab.end())
}

#[test]
fn ends_with_a_keeper() {
    let status = status_after("keeper", |lab| lab.keepers()[1]);
    assert!(matches!(status, None | Some(125)), "{status:?}");
}

#[test]
fn ends_with_a_daemon() {
    let status = status_after("daemon", |lab| lab.with_argument("--daemon"));
    assert!(matches!(status, None | Some(125)), "{status:?}");
}

#[test]
fn ends_with_its_switch() {
    let status = status_after("switch", |lab| lab.with_argument("__lab-switch"));
    assert!(matches!(status, None | Some(125)), "{status:?}");
}

#[test]
fn ends_with_its_owner() {
    let status = status_after("owner", |lab| lab.owner.id());
    assert!(matches!(status, None | Some(137)), "{status:?}");
}

#[test]
fn ends_with_the_command_that_runs_its_program() {
    let status = status_after("client", |lab| lab.with_argument("run"));
    assert!(matches!(status, None | Some(137)), "{status:?}");
}

/// `--root host`: the host's root with its ids and with changes kept apart, the labs' own state hidden.
#[test]
fn the_host_s_root_is_shown_and_not_changed() {
    let lacks = dunix_lab::check_host(1, false);
    if !lacks.is_empty() {
        return eprintln!("skipped, this host lacks {lacks:?}");
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = std::env::temp_dir().join(format!("dunix-root-host-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("kept"), "before").unwrap();
    fs::write(folder.join("gone"), "before").unwrap();
    let program = format!(
        "cd {} && echo inside > kept && rm gone && mkdir new && echo more > new/file && \
         cat kept new/file && stat -c '%u %g' / /etc/passwd && ls -A /var/lib/dunix && \
         stat -f -c %T / && sh -c 'exit 7'",
        folder.display()
    );
    let mut lab = Command::new(env!("CARGO_BIN_EXE_dunix"));
    lab.args(["lab", "--nodes", "1", "--root", "host", "--", "sh", "-c", &program]);
    let output = lab.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let left = fs::read_to_string(folder.join("kept"));
    let (gone, new) = (folder.join("gone").exists(), folder.join("new").exists());
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(said, "inside\nmore\n0 0\n0 0\noverlayfs\n", "{output:?}");
    assert_eq!(output.status.code(), Some(7));
    assert_eq!((left.unwrap().as_str(), gone, new), ("before", true, false));
}

/// More nodes would each have a tree of their own.
#[test]
fn the_host_s_root_serves_one_node() {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_dunix"));
    let output =
        lab.args(["lab", "--nodes", "2", "--root", "host", "--", "true"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--nodes 1"), "{said}");
    assert_eq!(output.status.code(), Some(125));
}

#[test]
fn nodes_share_nothing_while_guests_run() {
    let Some(mut lab) = start("share", WAITS) else { return };
    let run = |node: usize| {
        Command::new(env!("CARGO_BIN_EXE_dunix"))
            .args(["--fabric", &lab.name, "run", "--node", &format!("n{node}"), "--"])
            .args(["sh", "-c", "echo up; exec sleep 1000"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut guests: Vec<Child> = (1..=3).map(run).collect();
    for guest in &mut guests {
        let mut line = String::new();
        BufReader::new(guest.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
    }
    let found = shared(&parties(&lab));
    for guest in &mut guests {
        guest.kill().unwrap();
        guest.wait().unwrap();
    }
    lab.input.write_all(b"0\n").unwrap();
    assert_eq!(lab.end(), 0);
    assert!(found.is_empty(), "{found:#?}");
}

/// What computes on one node goes to the others until all have the same to do, and then stays; what was started on a
/// node by name stays there.
#[test]
fn what_computes_is_spread_evenly_and_then_stays() {
    const COMPUTES: &str = "while :; do :; done";
    const PINNED: &str = "while :; do :; done; pinned";
    let Some(mut lab) = start("balance", WAITS) else { return };
    let run = |options: &[&str], script: &str| {
        Command::new(env!("CARGO_BIN_EXE_dunix"))
            .args(["--fabric", &lab.name, "run"])
            .args(options)
            .args(["--", "sh", "-c", script])
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut guests: Vec<Child> = (0..7).map(|_| run(&[], COMPUTES)).collect();
    guests.extend([run(&["--node", "n1"], PINNED), run(&["--pin"], PINNED)]);
    let mut placed = BTreeMap::new();
    let even = wait_until(Duration::from_secs(60), || {
        placed = nodes_of(&lab.name, COMPUTES);
        placed.len() == 9 && (1..=3).all(|node| count(&placed, node) == 3)
    });
    std::thread::sleep(Duration::from_secs(3));
    let (later, pinned) = (nodes_of(&lab.name, COMPUTES), nodes_of(&lab.name, PINNED));
    for guest in &mut guests {
        guest.kill().unwrap();
        guest.wait().unwrap();
    }
    lab.input.write_all(b"0\n").unwrap();
    assert_eq!(lab.end(), 0);
    assert!(even, "{placed:?}");
    assert_eq!(placed, later);
    assert_eq!((pinned.len(), count(&pinned, 1)), (2, 2), "{pinned:?}");
}

/// The user's shell as passwd(5) names it, in the user's home, with an environment of its own; the daemons' logs.
#[test]
fn a_login_shell_starts_as_on_one_machine() {
    let Some(mut lab) = start("login", WAITS) else { return };
    let mut shell = Command::new(env!("CARGO_BIN_EXE_dunix"))
        .args(["--fabric", &lab.name, "shell", "--node", "n2"])
        .env("CALLERS", "own")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let script = b"echo \"$0 $PWD $HOME $USER $CALLERS\"; grep Node: /proc/$$/status; exit 3\n";
    shell.stdin.take().unwrap().write_all(script).unwrap();
    let output = shell.wait_with_output().unwrap();
    let mut logs = Command::new(env!("CARGO_BIN_EXE_dunix"));
    let logs = logs.args(["--fabric", &lab.name, "logs", "--json"]).output().unwrap();
    lab.input.write_all(b"0\n").unwrap();
    assert_eq!(lab.end(), 0);
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let fields: Vec<&str> = passwd.lines().next().unwrap().split(':').collect();
    let [name, .., home, shell] = fields[..] else { panic!("{passwd}") };
    let shell = Path::new(shell).file_name().unwrap().to_str().unwrap();
    let expected = format!("-{shell} {home} {home} {name} \nNode:\tn2\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert_eq!(output.status.code(), Some(3));
    let logs = String::from_utf8(logs.stdout).unwrap();
    let lines: Vec<serde_json::Value> =
        logs.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().all(|line| line["line"].is_string()), "{logs}");
    assert!(["n1", "n2", "n3"].iter().all(|node| lines.iter().any(|line| line["node"] == *node)));
}

/// A shell, its children and what those fork while they are moved: all of it is at the target then.
#[test]
fn a_tree_of_processes_moves_as_a_whole() {
    const TREE: &str =
        "sh -c 'while sleep 0.05; do :; done; :' & sh -c 'sleep 71; :' & sleep 72 & wait; tree";
    let Some(mut lab) = start("tree", WAITS) else { return };
    let dunix = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dunix"));
        command.args(["--fabric", &lab.name]).args(arguments).stdin(Stdio::null());
        command
    };
    // What it executes later stays where it is then.
    let run = ["run", "--node", "n1", "-e", "DUNIX_PLACE=local", "--", "sh", "-c", TREE];
    let mut guest = dunix(&run).spawn().unwrap();
    // By PID: where it is, and its command's last word.
    let members = || -> BTreeMap<u64, (u64, String)> {
        let output = dunix(&["ps", "--json"]).output().unwrap();
        let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let of_tree = all.as_array().unwrap().iter().filter(|one| {
            let args = one["args"].as_array().unwrap();
            one["state"] != "zombie" && !args.is_empty()
        });
        let told = |one: &serde_json::Value| {
            let last = one["args"].as_array().unwrap().last().unwrap().as_str().unwrap().to_owned();
            (one["pid"].as_u64().unwrap(), (one["node"].as_u64().unwrap(), last))
        };
        of_tree.map(told).filter(|(_, (_, last))| last != WAITS).collect()
    };
    let is_complete =
        || ["71", "72", "0.05"].iter().all(|word| members().values().any(|(_, last)| last == word));
    assert!(wait_until(Duration::from_secs(20), is_complete), "{:?}", members());
    let root = members().into_iter().find(|(_, (_, last))| last == TREE).unwrap().0.to_string();
    let moved = dunix(&["move", "--with-children", &root, "n2"]).output().unwrap();
    let there = members();
    guest.kill().unwrap();
    guest.wait().unwrap();
    lab.input.write_all(b"0\n").unwrap();
    assert_eq!(lab.end(), 0);
    assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
    assert!(there.len() >= 5 && there.values().all(|(node, _)| *node == 2), "{there:?}");
}

fn count(placed: &BTreeMap<u64, u64>, node: u64) -> usize {
    placed.values().filter(|at| **at == node).count()
}

/// The nodes of the processes whose script begins so, by PID.
fn nodes_of(fabric: &str, script: &str) -> BTreeMap<u64, u64> {
    let mut list = Command::new(env!("CARGO_BIN_EXE_dunix"));
    let output = list.args(["--fabric", fabric, "ps", "--json"]).output().unwrap();
    let processes: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let is_it = |process: &&serde_json::Value| {
        process["args"][2].as_str().is_some_and(|text| text.starts_with(script))
    };
    let of_it = processes.as_array().unwrap().iter().filter(is_it);
    of_it.map(|one| (one["pid"].as_u64().unwrap(), one["node"].as_u64().unwrap())).collect()
}

fn wait_until(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !is_so() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    true
}

fn parties(lab: &Running) -> Vec<Party> {
    let mut parties = Vec::new();
    let mut of_nodes = Vec::new();
    // Before the nodes' own: what a node starts meanwhile must not be taken for the owner's.
    let mut processes = descendants(lab.owner.id());
    for keeper in lab.keepers() {
        let processes = descendants(keeper);
        assert!(processes.len() >= 3, "keeper, daemon, guest: {processes:?}");
        of_nodes.extend(processes.iter().copied());
        let root = Path::new("/proc").join(keeper.to_string()).join("root");
        let is_authority = root.join("upper").exists();
        let given = if is_authority { vec!["/host", "/upper"] } else { Vec::new() };
        parties.push(Party { name: format!("keeper {keeper}"), processes, given });
    }
    processes.retain(|pid| !of_nodes.contains(pid));
    parties.push(Party { name: OWNER.into(), processes, given: Vec::new() });
    parties
}
