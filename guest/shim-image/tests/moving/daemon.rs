//! A daemon for one test: answers the doorbells of its guests, freezes them, and runs scripts in them.

use dunix_guest_abi::arena::{ARENA_BYTES, SLOT_PARK, Slot};
use dunix_guest_abi::doorbell::*;
use dunix_guest_abi::layout::{SCRIPT_CALLS, SCRIPT_START};
use dunix_guest_abi::moving::{CALL_STOP_ON_ERROR, ParkRecord, ScriptCall, ScriptHeader};
use dunix_guest_abi::signal::MOVE_SIGNAL;
use dunix_guest_abi::{ABI_VERSION, layout};
use dunix_linux::arena::Arena;
use dunix_linux::guest_memory::{GuestMemory, plain_bytes};
use dunix_linux::seccomp::{Listener, Notification};
use dunix_linux::{scm, signal};
use rustix::thread::futex;
use std::collections::BTreeMap;
use std::fs::File;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Longest wait for anything that a guest does.
const PATIENCE: Duration = Duration::from_secs(20);
const EAGAIN: i64 = -11;
const ECHILD: i64 = -10;

/// What a guest said of a move.
#[derive(Debug)]
pub(crate) enum Event {
    Parked { tid: u32, record: u64, flags: u64 },
    ScriptDone { tid: u32, done: u32 },
}

/// What all guests of a test share: the arena, and numbers that nobody has yet.
pub(crate) struct Fabric {
    arena: Arena,
    next_slot: AtomicU32,
    next_tid: AtomicU32,
}

impl Fabric {
    pub(crate) fn new() -> Arc<Fabric> {
        let arena = Arena::new("test", ARENA_BYTES).unwrap();
        Arc::new(Fabric {
            arena,
            next_slot: AtomicU32::new(0),
            next_tid: AtomicU32::new(4_000_000),
        })
    }

    fn word(&self, slot: u32, offset: usize) -> &AtomicU32 {
        self.arena.word((slot as usize * size_of::<Slot>() + offset) / 4).unwrap()
    }

    pub(crate) fn new_tid(&self) -> u32 {
        self.next_tid.fetch_add(1, Ordering::Relaxed)
    }
}

/// How a guest begins.
pub(crate) enum Begin<'a> {
    /// With this program and its arguments.
    Program(&'a [&'a str]),
    /// As a process that moves here.
    Arrival,
}

/// A host process with the shim.
pub(crate) struct Guest {
    fabric: Arc<Fabric>,
    child: Child,
    pub(crate) pid: u32,
    pub(crate) slot: u32,
    events: Receiver<Event>,
}

fn shim() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        use std::os::unix::fs::PermissionsExt;
        let path = format!("{}/moving-shim", env!("CARGO_TARGET_TMPDIR"));
        // Another run of this test may be executing the one that is there.
        let new = format!("{path}-{}", std::process::id());
        std::fs::write(&new, dunix_shim_image::SHIM).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(new, &path).unwrap();
        path
    })
}

