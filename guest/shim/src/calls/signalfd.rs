//! signalfd(2): signals that the daemon sent for somebody show as that somebody's.

use super::other::from_host;
use super::{Answer, blocking, descriptor};
use crate::arch::frame::Context;
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::signal::SI_MESGQ;
use crate::signal::mask;
use crate::thread::Thread;
use dunix_shim_core::signal::SIGCHLD;
use dunix_shim_core::{Errno, nr};

/// Bytes of `struct signalfd_siginfo`.
const INFO_BYTES: u64 = 128;
/// Words of the part of it that is looked at.
const WORDS: usize = 14;
/// Words: `ssi_signo`, `ssi_code`, `ssi_pid`, `ssi_status`, `ssi_int`, `ssi_ptr` (two).
const SIGNAL: usize = 0;
const CODE: usize = 2;
const SENDER: usize = 3;
const STATUS: usize = 10;
const VALUE: usize = 11;
const POINTER: usize = 12;

/// Makes a signalfd, or changes one.
pub(crate) fn open(thread: &Thread, number: u64, args: [u64; 6]) -> Result<u64, Errno> {
    let fd = mask::signalfd(number, args)?;
    thread.process().signalfds.insert(host::int_arg(fd));
    Ok(fd)
}

/// Notes a descriptor from elsewhere, if it is one.
pub(crate) fn note(thread: &Thread, fd: i32) {
    const LINK: &[u8] = b"anon_inode:[signalfd]";
    let mut target = [0u8; 32];
    if descriptor::link_of(host::fd_arg(fd), &mut target).is_some_and(|link| link == LINK) {
        thread.process().signalfds.insert(fd);
    } else {
        thread.process().signalfds.remove(fd);
    }
}

/// read(2) of one.
pub(crate) fn read(context: &Context, args: [u64; 6]) -> Answer {
    // SAFETY: the guest's own call.
    let answer = unsafe { blocking(context, nr::READ, args) };
    if let Answer::Return(bytes) = answer
        && let Ok(bytes) = u64::try_from(bytes)
    {
        for at in (0..bytes / INFO_BYTES).map(|index| index * INFO_BYTES) {
            if let Err(error) = restore(GuestAddr(args[1]).plus(at)) {
                return Answer::from(Err(error));
            }
        }
    }
    answer
}

/// Gives one record its real code, or the notice of a message queue its sender. The host filled it as for a queued signal: the child's status
/// is in the value.
fn restore(at: GuestAddr) -> Result<(), Errno> {
    let mut words = guest::read::<[u32; WORDS]>(at)?;
    if words[CODE].cast_signed() == SI_MESGQ {
        words[SENDER] = from_host(words[SENDER]);
        return guest::write(at, &words);
    }
    let Some(real) = dunix_guest_abi::signal::decode(words[CODE].cast_signed()) else {
        return Ok(());
    };
    words[CODE] = real.cast_unsigned();
    if words[SIGNAL] == SIGCHLD {
        words[STATUS] = words[VALUE];
    }
    words[VALUE] = 0;
    words[POINTER] = 0;
    words[POINTER + 1] = 0;
    guest::write(at, &words)
}
