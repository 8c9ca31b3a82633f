//! poll(2), select(2) and kin on sets that hold descriptors of another node.
//!
//! The host waits for them: placeholders are as ready as their objects. What the host finds ready
//! of another node is looked at there before the guest hears of it, for somebody else may have
//! been faster; if nothing remains, the wait goes on.

use super::{Answer, blocking, remote, timed};
use crate::arch::frame::Context;
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::signal::deliver;
use crate::thread::Thread;
use dunix_shim_core::time::Time;
use dunix_shim_core::{Errno, nr};

const POLLIN: u32 = 1;
const POLLPRI: u32 = 2;
const POLLOUT: u32 = 4;
const POLLERR: u32 = 8;
const POLLHUP: u32 = 16;
/// Bytes of `struct pollfd`, and where its events are.
const MEMBER_BYTES: u64 = 8;
const EVENTS_AT: u64 = 4;
/// Descriptors that a set of select(2) can hold.
const FD_SETSIZE: u64 = 1024;
/// Most turns in which what was ready no longer is when it is looked at.
const TURNS_MAX: usize = 1 << 16;

type Bits = [u64; 16];

/// The members of a call, in the guest's memory.
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack for one call, and there is no heap"
)]
enum Set {
    /// poll(2): address and number of members.
    Poll(u64, u64),
    /// select(2): number of descriptors, addresses of the three sets, and what they asked for.
    Select(u64, [u64; 3], [Bits; 3]),
}

/// Handles a call that waits for a set with remote members.
pub(crate) fn try_handle(
    thread: &Thread,
    context: &Context,
    number: u64,
    args: [u64; 6],
) -> Option<Answer> {
    let set = Set::read(number, args)?;
    if !set.has_remote(thread) {
        return None;
    }
    let end = (number == nr::POLL && host::int_arg(args[2]) > 0)
        .then(|| host::now().plus(Time::of_millis(i64::from(host::int_arg(args[2])))));
    let mut args = args;
    for _ in 0..TURNS_MAX {
        // The other calls write what is left of their span where the guest gave it.
        if let Some(end) = end {
            args[2] = millis(end.since(host::now()));
        }
        let answer = timed::try_handle(thread, context, number, args).unwrap_or_else(|| {
            // SAFETY: the guest's own call.
            unsafe { blocking(context, number, args) }
        });
        let (Answer::Return(found) | Answer::UnderMask(found, _)) = answer else {
            return Some(answer);
        };
        if found <= 0 {
            return Some(answer);
        }
        let ready = match set.look(thread, context, found) {
            Err(_) if thread.first_noted().is_some() => deliver::INTERRUPTED,
            Err(error) => error.as_result(),
            Ok(0) if thread.first_noted().is_some() => deliver::INTERRUPTED,
            Ok(0) => {
                if let Err(error) = set.ask_again() {
                    return Some(Answer::from(Err(error)));
                }
                continue;
            }
            Ok(ready) => ready,
        };
        return Some(match answer {
            Answer::UnderMask(_, mask) => Answer::UnderMask(ready, mask),
            _ => Answer::Return(ready),
        });
    }
    Some(Answer::Return(0))
}

/// A span as poll(2) takes it, rounded up.
fn millis(span: Time) -> u64 {
    let millis =
        span.seconds.saturating_mul(1000).saturating_add((span.nanos + 999_999) / 1_000_000);
    u64::try_from(millis.min(i64::from(i32::MAX))).unwrap_or(0)
}

impl Set {
    fn read(number: u64, args: [u64; 6]) -> Option<Set> {
        if matches!(number, nr::POLL | nr::PPOLL) {
            return Some(Set::Poll(args[0], u64::from(host::uint_arg(args[1]))));
        }
        let count = u64::try_from(host::int_arg(args[0])).ok()?.min(FD_SETSIZE);
        let at = [args[1], args[2], args[3]];
        let mut asked = [[0; 16]; 3];
        for (bits, at) in asked.iter_mut().zip(at).filter(|(_, at)| *at != 0) {
            for (index, word) in bits.iter_mut().take(words(count)).enumerate() {
                *word = guest::read(GuestAddr(at).plus(index as u64 * 8)).ok()?;
            }
        }
        Some(Set::Select(count, at, asked))
    }

