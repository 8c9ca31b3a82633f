//! Places held for programs that were placed here and are not yet seen to run.

use dunix_wire::load::RESERVATION_MS;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Beyond this many, further reservations are answered but not held.
const RESERVATIONS_MAX: usize = 4096;
const RESERVATION: Duration = Duration::from_millis(RESERVATION_MS as u64);

/// The places held; each lapses by itself.
#[derive(Default)]
pub(crate) struct Reservations {
    until: BTreeMap<u64, Instant>,
    last: u64,
}

impl Reservations {
    /// Holds a place for a program of a peer; returns its number.
    pub(crate) fn add(&mut self, now: Instant) -> u64 {
        self.last += 1;
        if self.until.len() < RESERVATIONS_MAX {
            self.until.insert(self.last, now + RESERVATION);
        }
        self.last
    }

    /// Gives a place back; one that has lapsed is no error.
    pub(crate) fn release(&mut self, reservation: u64) {
        self.until.remove(&reservation);
    }

    /// Returns how many places are held now.
    pub(crate) fn count(&mut self, now: Instant) -> u32 {
        self.until.retain(|_, until| *until > now);
        u32::try_from(self.until.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_lapse_and_are_released() {
        let now = Instant::now();
        let mut reservations = Reservations::default();
        let first = reservations.add(now);
        reservations.add(now);
        assert_eq!(reservations.count(now), 2);
        reservations.release(first);
        reservations.release(first);
        assert_eq!(reservations.count(now), 1);
        assert_eq!(reservations.count(now + RESERVATION), 0);
    }
}
