//! Kernel objects that only an arriving process has, made again with their state.

use dunix_linux::{Errno, timers};
use dunix_wire::processes::image::TimerState;
use rustix::event::{EventfdFlags, epoll as events, eventfd};
use rustix::fs::OFlags;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::os::fd::OwnedFd;
use std::time::SystemTime;

const SECOND_NS: u64 = 1_000_000_000;
/// Nodes' clocks may differ: more than this is not believed to have passed on the way.
const WAY_NS_MAX: u64 = 60 * SECOND_NS;

fn is_nonblocking(flags: u32) -> bool {
    OFlags::from_bits_retain(flags).contains(OFlags::NONBLOCK)
}

/// eventfd(2) with a count.
pub(super) fn event(flags: u32, count: u64, is_semaphore: bool) -> Result<OwnedFd, Errno> {
    let mut kind = EventfdFlags::CLOEXEC;
    kind.set(EventfdFlags::NONBLOCK, is_nonblocking(flags));
    kind.set(EventfdFlags::SEMAPHORE, is_semaphore);
    let fd = eventfd(0, kind)?;
    if count != 0 {
        rustix::io::write(&fd, &count.to_ne_bytes())?;
    }
    Ok(fd)
}

/// timerfd_create(2) that expires when the original would have.
pub(super) fn timer(flags: u32, timer: &TimerState) -> Result<OwnedFd, Errno> {
    let clock = match timer.clock {
        0 => TimerfdClockId::Realtime,
        1 => TimerfdClockId::Monotonic,
        7 => TimerfdClockId::Boottime,
        8 => TimerfdClockId::RealtimeAlarm,
        9 => TimerfdClockId::BoottimeAlarm,
        _ => return Err(Errno::PROTO),
    };
    let mut kind = TimerfdFlags::CLOEXEC;
    kind.set(TimerfdFlags::NONBLOCK, is_nonblocking(flags));
    let fd = rustix::time::timerfd_create(clock, kind)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    let way_ns = now_ns.saturating_sub(timer.taken_ns).min(WAY_NS_MAX);
    let mut ticks = timer.ticks;
    if timer.left_ns != 0 {
        let (left_ns, missed) = after(timer.left_ns, timer.interval_ns, way_ns);
        ticks = ticks.saturating_add(missed);
        let setting =
            Itimerspec { it_interval: timespec(timer.interval_ns), it_value: timespec(left_ns) };
        rustix::time::timerfd_settime(&fd, TimerfdTimerFlags::empty(), &setting)?;
    }
    if ticks != 0 {
        timers::set_ticks(&fd, ticks)?;
    }
    Ok(fd)
}

/// What is left of a timer after a time, and how often it expired in it. One that expires once and
/// was due is due at once.
fn after(left_ns: u64, interval_ns: u64, way_ns: u64) -> (u64, u64) {
    match way_ns.checked_sub(left_ns) {
        None => (left_ns - way_ns, 0),
        Some(_) if interval_ns == 0 => (1, 0),
        Some(over_ns) => (interval_ns - over_ns % interval_ns, 1 + over_ns / interval_ns),
    }
}

fn timespec(ns: u64) -> Timespec {
    let part = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    Timespec { tv_sec: part(ns / SECOND_NS), tv_nsec: part(ns % SECOND_NS) }
}

/// signalfd(2) for the signals of `mask`.
pub(super) fn signals(flags: u32, mask: u64) -> Result<OwnedFd, Errno> {
    dunix_linux::timers::signalfd(mask, is_nonblocking(flags))
}

/// An empty epoll(7) set.
pub(super) fn epoll(flags: u32) -> Result<OwnedFd, Errno> {
    let _ = flags;
    events::create(events::CreateFlags::CLOEXEC)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken_now() -> u64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        u64::try_from(now.as_nanos()).unwrap()
    }

    #[test]
    fn a_count_is_read_as_it_was() {
        let mut count = [0; 8];
        let fd = event(OFlags::NONBLOCK.bits(), 7, false).unwrap();
        rustix::io::read(&fd, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 7);
        assert_eq!(rustix::io::read(&fd, &mut count), Err(Errno::AGAIN));
        let semaphore = event(OFlags::NONBLOCK.bits(), 2, true).unwrap();
        rustix::io::read(&semaphore, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 1);
    }

    /// timerfd_create(2): read returns the expirations since the last read.
    #[test]
    fn a_timer_keeps_its_deadline_and_its_expirations() {
        let state = TimerState {
            clock: 1,
            left_ns: 3600 * SECOND_NS,
            interval_ns: 5 * SECOND_NS,
            ticks: 3,
            taken_ns: taken_now() - 10 * SECOND_NS,
        };
        let fd = timer(0, &state).unwrap();
        let setting = rustix::time::timerfd_gettime(&fd).unwrap();
        assert!((3580..=3590).contains(&setting.it_value.tv_sec), "{setting:?}");
        assert_eq!(setting.it_interval.tv_sec, 5);
        let mut ticks = [0; 8];
        rustix::io::read(&fd, &mut ticks).unwrap();
        assert_eq!(u64::from_ne_bytes(ticks), 3);
    }

    #[test]
    fn a_period_goes_on_with_all_that_it_missed() {
        assert_eq!(after(7, 10, 5), (2, 0));
        assert_eq!(after(7, 10, 7), (10, 1));
        assert_eq!(after(7, 10, 30), (7, 3));
        assert_eq!(after(7, 0, 30), (1, 0));
    }

    #[test]
    fn what_was_due_on_the_way_is_due_now() {
        let taken_ns = taken_now() - SECOND_NS;
        let state = TimerState { clock: 1, left_ns: 1, interval_ns: 0, ticks: 0, taken_ns };
        let fd = timer(0, &state).unwrap();
        let mut ticks = [0; 8];
        rustix::io::read(&fd, &mut ticks).unwrap();
        assert_eq!(u64::from_ne_bytes(ticks), 1);
    }
}
