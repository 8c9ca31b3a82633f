//! Byte streams as drivers see them: two directions, each with its own end.
//!
//! Owns: waiting (for credit, for bytes, for consumption) and what dropping an end means. The rules
//! are the `streams` machine's; the bytes that came and are not yet read are held here, never more
//! than the window.

use crate::{
    outbox::{Frame, Outbox},
    statistics::Counters,
    stream_table::StreamTable,
};
use bytes::Bytes;
use dunix_ids::NodeId;
use dunix_streams::{Ended, Receiving, Refusal, Sending, Tell, Violation};
use dunix_wire::{
    Topic,
    frame::{Kind, STREAM_CHUNK_BYTES_MAX, STREAM_WINDOW_BYTES},
};
use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, OnceLock, Weak},
    task::{Poll, Waker},
};

/// Why bytes cannot be sent, or did not all arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StreamError {
    /// The far reader left: `EPIPE`.
    #[error("the reader is gone")]
    ReaderGone,
    /// The peer is gone, and what was under way with it: `ECONNRESET`.
    #[error("the connection broke")]
    Broken,
    /// This end was finished before.
    #[error("the stream was ended before")]
    Ended,
}

/// How the bytes of a stream ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamEnd {
    /// End of file: everything came.
    Finished,
    /// The sender broke off: `reset`, or its end dropped without `finish`.
    Aborted,
    /// The peer is gone.
    Broken,
}

/// A byte stream to or from a peer: two directions, each with its own end.
///
/// A receiver calls [`MeshStream::consumed`] when the bytes have reached their descriptor; only then do
/// the sender's credit and its [`MeshStream::drained`] move on. Dropping it is [`MeshStream::reset`],
/// except in a direction that was finished.
#[derive(Debug)]
pub struct MeshStream {
    sender: StreamSender,
    receiver: StreamReceiver,
}

/// The end of a stream that bytes are put into. Dropping it unfinished breaks the direction off.
pub struct StreamSender {
    cell: Arc<Cell>,
}

/// The end of a stream that bytes come out of. Dropping it tells the sender that the reader is gone.
pub struct StreamReceiver {
    cell: Arc<Cell>,
}

impl MeshStream {
    pub(crate) fn new(cell: Arc<Cell>) -> MeshStream {
        MeshStream {
            sender: StreamSender { cell: cell.clone() },
            receiver: StreamReceiver { cell },
        }
    }

    /// Makes both ends of a stream within this process, without a mesh; each names `peer` as its
    /// peer. For what serves streams and is to be tried alone.
    #[must_use]
    pub fn pair(peer: NodeId, topic: Topic) -> [MeshStream; 2] {
        Cell::local_pair(peer, topic, &Arc::default()).map(MeshStream::new)
    }

    /// Returns the node at the other end.
    #[must_use]
    pub fn peer(&self) -> NodeId {
        self.sender.cell.peer
    }

    /// Returns the topic that the stream was opened for.
    #[must_use]
    pub fn topic(&self) -> Topic {
        self.sender.cell.topic
    }

    /// See [`StreamReceiver::recv`].
    pub async fn recv(&mut self) -> Option<Bytes> {
        self.receiver.recv().await
    }

    /// See [`StreamReceiver::consumed`].
    pub fn consumed(&mut self, count: usize) {
        self.receiver.consumed(count);
    }

    /// See [`StreamReceiver::end`].
    #[must_use]
    pub fn end(&self) -> Option<StreamEnd> {
        self.receiver.end()
    }

    /// See [`StreamSender::send`].
    ///
    /// # Errors
    /// As there.
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.sender.send(bytes).await
    }

    /// See [`StreamSender::writable`].
    ///
    /// # Errors
    /// As there.
    pub async fn writable(&mut self) -> Result<usize, StreamError> {
        self.sender.writable().await
    }

    /// See [`StreamSender::finish`].
    pub fn finish(&mut self) {
        self.sender.finish();
    }

    /// See [`StreamSender::drained`].
    ///
    /// # Errors
    /// As there.
    pub async fn drained(&mut self) -> Result<(), StreamError> {
        self.sender.drained().await
    }

    /// Breaks off what is not finished, both ways.
    pub fn reset(self) {}

    /// Parts the two directions, so that two tasks can have one each.
    #[must_use]
    pub fn split(self) -> (StreamSender, StreamReceiver) {
        (self.sender, self.receiver)
    }
}

