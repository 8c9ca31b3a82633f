//! What a storm leaves to chance, as a function of its seed.
//!
//! Each process draws from a sequence of its own, made of the seed and its PID. So its n-th move
//! comes after the same delay and goes the same way in each run, however the others fare.

use dunix_ids::{NodeId, Pid};
use std::time::Duration;

/// A delay is at most this many times the mean.
const DELAY_MEANS_MAX: f64 = 8.0;

/// The random numbers of one process.
#[derive(Clone, Debug)]
pub(super) struct Choices {
    state: u64,
}

impl Choices {
    pub(super) fn new(seed: u64, pid: Pid) -> Choices {
        // Neighbouring seeds and PIDs must not give neighbouring sequences.
        let mut choices = Choices { state: seed };
        let of_seed = choices.next();
        choices.state = of_seed ^ u64::from(pid.get());
        choices.next();
        choices
    }

    /// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// How long until the next move: without memory, `mean` on average.
    pub(super) fn delay(&mut self, mean: Duration) -> Duration {
        // The upper 53 bits, as a number above 0 and at most 1.
        let unit = ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        mean.mul_f64((-unit.ln()).min(DELAY_MEANS_MAX))
    }

    /// One of the nodes other than `here`; `None` if there is no other.
    pub(super) fn target(&mut self, nodes: &[NodeId], here: NodeId) -> Option<NodeId> {
        let number = self.next();
        let others: Vec<NodeId> = nodes.iter().copied().filter(|node| *node != here).collect();
        let index = number % u64::try_from(others.len()).ok().filter(|count| *count > 0)?;
        others.get(usize::try_from(index).ok()?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    fn choices(seed: u64, pid: u32) -> Choices {
        Choices::new(seed, Pid::new(pid).unwrap())
    }

    fn targets(seed: u64, pid: u32) -> Vec<NodeId> {
        let mut choices = choices(seed, pid);
        (0..40).map(|_| choices.target(&NODES, NodeId(2)).unwrap()).collect()
    }

    #[test]
    fn a_seed_and_a_process_fix_the_sequence() {
        assert_eq!(targets(7, 100), targets(7, 100));
        assert_ne!(targets(7, 100), targets(8, 100));
        assert_ne!(targets(7, 100), targets(7, 101));
        for other in [NodeId(1), NodeId(3)] {
            assert!(targets(7, 100).contains(&other));
        }
        assert!(!targets(7, 100).contains(&NodeId(2)));
        assert_eq!(choices(7, 100).target(&[NodeId(2)], NodeId(2)), None);
    }

    #[test]
    fn delays_have_the_mean() {
        let (mean, count) = (Duration::from_millis(50), 10_000);
        let mut choices = choices(1, 1);
        let sum: Duration = (0..count).map(|_| choices.delay(mean)).sum();
        let found = sum / count;
        assert!(found > mean * 95 / 100 && found < mean * 105 / 100, "{found:?}");
    }
}
