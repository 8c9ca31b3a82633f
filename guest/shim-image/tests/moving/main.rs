//! A running process moves into a fresh host process, again and again, and does not notice.
//!
//! The test plays daemon for both ends on this host, with the shim's part of the protocol of
//! `dunix_guest_abi::moving` real: freeze, copy all memory, make threads, resume. What the descriptors
//! of a move need is not tried: programs use standard output only, which both ends share.

mod daemon;

use daemon::{Begin, Event, Fabric, Guest, ParkRecordAt, call, stays};
use dunix_guest_abi::layout::{self, ARRIVAL_STACKS};
use dunix_guest_abi::moving::{
    ARRIVAL_STACK_BYTES, RESUME_PROCESS, SCRIPT_CLONE, SCRIPT_RESUME, ScriptCall,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

const MMAP: u64 = 9;
const MUNMAP: u64 = 11;
const MREMAP: u64 = 25;
const RT_SIGTIMEDWAIT: u64 = 128;
const PRCTL: u64 = 157;
const RT_TGSIGQUEUEINFO: u64 = 297;
/// Where special mappings wait until their places are free.
const ASIDE: u64 = 0x1000_0000_0000;
/// Most calls of one script here.
const BATCH: usize = 1000;
/// Longest wait for a program's first word.
const PATIENCE: Duration = Duration::from_secs(20);

/// A mapping of a process.
#[derive(Clone, Debug)]
struct Mapping {
    range: Range<u64>,
    prot: u64,
    name: String,
}

impl Mapping {
    /// The vDSO and what belongs to it.
    fn is_special(&self) -> bool {
        self.name.starts_with("[v")
    }

    fn is_vsyscall(&self) -> bool {
        self.name == "[vsyscall]"
    }

    fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

fn mappings(pid: u32) -> Vec<Mapping> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let parse = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (start, end) = words[0].split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let bits = words[1].bytes().zip([1, 2, 4]).filter(|(flag, _)| *flag != b'-');
        Mapping {
            range: number(start)..number(end),
            prot: bits.map(|(_, bit)| bit).sum(),
            name: words.get(5).copied().unwrap_or_default().to_owned(),
        }
    };
    text.lines().map(parse).collect()
}

/// Moves a frozen process into a fresh one; returns that.
fn transplant(fabric: &Arc<Fabric>, source: &Guest, threads: &Threads, output: &File) -> Guest {
    let target = Guest::start(fabric, source.pid, &Begin::Arrival, output);
    assert!(matches!(target.event(), Event::Parked { record: 0, .. }));
    let wanted: Vec<Mapping> =
        mappings(source.host_pid()).into_iter().filter(|m| !m.is_vsyscall()).collect();
    clear(&target);
    place_special(&target, &wanted);
    map(&target, &wanted);
    copy(source, &target, &wanted);
    describe_heap(source, &target, &wanted);
    make_threads(source, &target, threads);
    target
}

type Threads = BTreeMap<u32, ParkRecordAt>;

fn run_all(target: &Guest, calls: &[ScriptCall]) {
    for batch in calls.chunks(BATCH) {
        let results = target.run(target.pid, batch);
        for (call, result) in batch.iter().zip(&results) {
            assert!(!(-4095..0).contains(result), "call {} {:x?}: {result}", call.nr, call.args);
        }
        assert_eq!(results.len(), batch.len());
    }
}

fn clear(target: &Guest) {
    let is_cleared = |m: &Mapping| !m.is_special() && !stays(m.range.start);
    let all = mappings(target.host_pid());
    let calls: Vec<ScriptCall> = all
        .iter()
        .filter(|m| is_cleared(m))
        .map(|m| call(MUNMAP, &[m.range.start, m.bytes()]))
        .collect();
    run_all(target, &calls);
}

fn place_special(target: &Guest, wanted: &[Mapping]) {
    let here = mappings(target.host_pid());
    let mut calls = Vec::new();
    for special in here.iter().filter(|m| m.is_special() && !m.is_vsyscall()) {
        let aside = ASIDE + (special.range.start & 0xfff_ffff);
        calls
            .push(call(MREMAP, &[special.range.start, special.bytes(), special.bytes(), 3, aside]));
    }
    for special in here.iter().filter(|m| m.is_special() && !m.is_vsyscall()) {
        let aside = ASIDE + (special.range.start & 0xfff_ffff);
        let place = wanted.iter().find(|m| m.name == special.name).unwrap();
        assert_eq!(place.bytes(), special.bytes());
        let bytes = special.bytes();
        calls.push(call(MREMAP, &[aside, bytes, bytes, 3, place.range.start]));
    }
    run_all(target, &calls);
}