impl StreamSender {
    /// Waits until something may be sent and returns how many bytes: a [`StreamSender::send`] of so
    /// many then completes without waiting. Waits for nothing that is lost when the caller gives up.
    ///
    /// # Errors
    /// Nothing can be sent any more.
    pub async fn writable(&mut self) -> Result<usize, StreamError> {
        self.writable_for(1).await
    }

    /// As [`StreamSender::writable`], but waits until at least `least` bytes may be sent (at most the
    /// window): for a sender that keeps little under way, so that urgent bytes need not queue.
    ///
    /// # Errors
    /// Nothing can be sent any more.
    pub async fn writable_for(&mut self, least: usize) -> Result<usize, StreamError> {
        poll_fn(|cx| {
            let mut state = self.cell.lock();
            match state.credit() {
                Ok(credit) if credit < least => state.wait_to_send(cx.waker()),
                ready => Poll::Ready(ready),
            }
        })
        .await
    }

    /// Sends bytes; waits while the receiver has no room. If the caller gives up in between, a part
    /// may have been sent.
    ///
    /// # Errors
    /// Nothing can be sent any more; a part may have been sent.
    pub async fn send(&mut self, mut bytes: Bytes) -> Result<(), StreamError> {
        while !bytes.is_empty() {
            let room = self.writable().await?.min(STREAM_CHUNK_BYTES_MAX);
            let chunk = bytes.split_to(room.min(bytes.len()));
            let told = self.cell.lock().sending.send(chunk.len() as u64);
            // `&mut self`: nobody else uses the credit that was just seen.
            if let Some(tell) = told.map_err(of_refusal)? {
                self.cell.tell(tell, chunk)?;
            }
        }
        Ok(())
    }

    /// Ends the direction in order: the receiver sees end of file after the last byte.
    pub fn finish(&mut self) {
        let told = self.cell.lock().sending.finish();
        self.cell.tell_plain(told);
    }

    /// Waits until the receiver has consumed everything that was sent.
    ///
    /// # Errors
    /// It never will.
    pub async fn drained(&mut self) -> Result<(), StreamError> {
        let told = self.cell.lock().sending.ask_drained();
        self.cell.tell_plain(told);
        poll_fn(|cx| {
            let mut state = self.cell.lock();
            match state.sending.drained() {
                Ok(true) => Poll::Ready(Ok(())),
                _ if state.broken => Poll::Ready(Err(StreamError::Broken)),
                Ok(false) => state.wait_to_send(cx.waker()),
                Err(refusal) => Poll::Ready(Err(of_refusal(refusal))),
            }
        })
        .await
    }

    /// Waits until nothing can be sent any more: for a driver that waits for its own descriptor and
    /// must notice that the far reader left.
    pub async fn closed(&mut self) -> StreamError {
        poll_fn(|cx| {
            let mut state = self.cell.lock();
            match state.credit() {
                Ok(_) => state.wait_to_send(cx.waker()),
                Err(error) => Poll::Ready(error),
            }
        })
        .await
    }

    /// Breaks the direction off; does nothing after [`StreamSender::finish`].
    pub fn abort(self) {}
}

