//! Holder: what a call of a guest is about, read from its memory, and its outcome written there.

use super::execute::PIDFD_OPEN;
use dunix_guest_abi::doorbell::RemoteCall;
use dunix_linux::guest_memory::GuestMemory;
use dunix_linux::messages::{ADDRESS_BYTES_MAX, CONTROL_BYTES_MAX};
use dunix_linux::plain_calls::{self, Role, Size};
use dunix_linux::{Errno, Result, terminal_calls};
use dunix_wire::processes::image::CALL_BYTES_MAX;
use dunix_wire::processes::{CallArguments, CallExtra};

pub(super) const READ: u32 = 0;
pub(super) const WRITE: u32 = 1;
const FSTAT: u32 = 5;
const POLL: u32 = 7;
pub(super) const LSEEK: u32 = 8;
pub(super) const IOCTL: u32 = 16;
pub(super) const READV: u32 = 19;
pub(super) const WRITEV: u32 = 20;
const CONNECT: u32 = 42;
pub(super) const ACCEPT: u32 = 43;
const SENDTO: u32 = 44;
const RECVFROM: u32 = 45;
const SENDMSG: u32 = 46;
const RECVMSG: u32 = 47;
pub(super) const FCNTL: u32 = 72;
/// Opens a FIFO: the descriptor is a handle on it (`O_PATH`), the first argument has the flags.
pub(super) const OPENAT: u32 = 257;
pub(super) const ACCEPT4: u32 = 288;
const PREADV: u32 = 295;
const PWRITEV: u32 = 296;
pub(super) const PREADV2: u32 = 327;
pub(super) const PWRITEV2: u32 = 328;
const PREAD64: u32 = 17;
const PWRITE64: u32 = 18;

/// Most pieces of a scattered call (`UIO_MAXIOV`).
const PIECES_MAX: u64 = 1024;
/// An offset that means the description's own (preadv2(2)).
pub(super) const OWN_OFFSET: u64 = u64::MAX;

/// A buffer of a guest: address and length (`struct iovec`).
type Piece = [u64; 2];

/// `struct msghdr`: name, its length, pieces, their count, control, its length, flags.
type Header = [u64; 7];

/// Reads what a call is about from the guest.
pub(super) fn read(memory: &GuestMemory, asked: &RemoteCall) -> Result<CallArguments> {
    let [first, second, third, fourth, fifth] = asked.args;
    let rest = |pieces: Vec<Piece>| remaining(pieces, asked.done);
    match asked.nr {
        READ => Ok(CallArguments::Read { bytes: total(&[[first, second]]) }),
        READV => Ok(CallArguments::Read { bytes: total(&pieces(memory, first, second)?) }),
        WRITE => Ok(CallArguments::Write { data: gather(memory, &rest(vec![[first, second]]))? }),
        WRITEV => {
            let data = gather(memory, &rest(pieces(memory, first, second)?))?;
            Ok(CallArguments::Write { data })
        }
        LSEEK => {
            let whence = u8::try_from(second & 0xffff_ffff).map_err(|_| Errno::INVAL)?;
            Ok(CallArguments::Seek { offset: first.cast_signed(), whence })
        }
        IOCTL => ioctl(memory, first, second),
        FSTAT => Ok(CallArguments::Status),
        POLL => {
            let events = u16::try_from(first & 0xffff).map_err(|_| Errno::INVAL)?;
            Ok(CallArguments::Poll { events })
        }
        SENDTO => {
            let data = gather(memory, &rest(vec![[first, second]]))?;
            let address = address(memory, fourth, fifth)?;
            let descriptors = Vec::new();
            Ok(CallArguments::Send { data, address, flags: int(third), descriptors })
        }
        SENDMSG => {
            let header: Header = memory.read_plain(first)?;
            let data = gather(memory, &rest(pieces(memory, header[2], header[3])?))?;
            let address = address(memory, header[0], header[1])?;
            let descriptors = Vec::new();
            Ok(CallArguments::Send { data, address, flags: int(second), descriptors })
        }
        RECVFROM => {
            let bytes = total(&rest(vec![[first, second]]));
            Ok(CallArguments::Receive { bytes, flags: int(third) })
        }
        RECVMSG => {
            let header: Header = memory.read_plain(first)?;
            let bytes = total(&rest(pieces(memory, header[2], header[3])?));
            Ok(CallArguments::Receive { bytes, flags: int(second) })
        }
        ACCEPT => Ok(CallArguments::Accept { flags: 0 }),
        ACCEPT4 => Ok(CallArguments::Accept { flags: int(third) }),
        CONNECT => Ok(CallArguments::Connect { address: address(memory, first, second)? }),
        PREADV2 if third == OWN_OFFSET => {
            Ok(CallArguments::Read { bytes: total(&pieces(memory, first, second)?) })
        }
        PWRITEV2 if third == OWN_OFFSET => {
            let data = gather(memory, &rest(pieces(memory, first, second)?))?;
            Ok(CallArguments::Write { data })
        }
        PREADV | PREADV2 => {
            let bytes = total(&pieces(memory, first, second)?);
            let arguments = [1, u64::from(bytes), third, 0, 0];
            Ok(CallArguments::Plain { number: PREAD64, arguments, input: Vec::new() })
        }
        PWRITEV | PWRITEV2 => {
            let input = gather(memory, &pieces(memory, first, second)?)?;
            let arguments = [1, input.len() as u64, third, 0, 0];
            Ok(CallArguments::Plain { number: PWRITE64, arguments, input })
        }
        PIDFD_OPEN => {
            Ok(CallArguments::Plain { number: PIDFD_OPEN, arguments: [0; 5], input: Vec::new() })
        }
        number => plain(memory, number, asked.args),
    }
}