fn is_moved(mapping: &Mapping) -> bool {
    !mapping.is_special() && !stays(mapping.range.start)
}

fn map(target: &Guest, wanted: &[Mapping]) {
    const PRIVATE_ANONYMOUS_FIXED_NORESERVE: u64 = 2 | 0x20 | 0x10 | 0x4000;
    let mut calls = Vec::new();
    for mapping in wanted.iter().filter(|m| is_moved(m)) {
        let (start, bytes) = (mapping.range.start, mapping.bytes());
        let flags = PRIVATE_ANONYMOUS_FIXED_NORESERVE;
        calls.push(call(MMAP, &[start, bytes, mapping.prot, flags, u64::MAX, 0]));
    }
    run_all(target, &calls);
}

fn copy(source: &Guest, target: &Guest, wanted: &[Mapping]) {
    const PAGE: usize = 4096;
    let memory = |guest: &Guest, write: bool| {
        let path = format!("/proc/{}/mem", guest.host_pid());
        File::options().read(true).write(write).open(path).unwrap()
    };
    let (from, to) = (memory(source, false), memory(target, true));
    let present = File::open(format!("/proc/{}/pagemap", source.host_pid())).unwrap();
    let mut bits = [0; 8];
    let mut page = [0; PAGE];
    for mapping in wanted.iter().filter(|m| is_moved(m)) {
        for at in mapping.range.clone().step_by(PAGE) {
            present.read_exact_at(&mut bits, at / PAGE as u64 * 8).unwrap();
            let is_file = mapping.name.starts_with('/');
            if bits[7] & 0xc0 == 0 && !is_file {
                continue;
            }
            // Pages of a file beyond its end cannot be read.
            if from.read_exact_at(&mut page, at).is_ok() {
                to.write_all_at(&page, at).unwrap();
            }
        }
    }
}

/// Where the heap ends, as brk(2) has it.
fn describe_heap(source: &Guest, target: &Guest, wanted: &[Mapping]) {
    const PR_SET_MM: u64 = 35;
    const PR_SET_MM_MAP: u64 = 14;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", source.host_pid())).unwrap();
    let rest: Vec<u64> = stat[stat.rfind(')').unwrap() + 2..]
        .split_whitespace()
        .map(|word| word.parse().unwrap_or(0))
        .collect();
    // Fields as proc(5) counts them; the third comes first here.
    let field = |number: usize| rest[number - 3];
    let heap = wanted.iter().find(|m| m.name == "[heap]");
    let end = heap.map_or(field(47), |heap| heap.range.end);
    let map: [u64; 13] = [
        field(26),
        field(27),
        field(45),
        field(46),
        field(47),
        end,
        field(28),
        field(48),
        field(49),
        field(50),
        field(51),
        0,
        u64::from(u32::MAX) << 32,
    ];
    let bytes: Vec<u8> = map.iter().flat_map(|word| word.to_le_bytes()).collect();
    target.memory().write(layout::SCRIPT_DATA, &bytes).unwrap();
    let args = [PR_SET_MM, PR_SET_MM_MAP, layout::SCRIPT_DATA, bytes.len() as u64];
    run_all(target, &[call(PRCTL, &args)]);
}

fn make_threads(source: &Guest, target: &Guest, threads: &Threads) {
    let mut is_first = true;
    let mut resume = |tid: u32, host_tid: u64, thread: &ParkRecordAt| {
        move_signals(source, target, tid, host_tid);
        let flags = if std::mem::take(&mut is_first) { RESUME_PROCESS } else { 0 };
        let results = target.run(tid, &[call(SCRIPT_RESUME, &[thread.address, flags])]);
        assert_eq!(results, [0]);
    };
    for (tid, thread) in threads.iter().filter(|(tid, _)| **tid != target.pid) {
        let stack = ARRIVAL_STACKS + 2 * ARRIVAL_STACK_BYTES;
        let clone = call(SCRIPT_CLONE, &[u64::from(*tid), 0, stack]);
        let host_tid = target.clone_thread(&clone, *tid);
        resume(*tid, host_tid, thread);
    }
    resume(target.pid, u64::from(target.host_pid()), &threads[&target.pid]);
}

