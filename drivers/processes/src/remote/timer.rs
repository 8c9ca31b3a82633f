//! How a timerfd stands: when it expires next, to the nanosecond, and what nobody has read.

use super::fdinfo;
use dunix_linux::Errno;
use dunix_wire::processes::DescriptorImage;
use dunix_wire::processes::image::{DescriptorKind, TimerState};
use rustix::time::{ClockId, Timespec, clock_gettime, timerfd_gettime};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// How often a timer is looked at for a close look, or because it expires meanwhile.
const LOOKS_MAX: usize = 32;
/// Nanoseconds that a close look takes at most.
const CLOSE_NS: u64 = 3_000;
/// How long one that is due is given to expire.
const EXPIRY_PAUSE: Duration = Duration::from_micros(100);
const SECOND_NS: u64 = 1_000_000_000;

/// A timerfd that only a frozen process has. `None`: the kernel does not tell.
pub(super) fn look(host_pid: u32, number: i32, fd: &OwnedFd) -> Result<Option<TimerState>, Errno> {
    let mut best: Option<(u64, TimerState)> = None;
    for _ in 0..LOOKS_MAX {
        let looked = look_once(host_pid, number, fd)?;
        match looked {
            Look::Stands(apart, state) => {
                best = best.filter(|(least, _)| *least <= apart).or(Some((apart, state)));
            }
            Look::Expires => std::thread::sleep(EXPIRY_PAUSE),
            Look::Unknown => return Ok(None),
        }
        if best.is_some_and(|(apart, _)| apart <= CLOSE_NS) {
            break;
        }
    }
    Ok(best.map(|(_, state)| state))
}

/// Looks again for expirations of those that seemed not to be armed: one may have been about to expire.
pub(super) fn look_again(host_pid: u32, images: &mut [DescriptorImage]) {
    for image in images {
        if let DescriptorKind::Timer { timer, .. } = &mut image.kind
            && (timer.due, timer.ticks) == (0, 0)
            && let Ok(info) = fdinfo::of(host_pid, image.fd)
        {
            timer.ticks = fdinfo::number(&info, "ticks:").unwrap_or(0);
        }
    }
}

enum Look {
    /// How it stands, and the nanoseconds that the look took.
    Stands(u64, TimerState),
    /// It is about to expire, or has between two questions.
    Expires,
    /// The kernel does not tell.
    Unknown,
}

/// Asks once. One that has expired shows nothing of its period until it is asked what is left.
fn look_once(host_pid: u32, number: i32, fd: &OwnedFd) -> Result<Look, Errno> {
    let first = fdinfo::of(host_pid, number)?;
    let Some(clock) = clock_of(&first) else { return Ok(Look::Unknown) };
    let Some(shift) = shift(host_pid, clock) else { return Ok(Look::Unknown) };
    let before = nanos(clock_gettime(clock));
    let left = nanos(timerfd_gettime(fd)?.it_value);
    let after = nanos(clock_gettime(clock));
    let info = fdinfo::of(host_pid, number)?;
    let Some(state) = state(&info) else { return Ok(Look::Unknown) };
    let still = fdinfo::time_ns(&info, "it_value:");
    if left == 0 && state.period != 0 || left != 0 && still == Some(0) {
        return Ok(Look::Expires);
    }
    if left == 0 {
        return Ok(Look::Stands(0, state));
    }
    // Never before its time.
    let due = i128::from(after) + i128::from(left) + shift;
    let due = u64::try_from(due.max(1)).unwrap_or(u64::MAX);
    Ok(Look::Stands(after.saturating_sub(before), TimerState { due, ..state }))
}

fn state(info: &str) -> Option<TimerState> {
    Some(TimerState {
        clock: u32::try_from(fdinfo::number(info, "clockid:")?).ok()?,
        set_with: fdinfo::octal(info, "settime flags:")?,
        due: 0,
        period: fdinfo::time_ns(info, "it_interval:")?,
        ticks: fdinfo::number(info, "ticks:")?,
    })
}

/// The clock that a timer counts by.
fn clock_of(info: &str) -> Option<ClockId> {
    match fdinfo::number(info, "clockid:")? {
        0 | 8 => Some(ClockId::Realtime),
        1 => Some(ClockId::Monotonic),
        7 | 9 => Some(ClockId::Boottime),
        _ => None,
    }
}

