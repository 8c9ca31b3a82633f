//! Messages with descriptors over a SEQPACKET socket (unix(7), `SCM_RIGHTS`).
//!
//! Invariant: a message that would arrive truncated (bytes or descriptors) is an error, and every
//! descriptor that did arrive is closed.

use crate::{Errno, Result};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Most descriptors that one message carries (the kernel's `SCM_MAX_FD` is 253).
pub const FDS_MAX: usize = 200;

/// Makes a connected pair of SEQPACKET sockets, both `O_CLOEXEC`.
pub fn packet_pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Sends one message with at most [`FDS_MAX`] descriptors.
pub fn send(socket: BorrowedFd<'_>, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    if fds.len() > FDS_MAX {
        return Err(Errno::TOOBIG);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(body)], &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            Ok(sent) if sent == body.len() => return Ok(()),
            Ok(_) => return Err(Errno::MSGSIZE),
            Err(e) => return Err(e),
        }
    }
}

/// Receives one message into `body`; its length and descriptors. Length 0: the other end is gone.
///
/// # Errors
/// [`Errno::AGAIN`] if `wait` is false and there is none, [`Errno::MSGSIZE`] if it does not fit.
pub fn receive(
    socket: BorrowedFd<'_>,
    body: &mut [u8],
    wait: bool,
) -> Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut flags = RecvFlags::CMSG_CLOEXEC;
    flags.set(RecvFlags::DONTWAIT, !wait);
    let got = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(body)], &mut control, flags) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(Errno::MSGSIZE);
    }
    Ok((got.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn descriptors_travel_and_truncation_is_an_error() {
        let (a, b) = packet_pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        send(a.as_fd(), b"hello", &[write.as_fd()]).unwrap();
        let mut body = [0; 16];
        let (length, fds) = receive(b.as_fd(), &mut body, true).unwrap();
        assert_eq!((&body[..length], fds.len()), (&b"hello"[..], 1));
        rustix::io::write(&fds[0], b"x").unwrap();
        assert_eq!(rustix::io::read(&read, &mut body).unwrap(), 1);
        assert_eq!(receive(b.as_fd(), &mut body, false).err(), Some(Errno::AGAIN));
        send(a.as_fd(), &[7; 32], &[]).unwrap();
        assert_eq!(receive(b.as_fd(), &mut body, true).err(), Some(Errno::MSGSIZE));
        drop(a);
        assert_eq!(receive(b.as_fd(), &mut body, true).unwrap().0, 0);
    }
}
