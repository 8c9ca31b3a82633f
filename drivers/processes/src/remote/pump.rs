//! Pumps: bytes between a descriptor and a mesh stream, in order, with the ends passed on.
//!
//! ```text
//! writer there -> local pipe -> send_from -> stream -> receive_into -> the home's pipe -> reader
//! ```
//! End of file follows the last byte. A reader that leaves stops the stream, the other side's pump
//! then closes its descriptor, and the writer there gets SIGPIPE as it would here.

use bytes::Bytes;
use dunix_ids::ObjectId;
use dunix_linux::{Errno, Result};
use dunix_transport::{StreamEnd, StreamReceiver, StreamSender};
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
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
}

/// Registers a descriptor with the runtime.
#[expect(deprecated, reason = "sound for an OwnedFd; the successor is an unsafe function")]
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}

struct Local {
    fd: AsyncFd<OwnedFd>,
    end: End,
}

impl AsRawFd for Local {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Local {
    fn new(fd: OwnedFd, end: End, interest: Interest) -> std::io::Result<Local> {
        Ok(Local { fd: watch(fd, interest)?, end })
    }

    fn try_read(&self, into: &mut [u8]) -> Result<usize> {
        loop {
            let result = match self.end {
                End::Pipe => rustix::io::read(self.fd.get_ref(), &mut *into),
                End::Socket => {
                    rustix::net::recv(self.fd.get_ref(), &mut *into, RecvFlags::DONTWAIT)
                        .map(|(got, _)| got)
                }
            };
            if result != Err(Errno::INTR) {
                return result;
            }
        }
    }

    fn try_write(&self, from: &[u8]) -> Result<usize> {
        loop {
            let result = match self.end {
                End::Pipe => rustix::io::write(self.fd.get_ref(), from),
                End::Socket => {
                    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                    rustix::net::send(self.fd.get_ref(), from, flags)
                }
            };
            if result != Err(Errno::INTR) {
                return result;
            }
        }
    }

    /// Reads some bytes; 0 is end of file.
    async fn read(&self, into: &mut [u8]) -> Result<usize> {
        loop {
            let mut ready = self.fd.readable().await.map_err(|_| Errno::IO)?;
            match self.try_read(into) {
                Err(Errno::AGAIN) => ready.clear_ready(),
                other => return other,
            }
        }
    }

    async fn write_all(&self, mut from: &[u8]) -> Result<()> {
        while !from.is_empty() {
            let mut ready = self.fd.writable().await.map_err(|_| Errno::IO)?;
            match self.try_write(from) {
                Err(Errno::AGAIN) => ready.clear_ready(),
                Ok(count) => from = from.get(count..).unwrap_or(&[]),
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
pub(crate) async fn send_from(fd: OwnedFd, end: End, mut stream: StreamSender, mut drains: Drains) {
    let Ok(local) = Local::new(fd, end, Interest::READABLE) else { return };
    let mut buffer = vec![0; CHUNK];
    loop {
        let got = tokio::select! {
            biased;
            drain = drains.next() => {
                if drain_now(&local, &mut stream, &mut buffer).await.is_err() {
                    return;
                }
                let _ = drain.send(());
                continue;
            }
            got = read_on_credit(&local, &mut stream, &mut buffer) => got,
        };
        match got {
            Some(0) => break,
            Some(count) => {
                if stream.send(Bytes::copy_from_slice(&buffer[..count])).await.is_err() {
                    return;
                }
            }
            None => return,
        }
    }
    stream.finish();
    // Whoever waits for this pump waits for the bytes' arrival; new drains are answered by the end.
    let _ = stream.drained().await;
}

/// Reads some bytes once the stream takes any; 0 is end of file. `None`: nobody takes them any more,
/// or a socket was reset, which the other side sees as a stream that breaks off.
async fn read_on_credit(
    local: &Local,
    stream: &mut StreamSender,
    buffer: &mut [u8],
) -> Option<usize> {
    let credit = stream.writable().await.ok()?.clamp(1, CHUNK);
    tokio::select! {
        biased;
        got = local.read(&mut buffer[..credit]) => got.ok(),
        _ = stream.closed() => None,
    }
}

/// Sends all that is there now and waits for its arrival.
async fn drain_now(
    local: &Local,
    stream: &mut StreamSender,
    buffer: &mut [u8],
) -> core::result::Result<(), ()> {
    loop {
        match local.try_read(buffer) {
            Ok(0) | Err(Errno::AGAIN) => break,
            Ok(count) => {
                let bytes = Bytes::copy_from_slice(&buffer[..count]);
                stream.send(bytes).await.map_err(drop)?;
            }
            Err(_) => return Err(()),
        }
    }
    stream.drained().await.map_err(drop)
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
pub(crate) async fn receive_into(fd: &OwnedFd, end: End, stream: &mut StreamReceiver) -> Received {
    let Ok(copy) = rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 0) else { return Received::Broken };
    let Ok(watch) = rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 0) else { return Received::Broken };
    let Ok(local) = Local::new(copy, end, Interest::WRITABLE) else { return Received::Broken };
    let Ok(watch) = Local::new(watch, end, Interest::ERROR) else { return Received::Broken };
    loop {
        let bytes = tokio::select! {
            bytes = stream.recv() => bytes,
            () = watch.reader_gone(), if end == End::Pipe => return Received::ReaderGone,
        };
        let Some(bytes) = bytes else {
            return match stream.end() {
                Some(StreamEnd::Finished) => Received::Finished,
                _ => Received::Broken,
            };
        };
        if local.write_all(&bytes).await.is_err() {
            return Received::ReaderGone;
        }
        stream.consumed(bytes.len());
    }
}

/// Relays a connected socket both ways until both ways have ended.
pub(crate) async fn relay_socket(
    fd: OwnedFd,
    sender: StreamSender,
    mut receiver: StreamReceiver,
    drains: Drains,
) {
    let Ok(reading) = rustix::io::fcntl_dupfd_cloexec(&fd, 0) else { return };
    let outgoing = tokio::spawn(send_from(reading, End::Socket, sender, drains));
    let ended = receive_into(&fd, End::Socket, &mut receiver).await;
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
