//! One peer that is up: its lanes' outboxes, the calls under way, its streams.
//!
//! Invariant: after [`Link::close`] has returned, no prompt handler is called on behalf of this link,
//! nothing more comes to its inboxes, every call without an answer has failed, and every stream is
//! broken off.

use crate::{
    MeshError, MeshStream, Peer,
    inbox::{Delivery, Inbox},
    lane::{LaneError, Sink},
    mesh::Core,
    outbox::{Frame, Outbox, Refused},
    statistics::Counters,
    stream_table::StreamTable,
};
use bytes::Bytes;
use dunix_ids::NodeId;
use dunix_wire::{
    MESSAGE_BYTES_MAX, Topic,
    frame::{Header, Kind, Lane},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, RwLock, Weak},
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::oneshot;

/// Greatest number of unanswered calls to one peer.
const CALLS_MAX: usize = 65_536;

pub(crate) type Answer = Result<Bytes, MeshError>;

/// The way to one peer.
pub(crate) struct Link {
    pub(crate) id: u64,
    pub(crate) peer: Peer,
    pub(crate) counters: Arc<Counters>,
    pub(crate) streams: Arc<StreamTable>,
    outboxes: [Arc<Outbox>; 3],
    /// What came of [`Lane::Control`] and [`Lane::Streams`], for handlers.
    inboxes: [Arc<Inbox>; 2],
    calls: Mutex<Calls>,
    /// Held for reading while a prompt handler runs; `false` once the link is closed.
    open: RwLock<bool>,
}

#[derive(Default)]
struct Calls {
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    last: u64,
    closed: bool,
}

impl Link {
    pub(crate) fn new(id: u64, peer: Peer, dialled: bool, counters: Arc<Counters>) -> Arc<Link> {
        let outboxes: [Arc<Outbox>; 3] = Default::default();
        let for_streams = outboxes[Lane::Streams as usize].clone();
        let streams = StreamTable::new(peer.node, dialled, for_streams, counters.clone());
        let (calls, open) = (Mutex::default(), RwLock::new(true));
        let inboxes = Default::default();
        Arc::new(Link { id, peer, counters, streams, outboxes, inboxes, calls, open })
    }

    pub(crate) fn inboxes(&self) -> &[Arc<Inbox>; 2] {
        &self.inboxes
    }

    /// Where what comes on a lane waits for its handler; that of files waits nowhere.
    fn inbox(&self, lane: Lane) -> Option<&Arc<Inbox>> {
        let [control, streams] = &self.inboxes;
        match lane {
            Lane::Control => Some(control),
            Lane::Streams => Some(streams),
            Lane::Files => None,
        }
    }

    pub(crate) fn outbox(&self, lane: Lane) -> &Arc<Outbox> {
        &self.outboxes[lane as usize]
    }

    /// Queues a one-way message.
    pub(crate) fn send(&self, topic: Topic, body: Bytes) -> Result<(), MeshError> {
        self.push(Kind::Message, topic, 0, body)
    }

    /// Queues a call; the answer comes through the receiver returned.
    pub(crate) fn call(
        &self,
        topic: Topic,
        body: Bytes,
    ) -> Result<(u64, oneshot::Receiver<Answer>), MeshError> {
        let (sender, receiver) = oneshot::channel();
        let mut calls = self.calls.lock().expect("no panic under this lock");
        if calls.closed {
            return Err(MeshError::Broken(self.peer.node));
        }
        if calls.waiting.len() >= CALLS_MAX {
            return Err(MeshError::Congested(self.peer.node));
        }
        calls.last += 1;
        let id = calls.last;
        calls.waiting.insert(id, sender);
        drop(calls);
        self.push(Kind::Call, topic, id, body).inspect_err(|_| self.forget_call(id))?;
        Ok((id, receiver))
    }

    /// Nobody waits for this call's answer any more.
    pub(crate) fn forget_call(&self, id: u64) {
        self.calls.lock().expect("no panic under this lock").waiting.remove(&id);
    }

