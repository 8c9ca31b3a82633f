//! Running processes go from node to node, with a real mesh in between, and notice nothing.
//!
//! Not the standard harness: keepers are forked while the process has one thread.

mod fabric;
#[allow(dead_code, reason = "each test program uses its own part of it")]
mod harness;

use dunix_ids::Pid;
use dunix_processes::{KillTarget, Processes, StayHere};
use dunix_wire::processes::{ExitStatus, Refusal};
use fabric::Place;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

fn main() {
    // The third one is there for a majority when the first dies.
    fabric::with_nodes(
        3,
        |_| Arc::new(StayHere),
        async |places| {
            everything([&places[0].processes, &places[1].processes]).await;
            lost_pages_kill(&places[0], &places[1]).await;
        },
    );
}

async fn everything(nodes: [&Processes; 2]) {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let times = std::env::args().nth(2).map_or(10, |times| times.parse().unwrap());
    if "counter".contains(&wanted) {
        a_counter_goes_on(nodes, times).await;
    }
    if "python".contains(&wanted) {
        python_goes_on(nodes, times).await;
    }
    if "descriptors".contains(&wanted) {
        descriptors_go_on(nodes, 12).await;
    }
    if "signals".contains(&wanted) {
        signals_wait(nodes).await;
    }
    if "entries".contains(&wanted) {
        directories_are_read_on(nodes, 4).await;
    }
    if "locks".contains(&wanted) {
        locks_are_not_lost(nodes).await;
    }
    if "scheduling".contains(&wanted) {
        scheduling_follows(nodes, 3).await;
    }
    if "moved".contains(&wanted) {
        let program = compiled("../../../../guest/programs/moved.c", &[]);
        a_program_goes_on(nodes, &[&program]).await;
    }
    if "witness".contains(&wanted) {
        let program = compiled("../../../../guest/programs/witness/main.c", &WITNESS);
        let millis = (times * 200).to_string();
        a_program_goes_on(nodes, &[&program, &millis]).await;
    }
    if wanted == "large" {
        a_large_heap_goes_on(nodes, times).await;
    }
    if "killed".contains(&wanted) {
        killed_at_any_instant(nodes).await;
    }
    if "heap".contains(&wanted) {
        a_heap_follows(nodes, 24).await;
    }
    for node in nodes {
        harness::nothing_is_left(node).await;
    }
}

/// The other files of the program that watches whether it is being moved.
const WITNESS: [&str; 7] =
    ["files.c", "memory.c", "self.c", "signals.c", "streams.c", "time.c", "waits.c"];

/// Compiles one of the programs beside this test; `more` files lie beside it.
fn compiled(name: &str, more: &[&str]) -> String {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name);
    let program = harness::scratch().join(source.file_stem().unwrap());
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-w", "-pthread", "-o"]).arg(&program).arg(&source);
    compiler.args(more.iter().map(|file| source.with_file_name(file))).arg("-lm");
    assert!(compiler.status().expect("cc runs").success());
    program.to_string_lossy().into_owned()
}

/// A guest with a pipe to ask it and one to hear it.
struct Guest {
    pid: Pid,
    end: tokio::sync::oneshot::Receiver<dunix_processes::RootEnd>,
    say: std::fs::File,
    hear: BufReader<std::fs::File>,
}

impl Guest {
    async fn start(node: &Processes, words: &[&str]) -> Guest {
        let (stdin, say) = harness::pair();
        let (hear, write) = harness::pair();
        let handle = node.run(harness::command(words, stdin.into(), &write.into())).await.unwrap();
        Guest { pid: handle.pid, end: handle.end, say, hear: BufReader::new(hear) }
    }

    /// Asks and waits for a line, which must be this.
    async fn expect(&mut self, line: &str, wanted: &str) {
        // One that has ended shows by its silence.
        let _ = self.say.write_all(format!("{line}\n").as_bytes());
        let mut answer = String::new();
        self.hear.read_line(&mut answer).unwrap();
        if answer.trim_end() == wanted {
            return;
        }
        let end = tokio::time::timeout(Duration::from_secs(5), &mut self.end).await;
        if end.is_ok() {
            self.hear.read_to_string(&mut answer).unwrap();
        }
        panic!("{wanted:?} is wanted, it said {answer:?} and its end is {end:?}");
    }
}

/// Moves it back and forth, the first time from the first node.
async fn moves(pid: Pid, nodes: [&Processes; 2], times: usize) {
    for number in 0..times {
        let (from, to) = (nodes[number % 2], nodes[(number + 1) % 2]);
        match from.rehearse_move(pid, to).await {
            Ok(report) => println!(
                "  move {number}: frozen {} us, {} bytes",
                report.frozen_micros, report.bytes_before
            ),
            Err(refusal) => panic!("move {number} of {pid} is refused: {refusal}"),
        }
    }
}

