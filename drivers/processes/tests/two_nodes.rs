//! Two nodes with a real mesh between them: programs that execute away from their parents keep
//! parents, pipes, files, signals and exit order.
//!
//! Both nodes' guests see this machine's own tree, so what is shared here are the fabric's parts:
//! PIDs, descriptors, waits. Not the standard harness: keepers are forked while the process has one
//! thread.

mod fabric;
#[allow(dead_code, reason = "each test program uses its own part of it")]
mod harness;

use dunix_ids::NodeId;
use dunix_processes::{
    ChildQuestion, Decision, KillTarget, PlaceQuestion, Placement, Policy, ProcessEvent, Processes,
};
use dunix_wire::processes::ExitStatus;
use fabric::Place;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// Programs that node 1 sends to node 2, and that node 2 sends back.
const AWAY: [&str; 10] =
    ["cat", "tr", "seq", "head", "yes", "env", "sleep", "wc", "ls", "python3.11"];
const BACK: [&str; 2] = ["sort", "id"];

/// What a script with programs away prints and exits with; the same as with all of them here.
const SCRIPTS: [(&str, &str, u8); 21] = [
    ("echo one | cat", "one\n", 0),
    ("cat < /dev/null; echo $?", "0\n", 0),
    ("echo two | tr a-z A-Z | cat", "TWO\n", 0),
    ("seq 1 3 | sort -r | cat", "3\n2\n1\n", 0),
    ("x=$(seq 1 20000 | wc -c); echo $x", "108894\n", 0),
    ("yes | head -n 2", "y\ny\n", 0),
    ("yes | sed q", "y\n", 0),
    ("seq 1 100000 | sed -n 99999p", "99999\n", 0),
    ("A=b env | grep ^A=", "A=b\n", 0),
    ("cd /usr; ls -d lib", "lib\n", 0),
    ("ls /nonexistent 2>/dev/null; echo $?", "2\n", 0),
    ("exec 2>/dev/null; sleep 100 & kill $!; wait $!; echo $?", "143\n", 0),
    ("(echo a; cat; echo c) < /dev/null > $T/f; sort $T/f", "a\nc\n", 0),
    ("(seq 1 2; echo x; seq 3 4) > $T/g; cat $T/g", "1\n2\nx\n3\n4\n", 0),
    ("printf 'l1\\nl2\\nl3\\n' > $T/h; (read x; cat) < $T/h", "l2\nl3\n", 0),
    ("printf 'l1\\nl2\\nl3\\n' | (read x; cat)", "l2\nl3\n", 0),
    ("cat <<END\nhere\nEND", "here\n", 0),
    ("seq 1 5 | while read i; do echo $i | cat; done", "1\n2\n3\n4\n5\n", 0),
    ("sleep 0.1 & wait; echo $?", "0\n", 0),
    ("env sh -c 'echo $(sort < /dev/null; seq 2 2)'", "2\n", 0),
    ("env sh -c 'exit 7'", "", 7),
];

/// The checks of calls on descriptors of another node.
const CALLS: [&str; 13] = [
    "listener",
    "internet",
    "nonblocking",
    "messages",
    "bulk",
    "readiness",
    "counters",
    "interrupted",
    "nameless",
    "sent_files",
    "duplicates",
    "executed",
    "master",
];

/// Children that node 1 sends away: none, those that are just made, those that work.
static CHILDREN_AWAY: AtomicU8 = AtomicU8::new(NONE);
const NONE: u8 = 0;
const NEW: u8 = 1;
const WORKING: u8 = 2;

/// Sends programs away by name.
struct ByName {
    names: &'static [&'static str],
    to: NodeId,
}

impl Policy for ByName {
    fn place(&self, question: &PlaceQuestion) -> Decision {
        let path = String::from_utf8_lossy(&question.exe_path);
        let name = path.rsplit('/').next().unwrap_or_default();
        let goes = !question.is_root && self.names.contains(&name);
        let placement = if goes { Placement::OnlyAt(self.to) } else { Placement::Here };
        Decision { placement, why: "by name".into() }
    }

