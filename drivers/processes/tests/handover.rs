//! Processes move among several nodes while they are what they are: parents, children, members of
//! groups, targets of signals; while they end; and while nodes die.
//!
//! Not the standard harness: keepers are forked while the process has one thread.

mod fabric;
#[allow(dead_code, reason = "each test program uses its own part of it")]
mod harness;

use dunix_ids::{NodeId, Pid};
use dunix_processes::{KillTarget, RootEnd, StayHere};
use dunix_wire::processes::{ExitStatus, MoveWish, Refusal};
use fabric::Place;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The first three stay; each of the others dies in one of the trials.
const NODES: usize = 11;
const LASTING: usize = 3;
/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    fabric::with_nodes(NODES, |_| Arc::new(StayHere), everything);
}

async fn everything(places: &[Place]) {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let (lasting, mortal) = places.split_at(LASTING);
    if "itself".contains(&wanted) {
        a_process_stays_itself(lasting).await;
    }
    if "family".contains(&wanted) {
        parents_and_children_find_each_other(lasting).await;
    }
    if "signals".contains(&wanted) {
        signals_arrive_once_and_in_order(lasting).await;
    }
    if "ends".contains(&wanted) {
        ends_cross_moves(lasting).await;
    }
    if "refusals".contains(&wanted) {
        refusals_say_why(lasting).await;
    }
    for place in lasting {
        harness::nothing_is_left(&place.processes).await;
    }
    if "deaths".contains(&wanted) {
        nodes_die_in_the_middle(lasting, mortal).await;
    }
}

/// Compiles one of the programs beside this test.
fn compiled(name: &str) -> String {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name);
    let program = harness::scratch().join(name).with_extension("");
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-Wall", "-Werror", "-pthread", "-o"]).arg(&program).arg(source);
    assert!(compiler.status().expect("cc runs").success());
    program.to_string_lossy().into_owned()
}

/// A guest with a pipe to ask it and one to hear it.
struct Guest {
    pid: Pid,
    end: tokio::sync::oneshot::Receiver<RootEnd>,
    say: std::fs::File,
    hear: Option<BufReader<std::fs::File>>,
}

impl Guest {
    async fn start(place: &Place, words: &[&str]) -> Guest {
        let (stdin, say) = harness::pair();
        let (hear, write) = harness::pair();
        let spec = harness::command(words, stdin.into(), &write.into());
        let handle = place.processes.run(spec).await.unwrap();
        Guest { pid: handle.pid, end: handle.end, say, hear: Some(BufReader::new(hear)) }
    }

    /// Asks and waits for a line; empty if it has ended.
    async fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.answer().await
    }

    fn tell(&mut self, line: &str) {
        // One that has ended hears nothing.
        let _ = self.say.write_all(format!("{line}\n").as_bytes());
    }

    async fn answer(&mut self) -> String {
        let mut hear = self.hear.take().unwrap();
        let reading = tokio::task::spawn_blocking(move || {
            let mut answer = String::new();
            hear.read_line(&mut answer).unwrap();
            (hear, answer)
        });
        let read = tokio::time::timeout(PATIENCE, reading).await;
        let (hear, answer) = read.unwrap_or_else(|_| panic!("{} is silent", self.pid)).unwrap();
        self.hear = Some(hear);
        answer.trim_end().to_owned()
    }

    async fn ends(self) -> ExitStatus {
        drop(self.say);
        let end = tokio::time::timeout(PATIENCE, self.end).await;
        end.unwrap_or_else(|_| panic!("{} does not end", self.pid)).unwrap().status
    }
}

fn pid_of(text: &str) -> Pid {
    Pid::new(text.parse().unwrap_or_else(|_| panic!("no PID: {text:?}"))).unwrap()
}

/// Moves a process, asking any node.
async fn go(asked: &Place, pid: Pid, to: &Place) {
    match asked.processes.move_to(pid, to.mesh.node(), MoveWish::default()).await {
        Ok(report) => assert_eq!(report.target, to.mesh.node()),
        Err(Refusal::AlreadyThere) => {}
        // Whoever waits for its end says how.
        Err(Refusal::Ended | Refusal::NoSuchProcess) => std::future::pending().await,
        Err(refusal) => panic!("{pid} does not go to {}: {refusal}", to.mesh.node()),
    }
}