/// Nanoseconds by which a process sees a clock ahead of this daemon; a kernel without time namespaces
/// has none.
fn shift(host_pid: u32, clock: ClockId) -> Option<i128> {
    let name = match clock {
        ClockId::Monotonic => "monotonic",
        ClockId::Boottime => "boottime",
        _ => return Some(0),
    };
    let offset = |pid: &str| match std::fs::read_to_string(format!("/proc/{pid}/timens_offsets")) {
        Ok(text) => offset(&text, name),
        Err(_) => Some(0),
    };
    Some(offset(&host_pid.to_string())? - offset("self")?)
}

/// The offset of a clock in `/proc/PID/timens_offsets` (time_namespaces(7)), in nanoseconds.
fn offset(text: &str, name: &str) -> Option<i128> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let mut words = line.split_whitespace().map(|word| word.parse::<i128>().ok());
    let (seconds, rest) = (words.next()??, words.next()??);
    Some(seconds * i128::from(SECOND_NS) + rest)
}

fn nanos(time: Timespec) -> u64 {
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(time.tv_sec).saturating_mul(SECOND_NS).saturating_add(part(time.tv_nsec))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::Late;
    use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};
    use rustix::time::{timerfd_create, timerfd_settime};
    use std::os::fd::AsRawFd;

    fn timer() -> OwnedFd {
        timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK).unwrap()
    }

    fn arm(fd: &OwnedFd, due: u64, period: u64) {
        let part = |ns: u64| i64::try_from(ns).unwrap();
        let spec =
            |ns: u64| Timespec { tv_sec: part(ns / SECOND_NS), tv_nsec: part(ns % SECOND_NS) };
        let setting = Itimerspec { it_interval: spec(period), it_value: spec(due) };
        timerfd_settime(fd, TimerfdTimerFlags::ABSTIME, &setting).unwrap();
    }

    fn stands(fd: &OwnedFd) -> TimerState {
        look(std::process::id(), fd.as_raw_fd(), fd).unwrap().unwrap()
    }

    fn read(fd: &OwnedFd) -> u64 {
        let mut ticks = [0; 8];
        rustix::io::read(fd, &mut ticks).map_or(0, |_| u64::from_ne_bytes(ticks))
    }

    /// Makes another that stands as one does, as an arriving process would.
    fn again(state: &TimerState) -> OwnedFd {
        let fd = timer();
        for late in Late::set_timer(fd.as_raw_fd(), state) {
            let Late::Arm { due, period, .. } = late else { panic!("{late:?}") };
            arm(&fd, due, period);
        }
        fd
    }

    /// timerfd_create(2): read returns the expirations since the last one. A hundred moves, in which a
    /// read sometimes comes between, neither lose one nor move the next.
    #[test]
    fn no_expiration_is_lost_or_moved() {
        let (period, mut got) = (2_300_000, 0);
        let wound = nanos(clock_gettime(ClockId::Monotonic));
        let mut fd = timer();
        arm(&fd, wound + period, period);
        for round in 0..100 {
            let state = stands(&fd);
            let late = state.due.wrapping_sub(wound) % period;
            // Each look is late by what it takes.
            assert!(late < 1_000_000, "{late} ns late after {round} rounds");
            std::thread::sleep(Duration::from_micros(round * 20));
            fd = again(&state);
            if round % 3 == 0 {
                got += read(&fd);
            }
        }
        let before = (nanos(clock_gettime(ClockId::Monotonic)) - wound) / period;
        got += read(&fd);
        let after = (nanos(clock_gettime(ClockId::Monotonic)) - wound) / period;
        assert!(
            (before.saturating_sub(1)..=after).contains(&got),
            "{got}, not {before} to {after}"
        );
    }

    #[test]
    fn one_that_expires_once_is_due_or_has_expired() {
        let (now, fd) = (nanos(clock_gettime(ClockId::Monotonic)), timer());
        assert_eq!((stands(&fd).due, stands(&fd).ticks), (0, 0));
        arm(&fd, now + 3600 * SECOND_NS, 0);
        let off = stands(&fd).due - now - 3600 * SECOND_NS;
        assert!(off < SECOND_NS, "{off} ns late");
        arm(&fd, 1, 0);
        while stands(&fd).ticks == 0 {}
        assert_eq!(read(&again(&stands(&fd))), 1);
    }

    #[test]
    fn offsets_are_read() {
        let text = "monotonic          -5  900000000\nboottime            3         0\n";
        assert_eq!(offset(text, "monotonic"), Some(-4_100_000_000));
        assert_eq!(offset(text, "boottime"), Some(3_000_000_000));
        assert_eq!(offset(text, "realtime"), None);
    }
}
