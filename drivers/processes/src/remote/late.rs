//! What an arriving process does by itself for its descriptors once it has them.

use dunix_wire::processes::image::{EpollMember, TimerState};

const FCNTL: u64 = 72;
const F_SETFD: u64 = 2;
const FD_CLOEXEC: u64 = 1;
const EPOLL_CTL: u64 = 233;
const EPOLL_CTL_ADD: u64 = 1;
const TIMERFD_SETTIME: u64 = 286;
const TFD_TIMER_ABSTIME: u64 = 1;
const TFD_TIMER_CANCEL_ON_SET: u32 = 2;
const IOCTL: u64 = 16;
/// Sets how many expirations nobody has read.
const TFD_IOC_SET_TICKS: u64 = 0x4008_5400;
const SECOND_NS: u64 = 1_000_000_000;

/// A system call that only the process itself can make for its descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Late {
    /// Sets `FD_CLOEXEC`: what starts the process is an exec itself.
    CloseOnExec { fd: i32 },
    /// Adds a member to an epoll set.
    Watch { epoll: i32, member: EpollMember },
    /// Arms a timerfd, by the clocks that the process sees.
    Arm { fd: i32, flags: u64, due: u64, period: u64 },
    /// Sets what a timerfd has counted.
    Count { fd: i32, ticks: u64 },
}

impl Late {
    /// Makes a timerfd, which is not armed, stand as the original does.
    ///
    /// A period that began in the past expires at once and counts all that it has missed: so it begins
    /// with the first expiration that nobody has read, and no time passes between arming and counting.
    pub(crate) fn set_timer(fd: i32, timer: &TimerState) -> Vec<Late> {
        let TimerState { due, period, ticks, .. } = *timer;
        let flags = u64::from(timer.set_with & TFD_TIMER_CANCEL_ON_SET) | TFD_TIMER_ABSTIME;
        let arm = |due| Late::Arm { fd, flags, due, period };
        let first = ticks.checked_mul(period).and_then(|unread| due.checked_sub(unread));
        match (due, ticks, first) {
            (0, 0, _) => vec![],
            // It expired once, when nobody can tell any more.
            (0, 1, _) => vec![arm(1)],
            (0, ..) => vec![Late::Count { fd, ticks }],
            (_, _, Some(first @ 1..)) if ticks == 0 || period > 0 => vec![arm(first)],
            // Somebody has set what it counts.
            _ => vec![arm(due), Late::Count { fd, ticks }],
        }
    }

    /// The call's number and arguments; [`Late::structure`] goes to the address `data`.
    pub(crate) fn call(&self, data: u64) -> (u64, [u64; 6]) {
        let number = |fd: i32| u64::from(fd.cast_unsigned());
        match *self {
            Late::CloseOnExec { fd } => (FCNTL, [number(fd), F_SETFD, FD_CLOEXEC, 0, 0, 0]),
            Late::Watch { epoll, member } => {
                (EPOLL_CTL, [number(epoll), EPOLL_CTL_ADD, number(member.fd), data, 0, 0])
            }
            Late::Arm { fd, flags, .. } => (TIMERFD_SETTIME, [number(fd), flags, data, 0, 0, 0]),
            Late::Count { fd, .. } => (IOCTL, [number(fd), TFD_IOC_SET_TICKS, data, 0, 0, 0]),
        }
    }

    /// The structure that the call reads: for an epoll set `struct epoll_event`, packed as on x86-64.
    pub(crate) fn structure(&self) -> Option<Vec<u8>> {
        let words = |words: &[u64]| words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        match *self {
            Late::CloseOnExec { .. } => None,
            Late::Watch { member, .. } => {
                Some([&member.events.to_ne_bytes()[..], &member.data.to_ne_bytes()].concat())
            }
            Late::Arm { due, period, .. } => {
                let spec = [period, due].map(|ns| [ns / SECOND_NS, ns % SECOND_NS]);
                Some(words(spec.as_flattened()))
            }
            Late::Count { ticks, .. } => Some(words(&[ticks])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(due: u64, period: u64, ticks: u64) -> Vec<Late> {
        Late::set_timer(3, &TimerState { clock: 1, set_with: 2, due, period, ticks })
    }

    fn arm(due: u64, period: u64) -> Late {
        Late::Arm { fd: 3, flags: 3, due, period }
    }

    #[test]
    fn a_timer_begins_with_what_nobody_has_read() {
        assert_eq!(set(100, 10, 0), [arm(100, 10)]);
        assert_eq!(set(100, 10, 4), [arm(60, 10)]);
        assert_eq!(set(100, 0, 0), [arm(100, 0)]);
        assert_eq!(set(0, 0, 1), [arm(1, 0)]);
        assert_eq!(set(0, 0, 0), []);
        assert_eq!(set(0, 5, 0), []);
    }

    #[test]
    fn what_was_counted_otherwise_is_set() {
        let count = |ticks| Late::Count { fd: 3, ticks };
        assert_eq!(set(100, 10, 10), [arm(100, 10), count(10)]);
        assert_eq!(set(100, 10, u64::MAX), [arm(100, 10), count(u64::MAX)]);
        assert_eq!(set(100, 0, 2), [arm(100, 0), count(2)]);
        assert_eq!(set(0, 0, 2), [count(2)]);
    }
}
