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

/// What is the same for all processes of the node, behind the slots.
#[repr(C, align(4096))]
pub struct NodeFacts {
    /// What `cpuid` answers, in the order of [`STEADY_LEAVES`].
    pub answers: [CpuidAnswer; STEADY_LEAVES.len()],
    /// Goes up before another node is told what is locked here (flock(2)): whoever was granted a lock of a file
    /// earlier asks again.
    pub lock_epoch: AtomicU32,
    /// The number of the tree's file system here (`st_dev`, stat(2)), which guests see as [`TREE_DEVICE`]; 0: as it is.
    pub tree_device: AtomicU32,
    /// Bit `port % 32` of word `port / 32`: a datagram to the loopback port gets where it should when this
    /// node's kernel sends it ([`OP_SEND`](crate::doorbell::OP_SEND)).
    pub settled_ports: [AtomicU32; PORT_WORDS],
}

/// The number of the tree's file system (`st_dev`) at every node: of the numbers that kernels give file systems without a
/// device (major 0), one that they do not reach, as they give the lowest that is free.
pub const TREE_DEVICE: u32 = 0xd000_0000;

/// Words of a bit for each port.
pub const PORT_WORDS: usize = 65536 / 32;

/// Registers after `cpuid`.
#[repr(C, align(16))]
pub struct CpuidAnswer {
    pub eax: AtomicU32,
    pub ebx: AtomicU32,
    pub ecx: AtomicU32,
    pub edx: AtomicU32,
}

/// Leaves of `cpuid` that answer the same for every value of ecx, and on every processor of a machine, but
/// for the number of the asking one in leaf 1.
pub const STEADY_LEAVES: [u32; 12] = [
    0,
    1,
    2,
    0x8000_0000,
    0x8000_0001,
    0x8000_0002,
    0x8000_0003,
    0x8000_0004,
    0x8000_0005,
    0x8000_0006,
    0x8000_0007,
    0x8000_0008,
];

/// Where [`NodeFacts`] are.
pub const FACTS_AT: usize = SLOTS * size_of::<Slot>();
/// Bytes of an arena.
pub const ARENA_BYTES: usize = FACTS_AT + size_of::<NodeFacts>();
const _: () = assert!(ARENA_BYTES.is_multiple_of(align_of::<NodeFacts>()));