impl Guest {
    /// Starts a host process whose standard output is `output`.
    pub(crate) fn start(fabric: &Arc<Fabric>, pid: u32, begin: &Begin<'_>, output: &File) -> Guest {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let slot = fabric.next_slot.fetch_add(1, Ordering::Relaxed);
        let (words, flags): (&[&str], u32) = match begin {
            Begin::Program(words) => (words, 0),
            Begin::Arrival => (&["arrival"], START_ARRIVAL),
        };
        if flags != 0 {
            fabric.word(slot, offset_of!(Slot, flags)).store(SLOT_PARK, Ordering::Release);
        }
        let mut command = Command::new(shim());
        command.arg0(words[0]).args(&words[1..]);
        command.env_clear().envs([("LC_ALL", "C"), ("PATH", "/usr/bin:/bin")]);
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap());
        let (ours, theirs) = scm::packet_pair().unwrap();
        let guard = ONE_AT_A_TIME.lock().unwrap();
        let boot = rustix::io::fcntl_dupfd_cloexec(&theirs, BOOT_FD).unwrap();
        assert_eq!(boot.as_raw_fd(), BOOT_FD, "somebody else has the boot socket's number");
        rustix::io::fcntl_setfd(&boot, rustix::io::FdFlags::empty()).unwrap();
        let child = command.spawn().unwrap();
        drop((boot, theirs, guard));
        let mut byte = [0];
        let (_, fds) = scm::receive(ours.as_fd(), &mut byte, true).unwrap();
        let listener = Listener::try_from_fd(fds.into_iter().next().unwrap()).unwrap();
        let (sender, events) = channel();
        let server =
            Server { fabric: fabric.clone(), program: words[0].into(), pid, slot, flags, sender };
        std::thread::spawn(move || server.serve(&listener));
        Guest { fabric: fabric.clone(), child, pid, slot, events }
    }

    pub(crate) fn host_pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn memory(&self) -> GuestMemory {
        GuestMemory::of(self.host_pid())
    }

    pub(crate) fn event(&self) -> Event {
        self.events.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            let pid = self.host_pid();
            panic!("the guest says nothing: {}", threads(pid))
        })
    }

    /// Freezes it; the address of each thread's record. `None` if it has ended.
    pub(crate) fn freeze(&mut self) -> Option<BTreeMap<u32, ParkRecordAt>> {
        self.word(offset_of!(Slot, park_epoch)).fetch_add(1, Ordering::AcqRel);
        self.word(offset_of!(Slot, flags)).fetch_or(SLOT_PARK, Ordering::AcqRel);
        let deadline = Instant::now() + PATIENCE;
        let mut parked = BTreeMap::new();
        let mut signalled = std::collections::BTreeSet::new();
        loop {
            let tasks = tasks(self.host_pid());
            if self.child.try_wait().unwrap().is_some() {
                return None;
            }
            for tid in &tasks {
                if signalled.insert(*tid) {
                    let _ = signal::send_to_thread(self.host_pid(), *tid, MOVE_SIGNAL as i32);
                }
            }
            while let Ok(event) = self.events.try_recv() {
                let Event::Parked { tid, record, flags } = event else { panic!("{event:?}") };
                assert_eq!(flags, 0);
                let record = ParkRecordAt {
                    address: record,
                    record: self.memory().read_plain::<ParkRecord>(record).unwrap(),
                };
                assert_eq!(record.record.tid, tid);
                assert!(parked.insert(tid, record).is_none(), "parked twice");
            }
            // One that was listed may have made another before it parked.
            if parked.len() == tasks.len() && self::tasks(self.host_pid()) == tasks {
                return Some(parked);
            }
            assert!(Instant::now() < deadline, "threads do not park: {}", threads(self.host_pid()));
            // A thread that ends instead of parking rings no bell.
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    pub(crate) fn thaw(&self) {
        self.word(offset_of!(Slot, flags)).fetch_and(!SLOT_PARK, Ordering::AcqRel);
        self.advance();
    }

    /// Runs calls in a parked or arriving thread; their results.
    pub(crate) fn run(&self, owner: u32, calls: &[ScriptCall]) -> Vec<i64> {
        self.publish(owner, calls);
        match self.event() {
            Event::ScriptDone { tid, done } => {
                assert_eq!(tid, owner);
                (0..done).map(|index| self.result(index as usize)).collect()
            }
            other => panic!("{other:?} instead of a script's end"),
        }
    }

    /// Makes a thread in arrival mode and waits until it serves; its number on the host.
    pub(crate) fn clone_thread(&self, clone: &ScriptCall, tid: u32) -> u64 {
        self.publish(self.pid, std::slice::from_ref(clone));
        // The two rings come in any order.
        for _ in 0..2 {
            match self.event() {
                Event::Parked { tid: new, record: 0, .. } => assert_eq!(new, tid),
                Event::ScriptDone { tid, done: 1 } if tid == self.pid => {}
                other => panic!("{other:?} at a clone"),
            }
        }
        u64::try_from(self.result(0)).unwrap()
    }

    pub(crate) fn result(&self, index: usize) -> i64 {
        let at = SCRIPT_CALLS + (index * size_of::<ScriptCall>()) as u64;
        self.memory().read_plain::<ScriptCall>(at).unwrap().result
    }

    fn publish(&self, owner: u32, calls: &[ScriptCall]) {
        let bytes: Vec<u8> = calls.iter().flat_map(|call| plain_bytes(call).to_vec()).collect();
        self.memory().write(SCRIPT_CALLS, &bytes).unwrap();
        let header = ScriptHeader {
            owner,
            serial: self.word(offset_of!(Slot, command_seq)).load(Ordering::Acquire) + 1,
            count: u32::try_from(calls.len()).unwrap(),
            done: 0,
            finished: 0,
            slot: self.slot,
            flags: 0,
            reserved: 0,
            remote_fds: [0; REMOTE_FD_WORDS],
        };
        self.memory().write_plain(SCRIPT_START, &header).unwrap();
        self.advance();
    }

    /// Waits for its end; its wait status.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        self.fabric.word(self.slot, offset)
    }

    fn advance(&self) {
        let word = self.word(offset_of!(Slot, command_seq));
        word.fetch_add(1, Ordering::AcqRel);
        let _ = futex::wake(word, futex::Flags::empty(), i32::MAX.cast_unsigned());
    }
}