    fn place_child(&self, question: &ChildQuestion) -> Option<Decision> {
        let now = if question.is_working { WORKING } else { NEW };
        let goes = self.to == NodeId(2) && CHILDREN_AWAY.load(Ordering::Relaxed) == now;
        goes.then(|| Decision { placement: Placement::At(self.to), why: "of its age".into() })
    }
}

fn main() {
    let policy = |node| {
        let (names, to) = if node == NodeId(1) { (&AWAY[..], 2) } else { (&BACK[..], 1) };
        Arc::new(ByName { names, to: NodeId(to) }) as Arc<dyn Policy>
    };
    fabric::with_nodes(2, policy, async |places| {
        everything(&places[0].processes, &places[1].processes).await;
        a_lost_node_kills_what_ran_on_it(&places[0].processes, &places[1]).await;
    });
}

async fn everything(one: &Processes, two: &Processes) {
    let only = std::env::args().nth(1);
    for (script, output, status) in SCRIPTS {
        if only.as_ref().is_some_and(|only| !script.contains(only.as_str())) {
            continue;
        }
        for shell in ["dash", "bash"] {
            let done = harness::run(one, &[shell, "-c", script], "").await;
            assert_eq!(done.output, output, "{shell}: {script}");
            assert_eq!(done.end.status, ExitStatus::Exited(status), "{shell}: {script}");
        }
        println!("ok: {script}");
    }
    children_start_elsewhere(one, two, only.as_deref()).await;
    workers_go_elsewhere(one, two).await;
    roots_start_elsewhere(one).await;
    roots_elsewhere_are_killed(one, two).await;
    sockets_are_relayed(one).await;
    calls_run_at_home(one).await;
    job_control_reaches_the_other_node(one).await;
    harness::nothing_is_left(one).await;
    harness::nothing_is_left(two).await;
    many_at_once(one).await;
    killed_at_any_instant(one).await;
    harness::nothing_is_left(one).await;
    harness::nothing_is_left(two).await;
}

/// What children print that are made by fork(2) and execute nothing; the same as with all of them here.
const CHILDREN: [(&str, &str); 12] = [
    ("(exit 7); echo $?", "7\n"),
    ("x=$(echo in; exit 3); echo $x $?", "in 3\n"),
    ("a=1; (a=2; echo $a); echo $a", "2\n1\n"),
    ("(echo out; echo err >&2) 2>&1", "out\nerr\n"),
    (
        "i=0; while [ $i -lt 12 ]; do (exit $i); echo $?; i=$((i + 1)); done | (n=0; while read x; do n=$((n + x)); done; echo $n)",
        "66\n",
    ),
    ("exec 2>/dev/null; (while :; do :; done) & kill -9 $!; wait $!; echo $?", "137\n"),
    (
        "rm -f $T/up; (trap 'echo caught; exit 4' TERM; echo up; while :; do :; done) > $T/up & until [ -s $T/up ]; do :; done; kill $!; wait $!; echo $?; cat $T/up",
        "4\nup\ncaught\n",
    ),
    ("test \"$(sh -c 'echo $PPID')\" = $$ && echo parent", "parent\n"),
    ("(read a; echo 1 $a; (read b; echo 2 $b)) <<END\nx\ny\nEND", "1 x\n2 y\n"),
    ("umask 077; cd /usr; (cd lib; pwd; umask); pwd", "/usr/lib\n0077\n/usr\n"),
    ("(sleep 0.05; echo late) & (echo early); wait", "early\nlate\n"),
    (
        "set -- $(for i in 1 2 3; do (for j in 1 2; do (echo $i$j); done); done); echo $*",
        "11 12 21 22 31 32\n",
    ),
];

