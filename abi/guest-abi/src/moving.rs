//! Moving a running process: how its threads park, run the daemon's scripts, and arrive elsewhere.
//!
//! ```text
//! source  MOVE_SIGNAL, SLOT_PARK -> each thread: ParkRecord, OP_PARKED, waits on command_seq
//!         script -> its owner runs it -> OP_SCRIPT_DONE          SLOT_PARK cleared -> goes on
//! target  START_ARRIVAL -> first thread on ARRIVAL_STACKS: OP_PARKED (no record), serves scripts
//!         (memory, descriptors) -> SCRIPT_CLONE -> each new thread: OP_PARKED (no record), serves
//!         SCRIPT_RESUME -> the thread is the parked one: OP_SCRIPT_DONE, waits as at the source
//! ```
//! A thread parks on its shim stack, deep inside whatever it did. Its registers lie on that stack,
//! so the memory of a process holds all of it but the kernel's state, which [`ParkRecord`] names.
//! The same build of the shim must run at both ends: code addresses lie on the stacks.
//!
//! **A script** is published thus: the daemon writes calls and data, then the whole
//! [`ScriptHeader`] with `serial` = the next value of the slot's `command_seq` (never 0), then
//! stores that value there and wakes all waiters. The thread `owner` runs it if `serial` equals the
//! value that it read and differs from `finished`; it sets `done` and `finished` and rings
//! `OP_SCRIPT_DONE`. One script at a time in a process.
//!
//! **To thaw**: clear `SLOT_PARK`, increment `command_seq`, wake all. **To freeze**: increment
//! `park_epoch`, set `SLOT_PARK`, send `MOVE_SIGNAL` to every thread. A thread that is still on its
//! way out of the last park rings again because the epoch differs from the one it rang for.
//!
//! Of the reserved range the image holds the shim's data, the fabric's vDSO and the thread states
//! (as they lie in `/proc/PID/maps`). Not the text (the same file), the arena (mapped at the
//! start), nor `layout::SCRIPT_START..layout::ARRIVAL_END`: each end has its own.

use crate::doorbell::REMOTE_FD_WORDS;

/// Most calls of a script.
pub const SCRIPT_CALLS_MAX: u32 = 1024;
/// Bytes of the script region that are free for what calls point to.
pub const SCRIPT_DATA_BYTES: u64 = crate::layout::SCRIPT_END - crate::layout::SCRIPT_DATA;
/// Bytes of a stack for a thread that arrives.
pub const ARRIVAL_STACK_BYTES: u64 = 16 * 1024;
/// How many such stacks there are. A thread leaves its stack by [`SCRIPT_RESUME`]: once that
/// rang `OP_SCRIPT_DONE`, the stack serves the next. The first thread has stack 0.
pub const ARRIVAL_STACKS_MAX: u64 = 64;

/// What a parked thread says of itself, at the address that `OP_PARKED` names (in its thread
/// state). Valid until it is thawed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ParkRecord {
    /// Its TID in the fabric (the PID for the first thread, unless that ended).
    pub tid: u32,
    /// `PARK_*` bits.
    pub flags: u32,
    /// Where its registers lie on its shim stack.
    pub stack_pointer: u64,
    /// Base of the FS segment (thread-local storage).
    pub fs_base: u64,
    /// The guest's word that the kernel clears when the thread ends, or 0.
    pub clear_tid: u64,
    /// The guest's rseq area, or 0.
    pub rseq_area: u64,
    /// Its length as registered.
    pub rseq_bytes: u32,
    /// Its signature.
    pub rseq_signature: u32,
    /// Head of the guest's robust list, or 0. The shim keeps it: the kernel has none.
    pub robust_head: u64,
    /// The guest's alternate signal stack, kept by the shim: start, bytes, `SS_*` bits.
    pub altstack_start: u64,
    /// Its bytes.
    pub altstack_bytes: u64,
    /// Its flags.
    pub altstack_flags: u64,
}

