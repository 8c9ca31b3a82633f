//! Paging between two processes of this machine: `guest/programs/pages.c` is the frozen process on one
//! side and the guest on the other; it knows what each of its pages must hold and says so.
//!
//! Needs root and a C compiler. Each scenario runs twice: with pages pushed as it plays, and with
//! none but those that it touches.

use super::shared::PagingFigures;
use super::*;
use dunix_ids::NodeId;
use dunix_linux::guest_memory::GuestMemory;
use dunix_linux::userfault::Userfault;
use dunix_transport::MeshStream;
use dunix_wire::Topic;
use dunix_wire::processes::{MoveId, PagesHeader};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

/// More than anything here may take.
const PATIENCE: Duration = Duration::from_secs(120);
const HEAP: u64 = 0x1000_0000_0000;
const SOURCE: NodeId = NodeId(7);
const ID: MoveId = MoveId { source: SOURCE, epoch: 1 };

/// The compiled program, or `None` (said once) if this machine cannot run these tests.
fn program() -> Option<&'static Path> {
    static PATH: OnceLock<Option<PathBuf>> = OnceLock::new();
    PATH.get_or_init(|| {
        if std::fs::File::open("/dev/userfaultfd").is_err() {
            println!("skipped: cannot open /dev/userfaultfd");
            return None;
        }
        let to = std::env::temp_dir().join(format!("dunix-pages-{}", std::process::id()));
        let from = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest/programs/pages.c");
        let done = Command::new("cc").args(["-O2", "-pthread", "-o"]).arg(&to).arg(from).status();
        match done {
            Ok(status) => {
                assert!(status.success(), "pages.c compiles");
                Some(to)
            }
            Err(_) => {
                println!("skipped: no C compiler");
                None
            }
        }
    })
    .as_deref()
}

/// A process of a test, killed at its end with all its children.
struct Guest {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Guest {
    fn start(words: &[&str]) -> Option<Guest> {
        let mut command = Command::new(program()?);
        command.args(words).process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Some(Guest { child, output })
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed()).unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process_group(self.group(), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// A move in which the source's memory is served and the target's paged in.
struct Move {
    source: Guest,
    target: Guest,
    serving: Serving,
    paging: Paging,
}

fn heap(mebibytes: u64) -> Range<u64> {
    HEAP..HEAP + (mebibytes << 20)
}

/// Starts both sides; the target waits for its word to begin.
async fn start(mebibytes: u64, scenario: &str) -> Option<Move> {
    let (size, seed) = (mebibytes.to_string(), scenario.len().to_string());
    let mut source = Guest::start(&["source", &size, &seed])?;
    let mut target = Guest::start(&["target", &size, &seed, scenario])?;
    assert_eq!(source.line(), "ready");
    let number = target.line().strip_prefix("fd ").unwrap().parse().unwrap();
    let fault = Userfault::take(target.child.id(), number).unwrap();
    let offers = Offers::default();
    let offer = PageSource {
        process: source.child.id(),
        needed: vec![HEAP + (5 << 16)..HEAP + (7 << 16), HEAP + (9 << 19)..HEAP + (9 << 19) + 4096],
        rest: vec![heap(mebibytes)],
        first: vec![HEAP + (3 << 19)..HEAP + (4 << 19), HEAP..HEAP + (1 << 19)],
        is_safe: false,
    };
    let serving = offers.offer(ID, NodeId(2), offer);
    let [near, far] = MeshStream::pair(SOURCE, Topic::Processes);
    offers.serve(NodeId(2), PagesHeader { id: ID }, far);
    let mut incoming = Incoming::over(near);
    let memory = GuestMemory::of(target.child.id());
    let put = |address, content: Content<'_>| match content {
        Content::Bytes(bytes) => memory.write(address, bytes),
        Content::Zeros(_) => Ok(()),
    };
    assert_eq!(incoming.stage(put).await, Ok((2 << 16) + 4096));
    let group = target.group();
    let kill = move |_: &Lost| {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    };
    let paging = incoming.page_in(fault, &[heap(mebibytes)], kill).unwrap();
    Some(Move { source, target, serving, paging })
}

/// Plays a scenario to its end, which must be fine, and takes every page over.
async fn play(mebibytes: u64, scenario: &str, is_pushed: bool) -> Option<PagingFigures> {
    let mut the_move = start(mebibytes, scenario).await?;
    if is_pushed {
        the_move.paging.set_running();
    }
    the_move.target.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut target = the_move.target;
    let (said, target) = tokio::task::spawn_blocking(move || {
        let said = target.line();
        let status = target.child.wait().unwrap();
        ((said, status), target)
    })
    .await
    .unwrap();
    assert_eq!(said.0, "fine", "{scenario}, pushed: {is_pushed}, {:?}", the_move.paging.figures());
    assert!(said.1.success());
    the_move.paging.set_running();
    let end = tokio::time::timeout(PATIENCE, the_move.paging.ended()).await.unwrap();
    assert_eq!(end, PagingEnd::Complete);
    let sent = tokio::time::timeout(PATIENCE, the_move.serving.finish()).await.unwrap().unwrap();
    let figures = the_move.paging.figures();
    println!("{scenario}, pushed: {is_pushed}: {figures:?}, {sent:?}");
    drop((the_move.source, target));
    Some(figures)
}

async fn both_ways(mebibytes: u64, scenario: &str) {
    let Some(_) = play(mebibytes, scenario, true).await else { return };
    let demanded = play(mebibytes, scenario, false).await.unwrap();
    assert!(demanded.faults > 0, "nothing was asked for: {demanded:?}");
}

macro_rules! scenarios {
    ($($name:ident: $mebibytes:expr,)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            both_ways($mebibytes, stringify!($name)).await;
        }
    )*};
}