    fn has_remote(&self, thread: &Thread) -> bool {
        let remote = &thread.process().remote;
        match self {
            Set::Poll(at, count) => (0..*count).any(|index| {
                let at = GuestAddr(*at).plus(index * MEMBER_BYTES);
                guest::read::<i32>(at).is_ok_and(|fd| remote.has(fd))
            }),
            Set::Select(_, _, asked) => {
                let remote = remote.words();
                asked.iter().any(|bits| bits.iter().zip(remote).any(|(asked, is)| asked & is != 0))
            }
        }
    }

    /// Looks at the ready members of other nodes; returns how many members are ready then.
    fn look(&self, thread: &Thread, context: &Context, found: i64) -> Result<i64, Errno> {
        match self {
            Set::Poll(at, count) => look_at_members(thread, context, (*at, *count), found),
            Set::Select(count, at, asked) => look_at_bits(thread, context, *count, at, asked),
        }
    }

    /// Makes the guest's sets what they were: select(2) has overwritten them.
    fn ask_again(&self) -> Result<(), Errno> {
        let Set::Select(count, at, asked) = self else { return Ok(()) };
        at.iter().zip(asked).try_for_each(|(at, bits)| write_bits(*at, *count, bits))
    }
}

fn look_at_members(
    thread: &Thread,
    context: &Context,
    (at, count): (u64, u64),
    mut ready: i64,
) -> Result<i64, Errno> {
    for index in 0..count {
        let at = GuestAddr(at).plus(index * MEMBER_BYTES);
        let [fd, events]: [u32; 2] = guest::read(at)?;
        let (asked, shown) = (events & 0xffff, events >> 16);
        if shown == 0 || !thread.process().remote.has(fd.cast_signed()) {
            continue;
        }
        let now = look(thread, context, fd.cast_signed(), asked)?;
        guest::write(at.plus(EVENTS_AT), &(asked | now << 16))?;
        ready -= i64::from(now == 0);
    }
    Ok(ready)
}

fn look_at_bits(
    thread: &Thread,
    context: &Context,
    count: u64,
    at: &[u64; 3],
    asked: &[Bits; 3],
) -> Result<i64, Errno> {
    const MEANS: [u32; 3] = [POLLIN | POLLHUP | POLLERR, POLLOUT | POLLERR, POLLPRI];
    const EVENTS: [u32; 3] = [POLLIN, POLLOUT, POLLPRI];
    let mut shown: [Bits; 3] = [[0; 16]; 3];
    for (bits, at) in shown.iter_mut().zip(at).filter(|(_, at)| **at != 0) {
        for (index, word) in bits.iter_mut().take(words(count)).enumerate() {
            *word = guest::read(GuestAddr(*at).plus(index as u64 * 8))?;
        }
    }
    for fd in 0..count {
        let (word, bit) = ((fd / 64) as usize, 1_u64 << (fd % 64));
        let number = host::int_arg(fd);
        if shown.iter().all(|bits| bits[word] & bit == 0) || !thread.process().remote.has(number) {
            continue;
        }
        let events = (0..3).filter(|set| asked[*set][word] & bit != 0);
        let events = events.fold(0, |events, set| events | EVENTS[set]);
        let now = look(thread, context, number, events)?;
        for set in 0..3 {
            let is_ready = asked[set][word] & bit != 0 && now & MEANS[set] != 0;
            shown[set][word] = shown[set][word] & !bit | if is_ready { bit } else { 0 };
        }
    }
    for (at, bits) in at.iter().zip(&shown) {
        write_bits(*at, count, bits)?;
    }
    let ready: u32 = shown.iter().flatten().map(|word| word.count_ones()).sum();
    Ok(i64::from(ready))
}

/// What is ready at the home; a home that is gone fails every call.
fn look(thread: &Thread, context: &Context, fd: i32, events: u32) -> Result<u32, Errno> {
    match remote::look(thread, context.mask, fd, events) {
        Err(Errno::EINTR) if thread.first_noted().is_some() => Err(Errno::EINTR),
        Err(_) => Ok(POLLERR),
        found => found,
    }
}

fn write_bits(at: u64, count: u64, bits: &Bits) -> Result<(), Errno> {
    if at == 0 {
        return Ok(());
    }
    let words = bits.iter().take(words(count)).enumerate();
    for (index, word) in words {
        guest::write(GuestAddr(at).plus(index as u64 * 8), word)?;
    }
    Ok(())
}

fn words(count: u64) -> usize {
    host::to_usize(count.div_ceil(64))
}