    /// Opens a stream.
    pub(crate) fn open_stream(&self, topic: Topic, header: Bytes) -> Result<MeshStream, MeshError> {
        let cell = self.streams.open(topic)?;
        let frame = Frame::new(Kind::StreamOpen, Some(topic), cell.id(), header);
        let stream = MeshStream::new(cell);
        let pushed = self.outbox(Lane::Streams).push_always(frame);
        pushed.map_err(|refused| self.error_of(refused))?;
        Ok(stream)
    }

    fn push(&self, kind: Kind, topic: Topic, id: u64, body: Bytes) -> Result<(), MeshError> {
        if body.len() > MESSAGE_BYTES_MAX {
            return Err(MeshError::TooLong(body.len()));
        }
        let bytes = body.len();
        let frame = Frame::new(kind, Some(topic), id, body);
        let pushed = self.outbox(Lane::of_topic(topic)).push(frame);
        pushed.map_err(|refused| self.error_of(refused))?;
        self.counters.count_message_sent(topic, bytes);
        Ok(())
    }

    fn error_of(&self, refused: Refused) -> MeshError {
        match refused {
            Refused::Closed => MeshError::Broken(self.peer.node),
            Refused::Full => MeshError::Congested(self.peer.node),
        }
    }

    /// Has the connections watched from now on, or only while something is said on them.
    pub(crate) fn set_watched(&self, is_watched: bool) {
        for outbox in &self.outboxes {
            outbox.set_watched(is_watched);
        }
    }

    /// Tells the peer that somebody was silent.
    pub(crate) fn alarm(&self) {
        let frame = Frame::new(Kind::Alarm, None, 0, Bytes::new());
        // A link that is closed needs no alarm.
        let _ = self.outbox(Lane::Control).push_always(frame);
    }

    /// Ends everything; see the module's invariant. May not be called from a handler.
    pub(crate) fn close(&self) {
        *self.open.write().expect("no panic under this lock") = false;
        for outbox in &self.outboxes {
            outbox.close();
        }
        for inbox in &self.inboxes {
            inbox.close();
        }
        let mut calls = self.calls.lock().expect("no panic under this lock");
        calls.closed = true;
        let waiting = std::mem::take(&mut calls.waiting);
        drop(calls);
        for (_, sender) in waiting {
            let _ = sender.send(Err(MeshError::Broken(self.peer.node)));
        }
        self.streams.close();
    }

    /// Who waits for an answer; nobody if it came after its deadline.
    fn take_call(&self, id: u64) -> Option<oneshot::Sender<Answer>> {
        self.calls.lock().expect("no panic under this lock").waiting.remove(&id)
    }
}

/// What one lane of a link does with its frames.
pub(crate) struct LinkSink {
    pub(crate) link: Arc<Link>,
    pub(crate) lane: Lane,
    pub(crate) core: Arc<Core>,
}

impl Sink for LinkSink {
    fn handle_frame(&mut self, header: Header, body: Bytes) -> Result<(), LaneError> {
        let link = &self.link;
        let open = link.open.read().expect("no panic under this lock");
        if !*open {
            return Err(LaneError::Stopped);
        }
        let streams = matches!(self.lane, Lane::Streams);
        match (header.kind, header.topic) {
            (Kind::StreamOpen, Some(topic)) if streams => self.open_stream(topic, header.id, body),
            (_, None) if streams => link.streams.handle(header, body).map_err(LaneError::Rules),
            (Kind::Alarm, None) if self.lane == Lane::Control => {
                self.core.alarm.notify_one();
                Ok(())
            }
            (kind, Some(topic)) if Lane::of_topic(topic) == self.lane => {
                self.handle_message(kind, topic, header, body)
            }
            (kind, topic) => {
                let lane = self.lane;
                Err(LaneError::Rules(format!("sent {kind:?} of {topic:?} on the {lane:?} lane")))
            }
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.link.inbox(self.lane).map_or(Poll::Ready(()), |inbox| inbox.poll_ready(cx))
    }

    fn handle_round_trip(&mut self, time: Duration) {
        if self.lane == Lane::Control {
            let us = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
            self.link.counters.set_round_trip_us(us);
        }
    }
}

impl LinkSink {
    fn handle_message(
        &self,
        kind: Kind,
        topic: Topic,
        header: Header,
        body: Bytes,
    ) -> Result<(), LaneError> {
        let from = self.link.peer.node;
        self.link.counters.count_message_received(topic, body.len());
        let answer = |answer: Answer| {
            let waiting = self.link.take_call(header.id);
            waiting.map(|waiting| Delivery::Answer(waiting, answer))
        };
        let delivery = match kind {
            Kind::Message => Some(Delivery::Message(topic, body)),
            Kind::Call => {
                let reply = Responder::remote(&self.link, topic, header.id);
                Some(Delivery::Call(topic, body, reply))
            }
            Kind::Reply => answer(Ok(body)),
            Kind::Unanswered => answer(Err(MeshError::Unanswered(from))),
            other => return Err(LaneError::Rules(format!("sent a {other:?} frame as a message"))),
        };
        delivery.map_or(Ok(()), |delivery| self.deliver(delivery))
    }

