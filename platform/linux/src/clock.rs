//! The clocks of a time namespace (time_namespaces(7)).
//!
//! Kernels count elapsed time from their own starts. Nodes with kernels of their own let their guests
//! count from one instant that all know, by the clocks that tell the date; these differ by what the
//! machines' time synchronisation leaves.

use crate::Result;
use rustix::time::{ClockId, clock_gettime};

const NANOS_PER_S: i128 = 1_000_000_000;
/// Most attempts to read two clocks at nearly one instant; the best one counts.
const READS_MAX: usize = 100;
/// Nanoseconds between the first and the last of three readings that are good enough.
const APART_NANOS: i128 = 2_000;

/// What to write to `/proc/PID/timens_offsets` so that elapsed time counts from `zero_s`, in seconds
/// since 1970.
///
/// # Errors
/// `RANGE` if that is in the future: clocks begin at 0.
pub fn offsets(zero_s: u64) -> Result<String> {
    let line = |name: &str, clock| {
        let offset = date_minus(clock) - i128::from(zero_s) * NANOS_PER_S;
        if offset + nanos(clock) < 0 {
            return Err(crate::Errno::RANGE);
        }
        let (seconds, rest) = (offset.div_euclid(NANOS_PER_S), offset.rem_euclid(NANOS_PER_S));
        Ok(format!("{name} {seconds} {rest}\n"))
    };
    Ok(line("monotonic", ClockId::Monotonic)? + &line("boottime", ClockId::Boottime)?)
}

/// How far the date's clock is ahead of another.
fn date_minus(clock: ClockId) -> i128 {
    let mut best = (i128::MAX, 0);
    for _ in 0..READS_MAX {
        let (before, date, after) = (nanos(clock), nanos(ClockId::Realtime), nanos(clock));
        best = best.min((after - before, date - (before + after) / 2));
        if best.0 <= APART_NANOS {
            break;
        }
    }
    best.1
}

fn nanos(clock: ClockId) -> i128 {
    let time = clock_gettime(clock);
    i128::from(time.tv_sec) * NANOS_PER_S + i128::from(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elapsed_time_counts_from_the_instant_that_is_given() {
        let date = nanos(ClockId::Realtime) / NANOS_PER_S;
        let zero = u64::try_from(date - 1000).expect("the date is after 1970");
        let text = offsets(zero).expect("in the past");
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!((words[0], words[3], words.len()), ("monotonic", "boottime", 6));
        let offset: i128 = words[1].parse().expect("a number");
        let now = nanos(ClockId::Monotonic) / NANOS_PER_S + offset;
        assert!((999..=1002).contains(&now), "{now}");
    }

    #[test]
    fn an_instant_that_is_to_come_is_refused() {
        let date = nanos(ClockId::Realtime) / NANOS_PER_S;
        let zero = u64::try_from(date + 1000).expect("the date is after 1970");
        assert_eq!(offsets(zero), Err(crate::Errno::RANGE));
    }
}
