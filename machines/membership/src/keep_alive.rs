//! When a connection must prove that it lives, and when it has failed to.

use core::time::Duration;

/// What is due on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pulse {
    /// Nothing before this instant.
    Wait(Duration),
    /// Say something.
    Ping,
    /// The peer was silent for too long.
    Dead,
}

/// The watch over one connection. Times are since any fixed instant.
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive {
    interval: Duration,
    silence_max: Duration,
    heard: Duration,
    said: Duration,
}

impl KeepAlive {
    /// Time between two proofs of life.
    pub const INTERVAL: Duration = Duration::from_secs(2);
    /// A peer that is silent for this long is dead.
    pub const SILENCE_MAX: Duration = Duration::from_secs(6);

    #[must_use]
    pub fn new(now: Duration) -> KeepAlive {
        let (interval, silence_max) = (Self::INTERVAL, Self::SILENCE_MAX);
        KeepAlive { interval, silence_max, heard: now, said: now }
    }

    /// Bytes came. Feed everything that has come before asking [`KeepAlive::poll_pulse`], so that a
    /// node that was stopped itself does not blame its peers.
    pub fn handle_heard(&mut self, now: Duration) {
        self.heard = self.heard.max(now);
    }

    /// Returns what is due; a [`Pulse::Ping`] counts as said.
    pub fn poll_pulse(&mut self, now: Duration) -> Pulse {
        if now.saturating_sub(self.heard) >= self.silence_max {
            return Pulse::Dead;
        }
        if now.saturating_sub(self.said) >= self.interval {
            self.said = now;
            return Pulse::Ping;
        }
        Pulse::Wait((self.said + self.interval).min(self.heard + self.silence_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_silent_peer_is_pinged_and_then_dead() {
        let mut watch = KeepAlive::new(at(10));
        assert_eq!(watch.poll_pulse(at(10)), Pulse::Wait(at(12)));
        assert_eq!(watch.poll_pulse(at(12)), Pulse::Ping);
        assert_eq!(watch.poll_pulse(at(12)), Pulse::Wait(at(14)));
        assert_eq!(watch.poll_pulse(at(15)), Pulse::Ping);
        assert_eq!(watch.poll_pulse(at(15)), Pulse::Wait(at(16)));
        assert_eq!(watch.poll_pulse(at(16)), Pulse::Dead);
    }

    #[test]
    fn what_was_heard_after_a_pause_counts() {
        let mut watch = KeepAlive::new(at(0));
        watch.handle_heard(at(60));
        assert_eq!(watch.poll_pulse(at(60)), Pulse::Ping);
        watch.handle_heard(at(50));
        assert_eq!(watch.poll_pulse(at(65)), Pulse::Ping);
        assert_eq!(watch.poll_pulse(at(66)), Pulse::Dead);
    }
}
