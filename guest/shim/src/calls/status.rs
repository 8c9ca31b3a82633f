//! stat(2) and kin: the tree's number is the fabric's; descriptors of another node, by number or by their names in `/dev/fd`.

use super::{Answer, blocking, path, remote};
use crate::arch::frame::Context;
use crate::doorbell::node_facts;
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::park;
use crate::process::has_daemon;
use crate::thread::Thread;
use core::sync::atomic::Ordering;
use dunix_guest_abi::arena::TREE_DEVICE;
use dunix_shim_core::{Errno, nr, proc_path};

const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
/// `STATX_BASIC_STATS`.
const BASIC: u32 = 0x7ff;
/// Where `struct statx` has the device's numbers.
const STATX_DEVICE: u64 = 136;

/// What a call describes.
struct Asked {
    /// The descriptor, or the folder that the path is relative to.
    fd: i32,
    path: Option<GuestAddr>,
    flags: u64,
    /// Where the answer goes.
    to: GuestAddr,
}

fn asked(number: u64, args: [u64; 6]) -> Option<Asked> {
    let [first, second, third, fourth, fifth, _] = args;
    let (fd, path, flags, to) = match number {
        nr::FSTAT => (first, None, host::AT_EMPTY_PATH, second),
        nr::STAT => (host::AT_FDCWD, Some(first), 0, second),
        nr::LSTAT => (host::AT_FDCWD, Some(first), AT_SYMLINK_NOFOLLOW, second),
        nr::NEWFSTATAT => (first, Some(second), fourth, third),
        nr::STATX => (first, Some(second), third, fifth),
        _ => return None,
    };
    Some(Asked { fd: host::int_arg(fd), path: path.map(GuestAddr), flags, to: GuestAddr(to) })
}

/// Whether the host's answers are not the guest's.
pub(crate) fn is_translated() -> bool {
    has_daemon() && tree_device() != 0
}

/// The number of the tree's file system at this node.
pub(crate) fn tree_device() -> u32 {
    node_facts().tree_device.load(Ordering::Relaxed)
}

/// Puts the fabric's number of the tree into what the host has told a guest by this call.
pub(crate) fn translate(number: u64, args: [u64; 6]) {
    let Some(Asked { to, .. }) = asked(number, args) else { return };
    let (at, own, fabrics) = match number {
        nr::STATX => (to.plus(STATX_DEVICE), split(tree_device()), split(TREE_DEVICE)),
        _ => (to, u64::from(tree_device()), u64::from(TREE_DEVICE)),
    };
    if guest::read::<u64>(at) == Ok(own) {
        // The guest has unmapped it since.
        let _ = guest::write(at, &fabrics);
    }
}

/// The words of `struct stat` as a guest is to see them.
pub(crate) fn translated(mut words: [u64; 18]) -> [u64; 18] {
    if words[0] == u64::from(tree_device()) {
        words[0] = u64::from(TREE_DEVICE);
    }
    words
}

fn split(device: u32) -> u64 {
    self::device(u64::from(device))
}

/// Handles a call that is made by a trap.
pub(crate) fn handle(thread: &Thread, context: &Context, number: u64, args: [u64; 6]) -> Answer {
    if let Some(answer) = try_handle(thread, context, number, args) {
        return answer;
    }
    loop {
        let parks = park::count();
        let answer = path::try_handle(thread, context, number, args)
            // SAFETY: the guest's own call.
            .unwrap_or_else(|| unsafe { blocking(context, number, args) });
        if !matches!(answer, Answer::Return(0)) {
            return answer;
        }
        if park::count() == parks {
            translate(number, args);
            return answer;
        }
        // It may have moved when the host had answered: which host did is not known.
    }
}

/// Answers a call that describes a remote object.
fn try_handle(thread: &Thread, context: &Context, number: u64, args: [u64; 6]) -> Option<Answer> {
    if thread.process().remote.is_empty() {
        return None;
    }
    let asked = asked(number, args)?;
    let fd = described(thread, context, &asked)?;
    if !thread.process().remote.has(fd) {
        return None;
    }
    Some(match remote::status(thread, context.mask, fd) {
        Err(Errno::EINTR) if thread.first_noted().is_some() => Answer::Interrupted,
        Err(error) => Answer::from(Err(error)),
        Ok(words) if number == nr::STATX => {
            guest::write(asked.to, &extended(&words)).map(|()| 0).into()
        }
        Ok(words) => guest::write(asked.to, &words).map(|()| 0).into(),
    })
}

/// The descriptor that is described, by number or by name.
fn described(thread: &Thread, context: &Context, asked: &Asked) -> Option<i32> {
    let Some(path) = asked.path else { return Some(asked.fd) };
    let mut buffer = [0u8; 32];
    match guest::read_str(path, &mut buffer).ok()? {
        b"" if asked.flags & host::AT_EMPTY_PATH != 0 => Some(asked.fd),
        name if asked.flags & AT_SYMLINK_NOFOLLOW == 0 => {
            if let Some(number) = proc_path::pseudo_terminal(name) {
                return terminal_named(thread, context, number);
            }
            i32::try_from(proc_path::own_descriptor(name)?).ok()
        }
        _ => None,
    }
}

/// The standard descriptor, if any, that is pseudo-terminal `number` of another node.
pub(super) fn terminal_named(thread: &Thread, context: &Context, number: u32) -> Option<i32> {
    (0..3).find(|fd| terminal_number(thread, context, *fd) == Some(number))
}

/// Which pseudo-terminal a remote descriptor is.
pub(super) fn terminal_number(thread: &Thread, context: &Context, fd: i32) -> Option<u32> {
    const FIRST_MAJOR: u64 = 136;
    const MAJORS: u64 = 8;
    const MINORS: u64 = 256;
    const CHARACTER_DEVICE: u64 = 0o020_000;
    if !thread.process().remote.has(fd) {
        return None;
    }
    let words = remote::status(thread, context.mask, fd).ok()?;
    let device = device(words[5]);
    let (major, minor) = (device & 0xffff_ffff, device >> 32);
    let is_terminal = words[3] & 0o170_000 == CHARACTER_DEVICE
        && (FIRST_MAJOR..FIRST_MAJOR + MAJORS).contains(&major);
    is_terminal.then(|| host::uint_arg((major - FIRST_MAJOR) * MINORS + minor))
}

/// Major and minor number of a device, as the kernel packs them.
fn device(packed: u64) -> u64 {
    let major = packed >> 8 & 0xfff | packed >> 32 & 0xffff_f000;
    let minor = packed & 0xff | packed >> 12 & 0xffff_ff00;
    major & 0xffff_ffff | minor << 32
}

/// Turns `struct stat` into `struct statx`.
fn extended(stat: &[u64; 18]) -> [u64; 32] {
    let [dev, ino, nlink, mode_uid, gid, rdev, size, block_bytes, blocks, ..] = *stat;
    let time = |at: usize| [stat[at], stat[at + 1] & 0xffff_ffff];
    let mut words = [0u64; 32];
    words[0] = u64::from(BASIC) | block_bytes << 32;
    words[2] = nlink & 0xffff_ffff | mode_uid & !0xffff_ffff;
    words[3] = gid & 0xffff_ffff | (mode_uid & 0xffff) << 32;
    words[4..7].copy_from_slice(&[ino, size, blocks]);
    words[8..10].copy_from_slice(&time(9));
    words[12..14].copy_from_slice(&time(13));
    words[14..16].copy_from_slice(&time(11));
    words[16] = device(rdev);
    words[17] = device(dev);
    words
}