/// Bytes of `struct cmsghdr`.
const CONTROL_HEADER_BYTES: usize = 16;
const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;

/// The descriptors that a message carries; they go with its first bytes.
pub(super) fn descriptors(memory: &GuestMemory, asked: &RemoteCall) -> Result<Vec<i32>> {
    if asked.nr != SENDMSG || asked.done > 0 {
        return Ok(Vec::new());
    }
    let header: Header = memory.read_plain(asked.args[0])?;
    if header[4] == 0 {
        return Ok(Vec::new());
    }
    let bytes = usize::try_from(header[5]).unwrap_or(usize::MAX);
    if bytes > CONTROL_BYTES_MAX {
        return Err(Errno::NOBUFS);
    }
    let mut control = vec![0; bytes];
    memory.read(header[4], &mut control)?;
    descriptors_in(&control)
}

/// cmsg(3): the numbers in `SCM_RIGHTS` messages; a length that cannot be is `EINVAL`.
fn descriptors_in(control: &[u8]) -> Result<Vec<i32>> {
    let word = |at: usize| {
        control.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |w| i32::from_ne_bytes(*w))
    };
    let (mut numbers, mut at) = (Vec::new(), 0);
    while at + CONTROL_HEADER_BYTES <= control.len() {
        let length = word(at).unsigned_abs() as usize;
        let whole = control.get(at..at.saturating_add(length)).ok_or(Errno::INVAL)?;
        let payload = whole.get(CONTROL_HEADER_BYTES..).ok_or(Errno::INVAL)?;
        if (word(at + 8), word(at + 12)) == (SOL_SOCKET, SCM_RIGHTS) {
            let words = payload.chunks_exact(4).filter_map(<[u8]>::first_chunk);
            numbers.extend(words.map(|word| i32::from_ne_bytes(*word)));
        }
        at += length.next_multiple_of(8);
    }
    Ok(numbers)
}

/// How many descriptors fit behind other control data where the guest receives a message.
pub(super) fn descriptors_room(
    memory: &GuestMemory,
    asked: &RemoteCall,
    extra: &CallExtra,
) -> Result<usize> {
    let CallExtra::Message { control, .. } = extra else { return Ok(0) };
    if asked.nr != RECVMSG {
        return Ok(0);
    }
    let header: Header = memory.read_plain(asked.args[0])?;
    let room = if header[4] == 0 { 0 } else { usize::try_from(header[5]).unwrap_or(usize::MAX) };
    Ok(room.saturating_sub(control.len().next_multiple_of(8) + CONTROL_HEADER_BYTES) / 4)
}

/// Adds the numbers of received descriptors to control data.
pub(super) fn add_descriptors(control: &mut Vec<u8>, numbers: &[i32]) {
    if numbers.is_empty() {
        return;
    }
    control.resize(control.len().next_multiple_of(8), 0);
    let length = CONTROL_HEADER_BYTES + 4 * numbers.len();
    control.extend((length as u64).to_ne_bytes());
    let words = [SOL_SOCKET, SCM_RIGHTS].into_iter().chain(numbers.iter().copied());
    control.extend(words.flat_map(i32::to_ne_bytes));
}

fn int(argument: u64) -> i32 {
    let [a, b, c, d, ..] = argument.to_le_bytes();
    i32::from_le_bytes([a, b, c, d])
}

