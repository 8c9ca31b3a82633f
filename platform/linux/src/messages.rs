//! Socket calls whose addresses and control data are taken as they are (socket(7)).

use crate::{Errno, Result, check};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Most bytes of an address (`struct sockaddr_storage`).
pub const ADDRESS_BYTES_MAX: usize = 128;
/// Most bytes of control data.
pub const CONTROL_BYTES_MAX: usize = 4096;

/// A message that was received.
#[derive(Debug)]
pub struct Message {
    /// Bytes that came, or that there are with `MSG_TRUNC`.
    pub bytes: usize,
    /// Who sent it.
    pub address: Vec<u8>,
    /// Control data without descriptors.
    pub control: Vec<u8>,
    /// Descriptors that came along.
    pub descriptors: Vec<OwnedFd>,
    /// `MSG_*`.
    pub flags: i32,
}

/// Most descriptors that one message carries (`SCM_MAX_FD`).
pub const DESCRIPTORS_MAX: usize = 253;

/// sendmsg(2) without control data; an empty `address` is none. SIGPIPE is never raised.
pub fn send(socket: BorrowedFd<'_>, body: &[u8], address: &[u8], flags: i32) -> Result<usize> {
    send_with(socket, body, address, &[], flags)
}

/// sendmsg(2) with descriptors.
///
/// # Errors
/// `EINVAL` beyond [`DESCRIPTORS_MAX`], else the call's.
pub fn send_with(
    socket: BorrowedFd<'_>,
    body: &[u8],
    address: &[u8],
    descriptors: &[BorrowedFd<'_>],
    flags: i32,
) -> Result<usize> {
    if descriptors.len() > DESCRIPTORS_MAX {
        return Err(Errno::INVAL);
    }
    let mut control = control_with(descriptors);
    let mut part = libc::iovec { iov_base: body.as_ptr().cast_mut().cast(), iov_len: body.len() };
    // SAFETY: a structure of numbers and pointers, null as yet.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    if !address.is_empty() {
        message.msg_name = address.as_ptr().cast_mut().cast();
        message.msg_namelen = u32::try_from(address.len()).map_err(|_| Errno::INVAL)?;
    }
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !descriptors.is_empty() {
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = HEADER_BYTES + 4 * descriptors.len();
    }
    let flags = flags | libc::MSG_NOSIGNAL;
    // SAFETY: the kernel reads the address, the control data and the one part, which live on.
    let sent = check(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) } as _)?;
    usize::try_from(sent).map_err(|_| Errno::IO)
}

/// An `SCM_RIGHTS` message, in words for its alignment.
fn control_with(descriptors: &[BorrowedFd<'_>]) -> Vec<u64> {
    let length = HEADER_BYTES + 4 * descriptors.len();
    let kind = [libc::SOL_SOCKET, libc::SCM_RIGHTS].into_iter();
    let numbers = descriptors.iter().map(AsRawFd::as_raw_fd);
    let bytes = (length as u64).to_ne_bytes().into_iter();
    let bytes = bytes.chain(kind.chain(numbers).flat_map(i32::to_ne_bytes));
    let mut bytes: Vec<u8> = bytes.collect();
    bytes.resize(length.next_multiple_of(8), 0);
    bytes.chunks_exact(8).map(|w| w.first_chunk().map_or(0, |w| u64::from_ne_bytes(*w))).collect()
}

/// recvmsg(2); descriptors are received close-on-exec.
pub fn receive(socket: BorrowedFd<'_>, body: &mut [u8], flags: i32) -> Result<Message> {
    let mut part = libc::iovec { iov_base: body.as_mut_ptr().cast(), iov_len: body.len() };
    let mut address = [0_u8; ADDRESS_BYTES_MAX];
    let mut control = [0_u64; CONTROL_BYTES_MAX / 8];
    // SAFETY: a structure of numbers and pointers, null as yet.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_name = address.as_mut_ptr().cast();
    message.msg_namelen = u32::try_from(address.len()).unwrap_or(0);
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES_MAX;
    let flags = flags | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the kernel writes the body, the address and the control buffer, with their sizes.
    let got = check(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) } as _)?;
    let words = message.msg_controllen.div_ceil(8).min(control.len());
    let control: Vec<u8> = control[..words].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let control = control.get(..message.msg_controllen).unwrap_or(&control);
    let (control, descriptors) = without_descriptors(control);
    let length = (message.msg_namelen as usize).min(address.len());
    Ok(Message {
        bytes: usize::try_from(got).map_err(|_| Errno::IO)?,
        address: address[..length].to_vec(),
        control,
        descriptors,
        flags: message.msg_flags & !libc::MSG_CMSG_CLOEXEC,
    })
}