    /// Hands over at once what is prompt, else leaves it to the inbox.
    fn deliver(&self, delivery: Delivery) -> Result<(), LaneError> {
        let Some(inbox) = self.link.inbox(self.lane) else {
            let _callers = self.core.callers.enter();
            delivery.hand_over(&self.core, self.link.peer.node);
            return Ok(());
        };
        if inbox.push(delivery) { Ok(()) } else { Err(LaneError::Stopped) }
    }

    fn open_stream(&self, topic: Topic, id: u64, header: Bytes) -> Result<(), LaneError> {
        let Some(cell) = self.link.streams.accept(id, topic).map_err(LaneError::Rules)? else {
            for kind in [Kind::StreamAbort, Kind::StreamStop] {
                let frame = Frame::new(kind, None, id, Bytes::new());
                let _ = self.link.outbox(Lane::Streams).push_always(frame);
            }
            return Ok(());
        };
        self.deliver(Delivery::Stream(topic, header, MeshStream::new(cell)))
    }
}

/// Answers one call. Dropped without an answer, it tells the caller [`MeshError::Unanswered`].
pub struct Responder {
    way: Option<Way>,
}

enum Way {
    Remote { link: Weak<Link>, topic: Topic, id: u64 },
    Local { own: NodeId, sender: oneshot::Sender<Answer> },
}

impl Responder {
    pub(crate) fn remote(link: &Arc<Link>, topic: Topic, id: u64) -> Responder {
        Responder { way: Some(Way::Remote { link: Arc::downgrade(link), topic, id }) }
    }

    pub(crate) fn local(own: NodeId, sender: oneshot::Sender<Answer>) -> Responder {
        Responder { way: Some(Way::Local { own, sender }) }
    }

    /// Sends the answer. One that is longer than [`MESSAGE_BYTES_MAX`] counts as none.
    pub fn send(self, body: Vec<u8>) {
        self.send_bytes(body.into());
    }

    /// As [`Responder::send`], without a copy of bytes that are shared already.
    pub fn send_bytes(mut self, body: Bytes) {
        if body.len() > MESSAGE_BYTES_MAX {
            tracing::error!(bytes = body.len(), "an answer is too long");
            return;
        }
        match self.way.take() {
            Some(Way::Remote { link, topic, id }) => answer(&link, Kind::Reply, topic, id, body),
            Some(Way::Local { sender, .. }) => {
                let _ = sender.send(Ok(body));
            }
            None => {}
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        match self.way.take() {
            Some(Way::Remote { link, topic, id }) => {
                answer(&link, Kind::Unanswered, topic, id, Bytes::new());
            }
            Some(Way::Local { own, sender }) => {
                let _ = sender.send(Err(MeshError::Unanswered(own)));
            }
            None => {}
        }
    }
}

/// If the link is gone, so is whoever waits for the answer. Answers are never refused for lack of
/// room: they are bounded by the calls that the peer may have under way.
fn answer(link: &Weak<Link>, kind: Kind, topic: Topic, id: u64, body: Bytes) {
    let Some(link) = link.upgrade() else { return };
    let bytes = body.len();
    let frame = Frame::new(kind, Some(topic), id, body);
    if link.outbox(Lane::of_topic(topic)).push_always(frame).is_ok() {
        link.counters.count_message_sent(topic, bytes);
    }
}