fn ioctl(memory: &GuestMemory, request: u64, at: u64) -> Result<CallArguments> {
    let request = u32::try_from(request & 0xffff_ffff).map_err(|_| Errno::NOTTY)?;
    let bytes = terminal_calls::structure_bytes(request).ok_or(Errno::NOTTY)?;
    let mut argument = vec![0; bytes];
    memory.read(at, &mut argument)?;
    let answer_bytes = u32::try_from(bytes).map_err(|_| Errno::INVAL)?;
    Ok(CallArguments::Ioctl { request, value: at, argument, answer_bytes })
}

fn plain(memory: &GuestMemory, number: u32, arguments: [u64; 5]) -> Result<CallArguments> {
    let roles = plain_calls::roles(number, &arguments).ok_or(Errno::NOSYS)?;
    let mut input = Vec::new();
    for (at, role) in roles.iter().enumerate().filter(|(at, _)| arguments[*at] != 0) {
        let bytes = match role {
            Role::In(size) => plain_calls::bytes_of(*size, &arguments),
            Role::Length => 4,
            Role::Value | Role::Out(_) => continue,
        };
        let start = input.len();
        input.resize(start + bytes, 0);
        memory.read(arguments[at], &mut input[start..])?;
    }
    Ok(CallArguments::Plain { number, arguments, input })
}

pub(super) fn address(memory: &GuestMemory, at: u64, bytes: u64) -> Result<Vec<u8>> {
    let bytes = usize::try_from(bytes & 0xffff_ffff).unwrap_or(usize::MAX);
    if at == 0 || bytes == 0 {
        return Ok(Vec::new());
    }
    if bytes > ADDRESS_BYTES_MAX {
        return Err(Errno::INVAL);
    }
    let mut address = vec![0; bytes];
    memory.read(at, &mut address)?;
    Ok(address)
}

fn pieces(memory: &GuestMemory, list: u64, count: u64) -> Result<Vec<Piece>> {
    if count > PIECES_MAX {
        return Err(Errno::INVAL);
    }
    (0..count).map(|i| memory.read_plain(list.wrapping_add(i * 16))).collect()
}

/// `MSG_CTRUNC`: control data did not fit.
pub(super) const CONTROL_TRUNCATED: i32 = 0x8;

/// What is left of pieces after their first `done` bytes.
fn remaining(pieces: Vec<Piece>, mut done: u64) -> Vec<Piece> {
    let rest = |[address, bytes]: Piece| {
        let skipped = done.min(bytes);
        done -= skipped;
        [address.wrapping_add(skipped), bytes - skipped]
    };
    pieces.into_iter().map(rest).filter(|piece| piece[1] > 0).collect()
}

fn total(pieces: &[Piece]) -> u32 {
    let bytes = pieces.iter().map(|piece| piece[1]).fold(0, u64::saturating_add);
    u32::try_from(bytes.min(CALL_BYTES_MAX as u64)).unwrap_or(0)
}

/// Takes the bytes of a write, at most [`CALL_BYTES_MAX`]: a longer write comes short.
fn gather(memory: &GuestMemory, pieces: &[Piece]) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    for &[address, bytes] in pieces {
        let room = (CALL_BYTES_MAX - data.len()) as u64;
        let start = data.len();
        data.resize(start + usize::try_from(bytes.min(room)).unwrap_or(0), 0);
        memory.read(address, &mut data[start..])?;
    }
    Ok(data)
}

fn scatter(memory: &GuestMemory, pieces: &[Piece], mut data: &[u8]) -> Result<()> {
    for &[address, bytes] in pieces {
        let count = usize::try_from(bytes).unwrap_or(usize::MAX).min(data.len());
        let (now, later) = data.split_at(count);
        memory.write(address, now)?;
        data = later;
    }
    Ok(())
}

/// Gives the guest what a call that succeeded brought.
pub(super) fn write(
    memory: &GuestMemory,
    asked: &RemoteCall,
    data: &[u8],
    extra: &CallExtra,
) -> Result<()> {
    let [first, second, _, fourth, fifth] = asked.args;
    let rest = |pieces: Vec<Piece>| remaining(pieces, asked.done);
    match asked.nr {
        READ => scatter(memory, &[[first, second]], data),
        READV | PREADV | PREADV2 => scatter(memory, &pieces(memory, first, second)?, data),
        FSTAT => memory.write(first, data),
        IOCTL if !data.is_empty() => memory.write(second, data),
        RECVFROM => {
            scatter(memory, &rest(vec![[first, second]]), data)?;
            let CallExtra::Message { address, .. } = extra else { return Ok(()) };
            give_counted(memory, fourth, fifth, address)
        }
        RECVMSG => {
            let header: Header = memory.read_plain(first)?;
            scatter(memory, &rest(pieces(memory, header[2], header[3])?), data)?;
            give_message(memory, first, header, extra)
        }
        ACCEPT | ACCEPT4 => {
            let CallExtra::Accepted { address, .. } = extra else { return Ok(()) };
            give_counted(memory, first, second, address)
        }
        WRITE | WRITEV | LSEEK | IOCTL | POLL | SENDTO | SENDMSG | CONNECT | PWRITEV | PWRITEV2
        | PIDFD_OPEN => Ok(()),
        number => give_plain(memory, number, asked.args, data),
    }
}

