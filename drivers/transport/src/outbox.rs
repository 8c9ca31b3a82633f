//! What waits to be written to one connection.
//!
//! Bounds: messages and calls are refused when [`WAITING_BYTES_MAX`] wait already; frames of streams
//! are bounded by the streams' own credit and are always taken.

use bytes::Bytes;
use dunix_wire::{
    Topic,
    frame::{Header, Kind},
};
use std::{
    collections::VecDeque,
    sync::Mutex,
    task::{Context, Poll, Waker},
};

/// Greatest bytes of messages and calls that wait for a connection.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// A frame on its way out.
pub(crate) struct Frame {
    pub(crate) header: Header,
    pub(crate) body: Bytes,
}

impl Frame {
    /// The body must be within the kind's limit.
    pub(crate) fn new(kind: Kind, topic: Option<Topic>, id: u64, body: Bytes) -> Frame {
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        debug_assert!(body.len() <= kind.body_bytes_max(), "a body beyond its limit");
        Frame { header: Header { kind, topic, length, id }, body }
    }
}

/// Why a frame was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    Closed,
    Full,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Frame>,
    bytes: usize,
    closed: bool,
    is_watched: bool,
    waker: Option<Waker>,
}

/// A queue with many producers and one consumer, the connection's task.
#[derive(Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
}

impl Outbox {
    /// Queues a message or call.
    pub(crate) fn push(&self, frame: Frame) -> Result<(), Refused> {
        self.add(frame, WAITING_BYTES_MAX)
    }

    /// Queues a frame that must not be lost while the connection stands.
    pub(crate) fn push_always(&self, frame: Frame) -> Result<(), Refused> {
        self.add(frame, usize::MAX)
    }

    fn add(&self, frame: Frame, limit: usize) -> Result<(), Refused> {
        let mut state = self.state.lock().expect("no panic under this lock");
        if state.closed {
            return Err(Refused::Closed);
        }
        let bytes = state.bytes + frame.body.len();
        if bytes > limit {
            return Err(Refused::Full);
        }
        state.bytes = bytes;
        state.frames.push_back(frame);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Moves everything that waits into `frames`, which must be empty.
    ///
    /// # Errors
    /// [`Refused::Closed`]
    pub(crate) fn poll_take(
        &self,
        cx: &mut Context<'_>,
        frames: &mut VecDeque<Frame>,
    ) -> Poll<Result<(), Refused>> {
        let mut state = self.state.lock().expect("no panic under this lock");
        if state.closed {
            return Poll::Ready(Err(Refused::Closed));
        }
        if state.frames.is_empty() {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        std::mem::swap(&mut state.frames, frames);
        state.bytes = 0;
        Poll::Ready(Ok(()))
    }

    /// Tells the connection whether its peer is to be watched.
    pub(crate) fn set_watched(&self, is_watched: bool) {
        let mut state = self.state.lock().expect("no panic under this lock");
        state.is_watched = is_watched;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Whether the peer is to be watched.
    pub(crate) fn is_watched(&self) -> bool {
        self.state.lock().expect("no panic under this lock").is_watched
    }

    /// Refuses further frames and drops those that wait.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock().expect("no panic under this lock");
        state.closed = true;
        state.frames.clear();
        state.bytes = 0;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}