impl StreamReceiver {
    /// Waits for the next bytes; `None` after the last (see [`StreamReceiver::end`]).
    pub async fn recv(&mut self) -> Option<Bytes> {
        poll_fn(|cx| {
            let mut state = self.cell.lock();
            if let Some(bytes) = state.unread.pop_front() {
                return Poll::Ready(Some(bytes));
            }
            if state.end().is_some() {
                return Poll::Ready(None);
            }
            state.receive_waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// The next `count` bytes in order are where they belong.
    pub fn consumed(&mut self, count: usize) {
        let told = self.cell.lock().receiving.consume(count as u64);
        self.cell.tell_plain(told);
    }

    /// How the bytes end, if the end is known; bytes may still be waiting to be received.
    #[must_use]
    pub fn end(&self) -> Option<StreamEnd> {
        self.cell.lock().end()
    }
}

impl Drop for StreamSender {
    fn drop(&mut self) {
        let told = self.cell.lock().sending.abort();
        self.cell.tell_plain(told);
        self.cell.drop_half();
    }
}

impl Drop for StreamReceiver {
    fn drop(&mut self) {
        let mut state = self.cell.lock();
        state.unread.clear();
        let told = state.receiving.stop();
        drop(state);
        self.cell.tell_plain(told);
        self.cell.drop_half();
    }
}

impl std::fmt::Debug for StreamSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StreamSender({} to {})", self.cell.id, self.cell.peer)
    }
}

impl std::fmt::Debug for StreamReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StreamReceiver({} from {})", self.cell.id, self.cell.peer)
    }
}

/// Where an end's words go.
enum Way {
    /// Over a connection; the table forgets the end when both halves are dropped.
    Lane { outbox: Arc<Outbox>, table: Weak<StreamTable> },
    /// To the other end in this process.
    Local(OnceLock<Weak<Cell>>),
}

/// One end of a stream, shared by its two halves and the connection.
pub(crate) struct Cell {
    id: u64,
    peer: NodeId,
    topic: Topic,
    way: Way,
    counters: Arc<Counters>,
    state: Mutex<State>,
}

struct State {
    sending: Sending,
    receiving: Receiving,
    unread: VecDeque<Bytes>,
    broken: bool,
    halves: u8,
    send_waker: Option<Waker>,
    receive_waker: Option<Waker>,
}

impl State {
    fn new() -> State {
        State {
            sending: Sending::new(STREAM_WINDOW_BYTES),
            receiving: Receiving::new(STREAM_WINDOW_BYTES),
            unread: VecDeque::new(),
            broken: false,
            halves: 2,
            send_waker: None,
            receive_waker: None,
        }
    }

    fn credit(&self) -> Result<usize, StreamError> {
        let credit = self.sending.credit().map_err(of_refusal)?;
        if self.broken {
            return Err(StreamError::Broken);
        }
        Ok(usize::try_from(credit).unwrap_or(usize::MAX))
    }

    fn end(&self) -> Option<StreamEnd> {
        match self.receiving.ended() {
            Some(Ended::Finished) => Some(StreamEnd::Finished),
            Some(Ended::Aborted) => Some(StreamEnd::Aborted),
            None => self.broken.then_some(StreamEnd::Broken),
        }
    }

    fn wait_to_send<T>(&mut self, waker: &Waker) -> Poll<T> {
        self.send_waker = Some(waker.clone());
        Poll::Pending
    }

    fn wake_sender(&mut self) {
        if let Some(waker) = self.send_waker.take() {
            waker.wake();
        }
    }

    fn wake_receiver(&mut self) {
        if let Some(waker) = self.receive_waker.take() {
            waker.wake();
        }
    }
}

impl Cell {
    /// Makes this node's end of a stream over a connection.
    pub(crate) fn on_lane(
        id: u64,
        peer: NodeId,
        topic: Topic,
        outbox: Arc<Outbox>,
        table: Weak<StreamTable>,
        counters: Arc<Counters>,
    ) -> Arc<Cell> {
        let (way, state) = (Way::Lane { outbox, table }, Mutex::new(State::new()));
        Arc::new(Cell { id, peer, topic, way, counters, state })
    }

