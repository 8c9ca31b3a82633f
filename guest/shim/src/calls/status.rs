//! stat(2) and kin on descriptors of another node, by number or by their names in `/dev/fd`.

use super::{Answer, remote};
use crate::arch::frame::Context;
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::thread::Thread;
use dunix_shim_core::{Errno, nr, proc_path};

const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
/// `STATX_BASIC_STATS`.
const BASIC: u32 = 0x7ff;

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
        nr::NEWFSTATAT => (first, Some(second), fourth, third),
        nr::STATX => (first, Some(second), third, fifth),
        _ => return None,
    };
    Some(Asked { fd: host::int_arg(fd), path: path.map(GuestAddr), flags, to: GuestAddr(to) })
}

/// Answers a call that describes a remote object.
pub(crate) fn try_handle(
    thread: &Thread,
    context: &Context,
    number: u64,
    args: [u64; 6],
) -> Option<Answer> {
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
