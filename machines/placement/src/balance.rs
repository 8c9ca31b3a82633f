//! Which running processes a busy node is to send away, if a peer turns out to be less busy.
//!
//! ```text
//! surplus: more programs want a CPU than there are --> candidates, cheapest first
//!   each: two peers are asked, as for a new program ([`settle`](crate::settle)) --> moves, or the round ends
//! ```
//! A process that has computed for long will compute for long: it is expected to go on for as
//! long as it has (Harchol-Balter and Downey, "Exploiting process lifetime distributions for dynamic load balancing", 1997). So
//! one moves only if it has wanted a CPU for several times longer than its move takes. Each move makes it stay longer where it comes to,
//! so that loads which change all the time do not make anybody move all the time.

use crate::{NodeLoad, Weights};
use alloc::vec::Vec;
use core::time::Duration;
use dunix_ids::Pid;

/// How often a node looks whether it has too much to do.
pub const BALANCE_ROUND: Duration = Duration::from_millis(500);
/// Most processes that leave a node in one round.
pub const MOVES_PER_ROUND: usize = 32;
/// A process stays so long where it is, and twice as long after each move.
const STAY: Duration = Duration::from_secs(2);
/// Doublings of [`STAY`], at most: about four minutes.
const DOUBLINGS_MAX: u32 = 7;
/// CPU time that a move of a small process costs: two nodes work for it.
const MOVE_COST: Duration = Duration::from_millis(40);
/// What each further MiB costs.
const MIB_COST: Duration = Duration::from_millis(2);
/// How many times the cost of its move a process is to have wanted a CPU: what it gains is a part of what it has yet to do.
const COSTS: u32 = 4;

/// A process that could be sent away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    pub pid: Pid,
    /// How long it has had a CPU or waited for one, on this node; of all its threads together.
    pub wanted: Duration,
    /// The same in the last [`BALANCE_ROUND`].
    pub recent: Duration,
    /// Memory that it holds, MiB.
    pub resident_mib: u32,
    /// How long it has been on this node.
    pub here_for: Duration,
    /// How often it has been moved.
    pub moves: u8,
}

/// How many programs of a node wait while others have its CPUs.
#[must_use]
pub fn surplus(load: &NodeLoad) -> u32 {
    load.runnable_centi.saturating_sub(load.cpus_centi) / 100
}

/// The load that a node has without one of its running programs.
#[must_use]
pub fn without_one(load: NodeLoad, weights: Weights) -> NodeLoad {
    NodeLoad { runnable_centi: load.runnable_centi.saturating_sub(weights.program_centi), ..load }
}

/// The processes that are to leave a node of this load, if they find a better one: the cheapest first.
#[must_use]
pub fn leavers(load: &NodeLoad, candidates: &[Candidate]) -> Vec<Pid> {
    let mut leavers: Vec<_> = candidates.iter().filter(|one| may_leave(load, one)).collect();
    leavers.sort_by_key(|one| (one.resident_mib, core::cmp::Reverse(one.wanted), one.pid));
    let count = usize::try_from(surplus(load)).unwrap_or(usize::MAX).min(MOVES_PER_ROUND);
    leavers.into_iter().take(count).map(|one| one.pid).collect()
}

fn may_leave(load: &NodeLoad, one: &Candidate) -> bool {
    let stay = STAY * (1 << u32::from(one.moves).min(DOUBLINGS_MAX));
    // A node of a quarter of a CPU takes four times as long for it.
    let cost = (MOVE_COST + MIB_COST * one.resident_mib) * 100 / load.cpus_centi.clamp(1, 100);
    one.recent * 2 >= BALANCE_ROUND && one.here_for >= stay && one.wanted >= cost * COSTS
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: NodeLoad = NodeLoad { runnable_centi: 400, cpus_centi: 100, memory_free_mib: 1000 };

    fn worker(pid: u32) -> Candidate {
        Candidate {
            pid: Pid::new(pid).expect("no zero"),
            wanted: Duration::from_secs(1),
            recent: BALANCE_ROUND,
            resident_mib: 10,
            here_for: Duration::from_secs(3),
            moves: 0,
        }
    }

    fn numbers(load: &NodeLoad, candidates: &[Candidate]) -> Vec<u32> {
        leavers(load, candidates).iter().map(|pid| pid.get()).collect()
    }

    #[test]
    fn as_many_leave_as_wait_and_the_smallest_first() {
        let large = Candidate { resident_mib: 100, ..worker(1) };
        let all = [large, worker(2), worker(3), worker(4)];
        assert_eq!(numbers(&BUSY, &all), [2, 3, 4]);
        assert_eq!(numbers(&NodeLoad { runnable_centi: 299, ..BUSY }, &all), [2]);
        assert!(numbers(&NodeLoad { runnable_centi: 199, ..BUSY }, &all).is_empty());
        let many: Vec<_> = (1..100).map(worker).collect();
        let crowd = NodeLoad { runnable_centi: 9900, ..BUSY };
        assert_eq!(numbers(&crowd, &many).len(), MOVES_PER_ROUND);
    }

    #[test]
    fn who_waits_for_other_things_or_is_new_or_dear_stays() {
        let idle = Candidate { recent: BALANCE_ROUND / 3, ..worker(1) };
        let new = Candidate { here_for: Duration::from_secs(1), ..worker(2) };
        let moved = Candidate { moves: 1, ..worker(3) };
        let huge = Candidate { resident_mib: 10_000, ..worker(4) };
        assert!(numbers(&BUSY, &[idle, new, moved, huge]).is_empty());
        let moved = Candidate { here_for: Duration::from_secs(4), ..moved };
        let huge = Candidate { wanted: Duration::from_secs(100), ..huge };
        assert_eq!(numbers(&BUSY, &[idle, new, moved, huge]), [3, 4]);
        let slow = NodeLoad { cpus_centi: 25, ..BUSY };
        assert_eq!(numbers(&slow, &[worker(6)]), [6], "60 ms of a quarter of a CPU, four times");
        let younger = Candidate { wanted: Duration::from_millis(950), ..worker(6) };
        assert!(numbers(&slow, &[younger]).is_empty());
        let often = Candidate { moves: 200, here_for: Duration::from_secs(255), ..worker(5) };
        assert!(numbers(&BUSY, &[often]).is_empty());
        let often = Candidate { here_for: Duration::from_secs(256), ..often };
        assert_eq!(numbers(&BUSY, &[often]), [5]);
    }
}