    /// Makes both ends of a stream within this node.
    pub(crate) fn local_pair(
        own: NodeId,
        topic: Topic,
        counters: &Arc<Counters>,
    ) -> [Arc<Cell>; 2] {
        let end = || {
            let (way, state) = (Way::Local(OnceLock::new()), Mutex::new(State::new()));
            Arc::new(Cell { id: 0, peer: own, topic, way, counters: counters.clone(), state })
        };
        let (a, b) = (end(), end());
        for (one, other) in [(&a, &b), (&b, &a)] {
            if let Way::Local(far) = &one.way {
                let _ = far.set(Arc::downgrade(other));
            }
        }
        [a, b]
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    fn tell_plain(&self, told: Option<Tell>) {
        if let Some(tell) = told {
            // If the connection is gone, `broken` says so to whoever waits.
            let _ = self.tell(tell, Bytes::new());
        }
    }

    /// Tells the other end. No lock may be held: the other end may be in this process.
    fn tell(&self, tell: Tell, body: Bytes) -> Result<(), StreamError> {
        if let Tell::Data(count) = tell {
            self.counters.count_stream_sent(self.topic, count);
        }
        match &self.way {
            Way::Lane { outbox, .. } => {
                let frame = frame_of(self.id, tell, body);
                outbox.push_always(frame).map_err(|_| StreamError::Broken)
            }
            Way::Local(far) => {
                let far = far.get().and_then(Weak::upgrade);
                let Some(far) = far else { return Ok(()) };
                far.handle(tell, body).map_err(|violation| {
                    tracing::error!(%violation, "a local stream broke its own rules");
                    StreamError::Broken
                })
            }
        }
    }

    /// Takes what the other end tells.
    ///
    /// # Errors
    /// The peer broke the stream's rules.
    pub(crate) fn handle(&self, tell: Tell, body: Bytes) -> Result<(), Violation> {
        let mut state = self.lock();
        let answer = match tell {
            Tell::Data(count) => {
                self.counters.count_stream_received(self.topic, count);
                if state.receiving.handle_data(count)? {
                    state.unread.push_back(body);
                }
                None
            }
            Tell::Sync => state.receiving.handle_sync()?,
            Tell::Finish => state.receiving.handle_finish()?,
            Tell::Abort => {
                state.receiving.handle_abort()?;
                None
            }
            Tell::Consumed(offset) => {
                state.sending.handle_consumed(offset)?;
                None
            }
            Tell::Stop => {
                state.sending.handle_stop();
                None
            }
        };
        match tell {
            Tell::Data(_) | Tell::Finish | Tell::Abort => state.wake_receiver(),
            Tell::Consumed(_) | Tell::Stop => state.wake_sender(),
            Tell::Sync => {}
        }
        drop(state);
        self.tell_plain(answer);
        Ok(())
    }

    /// The connection is gone: what was received stays readable, nothing else comes.
    pub(crate) fn break_off(&self) {
        let mut state = self.lock();
        state.broken = true;
        state.wake_sender();
        state.wake_receiver();
    }

    fn drop_half(&self) {
        let mut state = self.lock();
        state.halves -= 1;
        let last = state.halves == 0;
        drop(state);
        if let (true, Way::Lane { table, .. }) = (last, &self.way)
            && let Some(table) = table.upgrade()
        {
            table.remove(self.id);
        }
    }
}

fn frame_of(id: u64, tell: Tell, body: Bytes) -> Frame {
    let (kind, body) = match tell {
        Tell::Data(_) => (Kind::StreamData, body),
        Tell::Sync => (Kind::StreamSync, body),
        Tell::Finish => (Kind::StreamFinish, body),
        Tell::Abort => (Kind::StreamAbort, body),
        Tell::Stop => (Kind::StreamStop, body),
        Tell::Consumed(offset) => {
            (Kind::StreamConsumed, Bytes::copy_from_slice(&offset.to_le_bytes()))
        }
    };
    Frame::new(kind, None, id, body)
}

fn of_refusal(refusal: Refusal) -> StreamError {
    match refusal {
        Refusal::ReaderGone => StreamError::ReaderGone,
        Refusal::Ended => StreamError::Ended,
    }
}
