//! Sends running processes to nodes that have less to do.
//!
//! ```text
//! each round: does anything here wait for a CPU? --no--> nothing is measured
//!   twice in a row --> what computes, by the kernel's count --> the policy's leavers, one by one:
//!     two peers are asked --no better--> the round ends
//!                         --better-----> it moves; one that cannot is let alone for a while
//! ```
//! Which leave is the `placement` machine's to say ([`dunix_placement::leavers`]), whom to ask the [`Policy`](crate::Policy)'s.

use crate::config::{PlaceWish, Relief};
use crate::node::{Local, Node, State};
use dunix_ids::Pid;
use dunix_placement::{BALANCE_ROUND, Candidate, NodeLoad, leavers, surplus};
use dunix_wire::processes::Refusal;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Most processes that are looked at in a round: reading about each takes the kernel 10 us.
const LOOKED_AT_MAX: usize = 1024;
/// How long one that could not move is let alone, after the first time; then twice as long each time.
const LET_ALONE: Duration = Duration::from_secs(5);
const LET_ALONE_MAX: Duration = Duration::from_secs(300);
/// How long a round waits for one move to end, well or not.
const MOVE_WAIT: Duration = Duration::from_secs(10);

/// Since when a process runs on its node, and how firmly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settled {
    pub(crate) since: Instant,
    /// How often it has been moved.
    pub(crate) moves: u8,
    /// The user has sent it here by name.
    pub(crate) is_pinned: bool,
}

impl Settled {
    /// It has been made here.
    pub(crate) fn now() -> Settled {
        Settled { since: Instant::now(), moves: 0, is_pinned: false }
    }

    /// It has come after so many moves.
    pub(crate) fn arrived(moves_before: u8, is_pinned: bool) -> Settled {
        Settled { moves: moves_before.saturating_add(1), is_pinned, ..Settled::now() }
    }
}

impl Node {
    /// Whether a process has descriptors of its own here that would be slow from afar: a server that is moved
    /// from its connections serves nobody better.
    fn holds_to_here(&self, pid: Pid) -> bool {
        let found = self.look(|state| {
            let remote = state.locals.get(&pid)?.remote.for_child();
            Some((state.host_pid(pid)?, remote))
        });
        let Some((host_pid, remote)) = found else { return false };
        crate::host::objects_of(host_pid).any(|number| remote.get(number).is_none())
    }
}

/// What the last rounds have found.
#[derive(Default)]
struct Balance {
    /// How long each process had wanted a CPU when it was looked at last.
    wanted: BTreeMap<Pid, Duration>,
    /// Who could not move: until when it is let alone, and for how long that is.
    alone: BTreeMap<Pid, (Instant, Duration)>,
}

/// Balances until the node is gone.
pub(crate) async fn run(node: Weak<Node>) {
    let mut rounds = tokio::time::interval(BALANCE_ROUND);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut balance = Balance::default();
    loop {
        rounds.tick().await;
        let Some(node) = node.upgrade() else { return };
        match node.policy.load().filter(|load| surplus(load) > 0) {
            Some(load) => balance.round(&node, load).await,
            // What was found is of another time when there is something to do again.
            None => balance.wanted.clear(),
        }
    }
}

impl Balance {
    async fn round(&mut self, node: &Arc<Node>, load: NodeLoad) {
        let now = Instant::now();
        self.alone.retain(|_, (until, penalty)| *until + *penalty > now);
        let candidates = self.look(node, now);
        for pid in leavers(&load, &candidates) {
            if node.holds_to_here(pid) {
                self.let_alone(pid, now);
                continue;
            }
            let Relief { to, why } = match node.policy.relieve().await {
                Some(relief) => relief,
                None => return,
            };
            node.explain_move(pid, to, "computes, and goes to", &why);
            let moved = match node.move_child(pid, to) {
                Ok(answer) => tokio::time::timeout(MOVE_WAIT, answer).await,
                Err(refusal) => Ok(Ok(Err(refusal))),
            };
            match moved {
                Ok(Ok(Ok(_))) => {}
                Ok(Ok(Err(Refusal::Ended | Refusal::NoSuchProcess))) => {}
                _ => self.let_alone(pid, now),
            }
        }
    }

    /// Measures what may be moved, and remembers it for the next round.
    fn look(&mut self, node: &Node, now: Instant) -> Vec<Candidate> {
        let movable = node.look(|state| self.movable(state, now));
        let before = std::mem::take(&mut self.wanted);
        let mut candidates = Vec::new();
        for (pid, host_pid, settled) in movable {
            let wanted = crate::host::wanted_time_of(host_pid);
            self.wanted.insert(pid, wanted);
            // Only what was here a round ago can be compared.
            let Some(recent) = before.get(&pid).map(|before| wanted.saturating_sub(*before)) else {
                continue;
            };
            candidates.push(Candidate {
                pid,
                wanted,
                recent,
                resident_mib: crate::host::resident_mib_of(host_pid),
                here_for: now.saturating_duration_since(settled.since),
                moves: settled.moves,
            });
        }
        candidates
    }

    fn movable(&self, state: &State, now: Instant) -> Vec<(Pid, u32, Settled)> {
        let is_free = |pid: &Pid, local: &Local| {
            local.wish == PlaceWish::Policy
                && !local.settled.is_pinned
                && !local.is_young
                && !local.is_ending
                && local.paging.is_none()
                && self.alone.get(pid).is_none_or(|(until, _)| *until <= now)
        };
        let free = state.locals.iter().filter(|(pid, local)| is_free(pid, local));
        free.filter_map(|(pid, local)| Some((*pid, state.host_pid(*pid)?, local.settled)))
            .take(LOOKED_AT_MAX)
            .collect()
    }

    fn let_alone(&mut self, pid: Pid, now: Instant) {
        let last = self.alone.get(&pid).map(|(_, penalty)| *penalty);
        let penalty = last.map_or(LET_ALONE, |last| (last * 2).min(LET_ALONE_MAX));
        self.alone.insert(pid, (now + penalty, penalty));
    }
}
