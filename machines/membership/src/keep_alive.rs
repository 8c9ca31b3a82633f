//! When a connection must prove that it lives, and when it has failed to.
//!
//! ```text
//! idle --told to watch, or something is said--> watched --told not to, and nothing said for long--> idle
//!                                                  `--silence--> dead
//! ```
//! An idle connection costs nothing: others watch the peer ([`Membership`](crate::Membership) says who). Whoever
//! speaks to a peer watches it for a while by itself, as something may be wrong with their connection alone.

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
///
/// Silence is what was listened to. While this node itself gets no processor it hears nobody, so of the
/// time between two looks no more than [`KeepAlive::LOOK_MAX`] counts: a node that was held up itself
/// blames nobody before it has listened again (as Lifeguard does, arXiv:1707.00788).
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive {
    looked: Duration,
    silence: Duration,
    said: Duration,
    is_watched: bool,
    /// What was said may be answered until then.
    spoken_until: Duration,
}

impl KeepAlive {
    /// Time between two proofs of life.
    pub const INTERVAL: Duration = Duration::from_secs(2);
    /// A peer that is silent for this long is dead.
    pub const SILENCE_MAX: Duration = Duration::from_secs(6);
    /// Looks are [`KeepAlive::INTERVAL`] apart at most; one that is this late was held up.
    pub const LOOK_MAX: Duration = Duration::from_millis(2500);

    /// How long after something was said the connection is watched by who said it.
    pub const SPOKEN: Duration = Duration::from_secs(8);
    /// An idle connection is looked after this seldom: nothing is due on it.
    const IDLE_LOOK: Duration = Duration::from_secs(3600);

    /// One that was just made, which counts as something said.
    #[must_use]
    pub fn new(now: Duration) -> KeepAlive {
        let spoken_until = now + Self::SPOKEN;
        KeepAlive {
            looked: now,
            silence: Duration::ZERO,
            said: now,
            is_watched: false,
            spoken_until,
        }
    }

    /// Returns whether nothing is due before it is watched or something is said.
    #[must_use]
    pub fn is_idle(&self, now: Duration) -> bool {
        !self.is_watched && now >= self.spoken_until
    }

    /// Watches from now on, or no longer. One that begins to be watched says something at once.
    pub fn set_watched(&mut self, now: Duration, is_watched: bool) {
        if is_watched && self.is_idle(now) {
            self.begin(now);
            self.said = now.saturating_sub(Self::INTERVAL);
        }
        self.is_watched = is_watched;
    }

    /// Something other than a proof of life is sent.
    pub fn handle_said(&mut self, now: Duration) {
        if self.is_idle(now) {
            self.begin(now);
            self.said = now;
        }
        self.spoken_until = now + Self::SPOKEN;
    }

    fn begin(&mut self, now: Duration) {
        self.looked = now;
        self.silence = Duration::ZERO;
    }

    /// Bytes came. Feed everything that has come before asking [`KeepAlive::poll_pulse`].
    pub fn handle_heard(&mut self, now: Duration) {
        self.looked = self.looked.max(now);
        self.silence = Duration::ZERO;
    }

    /// Returns what is due; a [`Pulse::Ping`] counts as said.
    pub fn poll_pulse(&mut self, now: Duration) -> Pulse {
        if self.is_idle(now) {
            return Pulse::Wait(now + Self::IDLE_LOOK);
        }
        self.silence += now.saturating_sub(self.looked).min(Self::LOOK_MAX);
        self.looked = self.looked.max(now);
        if self.silence >= Self::SILENCE_MAX {
            return Pulse::Dead;
        }
        if now.saturating_sub(self.said) >= Self::INTERVAL {
            self.said = now;
            return Pulse::Ping;
        }
        Pulse::Wait((self.said + Self::INTERVAL).min(now + (Self::SILENCE_MAX - self.silence)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn watched(now: Duration) -> KeepAlive {
        let mut watch = KeepAlive::new(now);
        watch.set_watched(now, true);
        watch
    }

    #[test]
    fn a_silent_peer_is_pinged_and_then_dead() {
        let mut watch = watched(at(10));
        assert_eq!(watch.poll_pulse(at(10)), Pulse::Wait(at(12)));
        assert_eq!(watch.poll_pulse(at(12)), Pulse::Ping);
        assert_eq!(watch.poll_pulse(at(12)), Pulse::Wait(at(14)));
        assert_eq!(watch.poll_pulse(at(14)), Pulse::Ping);
        assert_eq!(watch.poll_pulse(at(15)), Pulse::Wait(at(16)));
        assert_eq!(watch.poll_pulse(at(16)), Pulse::Dead);
    }

    #[test]
    fn a_node_that_was_held_up_listens_again_before_it_blames() {
        let mut watch = watched(at(0));
        assert_eq!(watch.poll_pulse(at(2)), Pulse::Ping);
        // No processor for a minute: no more than half a second of it counts as silence.
        assert_eq!(watch.poll_pulse(at(62)), Pulse::Ping);
        let dead_at = Duration::from_millis(63_500);
        assert_eq!(watch.poll_pulse(at(63)), Pulse::Wait(dead_at));
        watch.handle_heard(at(63));
        assert_eq!(watch.poll_pulse(at(63)), Pulse::Wait(at(64)));
        // Who is silent while it is listened to is dead after as long as ever.
        for second in [64, 66, 68] {
            assert_eq!(watch.poll_pulse(at(second)), Pulse::Ping);
        }
        assert_eq!(watch.poll_pulse(at(69)), Pulse::Dead);
    }

    #[test]
    fn what_was_heard_after_a_pause_counts() {
        let mut watch = watched(at(0));
        watch.handle_heard(at(60));
        assert_eq!(watch.poll_pulse(at(60)), Pulse::Ping);
        assert_eq!(watch.poll_pulse(at(60)), Pulse::Wait(at(62)));
    }

    #[test]
    fn nothing_is_due_on_an_idle_connection() {
        let mut watch = KeepAlive::new(at(0));
        watch.handle_heard(at(7));
        assert!(!watch.is_idle(at(7)) && watch.is_idle(at(8)));
        assert_eq!(watch.poll_pulse(at(100)), Pulse::Wait(at(100) + KeepAlive::IDLE_LOOK));
    }

    #[test]
    fn who_speaks_to_a_silent_peer_finds_it_dead() {
        let mut watch = KeepAlive::new(at(0));
        watch.handle_said(at(100));
        assert_eq!(watch.poll_pulse(at(100)), Pulse::Wait(at(102)));
        for second in [102, 104] {
            assert_eq!(watch.poll_pulse(at(second)), Pulse::Ping);
        }
        assert_eq!(watch.poll_pulse(at(106)), Pulse::Dead);
    }

    #[test]
    fn one_that_begins_to_be_watched_is_asked_at_once() {
        let mut watch = KeepAlive::new(at(0));
        watch.set_watched(at(100), true);
        assert_eq!(watch.poll_pulse(at(100)), Pulse::Ping);
        watch.handle_heard(at(101));
        watch.set_watched(at(101), false);
        assert!(watch.is_idle(at(101)));
    }
}
