//! Calls on a descriptor that one process may ask for on another's behalf: a closed list, each with
//! what its arguments point to. One list for whoever takes a call down and for whoever runs it.
//!
//! Listed is what takes its structures by value, installs no descriptor, names no process or path,
//! and does not wait for a peer.

use crate::{Errno, Result, check};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Arguments that follow the descriptor.
pub const ARGUMENTS: usize = 5;
/// Most bytes that one call takes or gives.
pub const BYTES_MAX: usize = 256 * 1024;
/// Most bytes of a socket option or address.
const OPTION_BYTES_MAX: u32 = 4096;

/// What an argument is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A number.
    Value,
    /// A structure that the kernel reads.
    In(Size),
    /// A structure that the kernel writes.
    Out(Size),
    /// A `socklen_t` with the room of the structure in the argument before, then its length.
    Length,
}

/// How large a structure is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// Always so many bytes.
    Bytes(usize),
    /// As many as another argument says; of an `Out`, as many as the call returns are meaningful.
    Argument(usize),
    /// As the `Length` that follows says.
    Length,
}

use Role::{In, Length, Out, Value};

/// The roles of a call's arguments after the descriptor, `None` if it is not on the list.
/// `args` distinguish calls of one number.
#[must_use]
pub fn roles(number: u32, args: &[u64; ARGUMENTS]) -> Option<[Role; ARGUMENTS]> {
    let number = libc::c_long::from(number);
    let spec = Size::Bytes(32);
    let [a, b, c] = match number {
        libc::SYS_shutdown
        | libc::SYS_listen
        | libc::SYS_flock
        | libc::SYS_ftruncate
        | libc::SYS_fsync
        | libc::SYS_fdatasync
        | libc::SYS_fallocate
        | libc::SYS_fadvise64
        | libc::SYS_fchmod
        | libc::SYS_sync_file_range
        | libc::SYS_syncfs
        | libc::SYS_inotify_rm_watch => [Value, Value, Value],
        libc::SYS_bind => [In(Size::Argument(1)), Value, Value],
        libc::SYS_getsockname | libc::SYS_getpeername => [Out(Size::Length), Length, Value],
        libc::SYS_setsockopt if is_plain_option(args) => {
            return Some([Value, Value, In(Size::Argument(3)), Value, Value]);
        }
        libc::SYS_getsockopt if is_plain_option(args) => {
            return Some([Value, Value, Out(Size::Length), Length, Value]);
        }
        libc::SYS_fcntl if is_plain_command(args[0]) => [Value, Value, Value],
        libc::SYS_fstatfs => [Out(Size::Bytes(120)), Value, Value],
        libc::SYS_getdents64 | libc::SYS_getdents => [Out(Size::Argument(1)), Value, Value],
        libc::SYS_pread64 => [Out(Size::Argument(1)), Value, Value],
        libc::SYS_pwrite64 => [In(Size::Argument(1)), Value, Value],
        libc::SYS_timerfd_settime => [Value, In(spec), Out(spec)],
        libc::SYS_timerfd_gettime => [Out(spec), Value, Value],
        _ => return None,
    };
    Some([a, b, c, Value, Value])
}

/// Options whose value is a plain structure: no programs, descriptors or addresses in it.
fn is_plain_option(args: &[u64; ARGUMENTS]) -> bool {
    const SOL_SOCKET: u64 = 1;
    /// `SO_ATTACH_FILTER`, `_BPF`, `SO_ATTACH_REUSEPORT_CBPF`, `_EBPF`, `SO_PEERPIDFD`.
    const NOT_PLAIN: [u64; 5] = [26, 50, 51, 52, 77];
    /// First option of netfilter (`IPT_BASE_CTL`).
    const NETFILTER: u64 = 64;
    /// IP, TCP, UDP, IPv6.
    const INTERNET: [u64; 4] = [0, 6, 17, 41];
    /// `TCP_ZEROCOPY_RECEIVE`.
    const ZERO_COPY: u64 = 35;
    let (level, name) = (args[0] & 0xffff_ffff, args[1] & 0xffff_ffff);
    match level {
        SOL_SOCKET => !NOT_PLAIN.contains(&name),
        6 => name != ZERO_COPY,
        _ => INTERNET.contains(&level) && (name < NETFILTER || level == 41 && name <= 80),
    }
}

/// `F_GETFL`, `F_SETFL`, `F_SETPIPE_SZ`, `F_GETPIPE_SZ`, `F_ADD_SEALS`, `F_GET_SEALS`.
fn is_plain_command(command: u64) -> bool {
    matches!(command & 0xffff_ffff, 3 | 4 | 1031..=1034)
}

/// How many bytes a structure has that no [`Role::Length`] is about, at most [`BYTES_MAX`]: the
/// kernel takes what a call can carry of a longer read or write.
#[must_use]
pub fn bytes_of(size: Size, args: &[u64; ARGUMENTS]) -> usize {
    let bytes = match size {
        Size::Bytes(bytes) => bytes,
        Size::Argument(at) => {
            usize::try_from(args.get(at).copied().unwrap_or(0)).unwrap_or(BYTES_MAX)
        }
        Size::Length => 0,
    };
    bytes.min(BYTES_MAX)
}

/// How many bytes a structure has whose room a [`Role::Length`] gives.
#[must_use]
pub fn room_of(length: u32) -> u32 {
    length.min(OPTION_BYTES_MAX)
}

/// A call's structures while it runs: the address of each goes into its argument.
struct Buffers {
    bytes: [Vec<u8>; ARGUMENTS],
}