async fn children_start_elsewhere(one: &Processes, two: &Processes, only: Option<&str>) {
    CHILDREN_AWAY.store(NEW, Ordering::Relaxed);
    let mut events = two.events();
    let all = SCRIPTS.map(|(script, output, status)| (script, output, Some(status)));
    for (script, output, status) in all.into_iter().chain(CHILDREN.map(|(s, o)| (s, o, None))) {
        if only.is_some_and(|only| !script.contains(only)) {
            continue;
        }
        for shell in ["dash", "bash"] {
            let done = harness::run(one, &[shell, "-c", script], "").await;
            assert_eq!(done.output, output, "{shell}, children away: {script}");
            let status = ExitStatus::Exited(status.unwrap_or(0));
            assert_eq!(done.end.status, status, "{shell}, children away: {script}");
        }
        println!("ok: children away: {script}");
    }
    CHILDREN_AWAY.store(NONE, Ordering::Relaxed);
    let moved = moved_here(&mut events);
    println!("{moved} children were moved at once");
    assert!(moved >= 40 || only.is_some(), "only {moved} children were moved");
}

/// Children that compute leave their parent's node while they do, and nobody notices.
async fn workers_go_elsewhere(one: &Processes, two: &Processes) {
    let program = "
import os, time
table = list(range(1000))
def work(number):
    end = time.process_time() + 0.15
    total = 0
    while time.process_time() < end:
        total = sum(x * number for x in table)
    return total
workers = []
for number in range(4):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        parent = os.getppid()
        os.write(writing, b'%d %d' % (work(number), os.getppid() == parent))
        os._exit(number)
    os.close(writing)
    workers.append((child, reading))
for child, reading in workers:
    print(os.read(reading, 100).decode(), os.waitpid(child, 0)[1] >> 8)
";
    CHILDREN_AWAY.store(WORKING, Ordering::Relaxed);
    let mut events = two.events();
    let done = harness::run(one, &["/usr/bin/python3", "-c", program], "").await;
    CHILDREN_AWAY.store(NONE, Ordering::Relaxed);
    let expected: String =
        (0..4).map(|number| format!("{} 1 {number}\n", 499_500 * number)).collect();
    assert_eq!(done.output, expected);
    assert_eq!(done.end.status, ExitStatus::Exited(0));
    assert_eq!(moved_here(&mut events), 4, "each worker moves once");
    println!("ok: workers go elsewhere");
}

/// How many processes have come to the node of these events.
fn moved_here(events: &mut tokio::sync::broadcast::Receiver<ProcessEvent>) -> usize {
    let mut moved = 0;
    loop {
        match events.try_recv() {
            Ok(event) => moved += usize::from(matches!(event, ProcessEvent::Moved { .. })),
            Err(tokio::sync::broadcast::error::TryRecvError::Lagged(_)) => {}
            Err(_) => return moved,
        }
    }
}

/// A child elsewhere talks over its parent's socket pair; half-close reaches it.
async fn sockets_are_relayed(one: &Processes) {
    let program = "
import os, socket, subprocess
ours, theirs = socket.socketpair()
child = subprocess.Popen(['cat'], stdin=theirs, stdout=theirs)
theirs.close()
ours.sendall(b'x' * 300000)
ours.shutdown(socket.SHUT_WR)
got = b''
while True:
    part = ours.recv(65536)
    if not part: break
    got += part
print(len(got), child.wait())
";
    let done = harness::run(one, &["/usr/bin/python3", "-c", program], "").await;
    assert_eq!(done.output, "300000 0\n");
    println!("ok: sockets");
}

/// Programs elsewhere make all kinds of calls on what stays here (`programs/remote_calls.py` names the
/// section of each).
async fn calls_run_at_home(one: &Processes) {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/remote_calls.py");
    for check in CALLS {
        let done = harness::run(one, &["/usr/bin/python3", program, "--check", check], "").await;
        assert_eq!(done.output, format!("{check}\n"));
        assert_eq!(done.end.status, ExitStatus::Exited(0), "{check}");
        println!("ok: calls: {check}");
    }
}

