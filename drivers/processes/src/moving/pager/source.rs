//! The source's end of a move's stream: reads the frozen process's pages and sends each once, those
//! that are asked for first.
//!
//! What the process does not have is found out on the way, so that a freeze need not wait for it.

use super::pending::Pending;
use bytes::Bytes;
use dunix_linux::guest_memory::GuestMemory;
use dunix_linux::page_scan::PageScan;
use dunix_linux::{Errno, Result};
use dunix_transport::{StreamEnd, StreamError, StreamReceiver, StreamSender};
use dunix_wire::processes::PageFrame;
use dunix_wire::processes::pages::{FRAME_BYTES, WINDOW_BYTES, WINDOW_PAGES};
use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Most windows that are asked for and not yet served; a target that asks for more is cut off.
const WANTS_MAX: usize = 1 << 16;
/// Bytes of a page.
const PAGE: usize = dunix_linux::userfault::PAGE_BYTES;
/// Room that the stream must have for pages that nobody waits for: half its window, so that pages
/// that somebody waits for never queue behind more than the other half.
const PUSH_ROOM: usize = 512 << 10;

/// The memory of a frozen process.
#[derive(Clone, Debug)]
pub(crate) struct PageSource {
    /// The host PID of the process, which does not run.
    pub(crate) process: u32,
    /// Pages that it needs to run: all of them are sent, whatever they are of.
    pub(crate) needed: Vec<Range<u64>>,
    /// Ranges of private anonymous memory whose pages follow. May contain what is needed and what
    /// the process never touched.
    pub(crate) rest: Vec<Range<u64>>,
    /// Parts of the rest that are probably touched soon; they go first.
    pub(crate) first: Vec<Range<u64>>,
    /// Everything goes before it runs.
    pub(crate) is_safe: bool,
}

/// Bytes that one move has sent.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Sent {
    /// Before the process ran.
    pub(crate) before: u64,
    /// Since.
    pub(crate) after: u64,
}

/// Why the target does not have every page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("the target left before the last page")]
    TargetLeft,
    #[error("the target does not keep to the protocol")]
    Protocol,
    #[error("the frozen process cannot be read: {0}")]
    Host(Errno),
}

/// Serves the pages to the end: the target says that all is in place.
///
/// Reads at most [`WINDOW_BYTES`] of the frozen process between two waits.
pub(super) async fn serve(
    source: PageSource,
    sender: StreamSender,
    receiver: StreamReceiver,
    sent: Arc<Mutex<Sent>>,
) -> core::result::Result<(), ServeError> {
    let asked = Arc::new(Asked::default());
    let listening = tokio::spawn(listen(receiver, asked.clone()));
    let server = Server::new(source, sender, asked, sent);
    let result = match server {
        Ok(server) => server.run().await,
        Err(error) => Err(ServeError::Host(error)),
    };
    listening.abort();
    result
}

/// What the target has said.
#[derive(Default)]
struct Asked {
    state: Mutex<Asking>,
    changed: Notify,
}

#[derive(Default)]
struct Asking {
    wants: VecDeque<Range<u64>>,
    is_running: bool,
    end: Option<StreamEnd>,
    is_malformed: bool,
}