/// Runs a listed call. `input` holds the `In` structures and the words of `Length`s, in the order of
/// the arguments; a pointer argument of 0 is none. Returns the call's result with the `Out` structures and
/// `Length` words, in that order too.
///
/// # Errors
/// `ENOSYS` if it is not listed, `EINVAL` if `input` is not what it takes, else the call's own.
pub fn run(
    fd: BorrowedFd<'_>,
    number: u32,
    args: [u64; ARGUMENTS],
    input: &[u8],
) -> Result<(i64, Vec<u8>)> {
    let roles = roles(number, &args).ok_or(Errno::NOSYS)?;
    let mut args = args;
    let mut buffers = Buffers::fill(&roles, &mut args, input)?;
    let mut pointers = args;
    for (at, role) in roles.iter().enumerate() {
        if *role != Value && args[at] != 0 {
            pointers[at] = buffers.bytes[at].as_mut_ptr() as u64;
        }
    }
    let [a, b, c, d, e] = pointers;
    let raw = fd.as_raw_fd();
    // SAFETY: a listed call reads and writes only what its pointer arguments point to, which are
    // buffers of the sizes that the list and the other arguments say; the rest are numbers.
    let result = check(unsafe { libc::syscall(number.into(), raw, a, b, c, d, e) })?;
    Ok((result, buffers.outcome(&roles, &args, result)))
}

impl Buffers {
    /// Takes the input apart; counts in `args` become what the buffers have.
    fn fill(
        roles: &[Role; ARGUMENTS],
        args: &mut [u64; ARGUMENTS],
        mut input: &[u8],
    ) -> Result<Buffers> {
        let mut take = |bytes: usize| {
            let (now, later) = input.split_at_checked(bytes).ok_or(Errno::INVAL)?;
            input = later;
            Ok::<_, Errno>(now.to_vec())
        };
        let mut buffers = Buffers { bytes: Default::default() };
        for at in 0..ARGUMENTS {
            if args[at] == 0 {
                continue;
            }
            match roles[at] {
                Value => {}
                In(size) => buffers.bytes[at] = take(bytes_of(size, args))?,
                Out(size) => buffers.bytes[at] = vec![0; bytes_of(size, args)],
                Length => {
                    let room = room_of(word(&take(4)?));
                    buffers.bytes[at] = room.to_ne_bytes().to_vec();
                    buffers.bytes[at - 1] = vec![0; room as usize];
                }
            }
            if let In(Size::Argument(count)) | Out(Size::Argument(count)) = roles[at] {
                args[count] = buffers.bytes[at].len() as u64;
            }
        }
        if input.is_empty() { Ok(buffers) } else { Err(Errno::INVAL) }
    }

    fn outcome(&self, roles: &[Role; ARGUMENTS], args: &[u64; ARGUMENTS], result: i64) -> Vec<u8> {
        let mut output = Vec::new();
        for at in 0..ARGUMENTS {
            let bytes = &self.bytes[at];
            let given = match roles[at] {
                Out(Size::Argument(_)) => usize::try_from(result).unwrap_or(0).min(bytes.len()),
                Out(_) | Length => bytes.len(),
                _ => 0,
            };
            if args[at] != 0 {
                output.extend_from_slice(&bytes[..given]);
            }
        }
        output
    }
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |word| u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn raw(number: libc::c_long) -> u32 {
        u32::try_from(number).unwrap()
    }

    #[test]
    fn a_file_is_written_and_read_in_places() {
        let file = rustix::fs::memfd_create("t", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let args = [1, 3, 5, 0, 0];
        let written = run(file.as_fd(), raw(libc::SYS_pwrite64), args, b"abc");
        assert_eq!(written, Ok((3, Vec::new())));
        let read = run(file.as_fd(), raw(libc::SYS_pread64), [1, 100, 4, 0, 0], &[]);
        assert_eq!(read, Ok((4, b"\0abc".to_vec())));
        let cut = run(file.as_fd(), raw(libc::SYS_ftruncate), [6, 0, 0, 0, 0], &[]);
        assert_eq!(cut, Ok((0, Vec::new())));
        let short = run(file.as_fd(), raw(libc::SYS_pwrite64), args, b"ab");
        assert_eq!(short, Err(Errno::INVAL));
    }

    /// getsockopt(2): the length that comes back is that of the value.
    #[test]
    fn options_are_asked_and_set() {
        use rustix::net::{AddressFamily, SocketType, socket};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let (level, name) = (1, 9);
        let set = [level, name, 1, 4, 0];
        let done = run(socket.as_fd(), raw(libc::SYS_setsockopt), set, &1_u32.to_ne_bytes());
        assert_eq!(done, Ok((0, Vec::new())));
        let get = [level, name, 1, 1, 0];
        let told = run(socket.as_fd(), raw(libc::SYS_getsockopt), get, &100_u32.to_ne_bytes());
        let (result, output) = told.unwrap();
        assert_eq!((result, output.len()), (0, 104));
        assert_eq!((&output[..4], &output[100..]), (&[1, 0, 0, 0][..], &[4, 0, 0, 0][..]));
    }

    #[test]
    fn what_is_not_listed_does_not_run() {
        let (read, _write) = rustix::pipe::pipe().unwrap();
        for (number, args) in [
            (libc::SYS_close, [0; ARGUMENTS]),
            (libc::SYS_fcntl, [0; ARGUMENTS]),
            (libc::SYS_setsockopt, [1, 26, 1, 16, 0]),
            (libc::SYS_getsockopt, [6, 35, 1, 1, 0]),
        ] {
            assert_eq!(run(read.as_fd(), raw(number), args, &[]), Err(Errno::NOSYS));
        }
    }
}
