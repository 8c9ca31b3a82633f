//! The reserved address range of a guest process.
//!
//! ```text
//! 0x7000_0000_0000  shim text (read, execute)   TEXT_START..TEXT_END
//! 0x7000_0020_0000  shim data and bss           DATA_START..
//! 0x7000_0800_0000  arena (shared, read-only)   ARENA_START..ARENA_END
//! 0x7000_0900_0000  vDSO of the fabric          VDSO_START
//! 0x7000_0A00_0000  script region              SCRIPT_START..SCRIPT_END
//! 0x7000_0A10_0000  stacks of an arrival       ARRIVAL_STACKS..ARRIVAL_END
//! 0x7000_1000_0000  per-thread states           THREADS_START..
//! 0x7001_0000_0000  end of the reserved range   END
//! ```

/// First address of the reserved range; the shim's ELF base.
pub const BASE: u64 = 0x7000_0000_0000;
/// End of the reserved range. One test of the upper half of an address tells whether it is inside.
pub const END: u64 = 0x7001_0000_0000;
/// First address of the shim's text. A call issued from `TEXT_START..TEXT_END` passes the filter.
pub const TEXT_START: u64 = BASE;
/// End of the range that the seccomp filter takes for the shim's text.
pub const TEXT_END: u64 = BASE + 0x20_0000;
/// Four addresses for whoever traces: the instruction of the stub that issues a guest's call, the one
/// behind it, and the first and the last where the shim waits with the guest's signals accepted.
pub const TRACE_POINTS: u64 = BASE + 0x1000;
/// Where in the state of a thread, which its GS base leads to, the stub's way back is.
pub const THREAD_PASS_RETURN: u64 = 8;
/// Where the address of the signal frame's context is that the shim serves, or 0.
pub const THREAD_CAUGHT: u64 = 24;
/// Bytes of a thread's place in the range of per-thread states.
pub const THREAD_BYTES: u64 = 128 * 1024;
/// Where its state begins there.
pub const THREAD_STATE: u64 = THREAD_BYTES - 32 * 1024;
/// Where in the state the word is that names the child of a fork
/// ([`OP_FORK_PREPARE`](crate::doorbell::OP_FORK_PREPARE)).
pub const THREAD_FORK_WORD: u64 = 32;
/// First address of the shim's data.
pub const DATA_START: u64 = TEXT_END;
/// Where the node's arena is mapped.
pub const ARENA_START: u64 = BASE + 0x0800_0000;
/// Where the fabric's vDSO is mapped.
pub const VDSO_START: u64 = BASE + 0x0900_0000;
/// Where the daemon's scripts are ([`moving`](crate::moving)): the header, a page later the calls,
/// then their data. Mapped when a thread first parks, and at an arrival.
pub const SCRIPT_START: u64 = BASE + 0x0A00_0000;
/// First [`ScriptCall`](crate::moving::ScriptCall).
pub const SCRIPT_CALLS: u64 = SCRIPT_START + 0x1000;
/// What the calls point to.
pub const SCRIPT_DATA: u64 = SCRIPT_CALLS
    + crate::moving::SCRIPT_CALLS_MAX as u64 * size_of::<crate::moving::ScriptCall>() as u64;
/// End of the script region.
pub const SCRIPT_END: u64 = SCRIPT_START + 0x10_0000;
/// Stacks of threads that arrive.
pub const ARRIVAL_STACKS: u64 = SCRIPT_END;
/// End of these stacks.
pub const ARRIVAL_END: u64 =
    ARRIVAL_STACKS + crate::moving::ARRIVAL_STACKS_MAX * crate::moving::ARRIVAL_STACK_BYTES;
/// First address of the per-thread states.
pub const THREADS_START: u64 = BASE + 0x1000_0000;