/// The thread's memory is shared with another process (`CLONE_VM`): it must not move.
pub const PARK_SHARES_MEMORY: u32 = 1 << 0;

/// The thread is in strict mode (seccomp(2)): the shim has a filter more for it, and installs that again on arrival.
pub const PARK_STRICT: u32 = 1 << 1;

/// Head of the script region, at [`SCRIPT_START`](crate::layout::SCRIPT_START).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ScriptHeader {
    /// TID (in the fabric) of the thread that runs the script.
    pub owner: u32,
    /// The value of `command_seq` that publishes this script.
    pub serial: u32,
    /// Calls at [`SCRIPT_CALLS`](crate::layout::SCRIPT_CALLS), at most [`SCRIPT_CALLS_MAX`].
    pub count: u32,
    /// Set by the shim: calls done, a failed one that stopped the script included.
    pub done: u32,
    /// Set by the shim: the serial of the last script that has ended. The daemon may write any
    /// value but `serial`.
    pub finished: u32,
    /// At the target: the process's slot in that node's arena. Not read at the source.
    pub slot: u32,
    /// Reserved, 0.
    pub flags: u32,
    /// Reserved, 0.
    pub reserved: u32,
    /// At the target: descriptors whose object lives at another node, for [`SCRIPT_RESUME`].
    pub remote_fds: [u64; REMOTE_FD_WORDS],
}

/// One call of a script.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ScriptCall {
    /// The host's system-call number, or a `SCRIPT_*` number. Issued from the shim's text with all
    /// signals blocked: it must not wait. exit(2) ends the thread without `OP_SCRIPT_DONE` (for a
    /// first thread whose original has ended before the others).
    pub nr: u64,
    /// Arguments.
    pub args: [u64; 6],
    /// Set by the shim: the kernel's raw result.
    pub result: i64,
    /// `CALL_*` bits.
    pub flags: u64,
}

/// If this call fails, the script ends with it.
pub const CALL_STOP_ON_ERROR: u64 = 1 << 0;

/// If this call succeeds, the script ends with it.
pub const CALL_STOP_ON_SUCCESS: u64 = 1 << 1;

/// Makes a thread in arrival mode. `args` = TID in the fabric, address of the word to clear at its
/// end (or 0: [`SCRIPT_RESUME`] sets it), top of its stack (`ARRIVAL_STACKS + (n + 1) *
/// ARRIVAL_STACK_BYTES`). The result is the host's TID. It rings `OP_PARKED` (a1 = TID, a2 = 0) and
/// serves scripts.
pub const SCRIPT_CLONE: u64 = 1 << 32;
/// Makes the calling thread, which is in arrival mode, the parked one whose [`ParkRecord`] is at
/// `args[0]`: FS and GS bases, the word cleared at its end, rseq, signal stack; then it leaves the
/// arrival stack. `args[1]` = `RESUME_*` bits. Must be the script's last call. If it fails, the
/// thread stays in arrival mode.
pub const SCRIPT_RESUME: u64 = (1 << 32) + 1;
/// Starts the timer `ITIMER_REAL` (setitimer(2)) so that it expires at an instant: `args[0]` = nanoseconds
/// of `CLOCK_MONOTONIC`, `args[1]` = its period in nanoseconds, whole microseconds, or 0. If the
/// instant has passed, the process gets its SIGALRM at once, as if it had been stopped meanwhile, and
/// the period goes on in its rhythm. For the first thread, parked.
pub const SCRIPT_START_REAL: u64 = (1 << 32) + 2;
/// In [`SCRIPT_RESUME`]'s `args[1]`, for the first thread that resumes, and only for it: also
/// applies the header's `slot` and `remote_fds`, and installs the signal actions. The shim's data
/// and the states of all threads must be in place before.
pub const RESUME_PROCESS: u64 = 1 << 0;