/// What [`read_apart`] has taken: so many bytes, and the first message with descriptors behind them.
#[derive(Debug, Default)]
pub struct Apart {
    /// Bytes that were sent without descriptors.
    pub plain: usize,
    /// All bytes: what follows the plain ones was sent with the descriptors.
    pub bytes: usize,
    pub descriptors: Vec<OwnedFd>,
}

/// Reads what there is at a stream socket of unix(7) without waiting, and tells bytes that were sent
/// with descriptors from those before them. 0 bytes are the end.
///
/// # Errors
/// `EAGAIN` if there is nothing, else the call's.
pub fn read_apart(socket: BorrowedFd<'_>, body: &mut [u8]) -> Result<Apart> {
    let read = |body: &mut [u8]| receive(socket, body, libc::MSG_DONTWAIT);
    // A look sees descriptors wherever they are in the queue, and bytes up to their message's end.
    let seen = receive(socket, body, libc::MSG_DONTWAIT | libc::MSG_PEEK)?;
    let Some(body) = body.get_mut(..seen.bytes).filter(|body| !body.is_empty()) else {
        return Ok(Apart::default());
    };
    if seen.descriptors.is_empty() {
        let Message { bytes, descriptors, .. } = read(body)?;
        return Ok(Apart { plain: bytes, bytes, descriptors });
    }
    // A read would join them with what came before. Only one of a single byte cannot.
    for at in 0..body.len() {
        let descriptors = read(&mut body[at..=at])?.descriptors;
        if !descriptors.is_empty() {
            let rest = &mut body[at + 1..];
            let more = if rest.is_empty() { 0 } else { read(rest)?.bytes };
            return Ok(Apart { plain: at, bytes: at + 1 + more, descriptors });
        }
    }
    Ok(Apart { plain: body.len(), bytes: body.len(), descriptors: Vec::new() })
}

/// Bytes of `struct cmsghdr`.
const HEADER_BYTES: usize = 16;

/// Takes the descriptors out of control data.
fn without_descriptors(control: &[u8]) -> (Vec<u8>, Vec<OwnedFd>) {
    let (mut rest, mut descriptors) = (Vec::new(), Vec::new());
    let mut at = 0;
    while let Some(header) = control.get(at..at + HEADER_BYTES) {
        let word =
            |from: usize| header[from..].first_chunk().map_or(0, |word| i32::from_ne_bytes(*word));
        let length = word(0).unsigned_abs() as usize;
        let Some(whole) = control.get(at..at + length).filter(|_| length >= HEADER_BYTES) else {
            break;
        };
        if (word(8), word(12)) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            for number in whole[HEADER_BYTES..].chunks_exact(4) {
                let number = number.first_chunk().map_or(-1, |fd| i32::from_ne_bytes(*fd));
                if number >= 0 {
                    // SAFETY: the kernel has just installed it for us.
                    descriptors.push(unsafe { OwnedFd::from_raw_fd(number) });
                }
            }
        } else {
            rest.resize(rest.len().next_multiple_of(8), 0);
            rest.extend_from_slice(whole);
        }
        at += length.next_multiple_of(8);
    }
    (rest, descriptors)
}

