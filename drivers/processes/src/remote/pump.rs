//! Pumps: bytes between a descriptor and a mesh stream, in order, with the ends passed on.
//!
//! ```text
//! writer there -> local pipe -> send_from -> stream -> receive_into -> the home's pipe -> reader
//! ```
//! Descriptors in a socket's messages go beside the stream ([`Bearer`]), each between its own bytes.
//! End of file follows the last byte. A reader that leaves stops the stream, the other side's pump
//! then closes its descriptor, and the writer there gets SIGPIPE as it would here.

use super::bearing::{Bearer, Borne, Message};
use super::hands::{Hands, InHand};
use bytes::Bytes;
use dunix_ids::ObjectId;
use dunix_linux::messages::{self, Apart};
use dunix_linux::{Errno, Result};
use dunix_transport::{StreamEnd, StreamReceiver, StreamSender};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, sockopt};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;
/// Most drains that wait for one pump; a further one waits for room.
const DRAINS_MAX: usize = 64;

/// A pump away from this node, as those see it who must know that it has drained.
#[derive(Debug)]
pub(crate) struct Relay {
    drains: mpsc::Sender<oneshot::Sender<()>>,
    is_done: AtomicBool,
    /// The file of the process's end: device and inode.
    file: (u64, u64),
    /// Where a further relay carries on what this one has brought.
    beyond: Option<ObjectId>,
}

/// The pump's side of a [`Relay`].
#[derive(Debug)]
pub(crate) struct Drains(mpsc::Receiver<oneshot::Sender<()>>);

impl Relay {
    /// A relay for the process's end `file` (device and inode), and its pump's side.
    pub(crate) fn new(file: (u64, u64), beyond: Option<ObjectId>) -> (Relay, Drains) {
        let (drains, asked) = mpsc::channel(DRAINS_MAX);
        (Relay { drains, is_done: AtomicBool::new(false), file, beyond }, Drains(asked))
    }

    pub(crate) fn is_of(&self, file: (u64, u64)) -> bool {
        self.file == file
    }

    /// Where a further relay carries on what this one has brought.
    pub(crate) fn beyond(&self) -> Option<ObjectId> {
        self.beyond
    }

    /// Waits until all that was written so far has reached its home, or never will.
    pub(crate) async fn drain(&self) {
        let (done, drained) = oneshot::channel();
        if self.drains.send(done).await.is_ok() {
            // A pump that ends answers by dropping what waits; what was on its way in just then stays
            // in the channel, unanswered.
            tokio::select! {
                _ = drained => {}
                () = self.drains.closed() => {}
            }
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Acquire) || self.drains.is_closed()
    }

    pub(crate) fn set_done(&self) {
        self.is_done.store(true, Ordering::Release);
    }
}

impl Drains {
    /// For a pump that nobody's exit waits for.
    pub(crate) fn none() -> Drains {
        Drains(mpsc::channel(1).1)
    }

    async fn next(&mut self) -> oneshot::Sender<()> {
        match self.0.recv().await {
            Some(drain) => drain,
            None => std::future::pending().await,
        }
    }
}

/// What a pump's descriptor is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// A pipe with `O_NONBLOCK`, our own description.
    Pipe,
    /// A socket whose description others share: every call says `MSG_DONTWAIT`.
    Socket,
    /// The same of unix(7): descriptors come with its bytes.
    UnixSocket,
}

/// Registers a descriptor with the runtime.
#[expect(deprecated, reason = "sound for an OwnedFd; the successor is an unsafe function")]
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}

struct Local {
    fd: AsyncFd<OwnedFd>,
    end: End,
    /// Where descriptors are in that come with the bytes.
    hands: Option<Arc<Hands>>,
}

/// What was read, with its descriptors in hand.
struct Taken {
    apart: Apart,
    in_hand: Option<InHand>,
}

impl AsRawFd for Local {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Local {
    fn new(fd: OwnedFd, end: End, interest: Interest) -> std::io::Result<Local> {
        Ok(Local { fd: watch(fd, interest)?, end, hands: None })
    }

    fn try_read(&self, into: &mut [u8]) -> Result<Taken> {
        let in_hand = self.hands.as_ref().map(Hands::take);
        let apart = self.try_read_apart(into)?;
        Ok(Taken { in_hand: in_hand.filter(|_| !apart.descriptors.is_empty()), apart })
    }

