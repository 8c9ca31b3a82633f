//! Spans and instants as the kernel's `struct timespec` has them; all sums saturate.

use core::cmp::Ordering;

/// Nanoseconds of a second.
const NANOS: i64 = 1_000_000_000;

/// Seconds and nanoseconds: a span, or an instant on some clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Time {
    /// Whole seconds.
    pub seconds: i64,
    /// Nanoseconds, below 10^9 in a valid one.
    pub nanos: i64,
}

impl Time {
    /// No time at all.
    pub const ZERO: Time = Time { seconds: 0, nanos: 0 };

    /// Reads a `struct timespec` as the kernel does; it refuses the others with `EINVAL`.
    #[must_use]
    pub const fn of_timespec([seconds, nanos]: [i64; 2]) -> Option<Time> {
        if seconds >= 0 && nanos >= 0 && nanos < NANOS {
            Some(Time { seconds, nanos })
        } else {
            None
        }
    }

    /// Reads a `struct timeval` of select(2), whose microseconds may exceed a second.
    #[must_use]
    pub const fn of_timeval([seconds, micros]: [i64; 2]) -> Option<Time> {
        match seconds.checked_add(micros / 1_000_000) {
            Some(seconds) => Time::of_timespec([seconds, micros % 1_000_000 * 1000]),
            None => None,
        }
    }

    /// A number of milliseconds; negative ones count as none.
    #[must_use]
    pub const fn of_millis(millis: i64) -> Time {
        if millis < 0 {
            return Time::ZERO;
        }
        Time { seconds: millis / 1000, nanos: millis % 1000 * 1_000_000 }
    }

    /// The span as a `struct timeval`, rounded down as select(2) does.
    #[must_use]
    pub const fn as_timeval(self) -> [i64; 2] {
        [self.seconds, self.nanos / 1000]
    }

    /// Whether no time is left.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.seconds == 0 && self.nanos == 0
    }

    /// The instant that lies `span` after this one.
    #[must_use]
    pub const fn plus(self, span: Time) -> Time {
        let nanos = self.nanos + span.nanos;
        let seconds = self.seconds.saturating_add(span.seconds).saturating_add(nanos / NANOS);
        Time { seconds, nanos: nanos % NANOS }
    }

    /// The span from `earlier` to this instant; zero if that has not come yet.
    #[must_use]
    pub fn since(self, earlier: Time) -> Time {
        if self <= earlier {
            return Time::ZERO;
        }
        let (seconds, nanos) =
            (self.seconds.saturating_sub(earlier.seconds), self.nanos - earlier.nanos);
        if nanos < 0 {
            Time { seconds: seconds - 1, nanos: nanos + NANOS }
        } else {
            Time { seconds, nanos }
        }
    }
}

/// How a timer stands at an instant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Whether it has expired, once or more.
    pub has_expired: bool,
    /// Nanoseconds until it expires next, at least 1; 0 if it does not.
    pub left: u64,
}

/// How a timer that expires at `due` and then each `period` (0: never again) stands at `now`, all in
/// nanoseconds.
#[must_use]
pub const fn standing(due: u64, period: u64, now: u64) -> Standing {
    match now.checked_sub(due) {
        None => Standing { has_expired: false, left: due - now },
        Some(_) if period == 0 => Standing { has_expired: true, left: 0 },
        Some(over) => Standing { has_expired: true, left: period - over % period },
    }
}

impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Time) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Time {
    fn cmp(&self, other: &Time) -> Ordering {
        (self.seconds, self.nanos).cmp(&(other.seconds, other.nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn time(seconds: i64, nanos: i64) -> Time {
        Time { seconds, nanos }
    }

    #[test]
    fn the_kernels_structures_are_read_as_it_reads_them() {
        assert_eq!(Time::of_timespec([1, 999_999_999]), Some(time(1, 999_999_999)));
        for bad in [[-1, 0], [0, -1], [0, NANOS]] {
            assert_eq!(Time::of_timespec(bad), None);
        }
        assert_eq!(Time::of_timeval([1, 2_500_000]), Some(time(3, 500_000_000)));
        assert_eq!(Time::of_timeval([0, -1]), None);
        assert_eq!(Time::of_timeval([i64::MAX, 1_000_000]), None);
        assert_eq!(Time::of_millis(1500), time(1, 500_000_000));
        assert_eq!(Time::of_millis(-1), Time::ZERO);
        assert_eq!(time(3, 999).as_timeval(), [3, 0]);
    }

    #[test]
    fn a_period_keeps_its_rhythm() {
        let at = |now| (standing(100, 30, now).has_expired, standing(100, 30, now).left);
        assert_eq!([at(0), at(99)], [(false, 100), (false, 1)]);
        assert_eq!(
            [at(100), at(101), at(130), at(219)],
            [(true, 30), (true, 29), (true, 30), (true, 1)]
        );
        assert_eq!(standing(100, 0, 99), Standing { has_expired: false, left: 1 });
        assert_eq!(standing(100, 0, 100), Standing { has_expired: true, left: 0 });
    }

    #[test]
    fn an_end_minus_its_start_is_the_span() {
        let start = time(5, 800_000_000);
        for span in [Time::ZERO, time(0, 1), time(0, 300_000_000), time(9, 999_999_999)] {
            assert_eq!(start.plus(span).since(start), span);
            assert_eq!(start.since(start.plus(span)), Time::ZERO);
        }
        assert_eq!(start.plus(time(i64::MAX, 0)).seconds, i64::MAX);
    }
}
