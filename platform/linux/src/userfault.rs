//! Pages of another process that are filled in when it first touches them (userfaultfd(2)).
//!
//! Owns: the requests and layouts of missing mode and its events. Refuses: write protection and
//! minor faults, and this process's own memory: a descriptor is only ever taken out of another
//! process or out of its fork's event.
//!
//! A descriptor belongs to the memory of the process that made it, for as long as that memory
//! exists. It must be non-blocking, else poll(2) reports an error for it.

use crate::{Errno, Result, check};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The device whose [`MAKE`] request makes a descriptor; unlike userfaultfd(2) it needs no
/// capability, only the device opened by somebody who may (since Linux 6.1).
pub const DEVICE: &str = "/dev/userfaultfd";
/// `USERFAULTFD_IOC_NEW`, to be issued on [`DEVICE`] by the process whose memory is meant, with
/// [`MAKE_FLAGS`] as its argument.
pub const MAKE: u64 = 0xaa00;
/// `O_CLOEXEC | O_NONBLOCK`.
pub const MAKE_FLAGS: u64 = (libc::O_CLOEXEC | libc::O_NONBLOCK) as u64;

/// Bytes of a page; all addresses and lengths here are multiples of it.
pub const PAGE: u64 = PAGE_BYTES as u64;
/// The same, as a length.
pub const PAGE_BYTES: usize = 4096;

/// Events that one read takes at most.
const EVENTS_PER_READ: usize = 32;

/// The faults and events of one process's memory.
#[derive(Debug)]
pub struct Userfault {
    descriptor: OwnedFd,
    hears_forks: bool,
}

/// What happened in that memory. Except for a fault, its thread waits until the event is read;
/// until it then runs on, [`Userfault::copy`] and [`Userfault::zero`] report [`Errno::AGAIN`].
#[derive(Debug)]
pub enum Event {
    /// A thread waits for the page at an address.
    Fault { address: u64, is_write: bool },
    /// The process forks: the child's memory, with the same ranges registered.
    Fork(Userfault),
    /// mremap(2) moved pages; the new place is registered.
    Remap { from: u64, to: u64, bytes: u64 },
    /// madvise(2) gave pages back: they read as zeros from now on. Still registered.
    Remove { start: u64, end: u64 },
    /// The range is mapped no more.
    Unmap { start: u64, end: u64 },
}

/// How far a request came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Filled {
    /// Bytes filled, from the start.
    pub bytes: u64,
    /// Why not all: [`Errno::EXIST`] there is a page already, [`Errno::NOENT`] nothing registered
    /// is mapped there (or the range is in two mappings), [`Errno::AGAIN`] an event is under way,
    /// [`Errno::SRCH`] the memory is gone. An event that begins within the request can show as
    /// `NOENT`; the next request then says `AGAIN` until the event has been read.
    pub stopped: Option<Errno>,
}

/// Struct `uffdio_api`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// Struct `uffdio_range`.
#[repr(C)]
struct Range {
    start: u64,
    bytes: u64,
}

/// Struct `uffdio_register`.
#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

/// Struct `uffdio_copy`.
#[repr(C)]
struct Copy {
    to: u64,
    from: u64,
    bytes: u64,
    mode: u64,
    done: i64,
}

/// Struct `uffdio_zeropage`.
#[repr(C)]
struct Zero {
    range: Range,
    mode: u64,
    done: i64,
}

const fn request(direction: u64, number: u64, bytes: usize) -> u64 {
    (direction << 30) | ((bytes as u64) << 16) | (0xaa << 8) | number
}

const API: u64 = request(3, 0x3f, size_of::<Api>());
const REGISTER: u64 = request(3, 0x00, size_of::<Register>());
const UNREGISTER: u64 = request(2, 0x01, size_of::<Range>());
const WAKE: u64 = request(2, 0x02, size_of::<Range>());
const COPY: u64 = request(3, 0x03, size_of::<Copy>());
const ZERO: u64 = request(3, 0x04, size_of::<Zero>());
/// `UFFDIO_REGISTER_MODE_MISSING`.
const MODE_MISSING: u64 = 1;
/// `UFFD_API`.
const API_VERSION: u64 = 0xaa;
/// `UFFD_FEATURE_EVENT_FORK`, `_REMAP`, `_REMOVE` and `_UNMAP`.
const FEATURES: u64 = EVENT_FORK | (1 << 2) | (1 << 3) | (1 << 6);
/// `UFFD_FEATURE_EVENT_FORK`: only with `CAP_SYS_PTRACE` in the host's own user namespace.
const EVENT_FORK: u64 = 1 << 1;
/// `UFFD_PAGEFAULT_FLAG_WRITE`.
const FAULT_IS_WRITE: u64 = 1;