    fn try_read_apart(&self, into: &mut [u8]) -> Result<Apart> {
        let plain = |bytes| Apart { plain: bytes, bytes, descriptors: Vec::new() };
        loop {
            let result = match self.end {
                End::Pipe => rustix::io::read(self.fd.get_ref(), &mut *into).map(plain),
                End::Socket => {
                    rustix::net::recv(self.fd.get_ref(), &mut *into, RecvFlags::DONTWAIT)
                        .map(|(got, _)| plain(got))
                }
                End::UnixSocket => messages::read_apart(self.fd.get_ref().as_fd(), &mut *into),
            };
            match result {
                Err(Errno::INTR) => {}
                result => return result,
            }
        }
    }

    fn try_write(&self, from: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<usize> {
        loop {
            let result = match self.end {
                End::Pipe => rustix::io::write(self.fd.get_ref(), from),
                End::Socket | End::UnixSocket => {
                    let (socket, now) = (self.fd.get_ref().as_fd(), SendFlags::DONTWAIT.bits());
                    messages::send_with(socket, from, &[], descriptors, now.cast_signed())
                }
            };
            if result != Err(Errno::INTR) {
                return result;
            }
        }
    }

    /// Reads some bytes; 0 is end of file.
    async fn read(&self, into: &mut [u8]) -> Result<Taken> {
        loop {
            let mut ready = self.fd.readable().await.map_err(|_| Errno::IO)?;
            match self.try_read(into) {
                Err(Errno::AGAIN) => ready.clear_ready(),
                other => return other,
            }
        }
    }

    /// Writes all bytes, the first of them with the descriptors.
    async fn write_all(&self, mut from: &[u8], descriptors: &[OwnedFd]) -> Result<()> {
        let mut descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        while !from.is_empty() {
            let mut ready = self.fd.writable().await.map_err(|_| Errno::IO)?;
            match self.try_write(from, &descriptors) {
                Err(Errno::AGAIN) => ready.clear_ready(),
                Ok(count) => {
                    from = from.get(count..).unwrap_or(&[]);
                    descriptors.clear();
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Waits until the reader of a pipe has left.
    async fn reader_gone(&self) {
        loop {
            let Ok(mut ready) = self.fd.ready(Interest::ERROR).await else { return };
            if ready.ready().is_error() {
                return;
            }
            ready.clear_ready();
        }
    }
}

/// Carries what comes out of a descriptor to the other node, until its end or the reader's.
///
/// Bytes are taken from the descriptor only when the stream has credit for them, so that a reader
/// there that leaves loses no more than a pipe's buffer would.
pub(crate) async fn send_from(
    fd: OwnedFd,
    end: End,
    stream: StreamSender,
    mut drains: Drains,
    bearer: Option<Bearer>,
) {
    let Ok(mut local) = Local::new(fd, end, Interest::READABLE) else { return };
    local.hands = bearer.as_ref().map(|bearer| bearer.hands().clone());
    let mut sending = Sending { local, stream, bearer, buffer: vec![0; CHUNK] };
    loop {
        let taken = tokio::select! {
            biased;
            drain = drains.next() => {
                if sending.drain_now().await.is_err() {
                    return;
                }
                let _ = drain.send(());
                continue;
            }
            taken = sending.read_on_credit() => taken,
        };
        match taken {
            Some(taken) if taken.apart.bytes == 0 => break,
            Some(taken) => {
                if sending.send(taken).await.is_err() {
                    return;
                }
            }
            None => return,
        }
    }
    sending.stream.finish();
    // Whoever waits for this pump waits for the bytes' arrival; new drains are answered by the end.
    let _ = sending.stream.drained().await;
}

/// A pump away from this node.
struct Sending {
    local: Local,
    stream: StreamSender,
    bearer: Option<Bearer>,
    buffer: Vec<u8>,
}

impl Sending {
    /// Reads some bytes once the stream takes any; 0 is end of file. `None`: nobody takes them any
    /// more, or a socket was reset, which the other side sees as a stream that breaks off.
    async fn read_on_credit(&mut self) -> Option<Taken> {
        // A message with descriptors is not parted for lack of credit.
        let least = if self.local.end == End::UnixSocket { CHUNK } else { 1 };
        let credit = self.stream.writable_for(least).await.ok()?.clamp(1, CHUNK);
        tokio::select! {
            biased;
            taken = self.local.read(&mut self.buffer[..credit]) => taken.ok(),
            _ = self.stream.closed() => None,
        }
    }

    /// Sends what was read.
    async fn send(&mut self, taken: Taken) -> core::result::Result<(), ()> {
        let Taken { apart: Apart { plain, bytes, descriptors }, in_hand: _in_hand } = taken;
        let read = &self.buffer[..bytes];
        let (before, message) = read.split_at_checked(plain).ok_or(())?;
        let message = Bytes::copy_from_slice(message);
        if !before.is_empty() {
            self.stream.send(Bytes::copy_from_slice(before)).await.map_err(drop)?;
        }
        match &self.bearer {
            Some(bearer) if !descriptors.is_empty() => {
                bearer.bear(&mut self.stream, message, descriptors).await
            }
            _ => self.stream.send(message).await.map_err(drop),
        }
    }

    /// Sends all that is there now and waits for its arrival.
    async fn drain_now(&mut self) -> core::result::Result<(), ()> {
        loop {
            match self.local.try_read(&mut self.buffer) {
                Err(Errno::AGAIN) => break,
                Ok(taken) if taken.apart.bytes == 0 => break,
                Ok(taken) => self.send(taken).await?,
                Err(_) => return Err(()),
            }
        }
        self.stream.drained().await.map_err(drop)
    }
}

/// How a stream's bytes ended at their descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Received {
    /// All came, and then the end.
    Finished,
    /// The sender broke off or its node died.
    Broken,
    /// Whoever reads the descriptor has left.
    ReaderGone,
}

/// Carries a stream's bytes into a descriptor until either side ends.
pub(crate) async fn receive_into(
    fd: &OwnedFd,
    end: End,
    stream: &mut StreamReceiver,
    mut borne: Option<Borne>,
) -> Received {
    let Ok(copy) = rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 0) else { return Received::Broken };
    let Ok(watch) = rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 0) else { return Received::Broken };
    let Ok(local) = Local::new(copy, end, Interest::WRITABLE) else { return Received::Broken };
    let Ok(watch) = Local::new(watch, end, Interest::ERROR) else { return Received::Broken };
    loop {
        let bytes = tokio::select! {
            bytes = stream.recv() => bytes,
            message = next_borne(&mut borne) => {
                if local.write_all(&message.bytes, &message.descriptors).await.is_err() {
                    return Received::ReaderGone;
                }
                // Who sent it may be gone.
                let _ = message.done.send(());
                continue;
            }
            () = watch.reader_gone(), if end == End::Pipe => return Received::ReaderGone,
        };
        let Some(bytes) = bytes else {
            return match stream.end() {
                Some(StreamEnd::Finished) => Received::Finished,
                _ => Received::Broken,
            };
        };
        if local.write_all(&bytes, &[]).await.is_err() {
            return Received::ReaderGone;
        }
        stream.consumed(bytes.len());
    }
}

async fn next_borne(borne: &mut Option<Borne>) -> Message {
    match borne {
        Some(borne) => borne.next().await,
        None => std::future::pending().await,
    }
}

/// Relays a connected socket both ways until both ways have ended.
pub(crate) async fn relay_socket(
    fd: OwnedFd,
    sender: StreamSender,
    mut receiver: StreamReceiver,
    drains: Drains,
    (bearer, borne): (Bearer, Borne),
) {
    let fd = Arc::new(fd);
    bearer.hands().note_relay(&fd);
    let Ok(reading) = rustix::io::fcntl_dupfd_cloexec(&fd, 0) else { return };
    let is_unix = sockopt::socket_domain(&fd) == Ok(AddressFamily::UNIX);
    let end = if is_unix { End::UnixSocket } else { End::Socket };
    let outgoing = tokio::spawn(send_from(reading, end, sender, drains, Some(bearer)));
    let ended = receive_into(&fd, end, &mut receiver, Some(borne)).await;
    drop(receiver);
    match ended {
        // Half-close. If the whole other end is gone, our descriptor is closed below as well.
        Received::Finished => drop(rustix::net::shutdown(&fd, Shutdown::Write)),
        Received::Broken => drop(rustix::net::shutdown(&fd, Shutdown::Both)),
        Received::ReaderGone => {}
    }
    let _ = outgoing.await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_drain_ends_with_its_pump_whenever_that_is() {
        for _ in 0..20_000 {
            let (relay, drains) = Relay::new((0, 0), None);
            let pump = tokio::spawn(async move { drop(drains) });
            let drained = tokio::time::timeout(Duration::from_secs(10), relay.drain()).await;
            assert!(drained.is_ok(), "the drain outlives its pump");
            pump.await.unwrap();
        }
    }
}
