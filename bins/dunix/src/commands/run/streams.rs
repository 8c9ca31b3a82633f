//! The threads that read and write the caller's descriptors.
//!
//! The descriptors may be shared with other programs, so they stay blocking, and a blocked one must
//! hold up nothing else: hence a thread each. Both directions are under the protocol's credit, so a
//! queue never holds more than `WINDOW_BYTES`.

use super::terminal;
use dunix_admin_api::{ClientFrame, DATA_BYTES_MAX, Stream, WINDOW_BYTES};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::BorrowedFd,
    io::Errno,
    stdio,
    termios::isatty,
};
use serde_bytes::ByteBuf;
use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc as std_mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::sync::mpsc;

/// How often a background job looks whether it may read from the terminal.
const FOREGROUND_PAUSE: Duration = Duration::from_millis(200);

type Outgoing = mpsc::Sender<ClientFrame>;

/// How many bytes the server takes.
#[derive(Default)]
pub(super) struct Credit {
    state: Mutex<CreditState>,
    changed: Condvar,
}

#[derive(Default)]
struct CreditState {
    bytes: usize,
    closed: bool,
}

impl Credit {
    pub(super) fn new(bytes: u32) -> Arc<Credit> {
        let credit = Credit::default();
        credit.add(bytes);
        Arc::new(credit)
    }

    pub(super) fn add(&self, bytes: u32) {
        let mut state = self.lock();
        // A server that gives too much gets no more than the window.
        state.bytes = (state.bytes + bytes as usize).min(WINDOW_BYTES as usize);
        self.changed.notify_one();
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Waits for credit and tells how much there is, or `None` if nobody reads any more.
    fn wait(&self) -> Option<usize> {
        let mut state = self.lock();
        while state.bytes == 0 && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        (!state.closed).then_some(state.bytes)
    }

    fn take(&self, bytes: usize) {
        self.lock().bytes -= bytes;
    }

    fn lock(&self) -> MutexGuard<'_, CreditState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts to read standard input. The thread ends with the input, or with the process.
pub(super) fn read_stdin(
    credit: Arc<Credit>,
    outgoing: Outgoing,
    raw_terminal: bool,
) -> io::Result<()> {
    let patient = !raw_terminal && isatty(stdio::stdin());
    thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut buffer = vec![0; DATA_BYTES_MAX];
        while let Some(room) = credit.wait() {
            while patient && !terminal::is_foreground() {
                thread::sleep(FOREGROUND_PAUSE);
            }
            let room = room.min(buffer.len());
            let frame = match rustix::io::read(stdio::stdin(), &mut buffer[..room]) {
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    wait_for(stdio::stdin(), PollFlags::IN);
                    continue;
                }
                // An input that cannot be read (closed, a directory) has ended.
                Ok(0) | Err(_) => ClientFrame::StdinEof,
                Ok(length) => {
                    credit.take(length);
                    ClientFrame::Stdin(ByteBuf::from(buffer[..length].to_vec()))
                }
            };
            let ended = frame == ClientFrame::StdinEof;
            if outgoing.blocking_send(frame).is_err() || ended {
                return;
            }
        }
    })?;
    Ok(())
}

/// Writes one output stream.
pub(super) struct Writer {
    queue: std_mpsc::Sender<ByteBuf>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(stream: Stream, outgoing: Outgoing) -> io::Result<Writer> {
        let (queue, frames) = std_mpsc::channel::<ByteBuf>();
        let thread = thread::Builder::new().name(format!("{stream:?}")).spawn(move || {
            for bytes in frames {
                let answer = match write_all(descriptor(stream), &bytes) {
                    // At most a data frame's bytes: the length fits.
                    Ok(()) => ClientFrame::Credit {
                        stream,
                        bytes: u32::try_from(bytes.len()).unwrap_or(0),
                    },
                    Err(_) => ClientFrame::OutputClosed(stream),
                };
                let closed = answer == ClientFrame::OutputClosed(stream);
                if outgoing.blocking_send(answer).is_err() && closed {
                    return;
                }
                if closed {
                    return;
                }
            }
        })?;
        Ok(Writer { queue, thread })
    }

    /// Queues bytes; they are dropped if the descriptor has been closed by its reader.
    pub(super) fn write(&self, bytes: ByteBuf) {
        let _ = self.queue.send(bytes);
    }

    /// Waits until everything is written.
    pub(super) fn finish(self) {
        drop(self.queue);
        // A thread that panicked has aborted the process.
        let _ = self.thread.join();
    }
}

fn descriptor(stream: Stream) -> BorrowedFd<'static> {
    match stream {
        Stream::Stderr => stdio::stderr(),
        Stream::Stdin | Stream::Stdout => stdio::stdout(),
    }
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_for(fd, PollFlags::OUT),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits on a descriptor that someone else has made non-blocking.
fn wait_for(fd: BorrowedFd<'_>, events: PollFlags) {
    // Whatever poll says, the caller tries again and sees.
    let _ = poll(&mut [PollFd::from_borrowed_fd(fd, events)], None);
}
