//! The streams of one peer.
//!
//! Invariant: numbers chosen here are even where this node dialled and odd where it was dialled, so
//! that both sides may open streams at once.

use crate::{MeshError, outbox::Outbox, statistics::Counters, stream::Cell};
use bytes::Bytes;
use dunix_ids::NodeId;
use dunix_streams::Tell;
use dunix_wire::{
    Topic,
    frame::{Header, Kind},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

/// Greatest number of streams with one peer; further ones are refused.
const STREAMS_MAX: usize = 16_384;

struct State {
    cells: HashMap<u64, Arc<Cell>>,
    next: u64,
    closed: bool,
}

/// Finds a stream by its number.
pub(crate) struct StreamTable {
    peer: NodeId,
    own_parity: u64,
    outbox: Arc<Outbox>,
    counters: Arc<Counters>,
    state: Mutex<State>,
}

impl StreamTable {
    pub(crate) fn new(
        peer: NodeId,
        dialled: bool,
        outbox: Arc<Outbox>,
        counters: Arc<Counters>,
    ) -> Arc<StreamTable> {
        let own_parity = u64::from(!dialled);
        let state = State { cells: HashMap::new(), next: own_parity + 2, closed: false };
        Arc::new(StreamTable { peer, own_parity, outbox, counters, state: Mutex::new(state) })
    }

    /// Makes this node's end of a stream that it opens.
    pub(crate) fn open(self: &Arc<Self>, topic: Topic) -> Result<Arc<Cell>, MeshError> {
        let mut state = self.state.lock().expect("no panic under this lock");
        if state.closed {
            return Err(MeshError::Broken(self.peer));
        }
        if state.cells.len() >= STREAMS_MAX {
            return Err(MeshError::Congested(self.peer));
        }
        let id = state.next;
        state.next += 2;
        Ok(self.insert(&mut state, id, topic))
    }

    /// Makes this node's end of a stream that the peer opens; none if there are too many.
    ///
    /// # Errors
    /// The peer chose a number that is not its own.
    pub(crate) fn accept(
        self: &Arc<Self>,
        id: u64,
        topic: Topic,
    ) -> Result<Option<Arc<Cell>>, String> {
        let mut state = self.state.lock().expect("no panic under this lock");
        if id % 2 == self.own_parity || state.cells.contains_key(&id) {
            return Err(format!("opened a stream with number {id}"));
        }
        if state.closed || state.cells.len() >= STREAMS_MAX {
            return Ok(None);
        }
        Ok(Some(self.insert(&mut state, id, topic)))
    }

    fn insert(self: &Arc<Self>, state: &mut State, id: u64, topic: Topic) -> Arc<Cell> {
        let (outbox, counters) = (self.outbox.clone(), self.counters.clone());
        let cell = Cell::on_lane(id, self.peer, topic, outbox, Arc::downgrade(self), counters);
        state.cells.insert(id, cell.clone());
        self.counters.count_stream(topic);
        cell
    }

    /// Takes a frame of an open stream. What comes for a stream that was let go is dropped.
    ///
    /// # Errors
    /// The peer broke the stream's rules.
    pub(crate) fn handle(&self, header: Header, body: Bytes) -> Result<(), String> {
        let tell = match header.kind {
            Kind::StreamData => Tell::Data(u64::from(header.length)),
            Kind::StreamSync => Tell::Sync,
            Kind::StreamFinish => Tell::Finish,
            Kind::StreamAbort => Tell::Abort,
            Kind::StreamStop => Tell::Stop,
            Kind::StreamConsumed => Tell::Consumed(offset_of(&body)?),
            other => return Err(format!("sent a {other:?} frame among streams")),
        };
        let state = self.state.lock().expect("no panic under this lock");
        let cell = state.cells.get(&header.id).cloned();
        drop(state);
        let Some(cell) = cell else { return Ok(()) };
        cell.handle(tell, body).map_err(|violation| format!("stream {}: {violation}", header.id))
    }

    pub(crate) fn remove(&self, id: u64) {
        self.state.lock().expect("no panic under this lock").cells.remove(&id);
    }

    /// The connection is gone: breaks every stream off.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock().expect("no panic under this lock");
        state.closed = true;
        let cells: Vec<Arc<Cell>> = state.cells.drain().map(|(_, cell)| cell).collect();
        drop(state);
        for cell in cells {
            cell.break_off();
        }
    }
}

fn offset_of(body: &Bytes) -> Result<u64, String> {
    let bytes: [u8; 8] = body.as_ref().try_into().map_err(|_| "a bad offset".to_owned())?;
    Ok(u64::from_le_bytes(bytes))
}