/// No guest outlives its test.
impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A parked thread.
#[derive(Clone, Copy)]
pub(crate) struct ParkRecordAt {
    pub(crate) address: u64,
    pub(crate) record: ParkRecord,
}

pub(crate) fn call(nr: u64, args: &[u64]) -> ScriptCall {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    ScriptCall { nr, args: all, result: 0, flags: CALL_STOP_ON_ERROR }
}

fn tasks(pid: u32) -> Vec<u32> {
    let Ok(folder) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    folder.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// What the threads of a process do, for messages.
pub(crate) fn threads(pid: u32) -> String {
    let read = |tid, name| std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/{name}"));
    let mut text = String::new();
    for tid in tasks(pid) {
        let lines = read(tid, "status").unwrap_or_default();
        let of = |key| lines.lines().find(|line| line.starts_with(key)).unwrap_or("").to_owned();
        let call = read(tid, "syscall").unwrap_or_default();
        text += &format!("\n{tid} {} {} {call}", of("State"), of("SigPnd"));
    }
    text
}

/// Answers one guest's doorbell.
struct Server {
    fabric: Arc<Fabric>,
    program: String,
    pid: u32,
    slot: u32,
    flags: u32,
    sender: Sender<Event>,
}

impl Server {
    fn serve(&self, listener: &Listener) {
        loop {
            match listener.receive() {
                Ok(notification) => {
                    let answer = self.answer(listener, &notification);
                    let _ = listener.answer(notification.id, answer);
                }
                Err(dunix_linux::Errno::INTR) => {}
                Err(dunix_linux::Errno::NOENT) if !is_over(listener) => {}
                Err(_) => return,
            }
        }
    }

    fn answer(&self, listener: &Listener, ring: &Notification) -> i64 {
        let number = |index: usize| u32::try_from(ring.args[index]).unwrap_or(u32::MAX);
        match ring.args[0] {
            OP_START => self.begin(listener, ring),
            OP_THREAD_PREPARE => i64::from(self.fabric.new_tid()),
            OP_FORK_PREPARE => EAGAIN,
            OP_WAIT => ECHILD,
            OP_GETPPID | OP_GETPGID | OP_GETSID => 1,
            OP_PARKED => {
                let (record, flags) = (ring.args[2], ring.args[3]);
                self.say(Event::Parked { tid: number(1), record, flags })
            }
            OP_SCRIPT_DONE => self.say(Event::ScriptDone { tid: number(1), done: number(2) }),
            _ => 0,
        }
    }

    fn say(&self, event: Event) -> i64 {
        let _ = self.sender.send(event);
        0
    }

    fn begin(&self, listener: &Listener, ring: &Notification) -> i64 {
        let exe = File::open(&self.program).ok();
        let exe_fd = exe.map_or(-1, |exe| listener.add_fd(ring.id, exe.as_fd()).unwrap());
        let mut info = StartInfo {
            version: ABI_VERSION,
            pid: self.pid,
            slot: self.slot,
            flags: self.flags,
            exe_fd,
            arena_fd: -1,
            remote_fds: [0; REMOTE_FD_WORDS],
            signals_ignored: 0,
            paths: [0; 2 * PATH_BYTES],
        };
        // Both paths are the program's.
        let bytes = self.program.len();
        for at in [0, bytes + 1] {
            info.paths[at..at + bytes].copy_from_slice(self.program.as_bytes());
        }
        GuestMemory::of(ring.tid).write_plain(ring.args[1], &info).unwrap();
        listener.add_fd(ring.id, self.fabric.arena.as_fd()).unwrap().into()
    }
}

/// Whether nobody is left under the filter.
fn is_over(listener: &Listener) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    let none = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&none)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
}

/// The reserved range, of which only a part moves.
pub(crate) fn stays(start: u64) -> bool {
    let ranges = [
        layout::TEXT_START..layout::TEXT_END,
        layout::ARENA_START..layout::ARENA_START + ARENA_BYTES as u64,
        layout::SCRIPT_START..layout::ARRIVAL_END,
    ];
    ranges.iter().any(|range| range.contains(&start))
}
