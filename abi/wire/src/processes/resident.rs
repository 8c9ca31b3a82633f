//! A running process as it lies in a host: what [`Package::image`](super::moving::Package) holds.
//!
//! Owns: mappings, threads and what the kernel keeps for a process. Refuses: pages, which flow on a
//! stream ([`PagesHeader`](super::PagesHeader)), and what the process table knows ([`ProcessRecord`](super::ProcessRecord)).
//! Everything here is a peer's word: the target checks each value before it uses it.

use super::DescriptorImage;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use dunix_ids::{ObjectId, Pid};
use serde::{Deserialize, Serialize};

/// Most mappings of a process that moves.
pub const MAPPINGS_MAX: usize = 8192;
/// Most signals that wait at a process and its threads together.
pub const SIGNALS_MAX: usize = 4096;
/// Most POSIX timers (timer_create(2)), and the greatest id plus one.
pub const TIMERS_MAX: usize = 256;

/// A frozen process without its pages.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ResidentImage {
    /// Names the build of the shim: code addresses of it lie on the stacks.
    pub shim: u64,
    pub kernel: KernelPages,
    /// `/proc/self/exe` as the fabric shows it.
    pub exe_path: Vec<u8>,
    /// What its program's environment asks of placement: flags of an exec request.
    pub place: u32,
    /// How often it has been moved before.
    pub moves: u8,
    /// It was sent to its node by name, and the fabric does not move it by itself.
    pub is_pinned: bool,
    /// Why it moves, for people; at most [`REASON_BYTES_MAX`](super::image::REASON_BYTES_MAX).
    pub reason: String,
    pub cwd: Vec<u8>,
    /// Absolute path of the root directory in the tree.
    pub root: Vec<u8>,
    pub identity: Identity,
    pub memory: MemoryLayout,
    /// What its monotonic clock showed while it was frozen, in nanoseconds.
    pub monotonic_ns: u64,
    /// By address, none overlapping.
    pub mappings: Vec<Mapping>,
    /// The first one is the process's.
    pub threads: Vec<ThreadImage>,
    pub descriptors: Vec<DescriptorImage>,
    /// Where what it has written may still be on its way; at most
    /// [`UNDRAINED_MAX`](super::image::UNDRAINED_MAX).
    pub undrained: Vec<ObjectId>,
    /// Signals that wait for any thread, in their order.
    pub signals: Vec<SignalImage>,
    pub timers: Timers,
    /// Ranges of private anonymous memory whose pages follow while it runs; none if all come before.
    pub late: Vec<(u64, u64)>,
}

/// What the kernel maps into every process and programs hold addresses of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KernelPages {
    /// Of release, version and the vDSO's bytes.
    pub fingerprint: u64,
    /// `[vvar]` and `[vdso]`, together, by address: start and end.
    pub ranges: Vec<(u64, u64)>,
}

/// Who the process is to its kernel, in guests' numbers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Real, effective, saved.
    pub uids: [u32; 3],
    pub gids: [u32; 3],
    /// User and group for access to files (setfsuid(2)).
    pub fs_ids: [u32; 2],
    pub groups: Vec<u32>,
    pub umask: u32,
    /// Soft and hard limits by `RLIMIT_*` number.
    pub rlimits: Vec<(u64, u64)>,
    pub nice: i8,
    /// prctl(2): `PR_GET_DUMPABLE`, `PR_GET_PDEATHSIG`, `PR_GET_NO_NEW_PRIVS`, `PR_GET_SECUREBITS`.
    pub dumpable: u8,
    pub death_signal: u8,
    pub no_new_privs: bool,
    pub securebits: u32,
    /// Effective, permitted, inheritable, bounding, ambient (capabilities(7)).
    pub capabilities: [u64; 5],
    pub personality: u32,
    /// The commands of membarrier(2) that it has registered for; 0 if its kernel does not tell.
    pub barriers: u32,
}

/// `struct prctl_mm_map` (prctl(2), `PR_SET_MM_MAP`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemoryLayout {
    /// `start_code` to `env_end`, in the structure's order.
    pub addresses: [u64; 11],
    pub auxv: Vec<u8>,
}

impl MemoryLayout {
    /// Arguments and environment, which the kernel shows in `/proc/PID`.
    #[must_use]
    pub fn shown(&self) -> Range<u64> {
        let [.., arguments, _, _, environment_end] = self.addresses;
        arguments..environment_end
    }
}