/// Writes an address and its `socklen_t`, as accept(2) and recvfrom(2) do.
fn give_counted(memory: &GuestMemory, at: u64, length_at: u64, address: &[u8]) -> Result<()> {
    if at == 0 || length_at == 0 {
        return Ok(());
    }
    let room: u32 = memory.read_plain(length_at)?;
    let fitting = address.len().min(room as usize);
    memory.write(at, &address[..fitting])?;
    let length = u32::try_from(address.len()).map_err(|_| Errno::IO)?;
    memory.write(length_at, &length.to_ne_bytes())
}

fn give_message(memory: &GuestMemory, at: u64, header: Header, extra: &CallExtra) -> Result<()> {
    /// Bytes into `struct msghdr`.
    const NAME_LENGTH_AT: u64 = 8;
    const CONTROL_LENGTH_AT: u64 = 40;
    const FLAGS_AT: u64 = 48;
    let CallExtra::Message { address, control, flags, .. } = extra else { return Ok(()) };
    let mut flags = *flags;
    if header[0] != 0 {
        let room = usize::try_from(header[1] & 0xffff_ffff).unwrap_or(0);
        memory.write(header[0], &address[..address.len().min(room)])?;
        let length = u32::try_from(address.len()).map_err(|_| Errno::IO)?;
        memory.write(at.wrapping_add(NAME_LENGTH_AT), &length.to_ne_bytes())?;
    }
    let room = if header[4] == 0 { 0 } else { usize::try_from(header[5]).unwrap_or(usize::MAX) };
    let fitting = control.len().min(CONTROL_BYTES_MAX);
    let given = if fitting <= room { fitting } else { 0 };
    if given < control.len() {
        flags |= CONTROL_TRUNCATED;
    }
    memory.write(header[4], &control[..given])?;
    memory.write(at.wrapping_add(CONTROL_LENGTH_AT), &(given as u64).to_ne_bytes())?;
    memory.write(at.wrapping_add(FLAGS_AT), &flags.to_ne_bytes())
}

fn give_plain(
    memory: &GuestMemory,
    number: u32,
    arguments: [u64; 5],
    mut data: &[u8],
) -> Result<()> {
    let roles = plain_calls::roles(number, &arguments).ok_or(Errno::NOSYS)?;
    for (at, role) in roles.iter().enumerate().filter(|(at, _)| arguments[*at] != 0) {
        let bytes = match role {
            Role::Out(Size::Length) => {
                let length: u32 = memory.read_plain(arguments[at + 1])?;
                plain_calls::room_of(length) as usize
            }
            // As many as came.
            Role::Out(Size::Argument(_)) => data.len(),
            Role::Out(Size::Bytes(bytes)) => *bytes,
            Role::Length => 4,
            Role::Value | Role::In(_) => continue,
        };
        let (now, later) = data.split_at_checked(bytes).ok_or(Errno::IO)?;
        memory.write(arguments[at], now)?;
        data = later;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_found_behind_other_control_data() {
        let mut control = vec![0; 28];
        control[0] = 28;
        control[8..16].copy_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(descriptors_in(&control), Ok(Vec::new()));
        add_descriptors(&mut control, &[5, 7]);
        assert_eq!((control.len(), descriptors_in(&control)), (32 + 24, Ok(vec![5, 7])));
        control[32] = 99;
        assert_eq!(descriptors_in(&control), Err(Errno::INVAL));
    }

    #[test]
    fn what_is_done_is_skipped() {
        let pieces = vec![[100, 4], [200, 0], [300, 6]];
        assert_eq!(remaining(pieces.clone(), 0), [[100, 4], [300, 6]]);
        assert_eq!(remaining(pieces.clone(), 3), [[103, 1], [300, 6]]);
        assert_eq!(remaining(pieces.clone(), 7), [[303, 3]]);
        assert_eq!(remaining(pieces, 99), Vec::<Piece>::new());
    }
}