scenarios! {
    threads: 256,
    fork: 16,
    fork_threads: 16,
    dontneed: 32,
    remap: 32,
    kernel: 32,
    storm: 32,
    exec: 32,
    exit: 32,
}

/// Waits for the end of a child of this process.
fn killed_by(pid: Pid) -> Option<i32> {
    let (_, status): (Pid, WaitStatus) = waitpid(Some(pid), WaitOptions::empty()).unwrap()?;
    status.terminating_signal()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lacks_pages_is_killed_when_they_are_lost() {
    let Some(Move { source, mut target, serving, paging }) = start(32, "abandoned").await else {
        return;
    };
    target.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(target.line(), "begun");
    // The source lets go of the frozen process and of its stream.
    drop((serving, source));
    let end = tokio::time::timeout(PATIENCE, paging.ended()).await.unwrap();
    assert_eq!(end, PagingEnd::Lost(Lost::SourceFailed(SOURCE)));
    assert_eq!(killed_by(target.group()), Some(9));
    // Its children, which lack the same pages, are gone too: their ends of the pipe are closed.
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut target.output, &mut rest).unwrap();
    assert_eq!(rest, "");
}

/// Whoever waits for a page, perhaps behind a lock that its guest holds, is not who brings it.
#[tokio::test]
async fn pages_come_while_the_driver_s_own_thread_waits_for_one() {
    let threads = PageThreads::start().unwrap();
    let inside = threads.enter();
    let Some(the_move) = start(8, "exit").await else { return };
    drop(inside);
    let (group, memory) = (the_move.target.group(), GuestMemory::of(the_move.target.child.id()));
    let (came, outcome) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        let is_stuck = outcome.recv_timeout(Duration::from_secs(20)).is_err();
        if is_stuck {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        is_stuck
    });
    // The runtime of this test has this thread only, and it sleeps in the kernel here.
    let read = memory.read(heap(8).end - 4096, &mut [0; 8]);
    let _ = came.send(());
    assert!(!watch.join().unwrap(), "no page came");
    assert_eq!(read, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_source_learns_that_the_target_is_gone() {
    let Some(the_move) = start(8, "exit").await else { return };
    let Move { source, target, mut serving, paging } = the_move;
    kill_process(target.group(), Signal::KILL).unwrap();
    paging.set_running();
    // Its memory is gone: nobody needs anything, which is an orderly end.
    let end = tokio::time::timeout(PATIENCE, paging.ended()).await.unwrap();
    assert_eq!(end, PagingEnd::Complete);
    let sent = tokio::time::timeout(PATIENCE, serving.finish()).await.unwrap();
    assert!(sent.is_ok(), "{sent:?}");
    drop((source, target));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_first_if_it_has_to_be_safe() {
    let Some(mut source) = Guest::start(&["source", "4", "3"]) else { return };
    assert_eq!(source.line(), "ready");
    let offers = Offers::default();
    let needed = HEAP..HEAP + (1 << 20);
    let offer = PageSource {
        process: source.child.id(),
        needed: vec![needed.clone()],
        rest: vec![heap(4)],
        first: Vec::new(),
        is_safe: true,
    };
    let mut serving = offers.offer(ID, NodeId(2), offer);
    let [near, far] = MeshStream::pair(SOURCE, Topic::Processes);
    offers.serve(NodeId(2), PagesHeader { id: ID }, far);
    let mut incoming = Incoming::over(near);
    let mut memory = vec![0_u8; 4 << 20];
    let mut put_bytes = 0;
    let put = |address: u64, content: Content<'_>| {
        let at = usize::try_from(address - HEAP).unwrap();
        match content {
            Content::Bytes(bytes) => {
                memory[at..at + bytes.len()].copy_from_slice(bytes);
                put_bytes += bytes.len() as u64;
            }
            Content::Zeros(_) => assert!(!needed.contains(&address), "needed pages are sent"),
        }
        Ok(())
    };
    let staged = incoming.stage(put).await.unwrap();
    assert_eq!(staged, put_bytes);
    let mut expected = vec![0; 4 << 20];
    GuestMemory::of(source.child.id()).read(HEAP, &mut expected).unwrap();
    assert!(memory == expected, "the copy differs");
    incoming.finish();
    let sent = tokio::time::timeout(PATIENCE, serving.finish()).await.unwrap().unwrap();
    assert_eq!((sent.before, sent.after), (staged, 0));
}

#[tokio::test]
async fn what_is_not_offered_is_not_served() {
    let offers = Offers::default();
    let source = PageSource {
        process: std::process::id(),
        needed: Vec::new(),
        rest: Vec::new(),
        first: Vec::new(),
        is_safe: false,
    };
    let serving = offers.offer(ID, NodeId(2), source);
    let other = MoveId { epoch: 2, ..ID };
    for (from, id) in [(NodeId(3), ID), (NodeId(2), other)] {
        let [near, far] = MeshStream::pair(SOURCE, Topic::Processes);
        offers.serve(from, PagesHeader { id }, far);
        let refused = Incoming::over(near).stage(|_, _| Ok(())).await;
        assert_eq!(refused, Err(incoming::StageError::SourceLeft));
    }
    drop(serving);
    let [near, far] = MeshStream::pair(SOURCE, Topic::Processes);
    offers.serve(NodeId(2), PagesHeader { id: ID }, far);
    let refused = Incoming::over(near).stage(|_, _| Ok(())).await;
    assert_eq!(refused, Err(incoming::StageError::SourceLeft));
}
