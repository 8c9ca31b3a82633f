//! Moving a running process: how long it stands still, what goes before and after it runs again, and
//! when its last page has arrived.
//!
//! Beside it, of the same run, what a move is made of: waking a thread on another CPU, and copying
//! memory. Each program checks its own heap as it goes from node to node, and all of it at the end.

use super::stats::{Ratio, Series};
use crate::{
    fabric::Fabric,
    interrupt,
    packages::{self, CC},
    source::Scratch,
};
use anyhow::{Context, Result, bail, ensure};
use rustix::{
    io::{read, write},
    pipe::pipe,
    thread::{CpuSet, sched_setaffinity},
};
use serde_json::Value;
use std::{
    hint::black_box,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, ChildStdout, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Moves of each program; the first is not counted.
const MOVES: usize = 31;
/// Between two moves, so that each finds a program at work and not one that has just arrived.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a move is asked for again that is refused for what will pass.
const ATTEMPTS_MAX: usize = 50;

/// Round trips between two CPUs.
const ROUND_TRIPS: usize = 3000;
/// Bytes and times of the copies.
const COPY_BYTES: usize = 64 << 20;
const COPIES: usize = 15;

const MEBIBYTE: f64 = (1 << 20) as f64;

/// A heap of `MIB`, of which a thread looks at 64 KiB each 5 ms, and all at the end of its input.
const PYTHON: &str = "
import os, sys, threading, time, zlib
heap = [bytearray(os.urandom(4096)) * 16 for _ in range(int(sys.argv[1]) * 16)]
sums = [zlib.crc32(part) for part in heap]
def look():
    i = 0
    while True:
        i = (i + 7) % len(heap)
        if zlib.crc32(heap[i]) != sums[i]: print('bad', flush=True); os._exit(1)
        time.sleep(0.005)
threading.Thread(target=look, daemon=True).start()
print(os.getpid(), flush=True)
sys.stdin.read()
print('fine' if [zlib.crc32(part) for part in heap] == sums else 'bad', flush=True)
";

/// The same in small: a heap of 64 KiB and a thread that counts.
const SMALL: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
static volatile long count;
static unsigned char *heap;
static void *work(void *p) { for (;;) { count++; usleep(1000); } return p; }
int main(void) {
    heap = malloc(65536);
    for (int i = 0; i < 65536; i++) heap[i] = (unsigned char)(i * 7 + 1);
    pthread_t thread;
    if (pthread_create(&thread, 0, work, 0)) return 1;
    printf("%d\n", getpid());
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0) {}
    for (int i = 0; i < 65536; i++) if (heap[i] != (unsigned char)(i * 7 + 1)) return 1;
    puts("fine");
    return 0;
}
"#;

/// What one program's moves cost.
struct Costs {
    name: &'static str,
    frozen: Series,
    last_page: Series,
    before: Series,
    after: Series,
    refused: usize,
}

