//! What this node's processes did since the node started, counted where it happens.

use crate::Processes;
use dunix_guest_abi::doorbell::*;
use dunix_wire::processes::Refusal;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// The doorbell's operations, and what they are called in counts.
const OPERATIONS: [(u64, &str); 50] = [
    (OP_START, "start"),
    (OP_FORK_PREPARE, "fork_prepare"),
    (OP_FORK_DONE, "fork_done"),
    (OP_FORK_CHILD, "fork_child"),
    (OP_THREAD_PREPARE, "thread_prepare"),
    (OP_THREAD_DONE, "thread_done"),
    (OP_THREAD_EXIT, "thread_exit"),
    (OP_EXEC, "exec"),
    (OP_EXEC_FAILED, "exec_failed"),
    (OP_WAIT, "wait"),
    (OP_KILL, "kill"),
    (OP_TGKILL, "tgkill"),
    (OP_GETPPID, "getppid"),
    (OP_GETPGID, "getpgid"),
    (OP_SETPGID, "setpgid"),
    (OP_GETSID, "getsid"),
    (OP_SETSID, "setsid"),
    (OP_TO_HOST, "to_host"),
    (OP_FROM_HOST, "from_host"),
    (OP_TERMINAL, "terminal"),
    (OP_OPEN_TERMINAL, "open_terminal"),
    (OP_BACKGROUND, "background"),
    (OP_BIND, "bind"),
    (OP_BOUND, "bound"),
    (OP_CONNECT, "connect"),
    (OP_REMOTE, "remote"),
    (OP_REMOTE_CANCEL, "remote_cancel"),
    (OP_REMOTE_FD, "remote_fd"),
    (OP_CHILD_POLICY, "child_policy"),
    (OP_PARKED, "parked"),
    (OP_SCRIPT_DONE, "script_done"),
    (OP_MOVE_DESCRIPTORS, "move_descriptors"),
    (OP_PIDFD_OPEN, "pidfd_open"),
    (OP_PIDFD, "pidfd"),
    (OP_PROCESSES, "processes"),
    (OP_PROC_NAMES, "proc_names"),
    (OP_PASS, "pass"),
    (OP_RECEIVED, "received"),
    (OP_PIDFD_GETFD, "pidfd_getfd"),
    (OP_LOCK, "lock"),
    (OP_LOCK_DONE, "lock_done"),
    (OP_LOCK_GIVE_UP, "lock_give_up"),
    (OP_NAME_BOUND, "name_bound"),
    (OP_NAME_CLAIM, "name_claim"),
    (OP_PROCESS_ADVISE, "process_advise"),
    (OP_PROCESS_RELEASE, "process_release"),
    (OP_GROUP, "group"),
    (OP_PTRACE, "ptrace"),
    (OP_EXE_PATH, "exe_path"),
    (OP_SEND, "send"),
];
/// What an operation without a name is counted as: a guest may ask anything.
const OTHER: &str = "other";

/// The figures at one time; each only rises.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Totals {
    /// Children that a fork made here.
    pub forks: u64,
    /// Programs that were started here, whoever asked.
    pub execs_here: u64,
    /// Programs that processes of this node executed at another.
    pub execs_elsewhere: u64,
    /// Processes that moved away while they ran.
    pub moves_done: u64,
    /// Moves from here that did not happen, by the reason's name ([`Refusal::name`]).
    pub moves_refused: BTreeMap<&'static str, u64>,
    /// Doorbell calls, by operation; those that never came are left out.
    pub doorbell_calls: BTreeMap<&'static str, u64>,
}

/// Counts as it happens.
#[derive(Default)]
pub(crate) struct Counts {
    forks: AtomicU64,
    execs_here: AtomicU64,
    execs_elsewhere: AtomicU64,
    moves_done: AtomicU64,
    /// As many entries as there are reasons.
    moves_refused: Mutex<BTreeMap<&'static str, u64>>,
    doorbell_calls: CallCounts,
    doorbell_calls_other: AtomicU64,
}

/// One for each of [`OPERATIONS`].
struct CallCounts([AtomicU64; OPERATIONS.len()]);

impl Default for CallCounts {
    fn default() -> CallCounts {
        CallCounts(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Counts {
    pub(crate) fn count_fork(&self) {
        self.forks.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_exec_here(&self) {
        self.execs_here.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_exec_elsewhere(&self) {
        self.execs_elsewhere.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_move(&self) {
        self.moves_done.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_refusal(&self, refusal: &Refusal) {
        let mut refused = self.moves_refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused.entry(refusal.name()).or_default() += 1;
    }

    pub(crate) fn count_call(&self, op: u64) {
        let at = OPERATIONS.binary_search_by_key(&op, |(known, _)| *known).ok();
        let counter = at.and_then(|at| self.doorbell_calls.0.get(at));
        counter.unwrap_or(&self.doorbell_calls_other).fetch_add(1, Relaxed);
    }

    fn read(&self) -> Totals {
        let names = OPERATIONS.iter().map(|(_, name)| *name).chain([OTHER]);
        let counters = self.doorbell_calls.0.iter().chain([&self.doorbell_calls_other]);
        let calls = names.zip(counters).map(|(name, counter)| (name, counter.load(Relaxed)));
        let refused = self.moves_refused.lock().unwrap_or_else(PoisonError::into_inner);
        Totals {
            forks: self.forks.load(Relaxed),
            execs_here: self.execs_here.load(Relaxed),
            execs_elsewhere: self.execs_elsewhere.load(Relaxed),
            moves_done: self.moves_done.load(Relaxed),
            moves_refused: refused.clone(),
            doorbell_calls: calls.filter(|(_, count)| *count > 0).collect(),
        }
    }
}

impl Processes {
    /// Tells what this node's processes did since it started.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.0.counts.read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_in_order_each_once() {
        assert!(OPERATIONS.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn counts_by_name() {
        let counts = Counts::default();
        counts.count_call(OP_EXEC);
        counts.count_call(OP_EXEC);
        counts.count_call(u64::MAX);
        counts.count_refusal(&Refusal::AlreadyThere);
        counts.count_fork();
        let totals = counts.read();
        assert_eq!(totals.doorbell_calls, [("exec", 2), (OTHER, 1)].into());
        assert_eq!(totals.moves_refused, [(Refusal::AlreadyThere.name(), 1)].into());
        assert_eq!(totals.forks, 1);
    }
}