/// The same number, group and session on every node, whoever is asked to move it.
async fn a_process_stays_itself(places: &[Place]) {
    let program = compiled("crossing.c");
    let mut guest = Guest::start(&places[0], &[&program, "receiver"]).await;
    let who = guest.ask("who").await;
    for number in 1..10 {
        let (asked, to) = (&places[(number * 2) % 3], &places[number % 3]);
        let wish = MoveWish { safe: number % 2 == 0, no_wait: number % 3 == 0 };
        let report = asked.processes.move_to(guest.pid, to.mesh.node(), wish).await.unwrap();
        assert_eq!(report.target, to.mesh.node());
        assert_eq!(report.bytes_after.is_none(), wish.no_wait);
        assert!(!wish.safe || report.bytes_after.unwrap_or(0) == 0, "{report:?}");
        assert_eq!(guest.ask("who").await, who, "after move {number}");
    }
    guest.tell("exit 7");
    assert_eq!(guest.ends().await, ExitStatus::Exited(7));
    println!("ok: itself");
}

/// A parent waits for, signals and regroups children that move, and moves itself.
async fn parents_and_children_find_each_other(places: &[Place]) {
    let program = compiled("crossing.c");
    let mut parent = Guest::start(&places[0], &[&program, "receiver"]).await;
    let mut number = 0;
    // Who moves: the child, the parent, both.
    for who in [[true, false], [false, true], [true, true]] {
        let child = pid_of(&parent.ask("spawn -1").await);
        for _ in 0..3 {
            number += 1;
            for (pid, _) in [child, parent.pid].into_iter().zip(who).filter(|(_, moves)| *moves) {
                go(&places[number % 3], pid, &places[number % 3]).await;
                number += 1;
            }
        }
        assert_eq!(parent.ask(&format!("group {child} {child}")).await, "0", "its group");
        assert_eq!(parent.ask(&format!("kill -{child} 10")).await, "0", "a signal to its group");
        assert_eq!(parent.ask(&format!("reap {child}")).await, format!("{child} killed 10"));
        // Waited for before it ends.
        let child = pid_of(&parent.ask("spawn -1").await);
        parent.tell(&format!("reap {child}"));
        for place in places {
            go(place, child, place).await;
            go(place, parent.pid, place).await;
        }
        places[0].processes.signal(KillTarget::Process(child), 15).await.unwrap();
        assert_eq!(parent.answer().await, format!("{child} killed 15"));
        // One that ended before its parent moved.
        let child = pid_of(&parent.ask("spawn 5").await);
        go(&places[0], parent.pid, &places[0]).await;
        assert_eq!(parent.ask(&format!("reap {child}")).await, format!("{child} exited 5"));
    }
    parent.tell("exit 0");
    assert_eq!(parent.ends().await, ExitStatus::Exited(0));
    println!("ok: family");
}

/// Another process queues signals as fast as it can while their target moves on and on.
async fn signals_arrive_once_and_in_order(places: &[Place]) {
    const MOVES: usize = 100;
    const SIGNALS: usize = 4000;
    let program = compiled("crossing.c");
    let mut guest = Guest::start(&places[0], &[&program, "receiver"]).await;
    guest.ask("who").await;
    let (pid, count) = (guest.pid.to_string(), SIGNALS.to_string());
    let words = [&program, "sender", &pid, &count];
    let mut sender = Guest::start(&places[2], &words).await;
    let sent = async {
        let answer = sender.answer().await;
        assert_eq!(answer, "sent");
        sender
    };
    let moved = async {
        for number in 1..=MOVES {
            go(&places[number % 2], guest.pid, &places[number % 3]).await;
        }
    };
    let (sender, ()) = tokio::select! {
        done = async { tokio::join!(sent, moved) } => done,
        end = &mut guest.end => panic!("the target ended: {end:?}"),
    };
    let by = sender.pid;
    // What was answered with success is there or on its way; nothing more comes.
    let wanted = format!("{SIGNALS} in order from {by}");
    let mut got = guest.ask("got").await;
    for _ in 0..100 {
        if got == wanted {
            break;
        }
        assert!(!got.starts_with("value"), "{got}");
        got = guest.ask("got").await;
    }
    assert_eq!(got, wanted);
    assert_eq!(sender.ends().await, ExitStatus::Exited(0));
    guest.tell("exit 0");
    assert_eq!(guest.ends().await, ExitStatus::Exited(0));
    println!("ok: signals");
}

