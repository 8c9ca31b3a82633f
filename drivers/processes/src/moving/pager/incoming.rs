//! The target's end of a move's stream.
//!
//! Until the process runs, its pages come through [`Incoming::stage`]; then a thread of its own places
//! them and two tasks carry words between it and the stream.

use super::Lost;
use super::frames::{Frames, Item};
use super::pending::Pending;
use super::shared::{Paging, PagingEnd, Shared};
use super::thread::Pager;
use dunix_ids::NodeId;
use dunix_linux::Errno;
use dunix_linux::userfault::Userfault;
use dunix_transport::{Mesh, MeshError, MeshStream, StreamEnd, StreamReceiver, StreamSender};
use dunix_wire::Topic;
use dunix_wire::processes::{MoveId, PageFrame, PagesHeader, StreamOpening};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// Pages of a process that is being made ready here. Dropping it breaks the stream off.
pub(crate) struct Incoming {
    source: NodeId,
    sender: StreamSender,
    receiver: StreamReceiver,
    frames: Frames,
    items: VecDeque<Item>,
    bytes: u64,
    /// What has come already; it is not pending any more.
    staged: Vec<Range<u64>>,
}

/// What staged pages hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content<'a> {
    Bytes(&'a [u8]),
    /// So many bytes that read as zeros; only where memory is private and anonymous, so that there
    /// is nothing to do if nobody has written there yet.
    Zeros(u64),
}

/// Why staging failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum StageError {
    #[error("{0}")]
    Mesh(#[from] MeshError),
    #[error("the source broke off")]
    SourceLeft,
    #[error("the source does not keep to the protocol")]
    Protocol,
    #[error("a page could not be written: {0}")]
    Host(Errno),
}

impl Incoming {
    /// Opens the stream of a move whose pages the source offers.
    pub(crate) async fn open(
        mesh: &Mesh,
        source: NodeId,
        id: MoveId,
    ) -> Result<Incoming, StageError> {
        let header = dunix_wire::encode(&StreamOpening::Pages(PagesHeader { id }));
        let stream = mesh.open_stream(source, Topic::Processes, header).await?;
        Ok(Incoming::over(stream))
    }

    /// Takes the stream of a move.
    pub(crate) fn over(stream: MeshStream) -> Incoming {
        let source = stream.peer();
        let (sender, receiver) = stream.split();
        let (frames, items) = (Frames::default(), VecDeque::new());
        Incoming { source, sender, receiver, frames, items, bytes: 0, staged: Vec::new() }
    }

    /// Takes what the process needs to run, by calling `put` for each part; returns its bytes.
    pub(crate) async fn stage(
        &mut self,
        mut put: impl FnMut(u64, Content<'_>) -> Result<(), Errno> + Send,
    ) -> Result<u64, StageError> {
        loop {
            let item = match self.items.pop_front() {
                Some(item) => item,
                None => {
                    self.receive().await?;
                    continue;
                }
            };
            match item {
                Item::Staged => return Ok(self.bytes),
                Item::Pages(address, bytes) => {
                    put(address, Content::Bytes(&bytes)).map_err(StageError::Host)?;
                    self.bytes += bytes.len() as u64;
                    self.note(address..address + bytes.len() as u64);
                }
                Item::Zeros(range) => {
                    let zeros = Content::Zeros(range.end - range.start);
                    put(range.start, zeros).map_err(StageError::Host)?;
                    self.note(range);
                }
            }
        }
    }

    fn note(&mut self, range: Range<u64>) {
        match self.staged.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.staged.push(range),
        }
    }

    async fn receive(&mut self) -> Result<(), StageError> {
        let Some(chunk) = self.receiver.recv().await else { return Err(StageError::SourceLeft) };
        // The next chunks may come while these are written; they are in memory either way.
        self.receiver.consumed(chunk.len());
        let mut items = Vec::new();
        self.frames.take(chunk, &mut items).map_err(|_| StageError::Protocol)?;
        self.items.extend(items);
        Ok(())
    }

