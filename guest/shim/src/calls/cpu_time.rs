//! CPU time: clock_gettime(2) of CPU clocks, getrusage(2), times(2). What a process used on nodes that
//! it has left is added to what this node's kernel counts, so that none of them goes back.
//!
//! ```text
//! park ── note: total = before + count ──> (moved: count starts anew) ──> settle: before = total - count
//! ```
//! A process that parked and was not moved settles to what it had.

use super::other::to_host;
use super::{Answer, wait};
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::thread::Thread;
use core::sync::atomic::{AtomicU64, Ordering};
use dunix_shim_core::{Errno, nr};

const CLOCK_PROCESS: u64 = 2;
const CLOCK_THREAD: u64 = 3;
/// Bits of a negative clock besides its subject: what it counts, and whether for a thread.
const CLOCK_KIND_BITS: u32 = 3;
const PER_THREAD: u32 = 4;
const RUSAGE_SELF: i32 = 0;
const RUSAGE_THREAD: i32 = 1;
const USEC_PER_SEC: u64 = 1_000_000;
const NSEC_PER_SEC: u64 = 1_000_000_000;
/// Ticks of times(2): `USER_HZ` is 100.
const USEC_PER_TICK: u64 = 10_000;

/// CPU time of a process or thread: by its clock in ns, as user and as system in us.
type Counts = [u64; 3];

/// What was used elsewhere.
pub(crate) struct Spent {
    before: [AtomicU64; 3],
    /// All that was used when it parked last.
    total: [AtomicU64; 3],
}

impl Spent {
    pub(crate) const fn new() -> Spent {
        Spent { before: [const { AtomicU64::new(0) }; 3], total: [const { AtomicU64::new(0) }; 3] }
    }

    /// A new process or thread has used nothing.
    pub(crate) fn reset(&self) {
        for word in self.before.iter().chain(&self.total) {
            word.store(0, Ordering::Relaxed);
        }
    }

    fn before(&self) -> Counts {
        [0, 1, 2].map(|at| self.before[at].load(Ordering::Relaxed))
    }

    fn note(&self, count: Counts) {
        for ((total, before), count) in self.total.iter().zip(self.before()).zip(count) {
            total.fetch_max(before.wrapping_add(count), Ordering::Relaxed);
        }
    }

    /// Several threads may settle their process: the first has the most to add.
    fn settle(&self, count: Counts) {
        for ((before, total), count) in self.before.iter().zip(&self.total).zip(count) {
            let missing = total.load(Ordering::Relaxed).saturating_sub(count);
            before.fetch_max(missing, Ordering::Relaxed);
        }
    }
}

/// The thread is about to park.
pub(crate) fn note(thread: &Thread) {
    thread.spent.note(counted(CLOCK_THREAD, RUSAGE_THREAD));
    thread.process().spent.note(counted(CLOCK_PROCESS, RUSAGE_SELF));
}

/// The thread goes on, here or elsewhere.
pub(crate) fn settle(thread: &Thread) {
    thread.spent.settle(counted(CLOCK_THREAD, RUSAGE_THREAD));
    thread.process().spent.settle(counted(CLOCK_PROCESS, RUSAGE_SELF));
}

/// What this node's kernel has counted.
fn counted(clock: u64, who: i32) -> Counts {
    let usage = usage(who).unwrap_or([0; 18]);
    let nanos = read_clock(clock).map_or(0, |[seconds, nanos]| seconds * NSEC_PER_SEC + nanos);
    [nanos, usage[0] * USEC_PER_SEC + usage[1], usage[2] * USEC_PER_SEC + usage[3]]
}

fn read_clock(clock: u64) -> Result<[u64; 2], Errno> {
    let mut time = [0u64; 2];
    // SAFETY: writes the two words.
    unsafe { host::call(nr::CLOCK_GETTIME, [clock, time.as_mut_ptr() as u64, 0, 0, 0, 0]) }?;
    Ok(time)
}

fn usage(who: i32) -> Result<[u64; 18], Errno> {
    let mut usage = [0u64; 18];
    let args = [u64::from(who.cast_unsigned()), usage.as_mut_ptr() as u64, 0, 0, 0, 0];
    // SAFETY: writes the structure.
    unsafe { host::call(nr::GETRUSAGE, args) }?;
    Ok(usage)
}

