//! poll(2), select(2) and kin on sets that hold descriptors of another node.
//!
//! A set without such descriptors is the kernel's business. One remote descriptor alone is waited
//! for at its home; a mixed set is looked at in turns of [`TURN_MS`]. Sets of more than [`SET_MAX`]
//! members are passed on: their remote members then look as the local placeholder does.

use super::{Answer, remote};
use crate::arch::frame::Context;
use crate::arch::gadget::{self, Request};
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::signal::deliver;
use crate::thread::Thread;
use dunix_shim_core::signal::SigSet;
use dunix_shim_core::{Errno, nr};

/// Most descriptors of a set that may be mixed.
const SET_MAX: usize = 128;
/// Milliseconds between two looks at the remote members of a mixed set.
const TURN_MS: i64 = 20;
const POLLIN: u32 = 1;
const POLLPRI: u32 = 2;
const POLLOUT: u32 = 4;
const POLLERR: u32 = 8;
const POLLHUP: u32 = 16;
const FD_SETSIZE: usize = 1024;

/// One member of a set: `struct pollfd`, the events in one word (asked low, found high).
#[derive(Clone, Copy)]
struct Member {
    fd: i32,
    events: u32,
}

impl Member {
    fn asked(self) -> u32 {
        self.events & 0xffff
    }

    fn found(self) -> u32 {
        self.events >> 16
    }

    fn set_found(&mut self, found: u32) {
        self.events = self.asked() | found << 16;
    }
}

struct Set {
    members: [Member; SET_MAX],
    len: usize,
}

impl Set {
    const fn new() -> Set {
        Set { members: [Member { fd: -1, events: 0 }; SET_MAX], len: 0 }
    }

    fn push(&mut self, member: Member) -> Option<()> {
        *self.members.get_mut(self.len)? = member;
        self.len += 1;
        Some(())
    }

    fn members(&mut self) -> &mut [Member] {
        &mut self.members[..self.len]
    }

    fn has_remote(&mut self, thread: &Thread) -> bool {
        self.members().iter().any(|member| thread.process().remote.has(member.fd))
    }
}

/// A wait: until when, and under which mask.
struct Wait<'a> {
    thread: &'a Thread,
    context: &'a Context,
    /// A mask of the call's own.
    own_mask: Option<SigSet>,
    timeout_ms: Option<i64>,
}

/// Handles a call that waits for a set with remote members.
pub(crate) fn try_handle(
    thread: &Thread,
    context: &Context,
    number: u64,
    args: [u64; 6],
) -> Option<Answer> {
    if thread.process().remote.is_empty() {
        return None;
    }
    let mut wait = Wait { thread, context, own_mask: None, timeout_ms: None };
    match number {
        nr::POLL => {
            wait.timeout_ms = u64::try_from(host::int_arg(args[2])).ok().map(u64::cast_signed);
            poll(&wait, args)
        }
        nr::PPOLL => {
            wait.timeout_ms = time(args[2], 1_000_000)?;
            wait.own_mask = mask(args[3])?;
            poll(&wait, args)
        }
        nr::SELECT => {
            wait.timeout_ms = time(args[4], 1000)?;
            select(&wait, args)
        }
        nr::PSELECT6 => {
            wait.timeout_ms = time(args[4], 1_000_000)?;
            let at: u64 = if args[5] == 0 { 0 } else { guest::read(GuestAddr(args[5])).ok()? };
            wait.own_mask = mask(at)?;
            select(&wait, args)
        }
        _ => None,
    }
}

/// Reads seconds and a fraction as milliseconds, rounded up; `Some(None)` for no limit.
fn time(at: u64, per_ms: i64) -> Option<Option<i64>> {
    if at == 0 {
        return Some(None);
    }
    let [seconds, fraction]: [u64; 2] = guest::read(GuestAddr(at)).ok()?;
    let (seconds, fraction) = (seconds.cast_signed(), fraction.cast_signed());
    let fraction_ms = fraction.checked_add(per_ms - 1)? / per_ms;
    Some(Some(seconds.checked_mul(1000)?.checked_add(fraction_ms)?))
}

fn mask(at: u64) -> Option<Option<SigSet>> {
    if at == 0 {
        return Some(None);
    }
    Some(Some(guest::read::<SigSet>(GuestAddr(at)).ok()?.for_kernel()))
}

fn poll(wait: &Wait<'_>, args: [u64; 6]) -> Option<Answer> {
    let count = usize::try_from(args[1]).ok().filter(|count| *count <= SET_MAX)?;
    let mut set = Set::new();
    for index in 0..count {
        let [fd, events]: [u32; 2] = guest::read(GuestAddr(args[0] + index as u64 * 8)).ok()?;
        set.push(Member { fd: fd.cast_signed(), events: events & 0xffff })?;
    }
    if !set.has_remote(wait.thread) {
        return None;
    }
    let ready = match wait.run(&mut set) {
        Ok(ready) => ready,
        Err(answer) => return Some(answer),
    };
    for (index, member) in set.members().iter().enumerate() {
        let word = [member.fd.cast_unsigned(), member.events];
        if let Err(error) = guest::write(GuestAddr(args[0] + index as u64 * 8), &word) {
            return Some(Answer::from(Err(error)));
        }
    }
    Some(Answer::Return(ready))
}

type Bits = [u64; FD_SETSIZE / 64];

