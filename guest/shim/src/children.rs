//! What a process knows about its children without asking the daemon.
//!
//! Whatever happens to a child shows in the slot's `event_seq`. So what the daemon said last of the children
//! holds as long as that number is the same, and a wait that would find nothing need not ask. Everything
//! that this process does to its children itself (forks, waits, tracing) comes with a new generation: an answer
//! of the daemon to a question of an older one is not noted.

use crate::process::Lock;
use core::cell::UnsafeCell;
use dunix_guest_abi::doorbell::WAIT_AGAIN;

/// What is known of a process's children.
pub(crate) struct Children {
    lock: Lock,
    known: UnsafeCell<Known>,
}

#[derive(Clone, Copy)]
struct Known {
    generation: u64,
    /// `event_seq` for which `count` holds.
    seq: u32,
    /// Children of which none has anything for a wait; [`WAIT_AGAIN`]: not known.
    count: u32,
    /// The child made last, if it was not waited for; else 0.
    last: u32,
}

// SAFETY: `known` is used under `lock` only.
unsafe impl Sync for Children {}

/// What a wait would find.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Foreseen {
    /// Nothing, until the slot's number changes.
    Nothing,
    /// No child to wait for (`ECHILD`).
    NoChild,
    Unknown,
}

/// When the daemon was asked.
#[derive(Clone, Copy)]
pub(crate) struct Generation(u64);

impl Children {
    pub(crate) const fn new() -> Children {
        let known = Known { generation: 0, seq: 0, count: WAIT_AGAIN, last: 0 };
        Children { lock: Lock::new(), known: UnsafeCell::new(known) }
    }

    fn with<R>(&self, act: impl FnOnce(&mut Known) -> R) -> R {
        self.lock.acquire();
        // SAFETY: the lock is held, and `act` runs to its end before it is released.
        let result = act(unsafe { &mut *self.known.get() });
        self.lock.release();
        result
    }

    /// Nothing is known any more.
    pub(crate) fn forget(&self) {
        self.with(|known| {
            *known = Known { generation: known.generation + 1, seq: 0, count: WAIT_AGAIN, last: 0 };
        });
    }

    /// The same in a copied or new process, where nobody else is and the lock may be taken.
    pub(crate) fn reset(&self) {
        self.lock.release();
        self.forget();
    }

    /// Before the daemon is asked.
    pub(crate) fn generation(&self) -> Generation {
        self.with(|known| Generation(known.generation))
    }

    /// What the daemon answered to a wait that was asked in `since`; `waited` is the child that is none
    /// any more, or 0.
    pub(crate) fn note(&self, since: Generation, seq: u32, count: u32, waited: u32) {
        self.with(|known| {
            let is_last = waited != 0 && waited == known.last;
            let last = if is_last { 0 } else { known.last };
            let count = if known.generation == since.0 { count } else { WAIT_AGAIN };
            *known = Known { generation: known.generation + 1, seq, count, last };
        });
    }

    /// Before a child is made.
    pub(crate) fn begin_fork(&self) -> Fork {
        self.with(|known| {
            let before = *known;
            *known = Known { generation: before.generation + 1, count: WAIT_AGAIN, ..before };
            Fork { since: Generation(known.generation), seq: before.seq, count: before.count }
        })
    }

    /// The child is there; `is_ordinary`: its exit signal is SIGCHLD.
    pub(crate) fn end_fork(&self, fork: &Fork, pid: u32, is_ordinary: bool) {
        self.with(|known| {
            let holds = known.generation == fork.since.0 && is_ordinary;
            let count = match fork.count.checked_add(1) {
                Some(count) if holds => count,
                _ => WAIT_AGAIN,
            };
            let generation = known.generation + 1;
            *known = Known { generation, seq: fork.seq, count, last: pid };
        });
    }

    /// What an ordinary wait for all children, or for the one with a number, would find. `seq` was the slot's
    /// number before.
    pub(crate) fn foresee(&self, seq: u32, child: Option<u32>) -> Foreseen {
        self.with(|known| match (known.count, child) {
            (WAIT_AGAIN, _) => Foreseen::Unknown,
            _ if known.seq != seq => Foreseen::Unknown,
            (0, _) => Foreseen::NoChild,
            (_, None) => Foreseen::Nothing,
            (_, Some(child)) if child == known.last => Foreseen::Nothing,
            _ => Foreseen::Unknown,
        })
    }
}

/// A fork in progress.
pub(crate) struct Fork {
    since: Generation,
    seq: u32,
    count: u32,
}
