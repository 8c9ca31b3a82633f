//! What has come from one peer on one lane and waits for its handlers.
//!
//! Bounds: with [`WAITING_BYTES_MAX`] waiting the lane reads no further ([`Inbox::poll_ready`]); what
//! one read has brought is still taken.

use crate::{MeshStream, Responder, link::Answer, mesh::Core};
use bytes::Bytes;
use dunix_ids::NodeId;
use dunix_wire::Topic;
use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};
use tokio::sync::oneshot;

/// Bytes that may wait, with [`ENTRY_BYTES`] for each delivery.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// What a delivery costs beside its body.
const ENTRY_BYTES: usize = 128;
/// Deliveries handed over before other tasks get their turn.
const TURN: usize = 64;

/// What a handler, or who called, is given.
pub(crate) enum Delivery {
    Message(Topic, Bytes),
    Call(Topic, Bytes, Responder),
    Stream(Topic, Bytes, MeshStream),
    /// In its place among the others: what a peer said before it answered is known by then.
    Answer(oneshot::Sender<Answer>, Answer),
}

impl Delivery {
    fn bytes(&self) -> usize {
        let body = match self {
            Delivery::Message(_, body) | Delivery::Call(_, body, _) => body.len(),
            Delivery::Stream(_, header, _) => header.len(),
            Delivery::Answer(_, answer) => answer.as_ref().map_or(0, Bytes::len),
        };
        body + ENTRY_BYTES
    }

    /// Gives it to whom it is for.
    pub(crate) fn hand_over(self, core: &Core, from: NodeId) {
        match self {
            Delivery::Message(topic, body) => match core.handler(topic) {
                Some(handler) => handler.handle_message(from, body),
                None => tracing::debug!(%from, ?topic, "a message that nobody here wants"),
            },
            Delivery::Call(topic, body, reply) => {
                // Without a handler the responder is dropped, which says so to the caller.
                if let Some(handler) = core.handler(topic) {
                    handler.handle_call(from, body, reply);
                }
            }
            Delivery::Stream(topic, header, stream) => {
                // Without a handler the stream is dropped, which resets it.
                if let Some(handler) = core.handler(topic) {
                    handler.handle_stream(from, header, stream);
                }
            }
            Delivery::Answer(waiting, answer) => {
                // Who called may have lost interest.
                let _ = waiting.send(answer);
            }
        }
    }
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Delivery>,
    bytes: usize,
    is_closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// A queue with one producer, the lane's task, and one consumer, [`run`].
#[derive(Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
}

impl Inbox {
    /// Queues a delivery; says whether it was taken, as it is until the inbox is closed.
    pub(crate) fn push(&self, delivery: Delivery) -> bool {
        let mut state = self.lock();
        if state.is_closed {
            return false;
        }
        state.bytes += delivery.bytes();
        state.waiting.push_back(delivery);
        wake(state, |state| &mut state.reader);
        true
    }

    /// Ready while there is room.
    pub(crate) fn poll_ready(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.bytes < WAITING_BYTES_MAX || state.is_closed {
            return Poll::Ready(());
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Takes nothing more; what waits is still handed over.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        wake(state, |state| &mut state.reader);
    }

    /// Takes nothing more and drops what waits.
    pub(crate) fn discard(&self) {
        self.close();
        let waiting = {
            let mut state = self.lock();
            state.bytes = 0;
            std::mem::take(&mut state.waiting)
        };
        // Not under the lock: who drops an answer or a stream tells others.
        drop(waiting);
    }

    /// The next delivery; `None` once it is closed and empty.
    async fn next(&self) -> Option<Delivery> {
        poll_fn(|cx| {
            let mut state = self.lock();
            let Some(delivery) = state.waiting.pop_front() else {
                if state.is_closed {
                    return Poll::Ready(None);
                }
                state.reader = Some(cx.waker().clone());
                return Poll::Pending;
            };
            state.bytes -= delivery.bytes();
            wake(state, |state| &mut state.writer);
            Poll::Ready(Some(delivery))
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }
}

/// Wakes whom `choose` names, with the lock released.
fn wake(mut state: MutexGuard<'_, State>, choose: fn(&mut State) -> &mut Option<Waker>) {
    let waker = choose(&mut state).take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Hands over what comes, in order, to the end of the inbox.
pub(crate) async fn run(core: Arc<Core>, from: NodeId, inbox: Arc<Inbox>) {
    let mut turn = 0;
    while let Some(delivery) = inbox.next().await {
        delivery.hand_over(&core, from);
        turn += 1;
        if turn % TURN == 0 {
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn message(bytes: usize) -> Delivery {
        Delivery::Message(Topic::Load, vec![0; bytes].into())
    }

    #[tokio::test]
    async fn what_came_before_the_end_is_handed_over() {
        let inbox = Inbox::default();
        assert!(inbox.push(message(1)) && inbox.push(message(2)));
        inbox.close();
        assert!(!inbox.push(message(3)));
        let lengths = [inbox.next().await, inbox.next().await].map(|d| d.map(|d| d.bytes()));
        assert_eq!(lengths, [Some(1 + ENTRY_BYTES), Some(2 + ENTRY_BYTES)]);
        assert!(inbox.next().await.is_none());
    }

    #[tokio::test]
    async fn a_full_inbox_has_room_again_when_something_was_taken() {
        let inbox = Inbox::default();
        let cx = Context::from_waker(Waker::noop());
        inbox.push(message(WAITING_BYTES_MAX - ENTRY_BYTES - 1));
        assert!(inbox.poll_ready(&cx).is_ready());
        inbox.push(message(0));
        assert!(inbox.poll_ready(&cx).is_pending());
        inbox.next().await.expect("something waits");
        assert!(inbox.poll_ready(&cx).is_ready());
        inbox.discard();
        assert!(inbox.next().await.is_none());
    }
}
