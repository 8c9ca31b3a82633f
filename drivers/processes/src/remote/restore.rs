//! Kernel objects that only an arriving process has, made again with their state.

use dunix_linux::Errno;
use rustix::event::{EventfdFlags, epoll as events, eventfd};
use rustix::fs::OFlags;
use rustix::time::{TimerfdClockId, TimerfdFlags};
use std::os::fd::OwnedFd;

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

/// timerfd_create(2) that is not armed yet.
pub(super) fn timer(flags: u32, clock: u32) -> Result<OwnedFd, Errno> {
    let clock = match clock {
        0 => TimerfdClockId::Realtime,
        1 => TimerfdClockId::Monotonic,
        7 => TimerfdClockId::Boottime,
        8 => TimerfdClockId::RealtimeAlarm,
        9 => TimerfdClockId::BoottimeAlarm,
        _ => return Err(Errno::PROTO),
    };
    let mut kind = TimerfdFlags::CLOEXEC;
    kind.set(TimerfdFlags::NONBLOCK, is_nonblocking(flags));
    rustix::time::timerfd_create(clock, kind)
}

/// signalfd(2) for the signals of `mask`.
pub(super) fn signals(flags: u32, mask: u64) -> Result<OwnedFd, Errno> {
    dunix_linux::signalfd::open(mask, is_nonblocking(flags))
}

/// An empty epoll(7) set.
pub(super) fn epoll(flags: u32) -> Result<OwnedFd, Errno> {
    let _ = flags;
    events::create(events::CreateFlags::CLOEXEC)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