/// Struct `uffd_msg` as words: the event is the first byte, its data words 1 to 3.
type Message = [u64; 4];

impl Userfault {
    /// Takes a descriptor that another process has just made, and asks for all events that the caller
    /// may hear of: see [`Userfault::hears_forks`].
    ///
    /// # Errors
    /// [`Errno::INVAL`] for this process, a descriptor of another kind, or one used before;
    /// [`Errno::PERM`] without `CAP_SYS_PTRACE`; [`Errno::SRCH`], [`Errno::BADF`].
    pub fn take(process: u32, number: RawFd) -> Result<Userfault> {
        if process == std::process::id() {
            return Err(Errno::INVAL);
        }
        let pid = Pid::from_raw(process.cast_signed()).ok_or(Errno::SRCH)?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        let descriptor = pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?;
        let mut fault = Userfault { descriptor, hears_forks: true };
        let asked = fault.ask(FEATURES).or_else(|error| match error {
            Errno::PERM => {
                fault.hears_forks = false;
                fault.ask(FEATURES & !EVENT_FORK)
            }
            error => Err(error),
        });
        match asked {
            Ok(()) => Ok(fault),
            // Not a userfaultfd at all.
            Err(Errno::NOTTY) => Err(Errno::INVAL),
            Err(error) => Err(error),
        }
    }

    fn ask(&self, features: u64) -> Result<()> {
        let mut api = Api { api: API_VERSION, features, ioctls: 0 };
        // SAFETY: `api` has the layout and size that API encodes.
        check(unsafe { libc::ioctl(self.raw(), API, &raw mut api) }.into()).map(drop)
    }

    /// Whether a fork of the process is an event. If it is not, the process must not fork while it
    /// lacks pages: its child would find zeros in their place.
    #[must_use]
    pub fn hears_forks(&self) -> bool {
        self.hears_forks
    }

    /// Asks for the faults of a range of private anonymous memory; pages that are there stay.
    pub fn register(&self, start: u64, bytes: u64) -> Result<()> {
        let range = Range { start, bytes };
        let mut register = Register { range, mode: MODE_MISSING, ioctls: 0 };
        // SAFETY: `register` has the layout and size that REGISTER encodes; it changes how another
        // process's faults are served, not this one's memory.
        check(unsafe { libc::ioctl(self.raw(), REGISTER, &raw mut register) }.into())?;
        Ok(())
    }

    /// Lets the kernel serve a range's faults again. Dropping the descriptor does that for all.
    pub fn unregister(&self, start: u64, bytes: u64) -> Result<()> {
        let range = Range { start, bytes };
        // SAFETY: `range` has the layout and size that UNREGISTER encodes.
        check(unsafe { libc::ioctl(self.raw(), UNREGISTER, &raw const range) }.into())?;
        Ok(())
    }

    /// Appends what waits, at most 32 events. Faults come before events that are older.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] if nothing waits, [`Errno::MFILE`] if a fork's event needs a descriptor and
    /// there is none (it stays).
    pub fn read(&self, events: &mut Vec<Event>) -> Result<()> {
        let mut messages: [Message; EVENTS_PER_READ] = [[0; 4]; EVENTS_PER_READ];
        let size = size_of_val(&messages);
        // SAFETY: the buffer is writable for `size` bytes, and any bytes are a `Message`.
        let got =
            check(unsafe { libc::read(self.raw(), messages.as_mut_ptr().cast(), size) }
                as libc::c_long)?;
        let count = usize::try_from(got).unwrap_or(0) / size_of::<Message>();
        events.extend(messages[..count].iter().filter_map(event_of));
        Ok(())
    }

