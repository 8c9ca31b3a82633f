//! The reserved address range of a guest process.
//!
//! ```text
//! 0x7000_0000_0000  shim text (read, execute)   TEXT_START..TEXT_END
//! 0x7000_0020_0000  shim data and bss           DATA_START..
//! 0x7000_0800_0000  arena (shared, read-only)   ARENA_START..ARENA_END
//! 0x7000_0900_0000  vDSO of the fabric          VDSO_START
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
/// First address of the shim's data.
pub const DATA_START: u64 = TEXT_END;
/// Where the node's arena is mapped.
pub const ARENA_START: u64 = BASE + 0x0800_0000;
/// Where the fabric's vDSO is mapped.
pub const VDSO_START: u64 = BASE + 0x0900_0000;
/// First address of the per-thread states.
pub const THREADS_START: u64 = BASE + 0x1000_0000;