pub(super) fn measure(binaries: &Path, scratch: &Scratch) -> Result<Vec<Ratio>> {
    packages::ensure(&[CC])?;
    println!("\na running process from node to node and back, {} moves each", MOVES - 1);
    let small = compile(scratch)?;
    let fabric = Fabric::start(binaries, "bench-move", 2, &[])?;
    let programs: [(&'static str, Vec<&str>); 3] = [
        ("C, 2 threads", vec![&small]),
        ("python3, 10 MB heap", vec!["python3", "-c", PYTHON, "10"]),
        ("python3, 256 MB heap", vec!["python3", "-c", PYTHON, "256"]),
    ];
    let mut all = Vec::new();
    for (name, words) in programs {
        let costs = moves(&fabric, name, &words)?;
        costs.print();
        all.push(costs);
    }
    let (wake_up, copy) = (wake_up()?, copy()?);
    println!("{wake_up}\n{copy}");
    ratios(&all, &wake_up, &copy)
}

fn ratios(all: &[Costs], wake_up: &Series, copy: &Series) -> Result<Vec<Ratio>> {
    let [small, python, large] = all else { bail!("three programs") };
    let wake_ups =
        |what, costs: &Costs| Ratio::of(what, costs.frozen.median() * 1e3 / wake_up.median());
    let speed =
        (large.before.median() + large.after.median()) / 1024.0 / (large.last_page.median() / 1e3);
    Ok(vec![
        wake_ups("freeze of a small C program / waking another CPU", small),
        wake_ups("freeze of python3, 10 MB / waking another CPU", python),
        wake_ups("freeze of python3, 256 MB / waking another CPU", large),
        Ratio::new("freeze of python3, 256 MB / 10 MB", &large.frozen, &python.frozen),
        Ratio::of("pages of 256 MB, GiB/s / copying memory", speed / copy.median()),
    ])
}

impl Costs {
    fn new(name: &'static str) -> Costs {
        Costs {
            name,
            frozen: Series::new("  stands still", "ms"),
            last_page: Series::new("  until its last page is there", "ms"),
            before: Series::new("  sent before it runs", "MiB"),
            after: Series::new("  sent after", "MiB"),
            refused: 0,
        }
    }

    fn push(&mut self, moved: &Value) -> Result<()> {
        let number = |name: &str| {
            moved[name].as_f64().with_context(|| format!("no {name} in the answer: {moved}"))
        };
        self.frozen.push(number("frozen_us")? / 1e3);
        self.last_page.push(number("total_us")? / 1e3);
        self.before.push(number("bytes_before")? / MEBIBYTE);
        self.after.push(number("bytes_after")? / MEBIBYTE);
        Ok(())
    }

    fn print(&self) {
        println!(" {} ({} refused for the moment and asked again)", self.name, self.refused);
        for series in [&self.frozen, &self.last_page] {
            println!("{series}  p95 {:.3}", series.percentile(0.95));
        }
        println!("{}\n{}", self.before, self.after);
    }
}

fn compile(scratch: &Scratch) -> Result<String> {
    let (source, program) = (scratch.path().join("small.c"), scratch.path().join("small"));
    std::fs::write(&source, SMALL)?;
    let mut compiler = std::process::Command::new("cc");
    compiler.args(["-O1", "-pthread", "-o"]).arg(&program).arg(&source);
    interrupt::output(&mut compiler).context("cc")?;
    Ok(program.to_string_lossy().into_owned())
}

/// A program in the fabric; dropped, it is killed.
struct Guest {
    client: Child,
    output: BufReader<ChildStdout>,
    pid: String,
}

impl Guest {
    fn start(fabric: &Fabric, words: &[&str]) -> Result<Guest> {
        let mut command = fabric.dunix(&[&["run", "--node", "n1", "--"], words].concat());
        let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = client.stdout.take().context("its output is piped")?;
        let mut guest = Guest { client, output: BufReader::new(output), pid: String::new() };
        let mut line = String::new();
        guest.output.read_line(&mut line)?;
        guest.pid = line.trim().to_owned();
        ensure!(guest.pid.parse::<u32>().is_ok(), "the program did not start: {line}");
        Ok(guest)
    }

    /// Ends its input; it says whether its heap is what it was.
    fn finish(mut self) -> Result<()> {
        drop(self.client.stdin.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest)?;
        interrupt::wait(&mut self.client)?;
        ensure!(rest.trim() == "fine", "after its moves the program says {rest:?}");
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

fn moves(fabric: &Fabric, name: &'static str, words: &[&str]) -> Result<Costs> {
    let guest = Guest::start(fabric, words)?;
    let mut costs = Costs::new(name);
    for number in 0..MOVES {
        interrupt::sleep(PAUSE)?;
        let to = if number % 2 == 0 { "n2" } else { "n1" };
        let moved = move_to(fabric, &guest.pid, to, &mut costs.refused)?;
        // The first one fills caches everywhere.
        if number > 0 {
            costs.push(&moved)?;
        }
    }
    guest.finish()?;
    Ok(costs)
}

/// Moves it, however often that takes; what a move refuses may pass.
fn move_to(fabric: &Fabric, pid: &str, node: &str, refused: &mut usize) -> Result<Value> {
    for _ in 0..ATTEMPTS_MAX {
        let output = fabric.dunix(&["move", pid, node, "--json"]).output().context("dunix move")?;
        interrupt::check()?;
        let outcome: Value = serde_json::from_slice(&output.stdout).with_context(|| {
            format!("dunix move says: {}", String::from_utf8_lossy(&output.stderr))
        })?;
        if !outcome["Moved"].is_null() {
            return Ok(outcome["Moved"].clone());
        }
        ensure!(outcome["Refused"]["gone"] != true, "the program is gone: {outcome}");
        *refused += 1;
        interrupt::sleep(PAUSE)?;
    }
    bail!("a move was refused {ATTEMPTS_MAX} times")
}

/// Wakes a thread on another CPU and is woken by it; half of the round trip.
fn wake_up() -> Result<Series> {
    let (there_read, there_write) = pipe()?;
    let (back_read, back_write) = pipe()?;
    let echo = thread::spawn(move || {
        pin(1);
        let mut byte = [0];
        while matches!(read(&there_read, &mut byte), Ok(1)) {
            if write(&back_write, &byte) != Ok(1) {
                return;
            }
        }
    });
    let measuring = thread::spawn(move || -> Result<Series> {
        pin(0);
        let mut series = Series::new(" waking a thread on another CPU", "us");
        for _ in 0..ROUND_TRIPS {
            let start = Instant::now();
            write(&there_write, &[1])?;
            read(&back_read, &mut [0])?;
            series.push(start.elapsed().as_secs_f64() * 1e6 / 2.0);
        }
        Ok(series)
    });
    let series = measuring.join().map_err(|_| anyhow::anyhow!("the measuring thread failed"))?;
    let _ = echo.join();
    series
}

/// Where there is one CPU only, both threads share it.
fn pin(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    let _ = sched_setaffinity(None, &cpus);
}

/// Copies memory that is in place already.
fn copy() -> Result<Series> {
    let from = vec![7_u8; COPY_BYTES];
    let mut to = vec![1_u8; COPY_BYTES];
    let mut series = Series::new(" copying memory", "GiB/s");
    for _ in 0..COPIES {
        interrupt::check()?;
        let start = Instant::now();
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
        series.push(COPY_BYTES as f64 / (1 << 30) as f64 / start.elapsed().as_secs_f64());
    }
    Ok(series)
}
