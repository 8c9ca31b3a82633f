//! Monotonic clocks of two nodes: one must not show a process less than the other did.
//!
//! Nodes whose kernels are their own have time namespaces that agree but for what the synchronisation
//! of their dates leaves. A clock that is behind is waited for; one that is far off means that the nodes have no
//! such namespaces, and deadlines that the process keeps would mean nothing.

use super::calls::CLOCK_GETTIME;
use super::script::Script;
use dunix_wire::processes::Refusal;
use std::time::Duration;

const CLOCK_MONOTONIC: u64 = 1;
const NANOS_PER_S: u64 = 1_000_000_000;
/// Longest wait for a clock that is behind.
const BEHIND_MAX: Duration = Duration::from_secs(1);
/// Most that a clock may be ahead: the time that a move takes, and more.
const AHEAD_MAX: Duration = Duration::from_secs(60);

/// Adds a reading of the clock; returns where its words will be.
pub(super) fn read(script: &mut Script) -> u64 {
    let at = script.put(&[0; 16]);
    script.must("clock_gettime", CLOCK_GETTIME, [CLOCK_MONOTONIC, at, 0, 0, 0, 0]);
    at
}

/// Seconds and nanoseconds in nanoseconds.
pub(super) fn nanos([seconds, nanos]: [u64; 2]) -> u64 {
    seconds.saturating_mul(NANOS_PER_S).saturating_add(nanos)
}

/// How long the target must wait whose clock shows `now_ns`, if the source's showed `then_ns` before.
///
/// # Errors
/// [`Refusal::KernelState`]: the clocks have nothing to do with each other.
pub(super) fn wait_until(then_ns: u64, now_ns: u64) -> Result<Duration, Refusal> {
    let behind = Duration::from_nanos(then_ns.saturating_sub(now_ns));
    let ahead = Duration::from_nanos(now_ns.saturating_sub(then_ns));
    if behind > BEHIND_MAX || ahead > AHEAD_MAX {
        let what = format!("its clock: the target's shows {now_ns} ns where it had {then_ns} ns");
        return Err(Refusal::KernelState { what });
    }
    Ok(behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_behind_is_waited_for() {
        let second = NANOS_PER_S;
        assert_eq!(wait_until(10 * second, 10 * second + 5), Ok(Duration::ZERO));
        assert_eq!(wait_until(10 * second, 10 * second - 5), Ok(Duration::from_nanos(5)));
        assert!(wait_until(10 * second, 8 * second).is_err());
        assert!(wait_until(10 * second, 80 * second).is_err());
    }
}