fn select(wait: &Wait<'_>, args: [u64; 6]) -> Option<Answer> {
    let count = usize::try_from(args[0]).ok().filter(|count| *count <= FD_SETSIZE)?;
    let words = count.div_ceil(64);
    let mut sets: [Bits; 3] = [[0; FD_SETSIZE / 64]; 3];
    for (bits, at) in sets.iter_mut().zip(&args[1..4]).filter(|(_, at)| **at != 0) {
        for (index, word) in bits[..words].iter_mut().enumerate() {
            *word = guest::read(GuestAddr(at + index as u64 * 8)).ok()?;
        }
    }
    let mut set = Set::new();
    for fd in 0..count {
        let events = [POLLIN, POLLOUT, POLLPRI].iter().zip(&sets).fold(0, |sum, (event, bits)| {
            sum | if bits[fd / 64] >> (fd % 64) & 1 == 1 { *event } else { 0 }
        });
        if events != 0 {
            set.push(Member { fd: i32::try_from(fd).ok()?, events })?;
        }
    }
    if !set.has_remote(wait.thread) {
        return None;
    }
    if let Err(answer) = wait.run(&mut set) {
        return Some(answer);
    }
    Some(give_bits(&mut set, &sets, words, args).into())
}

fn give_bits(set: &mut Set, asked: &[Bits; 3], words: usize, args: [u64; 6]) -> Result<u64, Errno> {
    let means = [POLLIN | POLLHUP | POLLERR, POLLOUT | POLLERR, POLLPRI];
    let mut ready = 0;
    for ((meaning, asked), at) in means.into_iter().zip(asked).zip(&args[1..4]) {
        let mut bits: Bits = [0; FD_SETSIZE / 64];
        for member in set.members().iter().filter(|member| member.found() & meaning != 0) {
            let fd = member.fd.unsigned_abs() as usize;
            let bit = asked[fd / 64] & 1 << (fd % 64);
            bits[fd / 64] |= bit;
            ready += u64::from(bit != 0);
        }
        for (index, word) in bits[..words].iter().enumerate().filter(|_| *at != 0) {
            guest::write(GuestAddr(at + index as u64 * 8), word)?;
        }
    }
    Ok(ready)
}

impl Wait<'_> {
    fn mask(&self) -> SigSet {
        self.own_mask.unwrap_or(self.context.mask)
    }

    /// Waits until a member is ready or the time is over; returns how many are.
    fn run(&self, set: &mut Set) -> Result<i64, Answer> {
        let is_single = set.len == 1;
        let end = self.timeout_ms.map(|timeout| now_ms().saturating_add(timeout));
        let mut turn_ms = 0;
        loop {
            let left = end.map_or(i64::MAX, |end| (end - now_ms()).max(0));
            self.look_local(set, if is_single { 0 } else { turn_ms.min(left) })?;
            let remote_ms = if is_single { end.map_or(-1, |_| left) } else { 0 };
            self.look_remote(set, remote_ms)?;
            let ready = set.members().iter().filter(|member| member.found() != 0).count();
            if ready > 0 || left == 0 || is_single && remote_ms >= 0 {
                return Ok(i64::try_from(ready).unwrap_or(0));
            }
            turn_ms = TURN_MS;
        }
    }

    fn look_local(&self, set: &mut Set, timeout_ms: i64) -> Result<(), Answer> {
        let mut local = Set::new();
        for member in set.members() {
            let is_remote = self.thread.process().remote.has(member.fd);
            let fd = if is_remote { -1 } else { member.fd };
            let _ = local.push(Member { fd, events: member.asked() });
        }
        let mut words = [[0u32; 2]; SET_MAX];
        for (word, member) in words.iter_mut().zip(local.members()) {
            *word = [member.fd.cast_unsigned(), member.events];
        }
        let args = [words.as_mut_ptr() as u64, set.len as u64, timeout_ms.cast_unsigned(), 0, 0, 0];
        let request = Request { mask: self.mask(), nr: nr::POLL, args };
        // SAFETY: reads and writes `words` only.
        let result = unsafe { gadget::interruptible(&request) };
        if self.thread.first_noted().is_some() {
            return Err(self.interrupted());
        }
        if result < 0 {
            return Err(Answer::Return(result));
        }
        for (member, word) in set.members().iter_mut().zip(words) {
            member.set_found(word[1] >> 16);
        }
        Ok(())
    }

    fn look_remote(&self, set: &mut Set, timeout_ms: i64) -> Result<(), Answer> {
        for member in set.members() {
            if !self.thread.process().remote.has(member.fd) {
                continue;
            }
            let found =
                remote::poll(self.thread, self.mask(), member.fd, member.asked(), timeout_ms);
            match found {
                Ok(found) => member.set_found(found),
                Err(_) if self.thread.first_noted().is_some() => return Err(self.interrupted()),
                Err(_) => member.set_found(POLLERR),
            }
        }
        Ok(())
    }

    /// None of these calls restarts after a handler (signal(7)).
    fn interrupted(&self) -> Answer {
        match self.own_mask {
            None => Answer::Return(deliver::INTERRUPTED),
            Some(mask) => {
                self.thread.saved_mask.set(Some(self.context.mask));
                Answer::UnderMask(deliver::INTERRUPTED, mask)
            }
        }
    }
}

/// Milliseconds on the monotonic clock.
fn now_ms() -> i64 {
    let mut time = [0i64; 2];
    // SAFETY: writes `time` only.
    let _ = unsafe { host::call(nr::CLOCK_GETTIME, [1, time.as_mut_ptr() as u64, 0, 0, 0, 0]) };
    time[0].saturating_mul(1000) + time[1] / 1_000_000
}