/// Handles a call that asks for CPU time.
pub(crate) fn try_handle(thread: &Thread, number: u64, args: [u64; 6]) -> Option<Answer> {
    match number {
        nr::CLOCK_GETTIME => Some(clock_gettime(thread, args).into()),
        nr::CLOCK_GETRES => Some(clock_getres(args).into()),
        nr::GETRUSAGE => Some(getrusage(thread, args).into()),
        nr::TIMES => Some(times(thread, args).into()),
        _ => None,
    }
}

/// clock_gettime(2) of a CPU clock: the caller's own, or one that names a process or thread.
fn clock_gettime(thread: &Thread, args: [u64; 6]) -> Result<u64, Errno> {
    let clock = host::uint_arg(args[0]);
    let before = match u64::from(clock) {
        CLOCK_PROCESS => thread.process().spent.before()[0],
        CLOCK_THREAD => thread.spent.before()[0],
        _ => spent_by(thread, subject(clock), clock & PER_THREAD != 0),
    };
    let [seconds, nanos] = read_clock(to_host_clock(clock)?)?;
    let sum = nanos + before;
    let time = [seconds + sum / NSEC_PER_SEC, sum % NSEC_PER_SEC];
    guest::write(GuestAddr(args[1]), &time).map(|()| 0)
}

/// clock_getres(2), by which clock_getcpuclockid(3) finds out whether a process exists.
fn clock_getres(mut args: [u64; 6]) -> Result<u64, Errno> {
    args[0] = to_host_clock(host::uint_arg(args[0]))?;
    // SAFETY: the guest's own call.
    unsafe { host::call(nr::CLOCK_GETRES, args) }
}

/// The process or thread that a negative clock names by the complement of its number.
fn subject(clock: u32) -> u32 {
    !(clock.cast_signed() >> CLOCK_KIND_BITS).cast_unsigned()
}

/// The same clock with the host's number in it.
fn to_host_clock(clock: u32) -> Result<u64, Errno> {
    if clock.cast_signed() >= 0 {
        return Ok(u64::from(clock));
    }
    let host_id = to_host(u64::from(subject(clock))).map_err(|_| Errno::EINVAL)?;
    let kind = clock & ((1 << CLOCK_KIND_BITS) - 1);
    Ok(u64::from(!host::uint_arg(host_id) << CLOCK_KIND_BITS | kind))
}

/// What was used elsewhere by a thread of this process, or the process itself; of others it is unknown.
fn spent_by(thread: &Thread, id: u32, is_thread: bool) -> u64 {
    let mut before = 0;
    Thread::for_each(|other| {
        if other.tid.get() == id || id == 0 && other.tid.get() == thread.tid.get() {
            let spent = if is_thread { &other.spent } else { &other.process().spent };
            before = spent.before()[0];
        }
    });
    before
}

fn getrusage(thread: &Thread, args: [u64; 6]) -> Result<u64, Errno> {
    let who = host::int_arg(args[0]);
    let usage = match who {
        wait::RUSAGE_CHILDREN => wait::children_usage(thread),
        RUSAGE_SELF => with(usage(who)?, &thread.process().spent),
        _ => with(usage(who)?, &thread.spent),
    };
    guest::write(GuestAddr(args[1]), &usage).map(|()| 0)
}

fn with(mut usage: [u64; 18], spent: &Spent) -> [u64; 18] {
    let [_, user, system] = spent.before();
    for (at, more) in [(0, user), (2, system)] {
        let micros = usage[at + 1] + more;
        usage[at] += micros / USEC_PER_SEC;
        usage[at + 1] = micros % USEC_PER_SEC;
    }
    usage
}

/// times(2): of the process as getrusage(2) says, then of the fabric's children.
fn times(thread: &Thread, args: [u64; 6]) -> Result<u64, Errno> {
    // SAFETY: writes nothing without a structure.
    let result = unsafe { host::call(nr::TIMES, [0; 6]) };
    // Rounded as a sum: two rounded parts may be less than before.
    let used = with(usage(RUSAGE_SELF)?, &thread.process().spent);
    let children = wait::children_usage(thread);
    let ticks = |usage: &[u64; 18], at: usize| {
        usage[at].wrapping_mul(USEC_PER_SEC).wrapping_add(usage[at + 1]) / USEC_PER_TICK
    };
    let own = [ticks(&used, 0), ticks(&used, 2), ticks(&children, 0), ticks(&children, 2)];
    if args[0] != 0 {
        guest::write(GuestAddr(args[0]), &own)?;
    }
    result
}