    /// Fills missing pages with these bytes and wakes who waits for them. The bytes need no
    /// alignment, their number must be whole pages.
    #[must_use]
    pub fn copy(&self, to: u64, bytes: &[u8]) -> Filled {
        let from = bytes.as_ptr() as u64;
        let mut copy = Copy { to, from, bytes: bytes.len() as u64, mode: 0, done: 0 };
        // SAFETY: `copy` has the layout and size that COPY encodes; the kernel only reads `bytes`,
        // and writes into the memory of another process.
        let result = check(unsafe { libc::ioctl(self.raw(), COPY, &raw mut copy) }.into());
        filled(result, copy.done, copy.bytes)
    }

    /// Makes missing pages read as zeros and wakes who waits for them.
    #[must_use]
    pub fn zero(&self, start: u64, bytes: u64) -> Filled {
        let mut zero = Zero { range: Range { start, bytes }, mode: 0, done: 0 };
        // SAFETY: `zero` has the layout and size that ZERO encodes.
        let result = check(unsafe { libc::ioctl(self.raw(), ZERO, &raw mut zero) }.into());
        filled(result, zero.done, bytes)
    }

    /// Makes who waits for pages of a range look again.
    pub fn wake(&self, start: u64, bytes: u64) -> Result<()> {
        let range = Range { start, bytes };
        // SAFETY: `range` has the layout and size that WAKE encodes.
        check(unsafe { libc::ioctl(self.raw(), WAKE, &raw const range) }.into())?;
        Ok(())
    }

    fn raw(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

impl AsFd for Userfault {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// The kernel stores a count, or a negative errno if it did nothing.
fn filled(result: Result<libc::c_long>, done: i64, wanted: u64) -> Filled {
    let bytes = u64::try_from(done).unwrap_or(0);
    match result {
        Ok(_) => Filled { bytes: wanted, stopped: None },
        // Some of it: the rest was not even tried, so the next try tells why.
        Err(Errno::AGAIN) if bytes > 0 => Filled { bytes, stopped: None },
        Err(error) => Filled { bytes: 0, stopped: Some(error) },
    }
}

fn event_of(message: &Message) -> Option<Event> {
    let [head, a, b, c] = *message;
    match head.to_ne_bytes()[0] {
        0x12 => Some(Event::Fault { address: b & !(PAGE - 1), is_write: a & FAULT_IS_WRITE != 0 }),
        0x13 => {
            let number = RawFd::from_ne_bytes(a.to_ne_bytes()[..4].try_into().ok()?);
            // SAFETY: the kernel has put a new descriptor into this process's table for this
            // message, which is read once; nobody else knows the number.
            let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
            Some(Event::Fork(Userfault { descriptor, hears_forks: true }))
        }
        0x14 => Some(Event::Remap { from: a, to: b, bytes: c }),
        0x15 => Some(Event::Remove { start: a, end: b }),
        0x16 => Some(Event::Unmap { start: a, end: b }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_kernels_numbers() {
        assert_eq!(API, 0xc018_aa3f);
        assert_eq!(REGISTER, 0xc020_aa00);
        assert_eq!(UNREGISTER, 0x8010_aa01);
        assert_eq!(WAKE, 0x8010_aa02);
        assert_eq!(COPY, 0xc028_aa03);
        assert_eq!(ZERO, 0xc020_aa04);
    }

    #[test]
    fn own_memory_and_other_descriptors_are_refused() {
        assert_eq!(Userfault::take(std::process::id(), 0).err(), Some(Errno::INVAL));
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let taken = Userfault::take(child.id(), 0).err();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(taken, Some(Errno::INVAL));
        assert_eq!(Userfault::take(0, 0).err(), Some(Errno::SRCH));
    }

    #[test]
    fn events_are_decoded() {
        let fault = event_of(&[0x12, 1, 0x1234, 0]);
        assert!(matches!(fault, Some(Event::Fault { address: 0x1000, is_write: true })));
        let remap = event_of(&[0x14, 1, 2, 3]);
        assert!(matches!(remap, Some(Event::Remap { from: 1, to: 2, bytes: 3 })));
        assert!(matches!(event_of(&[0x15, 1, 2, 0]), Some(Event::Remove { start: 1, end: 2 })));
        assert!(matches!(event_of(&[0x16, 1, 2, 0]), Some(Event::Unmap { start: 1, end: 2 })));
        assert!(event_of(&[0x17, 0, 0, 0]).is_none());
    }
}