    /// Everything is here: tells the source so.
    pub(crate) fn finish(mut self) {
        self.sender.finish();
    }

    /// Has the rest follow: registers these ranges of private anonymous memory, in which staged pages
    /// are in place already, and starts the thread that serves them. The process may run from then on;
    /// the source sends from [`Paging::set_running`] on.
    ///
    /// `fault` is the process's own. `kill` must end the process and all its children by fork that
    /// are here, if pages are lost; those that are just being forked have to look at
    /// [`Paging::end`] themselves. Call it inside [`PageThreads`](super::PageThreads).
    ///
    /// # Errors
    /// What the kernel says to one of the ranges, or [`Errno::AGAIN`] without a thread.
    pub(crate) fn page_in(
        self,
        fault: Userfault,
        ranges: &[Range<u64>],
        kill: impl FnOnce(&Lost) + Send + 'static,
    ) -> Result<Paging, Errno> {
        let mut pending = Pending::default();
        for range in ranges {
            pending.add(range.clone());
        }
        for range in &self.staged {
            pending.forget(range.clone());
        }
        for range in joined(ranges) {
            fault.register(range.start, range.end - range.start)?;
        }
        let shared = Arc::new(Shared::new(fault.hears_forks())?);
        let pager = Pager::new(shared.clone(), self.source, fault, pending);
        std::thread::Builder::new()
            .name("pager".into())
            .spawn(move || pager.run(kill))
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        shared.deliver(self.items.into(), None);
        tokio::spawn(tell_source(self.sender, shared.clone()));
        tokio::spawn(hear_source(self.receiver, self.frames, shared.clone()));
        Ok(Paging(shared))
    }
}

/// Neighbouring ranges as one: a request for each.
fn joined(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted: Vec<Range<u64>> = ranges.iter().filter(|r| r.start < r.end).cloned().collect();
    sorted.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match joined.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// Carries the pager's words to the source, to the end.
async fn tell_source(mut sender: StreamSender, shared: Arc<Shared>) {
    let mut has_told_running = false;
    loop {
        let mut words = Vec::new();
        {
            let mut inner = shared.lock();
            if inner.is_running && !has_told_running {
                words.extend(PageFrame::Running.encode());
                has_told_running = true;
            }
            words.extend(inner.wants.drain(..).flat_map(|range| PageFrame::Want(range).encode()));
        }
        if !words.is_empty() && sender.send(words.into()).await.is_err() {
            // The other task sees the end of the stream as well.
            return;
        }
        let end = shared.end.borrow().clone();
        match end {
            Some(PagingEnd::Complete) => return sender.finish(),
            Some(PagingEnd::Lost(_)) => return sender.abort(),
            None => shared.to_source.notified().await,
        }
    }
}

/// Carries what the source sends to the pager, to the end. Credit for pages is given back when they
/// are in place.
async fn hear_source(mut receiver: StreamReceiver, mut frames: Frames, shared: Arc<Shared>) {
    let (mut received, mut consumed) = (0, 0);
    loop {
        let chunk = tokio::select! {
            chunk = receiver.recv() => Some(chunk),
            () = shared.placed.notified() => None,
        };
        match chunk {
            None => {}
            Some(Some(chunk)) => {
                received += chunk.len();
                let mut items = Vec::new();
                if frames.take(chunk, &mut items).is_err() {
                    // As if it had ended in order, without what lacks.
                    return shared.deliver(items, Some(StreamEnd::Finished));
                }
                shared.deliver(items, None);
            }
            Some(None) => {
                let is_whole = frames.is_between_frames();
                let end = receiver.end().filter(|end| is_whole || *end != StreamEnd::Finished);
                return shared.deliver(Vec::new(), Some(end.unwrap_or(StreamEnd::Aborted)));
            }
        }
        if shared.end.borrow().is_some() {
            return;
        }
        let held = frames.carried() + shared.lock().unplaced_bytes;
        let done = received.saturating_sub(held);
        receiver.consumed(done - consumed);
        consumed = done;
    }
}
