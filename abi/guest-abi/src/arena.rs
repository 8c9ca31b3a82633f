//! The arena: one page range per node, written by the daemon, mapped read-only by every guest.
//!
//! Each process has one [`Slot`]. The shim waits for daemon events with `FUTEX_WAIT` (a shared
//! futex: a read-only mapping suffices) on its slot's `event_seq`.

use core::sync::atomic::AtomicU32;

/// Slots of an arena: the most processes that a node runs at a time.
pub const SLOTS: usize = 16384;

/// What the daemon publishes for one process.
#[repr(C, align(64))]
pub struct Slot {
    /// Goes up (and is woken as a futex) whenever an answer `-EAGAIN` of the doorbell may have
    /// changed: a child changed state, an operation in flight finished.
    pub event_seq: AtomicU32,
    /// `SLOT_*` bits.
    pub flags: AtomicU32,
    /// Parked threads wait for this number to change (as a futex): the serial of the last script,
    /// or one more for a thaw. See [`moving`](crate::moving).
    pub command_seq: AtomicU32,
    /// Goes up with every freeze, before [`SLOT_PARK`] is set.
    pub park_epoch: AtomicU32,
    /// Its parent, group and session. 0: not known here; the daemon is to be asked.
    pub parent: AtomicU32,
    pub group: AtomicU32,
    pub session: AtomicU32,
    _reserved: [u32; 9],
}

/// The process has a controlling terminal.
pub const SLOT_HAS_TERMINAL: u32 = 1 << 0;
/// The process's group is not the foreground group of its controlling terminal.
pub const SLOT_BACKGROUND: u32 = 1 << 1;
/// A background write stops (`TOSTOP` is set on the controlling terminal).
pub const SLOT_TOSTOP: u32 = 1 << 2;
/// All threads must park, and stay parked: see [`moving`](crate::moving).
pub const SLOT_PARK: u32 = 1 << 3;

/// Bytes of an arena.
pub const ARENA_BYTES: usize = SLOTS * size_of::<Slot>();