impl Asked {
    fn lock(&self) -> MutexGuard<'_, Asking> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes what the target says, to the end of the stream.
async fn listen(mut receiver: StreamReceiver, asked: Arc<Asked>) {
    let mut carried = Vec::new();
    while let Some(chunk) = receiver.recv().await {
        receiver.consumed(chunk.len());
        carried.extend_from_slice(&chunk);
        let (whole, rest) = carried.as_chunks::<FRAME_BYTES>();
        let mut asking = asked.lock();
        for frame in whole {
            match PageFrame::try_decode(frame) {
                Ok(PageFrame::Want(range)) if asking.wants.len() < WANTS_MAX => {
                    asking.wants.push_back(range);
                }
                Ok(PageFrame::Running) => asking.is_running = true,
                _ => asking.is_malformed = true,
            }
        }
        drop(asking);
        carried = rest.to_vec();
        asked.changed.notify_one();
    }
    asked.lock().end = receiver.end();
    asked.changed.notify_one();
}

struct Server {
    memory: Memory,
    scan: PageScan,
    needed: Vec<Range<u64>>,
    /// What has not been sent, or found not to exist; places and sources are the same.
    left: Pending,
    first: VecDeque<Range<u64>>,
    is_safe: bool,
    sender: StreamSender,
    asked: Arc<Asked>,
    sent: Arc<Mutex<Sent>>,
}

/// What to do next.
enum Next {
    Serve(Range<u64>),
    Push,
    Wait,
    Stop(core::result::Result<(), ServeError>),
}

impl Server {
    fn new(
        source: PageSource,
        sender: StreamSender,
        asked: Arc<Asked>,
        sent: Arc<Mutex<Sent>>,
    ) -> Result<Server> {
        let PageSource { process, needed, rest, first, is_safe } = source;
        let mut left = Pending::default();
        rest.into_iter().for_each(|range| left.add(range));
        needed.iter().for_each(|range| left.forget(range.clone()));
        let (memory, scan) = (Memory::of(process)?, PageScan::of(process)?);
        Ok(Server { memory, scan, needed, left, first: first.into(), is_safe, sender, asked, sent })
    }

    async fn run(mut self) -> core::result::Result<(), ServeError> {
        match self.run_to_finish().await {
            // The target wants nothing any more; its last word says whether it has all it needs.
            Ok(()) | Err(ServeError::TargetLeft) => {}
            Err(error) => return Err(error),
        }
        loop {
            let end = self.asked.lock().end;
            match end {
                Some(StreamEnd::Finished) => return Ok(()),
                Some(_) => return Err(ServeError::TargetLeft),
                None => self.asked.changed.notified().await,
            }
        }
    }

    async fn run_to_finish(&mut self) -> core::result::Result<(), ServeError> {
        for range in std::mem::take(&mut self.needed) {
            self.send_needed(range).await?;
        }
        while self.is_safe && !self.left.is_empty() {
            self.push().await?;
        }
        self.send(PageFrame::Staged, Bytes::new()).await?;
        loop {
            match self.next() {
                Next::Serve(window) => self.settle(window).await?,
                Next::Wait => self.asked.changed.notified().await,
                Next::Push => self.push_when_there_is_room().await?,
                Next::Stop(result) => {
                    self.sender.finish();
                    return result;
                }
            }
        }
    }

    fn next(&self) -> Next {
        let mut asking = self.asked.lock();
        if asking.is_malformed {
            return Next::Stop(Err(ServeError::Protocol));
        }
        if let Some(window) = asking.wants.pop_front() {
            return Next::Serve(window);
        }
        match asking.end {
            Some(_) => Next::Stop(Ok(())),
            None if !asking.is_running => Next::Wait,
            None if self.left.is_empty() => Next::Stop(Ok(())),
            None => Next::Push,
        }
    }

    async fn push_when_there_is_room(&mut self) -> core::result::Result<(), ServeError> {
        let has_room = tokio::select! {
            biased;
            () = self.asked.changed.notified() => false,
            room = self.sender.writable_for(PUSH_ROOM) => room.map(|_| true).map_err(left)?,
        };
        if has_room { self.push().await } else { Ok(()) }
    }

    /// Sends the next pages that nobody asked for.
    async fn push(&mut self) -> core::result::Result<(), ServeError> {
        while let Some(first) = self.first.front().cloned() {
            match self.left.pieces_of(first).first() {
                Some(piece) => return self.settle_start(piece.places()).await,
                None => drop(self.first.pop_front()),
            }
        }
        match self.left.first() {
            Some(range) => self.settle_start(range).await,
            None => Ok(()),
        }
    }

    /// Sends all that is left of a range.
    async fn settle(&mut self, range: Range<u64>) -> core::result::Result<(), ServeError> {
        while let Some(piece) = self.left.pieces_of(range.clone()).first() {
            self.settle_start(piece.places()).await?;
        }
        Ok(())
    }