async fn job_control_reaches_the_other_node(one: &Processes) {
    let words = ["/usr/bin/python3", "-c", harness::JOB_CONTROL];
    let done = harness::run(one, &words, "").await;
    assert_eq!(done.output, "1\n2\nfine\n");
    println!("ok: job control");
}

/// Scripts side by side, each with its own answer.
async fn many_at_once(one: &Processes) {
    let script = "for i in 1 2 3 4 5 6; do seq 1 $((i * 100 + $0)) | wc -l | tr -d ' '; done";
    let runs = (0..12_u32).map(|number| {
        let one = one.clone();
        tokio::spawn(async move {
            let number = number.to_string();
            harness::run(&one, &["dash", "-c", script, &number], "").await
        })
    });
    for (number, run) in (0..).zip(runs.collect::<Vec<_>>()) {
        let expected: String = (1..=6).map(|i| format!("{}\n", i * 100 + number)).collect();
        assert_eq!(run.await.unwrap().output, expected);
    }
    println!("ok: many at once");
}

/// Pipelines across the nodes that lose a member at growing distances from their start.
async fn killed_at_any_instant(one: &Processes) {
    let script = "exec 2>/dev/null; i=0; while [ $i -lt 25 ]; do
        yes | cat > /dev/null & p=$!
        j=0; while [ $j -lt $((i * 40)) ]; do j=$((j + 1)); done
        kill -9 $p; wait $p; test $? = 137 || echo bad; i=$((i + 1)); done; wait; echo end";
    let done = harness::run(one, &["dash", "-c", script], "").await;
    assert_eq!(done.output, "end\n");
    println!("ok: killed at any instant");
}

async fn roots_start_elsewhere(one: &Processes) {
    let (stdin, feed) = harness::pair();
    let (output, write) = harness::pair();
    drop(feed);
    let mut spec =
        harness::command(&["sh", "-c", "echo there; exit 4"], stdin.into(), &write.into());
    spec.node = Some(NodeId(2));
    let handle = one.run(spec).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(20), handle.end).await.unwrap().unwrap();
    assert_eq!(end.status, ExitStatus::Exited(4));
    assert_eq!(harness::read_all(output).await, "there\n");
    println!("ok: roots elsewhere");
}

async fn roots_elsewhere_are_killed(one: &Processes, two: &Processes) {
    let (stdin, _feed) = harness::pair();
    let (_output, write) = harness::pair();
    let mut spec = harness::command(&["sleep", "100"], stdin.into(), &write.into());
    spec.node = Some(NodeId(2));
    let handle = one.run(spec).await.unwrap();
    assert!(two.list().iter().any(|process| process.pid == handle.pid), "{:?}", two.list());
    one.signal(KillTarget::Process(handle.pid), 9).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(20), handle.end).await.unwrap().unwrap();
    assert_eq!(end.status, ExitStatus::Killed { signal: 9, dumped: false });
    println!("ok: a kill reaches another node");
}

/// Parents of processes on a lost node hear of a kill, readers of their pipes of an end.
async fn a_lost_node_kills_what_ran_on_it(one: &Processes, two: &Place) {
    let script =
        "exec 2>/dev/null; sleep 100 | cat; echo over; sleep 100; test $? -gt 125 && echo no";
    let (_handle, output) = harness::begin(one, &["dash", "-c", script], "").await;
    harness::until("sleep and cat are there", || two.processes.list().len() == 2).await;
    two.mesh.stop().await;
    let text = tokio::time::timeout(Duration::from_secs(20), harness::read_all(output)).await;
    // The second sleep may run nowhere else than on the lost node.
    assert_eq!(text.expect("the shell goes on"), "over\nno\n");
    println!("ok: a lost node");
}