/// A program that counts what it is told keeps its count.
async fn a_counter_goes_on(nodes: [&Processes; 2], times: usize) {
    let program = compiled("counter.c", &[]);
    let mut guest = Guest::start(nodes[0], &[&program]).await;
    guest.expect("a", "1 a").await;
    for number in 0..times {
        let (from, to) = (nodes[number % 2], nodes[(number + 1) % 2]);
        moves(guest.pid, [from, to], 1).await;
        guest.expect("b", &format!("{} b", number + 2)).await;
    }
    drop(guest.say);
    assert_eq!(guest.end.await.unwrap().status, ExitStatus::Exited(7));
    println!("ok: counter");
}

/// Threads that compute, sleep and wait for each other, while their process goes to and fro.
async fn python_goes_on(nodes: [&Processes; 2], times: usize) {
    let program = "
import ctypes, hashlib, os, queue, sys, threading, time
ticks, sums, jobs, lock = [0], [0], queue.Queue(), threading.Lock()
def tick():
    while True:
        before = time.monotonic()
        time.sleep(0.001)
        assert time.monotonic() - before >= 0.001
        ticks[0] += 1
def work():
    while True:
        n = jobs.get()
        with lock: sums[0] += sum(range(n))
        jobs.task_done()
for f in (tick, work, work): threading.Thread(target=f, daemon=True).start()
barrier = lambda command: ctypes.CDLL(None).syscall(324, command, 0, 0) == 0
assert barrier(16)
heap = [bytes([i % 256]) * 1000 for i in range(10000)]
good = hashlib.sha256(b''.join(heap)).hexdigest()
pid, tid = os.getpid(), threading.get_native_id()
for line in sys.stdin:
    was = ticks[0]
    for i in range(100): jobs.put(1000)
    jobs.join()
    while ticks[0] < was + 2: time.sleep(0.001)
    same = hashlib.sha256(b''.join(heap)).hexdigest() == good
    same = same and barrier(8)
    same = same and (pid, tid) == (os.getpid(), threading.get_native_id())
    print(same, sums[0] // 499500, line.strip(), flush=True)
";
    let mut guest = Guest::start(nodes[0], &["/usr/bin/python3", "-c", program]).await;
    guest.expect("a", "True 100 a").await;
    for number in 0..times {
        let (from, to) = (nodes[number % 2], nodes[(number + 1) % 2]);
        moves(guest.pid, [from, to], 1).await;
        guest.expect("b", &format!("True {} b", (number + 2) * 100)).await;
    }
    drop(guest.say);
    assert_eq!(guest.end.await.unwrap().status, ExitStatus::Exited(0));
    println!("ok: python");
}

/// A program with descriptors of every kind: what its threads wait for comes wherever they are, and
/// what goes between them is neither lost nor doubled (`programs/descriptors.py`).
async fn descriptors_go_on(nodes: [&Processes; 2], times: usize) {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/descriptors.py");
    let mut guest = Guest::start(nodes[0], &["/usr/bin/python3", program]).await;
    guest.expect("go", "fine 0").await;
    for number in 0..times {
        let (from, to) = (nodes[number % 2], nodes[(number + 1) % 2]);
        moves(guest.pid, [from, to], 1).await;
        guest.expect("go", &format!("fine {}", number + 1)).await;
    }
    guest.expect("end", &format!("fine {}", times + 1)).await;
    drop(guest.say);
    let end = guest.end.await.unwrap();
    assert_eq!(end.status, ExitStatus::Exited(0));
    println!("ok: descriptors");
}

/// Thousands of signals wait, and timers whose signals are blocked: all go along, or none.
async fn signals_wait(nodes: [&Processes; 2]) {
    let program = compiled("pending.c", &[]);
    let mut guest = Guest::start(nodes[0], &[&program]).await;
    guest.expect("3000", "good").await;
    moves(guest.pid, nodes, 4).await;
    guest.expect("1500", "good").await;
    match nodes[0].rehearse_move(guest.pid, nodes[1]).await {
        Err(Refusal::TooLarge { what }) => println!("  {what}"),
        other => panic!("more signals than a move takes: {other:?}"),
    }
    guest.expect("take", "good").await;
    moves(guest.pid, nodes, 1).await;
    drop(guest.say);
    assert_eq!(guest.end.await.unwrap().status, ExitStatus::Exited(0));
    println!("ok: signals");
}

/// Directories are read in parts, each at another node.
async fn directories_are_read_on(nodes: [&Processes; 2], times: usize) {
    let program = compiled("entries.c", &[]);
    let mut guest = Guest::start(nodes[0], &[&program]).await;
    guest.expect("some", "good").await;
    for number in 0..times {
        moves(guest.pid, [nodes[number % 2], nodes[(number + 1) % 2]], 1).await;
        guest.expect(if number + 1 < times { "some" } else { "end" }, "good").await;
    }
    drop(guest.say);
    assert_eq!(guest.end.await.unwrap().status, ExitStatus::Exited(0));
    println!("ok: entries");
}

/// Who has locked a part of a file stays with the lock; a description stays with its own, and is used from afar.
async fn locks_are_not_lost(nodes: [&Processes; 2]) {
    let program = "
import fcntl, sys, tempfile
file = tempfile.NamedTemporaryFile()
print(file.name, flush=True)
for line in sys.stdin:
    how, what = line.split()
    getattr(fcntl, how)(file.fileno(), getattr(fcntl, what))
    print(what, flush=True)
";
    let mut guest = Guest::start(nodes[0], &["/usr/bin/python3", "-c", program]).await;
    let mut name = String::new();
    guest.hear.read_line(&mut name).unwrap();
    guest.expect("lockf LOCK_EX", "LOCK_EX").await;
    match nodes[0].rehearse_move(guest.pid, nodes[1]).await {
        Err(Refusal::Descriptor { what, .. }) => println!("  {what}"),
        other => panic!("a lock of fcntl(2): {other:?}"),
    }
    guest.expect("lockf LOCK_UN", "LOCK_UN").await;
    moves(guest.pid, nodes, 2).await;
    let other = std::fs::File::open(name.trim_end()).unwrap();
    let is_locked = || other.try_lock_shared().is_err();
    guest.expect("flock LOCK_EX", "LOCK_EX").await;
    for number in 0..3 {
        moves(guest.pid, [nodes[number % 2], nodes[(number + 1) % 2]], 1).await;
        assert!(is_locked(), "after {number} moves");
    }
    guest.expect("flock LOCK_UN", "LOCK_UN").await;
    assert!(!is_locked(), "given up");
    other.unlock().unwrap();
    guest.expect("flock LOCK_SH", "LOCK_SH").await;
    assert!(!is_locked() && other.try_lock().is_err(), "it shares");
    drop(guest.say);
    assert_eq!(guest.end.await.unwrap().status, ExitStatus::Exited(0));
    println!("ok: locks");
}

/// Each thread's scheduling policy and processors are its own.
async fn scheduling_follows(nodes: [&Processes; 2], times: usize) {
    let program = "
import os, sys, threading
last, seen, ask = max(os.sched_getaffinity(0)), [], threading.Semaphore(0)
told = threading.Semaphore(0)
def work():
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.sched_setaffinity(0, {last})
    while True:
        ask.acquire()
        seen.append((os.sched_getscheduler(0), os.sched_getaffinity(0) == {last}))
        told.release()
threading.Thread(target=work, daemon=True).start()
everywhere = os.sched_getaffinity(0)
for line in sys.stdin:
    ask.release(); told.acquire()
    print(seen.pop(), os.sched_getscheduler(0), os.sched_getaffinity(0) == everywhere, flush=True)
";
    let mut guest = Guest::start(nodes[0], &["/usr/bin/python3", "-c", program]).await;
    guest.expect("look", "(3, True) 0 True").await;
    for number in 0..times {
        moves(guest.pid, [nodes[number % 2], nodes[(number + 1) % 2]], 1).await;
        guest.expect("look", "(3, True) 0 True").await;
    }
    drop(guest.say);
    assert_eq!(guest.end.await.unwrap().status, ExitStatus::Exited(0));
    println!("ok: scheduling");
}

/// A program that checks itself is moved as fast as it goes until it ends.
async fn a_program_goes_on(nodes: [&Processes; 2], words: &[&str]) {
    let mut guest = Guest::start(nodes[0], words).await;
    let (mut at, mut done) = (0, 0);
    let mut refused: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    let status = loop {
        if let Ok(end) = guest.end.try_recv() {
            break end.status;
        }
        match nodes[at].rehearse_move(guest.pid, nodes[1 - at]).await {
            Ok(_) => (at, done) = (1 - at, done + 1),
            Err(Refusal::NoSuchProcess | Refusal::Ended) => {
                break guest.end.await.unwrap().status;
            }
            Err(refusal) => {
                let entry = refused.entry(refusal.name()).or_default();
                *entry = (entry.0 + 1, refusal.to_string());
            }
        }
        // It is to come to something in between.
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    let mut output = String::new();
    guest.hear.read_to_string(&mut output).unwrap();
    println!("  {done} moves, refused: {refused:?}\n{output}");
    assert_eq!(status, ExitStatus::Exited(0), "{words:?}");
    assert!(done > 0, "{words:?} was never moved");
}

/// A heap of 256 MiB goes along; only when it is asked for by name.
async fn a_large_heap_goes_on(nodes: [&Processes; 2], times: usize) {
    let program = "
import sys
heap = [bytes([i % 251 + 1]) * 65536 for i in range(4096)]
for line in sys.stdin:
    print(all(part[i % 65536] == i % 251 + 1 for i, part in enumerate(heap)), flush=True)
";
    let mut guest = Guest::start(nodes[0], &["/usr/bin/python3", "-c", program]).await;
    guest.expect("a", "True").await;
    for number in 0..times {
        let (from, to) = (nodes[number % 2], nodes[(number + 1) % 2]);
        moves(guest.pid, [from, to], 1).await;
        guest.expect("b", "True").await;
    }
    drop(guest.say);
    assert_eq!(guest.end.await.unwrap().status, ExitStatus::Exited(0));
    println!("ok: large");
}

/// Processes that are killed at growing distances from the start of their move are killed, wherever
/// they are then.
async fn killed_at_any_instant(nodes: [&Processes; 2]) {
    let program = compiled("counter.c", &[]);
    let mut moved = 0;
    for number in 0..40 {
        let guest = Guest::start(nodes[0], &[&program]).await;
        let (one, two) = (nodes[0].clone(), nodes[1].clone());
        let pid = guest.pid;
        let moving = tokio::spawn(async move { one.rehearse_move(pid, &two).await });
        // The moments sweep over the move and beyond.
        tokio::time::sleep(Duration::from_micros(number * 500)).await;
        nodes[0].signal(KillTarget::Process(pid), 9).await.unwrap();
        let end = tokio::time::timeout(Duration::from_secs(10), guest.end).await;
        let end = end.unwrap_or_else(|_| panic!("kill {number} of {pid} is without effect"));
        let killed = ExitStatus::Killed { signal: 9, dumped: false };
        assert_eq!(end.unwrap().status, killed);
        moved += usize::from(moving.await.unwrap().is_ok());
    }
    println!("ok: killed, {moved} of them after they had moved");
}

/// A process is busy with its heap, and forks, while pages of it are on their way.
async fn a_heap_follows(nodes: [&Processes; 2], times: usize) {
    let program = compiled("heap.c", &[]);
    let mut guest = Guest::start(nodes[0], &[&program, "16"]).await;
    guest.expect("check", "good").await;
    let (pid, [one, two]) = (guest.pid, nodes.map(Processes::clone));
    let moving = tokio::spawn(async move { moves_if_it_parks(pid, [&one, &two], times).await });
    let mut asked = 0;
    while !moving.is_finished() {
        let question = ["check", "fork", "move", "fork"][asked % 4];
        guest.expect(question, "good").await;
        asked += 1;
    }
    let done = moving.await.unwrap();
    assert!(done >= times / 2, "{done} of {times} moves were done");
    guest.expect("check", "good").await;
    drop(guest.say);
    assert_eq!(guest.end.await.unwrap().status, ExitStatus::Exited(0));
    println!("ok: heap, {asked} questions in {done} of {times} moves");
}

/// Moves it to and fro so often, but for the times that it does not come to park; tells how often.
async fn moves_if_it_parks(pid: Pid, nodes: [&Processes; 2], times: usize) -> usize {
    let mut done = 0;
    for _ in 0..times {
        match nodes[done % 2].rehearse_move(pid, nodes[(done + 1) % 2]).await {
            Ok(_) => done += 1,
            // The machine is busy.
            Err(refusal @ Refusal::NotParked { .. }) => println!("  {refusal}"),
            Err(refusal) => panic!("after {done} moves: {refusal}"),
        }
    }
    done
}

/// A process whose pages are lost with its old node is killed, and its children too; it says why.
async fn lost_pages_kill(one: &Place, two: &Place) {
    let program = compiled("heap.c", &[]);
    let mut guest = Guest::start(&one.processes, &[&program, "256"]).await;
    guest.expect("check", "good").await;
    let (pid, from, to) = (guest.pid, one.processes.clone(), two.processes.clone());
    let moving = tokio::spawn(async move { from.rehearse_move(pid, &to).await });
    let is_there = || two.processes.list().iter().any(|process| process.pid == pid);
    harness::until("it has arrived", is_there).await;
    one.mesh.stop().await;
    assert_eq!(moving.await.unwrap(), Err(Refusal::LostPages));
    harness::until("it is killed", || !is_there()).await;
    let why = "its pages were on node n1, which died";
    let story = two.processes.explain(pid);
    assert!(story.iter().any(|line| line.contains(why)), "{story:?}");
    println!("ok: lost pages");
}
