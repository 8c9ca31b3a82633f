//! Messages between a lab's owner and its helper processes: JSON in packets, descriptors beside.
//!
//! A helper's standard input is its end of the socket. Both ends are this same program, so a
//! malformed message is a defect, reported as an error and never trusted further.

use dunix_linux::scm;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Greatest bytes of a message.
const BYTES_MAX: usize = 64 << 10;

/// One end of a helper's socket.
#[derive(Debug)]
pub(crate) struct Packets(OwnedFd);

impl Packets {
    pub(crate) fn pair() -> io::Result<(Packets, OwnedFd)> {
        let (ours, theirs) = scm::packet_pair()?;
        Ok((Packets(ours), theirs))
    }

    pub(crate) fn of(socket: OwnedFd) -> Packets {
        Packets(socket)
    }

    pub(crate) fn send<T: Serialize>(
        &self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        if body.len() > BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(scm::send(self.0.as_fd(), &body, descriptors)?)
    }

    /// Waits for a message; `None` when the other end is gone.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut body = vec![0; BYTES_MAX];
        let (length, descriptors) = match scm::receive(self.0.as_fd(), &mut body, true) {
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            other => other?,
        };
        if length == 0 {
            return Ok(None);
        }
        body.truncate(length);
        Ok(Some((serde_json::from_slice(&body)?, descriptors)))
    }

    /// Waits for a message at most so long; `TimedOut`, or `UnexpectedEof` if there will be none.
    pub(crate) fn receive_within<T: DeserializeOwned>(&self, limit: Duration) -> io::Result<T> {
        self.receive_all_within(limit).map(|(message, _)| message)
    }

    /// As [`Packets::receive_within`], with the descriptors.
    pub(crate) fn receive_all_within<T: DeserializeOwned>(
        &self,
        limit: Duration,
    ) -> io::Result<(T, Vec<OwnedFd>)> {
        let limit = Timespec::try_from(limit).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
        if poll(&mut polled, Some(&limit))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.receive()?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl AsFd for Packets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