/// SIGKILL and SIGTERM at any moment of a move: the parent hears the truth, and nothing stays.
async fn ends_cross_moves(places: &[Place]) {
    const TRIALS: u32 = 60;
    let program = compiled("crossing.c");
    let mut parent = Guest::start(&places[0], &[&program, "receiver"]).await;
    let (mut moved, mut ended) = (0, 0);
    // The moments sweep over twice the time that a move takes on this machine.
    let begun = Instant::now();
    for place in [&places[1], &places[0], &places[1], &places[0]] {
        go(&places[2], parent.pid, place).await;
    }
    let moments = begun.elapsed() / 4 * 2;
    for number in 0..TRIALS {
        let child = pid_of(&parent.ask("spawn -1").await);
        let (to, by) = (&places[1], &places[number as usize % 3]);
        let signal: u8 = if number % 2 == 0 { 9 } else { 15 };
        let kill = async {
            tokio::time::sleep(moments * number / TRIALS).await;
            by.processes.signal(KillTarget::Process(child), signal).await
        };
        let go = places[2].processes.move_to(child, to.mesh.node(), MoveWish::default());
        let (killed, gone) = tokio::join!(kill, go);
        assert_eq!(killed, Ok(()), "signal {signal} for {child}");
        match gone {
            Ok(_) => moved += 1,
            Err(Refusal::Ended | Refusal::NoSuchProcess | Refusal::NotFound) => ended += 1,
            Err(refusal) => panic!("{child} does not go: {refusal}"),
        }
        let reaped = parent.ask(&format!("reap {child}")).await;
        assert_eq!(reaped, format!("{child} killed {signal}"), "after {gone:?}");
    }
    assert!(moved > 0 && ended > 0, "too one-sided: {moved} moved, {ended} ended");
    parent.tell("exit 0");
    assert_eq!(parent.ends().await, ExitStatus::Exited(0));
    println!("ok: ends ({moved} moved, {ended} ended before)");
}

async fn refusals_say_why(places: &[Place]) {
    let wish = MoveWish::default();
    let program = compiled("crossing.c");
    let mut guest = Guest::start(&places[0], &[&program, "receiver"]).await;
    let (pid, node) = (guest.pid, &places[1].processes);
    guest.ask("who").await;
    let nobody = Pid::new(4095).unwrap();
    assert_eq!(
        node.move_to(nobody, places[0].mesh.node(), wish).await,
        Err(Refusal::NoSuchProcess)
    );
    assert_eq!(node.move_to(pid, places[0].mesh.node(), wish).await, Err(Refusal::AlreadyThere));
    assert_eq!(node.move_to(pid, NodeId(99), wish).await, Err(Refusal::NodeNotLive));
    // Two at once: one of them wins, or it has gone on.
    let [one, two] = [1, 2].map(|at: usize| node.move_to(pid, places[at].mesh.node(), wish));
    let (one, two) = tokio::join!(one, two);
    assert!(one.is_ok() || two.is_ok(), "{one:?} {two:?}");
    assert_eq!(guest.ask("kill 0 0").await, "0");
    node.signal(KillTarget::Process(pid), 19).await.unwrap();
    let stopped = async {
        loop {
            match node.move_to(pid, places[0].mesh.node(), wish).await {
                Err(Refusal::Stopped { signal: 19 }) => return,
                // It had not stopped yet.
                Ok(_) => drop(node.move_to(pid, places[1].mesh.node(), wish).await),
                Err(Refusal::NotParked { .. } | Refusal::StillArriving) => {}
                Err(refusal) => panic!("{refusal}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, stopped).await.unwrap();
    node.signal(KillTarget::Process(pid), 18).await.unwrap();
    guest.tell("exit 0");
    assert_eq!(guest.ends().await, ExitStatus::Exited(0));
    println!("ok: refusals");
}

/// The target or the source of a move dies at some moment of it: the process lives on at exactly one
/// node, or its end is reported.
async fn nodes_die_in_the_middle(lasting: &[Place], mortal: &[Place]) {
    let program = compiled("crossing.c");
    let home = &lasting[0];
    let (mut lived, mut lost) = (0, 0);
    for (number, place) in (0_u32..).zip(mortal) {
        let mut guest = Guest::start(home, &[&program, "receiver"]).await;
        let who = guest.ask("who").await;
        let is_source = number % 2 == 1;
        if is_source {
            go(home, guest.pid, place).await;
        }
        let die = async {
            // The moments sweep over the move: before, within and after it.
            tokio::time::sleep(Duration::from_millis(u64::from(number / 2) * 9)).await;
            place.mesh.abort();
        };
        let to = if is_source { home } else { place };
        let asked = lasting[1].processes.move_to(guest.pid, to.mesh.node(), MoveWish::default());
        let ((), moved) = tokio::join!(die, asked);
        let answer = guest.ask("who").await;
        if answer == who {
            lived += 1;
            guest.tell("exit 3");
            assert_eq!(guest.ends().await, ExitStatus::Exited(3), "{moved:?}");
        } else {
            lost += 1;
            assert_eq!(answer, "", "{moved:?}");
            let end = guest.ends().await;
            let is_lost = matches!(end, ExitStatus::Lost | ExitStatus::Killed { signal: 9, .. });
            assert!(is_lost, "{end:?} after {moved:?}");
        }
    }
    for place in lasting {
        harness::nothing_is_left(&place.processes).await;
    }
    println!("ok: deaths ({lived} lived on, {lost} were lost with a node)");
}
