//! What all threads of a process share: signal actions, identity, which descriptors are special.
//!
//! A child that shares its parent's memory (vfork) gets a [`Process`] of its own, in its thread's
//! slot, so that what it changes before exec stays its own. Signal actions are the parent's as well if the
//! child was made so (`CLONE_SIGHAND`).

use crate::arch::fast;
use crate::calls::cpu_time::Spent;
use crate::calls::flock::Grants;
use crate::children::Children;
use crate::host;
use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use dunix_guest_abi::doorbell::{PATH_BYTES, REMOTE_FD_WORDS};
use dunix_shim_core::signal::{SIGNAL_MAX, SigSet};

/// A guest's `struct sigaction`, as the kernel's interface has it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Action {
    pub(crate) handler: u64,
    pub(crate) flags: u64,
    pub(crate) restorer: u64,
    pub(crate) mask: SigSet,
}

impl Action {
    pub(crate) const DEFAULT: Action =
        Action { handler: host::SIG_DFL, flags: 0, restorer: 0, mask: SigSet::EMPTY };
}

/// A lock for a handful of instructions. Holders run with signals blocked and never wait.
pub(crate) struct Lock(AtomicU32);

impl Lock {
    pub(crate) const fn new() -> Lock {
        Lock(AtomicU32::new(0))
    }

    pub(crate) fn acquire(&self) {
        while self.0.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            host::yield_now();
        }
    }

    pub(crate) fn release(&self) {
        self.0.store(0, Ordering::Release);
    }
}

/// One bit for each of the descriptors 0..1024.
pub(crate) struct Descriptors {
    words: [AtomicU64; REMOTE_FD_WORDS],
    /// Calls on these are not as plain as the fast path takes calls for.
    is_special: bool,
}

impl Descriptors {
    pub(crate) const fn new() -> Descriptors {
        Descriptors { words: [const { AtomicU64::new(0) }; REMOTE_FD_WORDS], is_special: false }
    }

    /// A set of descriptors that the fast path is to look at.
    pub(crate) const fn special() -> Descriptors {
        Descriptors { is_special: true, ..Descriptors::new() }
    }

    fn word(&self, fd: i32) -> Option<(&AtomicU64, u64)> {
        let fd = usize::try_from(fd).ok()?;
        Some((self.words.get(fd / 64)?, 1 << (fd % 64)))
    }