    /// Sends what the process has at the start of a range, at most one window; what comes before it
    /// does not exist.
    async fn settle_start(&mut self, range: Range<u64>) -> core::result::Result<(), ServeError> {
        let run = self.scan.first_run(range.clone(), WINDOW_PAGES).map_err(ServeError::Host)?;
        let run = run.unwrap_or(range.end..range.end);
        if range.start < run.start {
            let hole = range.start..run.start;
            self.left.forget(hole.clone());
            self.send(PageFrame::Zeros(hole), Bytes::new()).await?;
        }
        if !run.is_empty() {
            self.left.forget(run.clone());
            self.send_run(run).await?;
        }
        Ok(())
    }

    /// Sends a run of pages; those that are full of zeros cost no bytes.
    async fn send_run(&mut self, run: Range<u64>) -> core::result::Result<(), ServeError> {
        let mut bytes = self.memory.read(&run)?;
        let mut at = run.start;
        while !bytes.is_empty() {
            let is_zeros = is_zero_page(&bytes);
            let same = bytes.chunks(PAGE).take_while(|p| is_zero_page(p) == is_zeros);
            let length: usize = same.map(<[u8]>::len).sum();
            let part = bytes.split_to(length);
            let range = at..at + length as u64;
            at = range.end;
            if is_zeros {
                self.send(PageFrame::Zeros(range), Bytes::new()).await?;
            } else {
                self.send(PageFrame::Pages(range), part).await?;
            }
        }
        Ok(())
    }

    async fn send_needed(&mut self, range: Range<u64>) -> core::result::Result<(), ServeError> {
        let mut at = range.start;
        while at < range.end {
            let part = at..range.end.min(at + WINDOW_BYTES);
            at = part.end;
            let bytes = self.memory.read(&part)?;
            self.send(PageFrame::Pages(part), bytes).await?;
        }
        Ok(())
    }

    async fn send(
        &mut self,
        frame: PageFrame,
        pages: Bytes,
    ) -> core::result::Result<(), ServeError> {
        let header = Bytes::copy_from_slice(&frame.encode());
        let length = pages.len() as u64;
        self.sender.send(header).await.map_err(left)?;
        self.sender.send(pages).await.map_err(left)?;
        let is_running = self.asked.lock().is_running;
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        *(if is_running { &mut sent.after } else { &mut sent.before }) += length;
        Ok(())
    }
}

fn left(_: StreamError) -> ServeError {
    ServeError::TargetLeft
}

fn is_zero_page(page: &[u8]) -> bool {
    page.iter().take(PAGE).all(|&byte| byte == 0)
}

/// Reads a frozen process.
struct Memory {
    fast: GuestMemory,
    /// `/proc/PID/mem`, which also reads what the process itself may not.
    any: File,
}

impl Memory {
    fn of(process: u32) -> Result<Memory> {
        let any = File::open(format!("/proc/{process}/mem"));
        let any = any.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        Ok(Memory { fast: GuestMemory::of(process), any })
    }

    /// Reads a range. A page that nobody can read (a guard, a broken frame) reads as zeros.
    fn read(&self, range: &Range<u64>) -> core::result::Result<Bytes, ServeError> {
        let length = usize::try_from(range.end - range.start).unwrap_or(0);
        let mut bytes = vec![0; length];
        let mut done = match self.fast.read_some(range.start, &mut bytes) {
            Ok(done) => done,
            Err(Errno::FAULT) => 0,
            Err(error) => return Err(ServeError::Host(error)),
        };
        while done < length {
            match self.any.read_at(&mut bytes[done..], range.start + done as u64) {
                // The end of file: its memory is gone.
                Ok(0) => return Err(ServeError::Host(Errno::SRCH)),
                Ok(more) => done += more,
                Err(_) => done = (done + 1).next_multiple_of(PAGE),
            }
        }
        Ok(bytes.into())
    }
}
