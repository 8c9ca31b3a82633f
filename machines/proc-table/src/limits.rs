//! Named maxima of the table, and what happens at each.

use core::time::Duration;

/// Most processes (zombies included) on a node; at the limit a fork answers `EAGAIN`.
pub const PROCESSES_MAX: usize = 16384;
/// Host processes that have ended which are remembered; of older ones it is not known what they were.
pub const FORMER_HOSTS_MAX: usize = 8192;
/// Most threads of a node besides the first of each process; at the limit clone answers `EAGAIN`.
pub const THREADS_MAX: usize = 65536;
/// Most asynchronous operations open at a node; at the limit a new one answers `EAGAIN`.
pub const OPERATIONS_MAX: usize = 65536;
/// Most watchers of a process's end that its node keeps; further ones hear of it when they ask again.
pub const WATCHERS_MAX: usize = 4096;
/// How long an asynchronous operation waits for other nodes; then it answers as if what it asked
/// about were gone (`ESRCH`).
pub const OPERATION_WAIT: Duration = Duration::from_secs(5);
/// Most signals held for a process that starts or leaves; further ones are refused with `EAGAIN`.
pub const HELD_MAX: usize = 1024;
/// Most messages parked for the owner of an unknown block; further ones are undeliverable.
pub const PARKED_MAX: usize = 4096;
/// Most messages of all kinds held for a process that leaves. It has fewer children than this, each
/// of which ends once; above it news is dropped, as a peer must be lying.
pub const HELD_MESSAGES_MAX: usize = 131_072;
/// Most nodes that are remembered, the dead included; further ones are not heard.
pub const PEERS_MAX: usize = 65536;
/// Most members remembered to have left a group; above it the oldest may come back by stale news.
pub const LEFT_MAX: usize = 1 << 20;
/// How long a node remembers where a process went, or that it has ended.
pub const TOMBSTONE_LIFETIME: Duration = Duration::from_secs(60);
/// Most tombstones; at the limit the oldest goes early.
pub const TOMBSTONES_MAX: usize = 65536;
/// How long a PID rests after its last holder has gone. Longer than a tombstone lives.
pub const QUARANTINE: Duration = Duration::from_secs(90);
/// How long a node waits for the others to settle what a dead node had handed over.
pub const SETTLE_WAIT: Duration = Duration::from_secs(2);
/// How long a leaser keeps the entry of a process that was lost with its node, for a parent to
/// claim the zombie.
pub const CLAIM_WAIT: Duration = Duration::from_secs(30);
/// How often a node asks the coordinator again for what it lacks.
pub const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Free PIDs below which a node asks for a further block.
pub const PIDS_LOW: u32 = 1024;
/// Blocks that a new coordinator leaves out above the greatest that it knows of.
pub const TAKEOVER_GAP: u32 = 64;
/// How long a node that stands in for a dead leaser waits to be told what that one knew, before it
/// answers that there is nothing.
pub const REBUILD_WAIT: Duration = Duration::from_secs(1);