    pub(crate) fn has(&self, fd: i32) -> bool {
        self.word(fd).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    pub(crate) fn insert(&self, fd: i32) {
        if let Some((word, bit)) = self.word(fd) {
            if self.is_special {
                fast::note_special(fd);
            }
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Removes `fd` and tells whether it was there.
    pub(crate) fn remove(&self, fd: i32) -> bool {
        self.has(fd)
            && self
                .word(fd)
                .is_some_and(|(word, bit)| word.fetch_and(!bit, Ordering::Relaxed) & bit != 0)
    }

    pub(crate) fn words(&self) -> [u64; REMOTE_FD_WORDS] {
        core::array::from_fn(|index| self.words[index].load(Ordering::Relaxed))
    }

    pub(crate) fn set_words(&self, words: &[u64; REMOTE_FD_WORDS]) {
        for (word, value) in self.words.iter().zip(words) {
            word.store(*value, Ordering::Relaxed);
        }
        if self.is_special && words.iter().any(|word| *word != 0) {
            (0..)
                .take(REMOTE_FD_WORDS * 64)
                .filter(|fd| self.has(*fd))
                .for_each(fast::note_special);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| word.load(Ordering::Relaxed) == 0)
    }
}

/// The state of one guest process.
#[repr(C)]
pub(crate) struct Process {
    /// PID of the fabric (of the host when solo).
    pub(crate) pid: AtomicU32,
    /// Index of the process's slot in the arena.
    pub(crate) slot: AtomicU32,
    /// Guards `actions`; held across fork, so that the child finds it free.
    pub(crate) lock: Lock,
    actions: UnsafeCell<[Action; SIGNAL_MAX as usize + 1]>,
    /// The actions are those of [`PROCESS`].
    shares_actions: AtomicBool,
    /// What the daemon was told SIGCHLD means ([`OP_CHILD_POLICY`](dunix_guest_abi::doorbell::OP_CHILD_POLICY)).
    pub(crate) child_policy: AtomicU64,
    /// Descriptors whose offset or queue lives at another node.
    pub(crate) remote: Descriptors,
    /// Descriptors opened since the last fork: their offset is shared with nobody.
    pub(crate) private: Descriptors,
    /// Files that this node's descriptions may lock.
    pub(crate) grants: Grants,
    /// Descriptors of signalfd(2): what is read there names the fabric's codes.
    pub(crate) signalfds: Descriptors,
    /// Descriptors that are no files: an epoll set may have them.
    pub(crate) watchable: Descriptors,
    /// CPU time that it used at other nodes.
    pub(crate) spent: Spent,
    /// What waits would find.
    pub(crate) children: Children,
    /// `struct rusage` of waited-for children, summed by the shim (with a daemon).
    pub(crate) children_usage: UnsafeCell<[u64; 18]>,
}

// SAFETY: `actions` and `children_usage` are used under `lock` only; the rest is atomic.
unsafe impl Sync for Process {}

impl Process {
    pub(crate) const fn new() -> Process {
        Process {
            pid: AtomicU32::new(0),
            slot: AtomicU32::new(0),
            lock: Lock::new(),
            actions: UnsafeCell::new([Action::DEFAULT; SIGNAL_MAX as usize + 1]),
            shares_actions: AtomicBool::new(false),
            child_policy: AtomicU64::new(0),
            remote: Descriptors::special(),
            private: Descriptors::new(),
            grants: Grants::new(),
            signalfds: Descriptors::special(),
            watchable: Descriptors::new(),
            spent: Spent::new(),
            children: Children::new(),
            children_usage: UnsafeCell::new([0; 18]),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// Whose actions hold, and whose lock guards them.
    pub(crate) fn acting(&self) -> &Process {
        if self.shares_actions.load(Ordering::Relaxed) { &PROCESS } else { self }
    }

    /// Runs `change` on a signal's action under the lock.
    pub(crate) fn with_action<R>(&self, signal: u32, change: impl FnOnce(&mut Action) -> R) -> R {
        let acting = self.acting();
        acting.lock.acquire();
        // SAFETY: the lock is held, and `change` runs to its end before it is released.
        let result = change(unsafe {
            &mut (&mut *acting.actions.get())[(signal & 127).min(SIGNAL_MAX) as usize]
        });
        acting.lock.release();
        result
    }

    pub(crate) fn action(&self, signal: u32) -> Action {
        self.with_action(signal, |action| *action)
    }

    /// Makes `self` a copy of `parent` for a child that shares its memory, and perhaps its actions. A copy of
    /// them it gets from a parent whose own may end before it does.
    pub(crate) fn copy_from(&self, parent: &Process, shares_actions: bool) {
        for signal in 1..=SIGNAL_MAX {
            let action = parent.action(signal);
            self.with_action(signal, |own| *own = action);
        }
        let is_first = core::ptr::eq(parent.acting(), &raw const PROCESS);
        self.shares_actions.store(shares_actions && is_first, Ordering::Relaxed);
        self.slot.store(parent.slot.load(Ordering::Relaxed), Ordering::Relaxed);
        self.child_policy.store(parent.child_policy.load(Ordering::Relaxed), Ordering::Relaxed);
        self.remote.set_words(&parent.remote.words());
        self.private.set_words(&[0; REMOTE_FD_WORDS]);
        self.grants.forget_all();
        self.signalfds.set_words(&parent.signalfds.words());
        self.watchable.set_words(&parent.watchable.words());
        self.children.reset();
    }
}

/// A path that is set once at start, before there are threads, and stays where it is.
pub(crate) struct PathCell {
    start: AtomicU64,
    len: AtomicU32,
}

impl PathCell {
    const fn new() -> PathCell {
        PathCell { start: AtomicU64::new(0), len: AtomicU32::new(0) }
    }

    /// Names the path.
    pub(crate) fn set(&self, path: &'static CStr) {
        let len = u32::try_from(path.count_bytes()).unwrap_or(0);
        self.start.store(path.as_ptr() as u64, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
    }

    /// The path without its zero.
    pub(crate) fn get(&self) -> &'static [u8] {
        let path = self.with_zero();
        &path[..path.len() - 1]
    }

    /// The path with its zero.
    pub(crate) fn with_zero(&self) -> &'static [u8] {
        let start = self.start.load(Ordering::Relaxed);
        if start == 0 {
            return b"\0";
        }
        let len = self.len.load(Ordering::Relaxed) as usize;
        // SAFETY: a text of this length and its zero, which live as long as the image.
        unsafe { core::slice::from_raw_parts(start as *const u8, len + 1) }
    }
}

/// Room for a path that is set at start, in memory that is not touched otherwise.
pub(crate) struct PathRoom(UnsafeCell<[u8; PATH_BYTES]>);

// SAFETY: written once, at start, by the only thread.
unsafe impl Sync for PathRoom {}

impl PathRoom {
    pub(crate) const fn new() -> PathRoom {
        PathRoom(UnsafeCell::new([0; PATH_BYTES]))
    }

    /// Keeps the path; too long ones are cut (the kernel never makes them).
    pub(crate) fn keep(&'static self, path: &[u8]) -> &'static CStr {
        let len = path.len().min(PATH_BYTES - 1);
        // SAFETY: only called at start, by the only thread.
        let bytes = unsafe { &mut *self.0.get() };
        bytes[..len].copy_from_slice(&path[..len]);
        bytes[len] = 0;
        CStr::from_bytes_until_nul(bytes).unwrap_or_default()
    }
}

/// The process of the first thread.
pub(crate) static PROCESS: Process = Process::new();
/// `/proc/self/exe` as the guest sees it.
pub(crate) static EXE_PATH: PathCell = PathCell::new();
/// The path that the program was started by (`AT_EXECFN`).
pub(crate) static EXEC_FN: PathCell = PathCell::new();
/// The shim's own path, for exec without a daemon.
pub(crate) static SHIM_PATH: PathCell = PathCell::new();
static HAS_DAEMON: AtomicU32 = AtomicU32::new(0);

/// Whether a daemon answers the doorbell; if not, the shim runs solo.
pub(crate) fn has_daemon() -> bool {
    HAS_DAEMON.load(Ordering::Relaxed) != 0
}

pub(crate) fn set_has_daemon() {
    HAS_DAEMON.store(1, Ordering::Relaxed);
}

static HAS_PROCESS_FILES: AtomicU32 = AtomicU32::new(0);

/// Whether this node has the files about the fabric's processes; if not, the host's tell of this node's.
pub(crate) fn has_process_files() -> bool {
    HAS_PROCESS_FILES.load(Ordering::Relaxed) != 0
}

pub(crate) fn set_has_process_files() {
    HAS_PROCESS_FILES.store(1, Ordering::Relaxed);
}
