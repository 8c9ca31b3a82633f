//! Numbers of x86-64's system calls and flags that scripts use.

pub(crate) const CLOSE: u64 = 3;
pub(crate) const FSTAT: u64 = 5;
pub(crate) const LSEEK: u64 = 8;
pub(crate) const MMAP: u64 = 9;
pub(crate) const MPROTECT: u64 = 10;
pub(crate) const MUNMAP: u64 = 11;
pub(crate) const BRK: u64 = 12;
pub(crate) const IOCTL: u64 = 16;
pub(crate) const MREMAP: u64 = 25;
pub(crate) const MADVISE: u64 = 28;
pub(crate) const GETITIMER: u64 = 36;
pub(crate) const SETITIMER: u64 = 38;
pub(crate) const CHDIR: u64 = 80;
pub(crate) const UMASK: u64 = 95;
pub(crate) const SETGROUPS: u64 = 116;
pub(crate) const SETRESUID: u64 = 117;
pub(crate) const SETRESGID: u64 = 119;
pub(crate) const SETFSUID: u64 = 122;
pub(crate) const SETFSGID: u64 = 123;
pub(crate) const CAPSET: u64 = 126;
pub(crate) const RT_SIGTIMEDWAIT: u64 = 128;
pub(crate) const RT_SIGQUEUEINFO: u64 = 129;
pub(crate) const PERSONALITY: u64 = 135;
pub(crate) const SETPRIORITY: u64 = 141;
pub(crate) const SCHED_SETSCHEDULER: u64 = 144;
pub(crate) const PRCTL: u64 = 157;
pub(crate) const CHROOT: u64 = 161;
pub(crate) const SCHED_SETAFFINITY: u64 = 203;
pub(crate) const TIMER_CREATE: u64 = 222;
pub(crate) const TIMER_SETTIME: u64 = 223;
pub(crate) const TIMER_GETTIME: u64 = 224;
pub(crate) const TIMER_DELETE: u64 = 226;
pub(crate) const CLOCK_GETTIME: u64 = 228;
pub(crate) const OPENAT: u64 = 257;
pub(crate) const DUP3: u64 = 292;
pub(crate) const RT_TGSIGQUEUEINFO: u64 = 297;
pub(crate) const PRLIMIT64: u64 = 302;
pub(crate) const MEMBARRIER: u64 = 324;
pub(crate) const MLOCK2: u64 = 325;
pub(crate) const CLOSE_RANGE: u64 = 436;

pub(crate) const AT_FDCWD: u64 = (-100_i64).cast_unsigned();
pub(crate) const O_RDWR: u64 = 2;
pub(crate) const O_NOCTTY: u64 = 0o400;
pub(crate) const O_CLOEXEC: u64 = 0o2_000_000;

pub(crate) const MAP_SHARED: u64 = 0x01;
pub(crate) const MAP_PRIVATE: u64 = 0x02;
pub(crate) const MAP_FIXED: u64 = 0x10;
pub(crate) const MAP_ANONYMOUS: u64 = 0x20;
pub(crate) const MAP_GROWSDOWN: u64 = 0x100;
pub(crate) const MAP_NORESERVE: u64 = 0x4000;
pub(crate) const MREMAP_MAYMOVE_FIXED: u64 = 3;

/// Of membarrier(2), since Linux 6.3.
pub(crate) const GET_REGISTRATIONS: u64 = 1 << 9;

pub(crate) const PR_SET_PDEATHSIG: u64 = 1;
pub(crate) const PR_GET_PDEATHSIG: u64 = 2;
pub(crate) const PR_GET_DUMPABLE: u64 = 3;
pub(crate) const PR_SET_DUMPABLE: u64 = 4;
pub(crate) const PR_CAPBSET_DROP: u64 = 24;
pub(crate) const PR_GET_SECUREBITS: u64 = 27;
pub(crate) const PR_SET_SECUREBITS: u64 = 28;
pub(crate) const PR_CAP_AMBIENT: u64 = 47;
pub(crate) const PR_CAP_AMBIENT_RAISE: u64 = 2;
pub(crate) const PR_SET_NAME: u64 = 15;
pub(crate) const PR_SET_TIMERSLACK: u64 = 29;
pub(crate) const PR_SET_MM: u64 = 35;
pub(crate) const PR_SET_MM_MAP: u64 = 14;
pub(crate) const PR_SET_NO_NEW_PRIVS: u64 = 38;
/// Answered by the second of the shim's filters with `EALREADY`, if it is there.
pub(crate) const WIDE_PROBE: u64 = dunix_guest_abi::doorbell::NR + 1;
/// Since Linux 6.15.
pub(crate) const PR_TIMER_CREATE_RESTORE_IDS: u64 = 77;

/// An argument that the kernel takes as an int.
pub(crate) fn int(value: i32) -> u64 {
    u64::from(value.cast_unsigned())
}