/// accept4(2), close-on-exec; the connection and who connects.
pub fn accept(socket: BorrowedFd<'_>, is_nonblocking: bool) -> Result<(OwnedFd, Vec<u8>)> {
    let mut address = [0_u8; ADDRESS_BYTES_MAX];
    let mut length = u32::try_from(address.len()).unwrap_or(0);
    let nonblocking = if is_nonblocking { libc::SOCK_NONBLOCK } else { 0 };
    let flags = libc::SOCK_CLOEXEC | nonblocking;
    let raw = socket.as_raw_fd();
    // SAFETY: the kernel writes the address, of the length given.
    let fd = check(
        unsafe { libc::accept4(raw, address.as_mut_ptr().cast(), &raw mut length, flags) }.into(),
    )?;
    let fd = i32::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: a descriptor that the kernel has just made for us.
    let connection = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok((connection, address[..(length as usize).min(address.len())].to_vec()))
}

/// connect(2).
pub fn connect(socket: BorrowedFd<'_>, address: &[u8]) -> Result<()> {
    let length = u32::try_from(address.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel reads the address, of the length given.
    check(unsafe { libc::connect(socket.as_raw_fd(), address.as_ptr().cast(), length) }.into())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::os::fd::AsFd;

    #[test]
    fn messages_keep_their_bounds_and_descriptors_are_taken_out() {
        let kind = SocketType::SEQPACKET;
        let (a, b) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        assert_eq!(send(a.as_fd(), b"one", &[], 0), Ok(3));
        assert_eq!(send_with(a.as_fd(), b"two", &[], &[b.as_fd(), a.as_fd()], 0), Ok(3));
        let mut body = [0; 2];
        let first = receive(b.as_fd(), &mut body, 0).unwrap();
        assert_eq!((first.bytes, first.flags & libc::MSG_TRUNC), (2, libc::MSG_TRUNC));
        assert!(first.control.is_empty() && first.descriptors.is_empty());
        let second = receive(b.as_fd(), &mut body, libc::MSG_TRUNC).unwrap();
        assert_eq!((second.bytes, second.descriptors.len()), (3, 2));
        assert!(second.control.is_empty());
        let none = receive(b.as_fd(), &mut body, libc::MSG_DONTWAIT);
        assert_eq!(none.err(), Some(Errno::AGAIN));
    }

    #[test]
    fn a_listener_is_connected_to() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_be_bytes();
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let mut address = [2, 0, port[0], port[1], 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        connect(socket.as_fd(), &address).unwrap();
        let (connection, from) = accept(listener.as_fd(), true).unwrap();
        address[2..4].copy_from_slice(&from[2..4]);
        assert_eq!(from, address);
        send(socket.as_fd(), b"x", &[], 0).unwrap();
        assert_eq!(receive(connection.as_fd(), &mut [0; 9], 0).unwrap().bytes, 1);
    }

    #[test]
    fn descriptors_stay_with_their_bytes() {
        let kind = SocketType::STREAM;
        let (a, b) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        let mut body = [0; 64];
        assert_eq!(read_apart(b.as_fd(), &mut body).unwrap_err(), Errno::AGAIN);
        for (bytes, count) in [(7, 0), (6, 0), (3, 1), (2, 2), (5, 0)] {
            let descriptors = vec![a.as_fd(); count];
            let sent = send_with(a.as_fd(), &[b'x'; 64][..bytes], &[], &descriptors, 0);
            assert_eq!(sent, Ok(bytes));
        }
        drop(a);
        let mut read =
            || read_apart(b.as_fd(), &mut body).map(|r| (r.plain, r.bytes, r.descriptors.len()));
        let all = [read(), read(), read(), read()];
        assert_eq!(all, [Ok((13, 16, 1)), Ok((0, 2, 2)), Ok((5, 5, 0)), Ok((0, 0, 0))]);
    }
}