/// Takes the signals that wait for a thread and queues them to its successor.
fn move_signals(source: &Guest, target: &Guest, tid: u32, host_tid: u64) {
    const SET: u64 = layout::SCRIPT_DATA;
    const TIMEOUT: u64 = SET + 8;
    const INFO: u64 = SET + 64;
    let own = u64::from(target.host_pid());
    loop {
        source.memory().write(SET, &u64::MAX.to_le_bytes()).unwrap();
        source.memory().write(TIMEOUT, &[0; 16]).unwrap();
        let signal = source.run(tid, &[call(RT_SIGTIMEDWAIT, &[SET, INFO, TIMEOUT, 8])])[0];
        let Ok(signal) = u64::try_from(signal) else { return };
        let mut info = [0; 128];
        source.memory().read(INFO, &mut info).unwrap();
        target.memory().write(INFO, &info).unwrap();
        let results = target.run(tid, &[call(RT_TGSIGQUEUEINFO, &[own, host_tid, signal, INFO])]);
        assert_eq!(results, [0]);
    }
}

/// Runs a program natively: its output and status.
fn native(words: &[&str]) -> (String, ExitStatus) {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env_clear().envs([("LC_ALL", "C"), ("PATH", "/usr/bin:/bin")]);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status)
}

/// Runs a program that moves every `pause` from its first output to its end, and compares with native.
fn moves(words: &[&str], pause: Duration, moves_least: usize) {
    let (expected, status) = native(words);
    let fabric = Fabric::new();
    let path = format!("{}/moving-{}", env!("CARGO_TARGET_TMPDIR"), fabric.new_tid());
    let mut output =
        File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    let written = inotify::init(CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&written, &path, WatchFlags::MODIFY).unwrap();
    std::fs::remove_file(&path).unwrap();
    let pid = fabric.new_tid();
    let mut guest = Guest::start(&fabric, pid, &Begin::Program(words), &output);
    let mut moved = 0;
    let patience = Timespec::try_from(PATIENCE).unwrap();
    let said = poll(&mut [PollFd::new(&written, PollFlags::IN)], Some(&patience)).unwrap();
    assert_eq!(said, 1, "the program says nothing");
    let found = loop {
        std::thread::sleep(pause);
        let Some(threads) = guest.freeze() else { break guest.wait() };
        let next = transplant(&fabric, &guest, &threads, &output);
        guest = next;
        guest.thaw();
        moved += 1;
    };
    let mut text = String::new();
    output.rewind().unwrap();
    output.read_to_string(&mut text).unwrap();
    assert_eq!((text, found), (expected, status), "after {moved} moves");
    assert!(moved >= moves_least, "it moved {moved} times only");
}

/// Builds one of the checkers in `guest/programs`.
fn checker(name: &str) -> Option<String> {
    let source = format!("{}/../programs/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let program = format!("{}/moving-{name}", env!("CARGO_TARGET_TMPDIR"));
    let built = Command::new("gcc")
        .args(["-O1", "-w", "-pthread", "-o", &program, &source])
        .status()
        .inspect_err(|_| eprintln!("skipped: no gcc here"))
        .ok()?;
    assert!(built.success());
    Some(program)
}

#[test]
fn a_c_program_with_threads() {
    let Some(program) = checker("moved") else { return };
    moves(&[&program], Duration::from_millis(20), 10);
}

#[test]
fn python_with_threads() {
    const PROGRAM: &str = "
import threading, hashlib
print('ready', flush=True)
sums = [0] * 4
def work(n):
    h = hashlib.sha256(b'%d' % n)
    for i in range(400000):
        sums[n] = (sums[n] * 31 + i * n) % 1000003
        if i % 1000 == 0: h.update(b'%d' % sums[n])
    print(n, sums[n], h.hexdigest(), flush=True) if n == 0 else None
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
print(sums, sum(1.1 ** i for i in range(1000)))
";
    if !std::path::Path::new("/usr/bin/python3").exists() {
        eprintln!("skipped: no python3 here");
        return;
    }
    moves(&["/usr/bin/python3", "-c", PROGRAM], Duration::from_millis(20), 3);
}