/// One mapping.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mapping {
    pub start: u64,
    pub end: u64,
    /// `PROT_*` bits.
    pub protection: u8,
    /// `MAPPING_*` bits.
    pub flags: u32,
    pub backing: Backing,
}

/// It grows down (`MAP_GROWSDOWN`).
pub const MAPPING_GROWS_DOWN: u32 = 1 << 0;
/// mlock2(2).
pub const MAPPING_LOCKED: u32 = 1 << 1;
/// `MAP_NORESERVE`.
pub const MAPPING_NO_RESERVE: u32 = 1 << 2;
/// madvise(2): `MADV_DONTDUMP`.
pub const MAPPING_NO_DUMP: u32 = 1 << 3;
/// `MADV_DONTFORK`.
pub const MAPPING_NO_FORK: u32 = 1 << 4;
/// `MADV_WIPEONFORK`.
pub const MAPPING_WIPE_ON_FORK: u32 = 1 << 5;
/// `MADV_HUGEPAGE`.
pub const MAPPING_HUGE: u32 = 1 << 6;
/// `MADV_NOHUGEPAGE`.
pub const MAPPING_NO_HUGE: u32 = 1 << 7;
/// `MADV_SEQUENTIAL`.
pub const MAPPING_SEQUENTIAL: u32 = 1 << 8;
/// `MADV_RANDOM`.
pub const MAPPING_RANDOM: u32 = 1 << 9;
/// `MADV_MERGEABLE`.
pub const MAPPING_MERGEABLE: u32 = 1 << 10;

/// What a mapping shows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Backing {
    /// The shim's data, which every process of the same build has there already; its pages travel.
    Shim,
    /// Zeroes; its pages travel. Also what was a file's that is gone or replaced.
    Anonymous,
    /// A file of the tree, private: pages that the process changed travel.
    Private { path: Vec<u8>, offset: u64 },
    /// A file of the tree, shared. `writable`: it was opened for writing.
    Shared { path: Vec<u8>, offset: u64, writable: bool },
    /// Shared anonymous memory that nobody else has; the number tells apart, pages travel.
    SharedAnonymous { number: u64, offset: u64 },
}

/// One thread.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ThreadImage {
    pub tid: Pid,
    /// Address of its `ParkRecord`.
    pub record: u64,
    /// `PR_SET_NAME`.
    pub name: Vec<u8>,
    /// Signals that wait for this thread alone, in their order.
    pub signals: Vec<SignalImage>,
    pub nice: i8,
    /// `PR_SET_TIMERSLACK`, nanoseconds; 0 if the host does not tell.
    pub timer_slack: u64,
    /// `SCHED_*` (sched(7)), and the priority of those that have one.
    pub policy: u8,
    pub priority: u8,
    /// Processors that it may use, a bit each; empty: all that its node gives.
    pub processors: Vec<u8>,
}

/// Most bytes of [`ThreadImage::processors`].
pub const PROCESSORS_BYTES_MAX: usize = 1024;

/// A `siginfo_t` of x86-64.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SignalImage(pub Vec<u8>);

/// Bytes of a `siginfo_t`.
pub const SIGNAL_BYTES: usize = 128;

/// What fires later. Instants are nanoseconds of the timer's own clock as the process sees it, which
/// is the same at both nodes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Timers {
    /// setitimer(2): `ITIMER_REAL`, if it runs.
    pub real: Option<Running>,
    /// `ITIMER_VIRTUAL` and `ITIMER_PROF`: `struct itimerval`, with the time that is left.
    pub of_cpu: [[u64; 4]; 2],
    /// timer_create(2), by id.
    pub posix: Vec<PosixTimer>,
}

/// A timer that runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Running {
    /// When it expires next. In the past: nobody has heard of all expirations from then on.
    pub due: u64,
    /// Nanoseconds between two expirations; 0: it expires once.
    pub period: u64,
}

/// One timer of timer_create(2).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PosixTimer {
    pub id: u32,
    pub clock: i32,
    /// `SIGEV_*`.
    pub notify: u32,
    pub signal: u32,
    pub value: u64,
    /// The thread that `SIGEV_THREAD_ID` names.
    pub thread: Option<Pid>,
    /// If it runs.
    pub running: Option<Running>,
}
