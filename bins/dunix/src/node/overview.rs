//! What the command line is told of the whole fabric, gathered on demand from the nodes.
//!
//! Owns: asking the peers, answering them, and event subscriptions. Refuses: knowing anything of a
//! node by itself; [`Local`] does. Nothing is broadcast: a node sends only to those who asked.

use super::local::Events;
use bytes::Bytes;
use dunix_admin_api::{
    Event, Explanation, LIST_ITEMS_MAX, NodeInfo, PeerCall, PeerReply, ProcessInfo, SubscribeEvents,
};
use dunix_ids::{NodeId, Pid};
use dunix_transport::{Handler, Mesh, MeshError, MeshStream, PeerEvent, Responder, StreamSender};
use dunix_wire::Topic;
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// How long a peer may take to answer; one that does not is left out.
const CALL_DEADLINE: Duration = Duration::from_secs(2);
/// Greatest bytes of one encoded event.
const EVENT_BYTES_MAX: usize = 64 << 10;
/// Events that wait for a slow client before some are dropped (and counted).
const EVENTS_QUEUED_MAX: usize = 1024;
/// Most pages of a node's list: more processes than a node can hold.
const PAGES_MAX: usize = 1024;

/// What a node knows of itself.
pub(super) trait Local: Send + Sync + 'static {
    /// This node's name.
    fn name(&self) -> &str;
    /// Says what this node is and how busy.
    fn node(&self) -> NodeInfo;
    /// Lists the processes on this node, by PID.
    fn processes(&self) -> Vec<ProcessInfo>;
    /// Tells all of a process on this node.
    fn explain(&self, pid: Pid) -> Option<Explanation>;
    /// This node's counts, in Prometheus' text form.
    fn metrics(&self) -> String;
    /// Subscribes to what happens on this node from now on.
    fn events(&self) -> Events;
}

/// Answers for the fabric. Cheap to clone.
#[derive(Clone)]
pub(super) struct Overview {
    mesh: Mesh,
    me: NodeId,
    local: Arc<dyn Local>,
}

impl Overview {
    /// Starts to answer peers.
    pub(super) fn start(mesh: Mesh, me: NodeId, local: Arc<dyn Local>) -> Overview {
        let overview = Overview { mesh: mesh.clone(), me, local };
        mesh.register(Topic::Administration, Arc::new(overview.clone()));
        overview
    }

    fn everyone(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.mesh.peers().iter().map(|peer| peer.node).collect();
        nodes.push(self.me);
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Lists the nodes that answer.
    pub(super) async fn nodes(&self) -> Vec<NodeInfo> {
        let mut nodes = Vec::new();
        for node in self.everyone() {
            let asked = std::time::Instant::now();
            let Ok(PeerReply::Node(mut info)) = self.ask(node, &PeerCall::Node).await else {
                continue;
            };
            info.answering = node == self.me;
            if node != self.me {
                info.rtt_us = u32::try_from(asked.elapsed().as_micros()).ok();
                info.address = self.address(node);
            }
            nodes.push(*info);
        }
        nodes
    }

    fn address(&self, node: NodeId) -> String {
        let peers = self.mesh.peers();
        let peer = peers.iter().find(|peer| peer.node == node);
        peer.map(|peer| peer.address.to_string()).unwrap_or_default()
    }

    /// Finds a node by its name or number, without asking it.
    pub(super) fn find(&self, name: &str) -> Option<NodeId> {
        let peers = self.mesh.peers();
        let others = peers.iter().map(|peer| (peer.node, peer.name.as_str()));
        let all: Vec<(NodeId, &str)> = others.chain([(self.me, self.local.name())]).collect();
        let by_name = all.iter().find(|(_, other)| *other == name);
        let by_number = || all.iter().find(|(node, _)| name.parse() == Ok(node.0));
        by_name.or_else(by_number).map(|(node, _)| *node)
    }

    /// Lists the processes of all nodes that answer.
    pub(super) async fn processes(&self) -> Vec<ProcessInfo> {
        let mut all = Vec::new();
        for node in self.everyone() {
            let mut after = 0;
            for _ in 0..PAGES_MAX {
                let page = match self.ask(node, &PeerCall::Processes { after }).await {
                    Ok(PeerReply::Processes(page)) => page,
                    _ => break,
                };
                let Some(last) = page.last() else { break };
                after = last.pid.get();
                all.extend(page);
            }
        }
        all
    }

    /// Tells all of a process, wherever it runs; `None` if no node that answers knows it.
    pub(super) async fn explain(&self, pid: Pid) -> Option<Explanation> {
        for node in self.everyone() {
            if let Ok(PeerReply::Explained(Some(found))) =
                self.ask(node, &PeerCall::Explain(pid)).await
            {
                return Some(*found);
            }
        }
        None
    }

    /// Tells a node's counts; `None` if it does not answer.
    pub(super) async fn metrics(&self, node: NodeId) -> Option<String> {
        match self.ask(node, &PeerCall::Metrics).await {
            Ok(PeerReply::Metrics(text)) => Some(text),
            _ => None,
        }
    }

    async fn ask(&self, to: NodeId, call: &PeerCall) -> Result<PeerReply, MeshError> {
        let body = dunix_wire::encode(call);
        let answer = self.mesh.call(to, Topic::Administration, body, CALL_DEADLINE).await?;
        dunix_wire::decode(&answer).map_err(|_| MeshError::Unanswered(to))
    }

    /// Subscribes to the events of all nodes that are up now.
    pub(super) async fn events(&self) -> mpsc::Receiver<Event> {
        let (sender, receiver) = mpsc::channel(EVENTS_QUEUED_MAX);
        tokio::spawn(forward(self.local.events(), sender.clone()));
        for node in self.everyone() {
            if node == self.me {
                continue;
            }
            let header = dunix_wire::encode(&SubscribeEvents);
            if let Ok(stream) = self.mesh.open_stream(node, Topic::Administration, header).await {
                tokio::spawn(receive(stream, sender.clone()));
            }
        }
        receiver
    }

    fn answer(&self, call: &PeerCall) -> PeerReply {
        match call {
            PeerCall::Node => PeerReply::Node(Box::new(self.local.node())),
            PeerCall::Processes { after } => {
                let mut list = self.local.processes();
                list.retain(|process| process.pid.get() > *after);
                list.sort_unstable_by_key(|process| process.pid);
                list.truncate(LIST_ITEMS_MAX);
                PeerReply::Processes(list)
            }
            PeerCall::Metrics => PeerReply::Metrics(self.local.metrics()),
            PeerCall::Explain(pid) => PeerReply::Explained(self.local.explain(*pid).map(Box::new)),
        }
    }
}

impl Handler for Overview {
    fn handle_message(&self, from: NodeId, _body: Bytes) {
        tracing::warn!(%from, "an administrative message that is no question");
    }

    fn handle_call(&self, from: NodeId, body: Bytes, reply: Responder) {
        let Ok(call) = dunix_wire::decode::<PeerCall>(&body) else {
            tracing::warn!(%from, "a malformed administrative question");
            return;
        };
        let overview = self.clone();
        // Lists read /proc, which takes its time.
        tokio::task::spawn_blocking(move || {
            reply.send(dunix_wire::encode(&overview.answer(&call)))
        });
    }

    fn handle_stream(&self, from: NodeId, header: Bytes, stream: MeshStream) {
        if dunix_wire::decode::<SubscribeEvents>(&header).is_err() {
            tracing::warn!(%from, "a malformed subscription");
            return;
        }
        let events = self.local.events();
        let (sender, _) = stream.split();
        tokio::spawn(send(events, sender));
    }

    fn handle_peer(&self, _event: &PeerEvent) {}
}

/// Hands local events on.
async fn forward(mut events: Events, sender: mpsc::Sender<Event>) {
    while let Some(event) = events.next().await {
        if sender.send(event).await.is_err() {
            return;
        }
    }
}

/// At the asked node: sends events until the subscriber leaves.
async fn send(mut events: Events, mut stream: StreamSender) {
    while let Some(event) = events.next().await {
        let body = dunix_wire::encode(&event);
        let Ok(length) = u32::try_from(body.len()) else { continue };
        if body.len() > EVENT_BYTES_MAX {
            continue;
        }
        let mut framed = length.to_le_bytes().to_vec();
        framed.extend_from_slice(&body);
        if stream.send(framed.into()).await.is_err() {
            return;
        }
    }
}

/// At the subscriber: reads a node's events until either side leaves.
async fn receive(mut stream: MeshStream, sender: mpsc::Sender<Event>) {
    let mut buffer = Vec::new();
    loop {
        let chunk = tokio::select! {
            chunk = stream.recv() => chunk,
            () = sender.closed() => return,
        };
        let Some(chunk) = chunk else { return };
        buffer.extend_from_slice(&chunk);
        stream.consumed(chunk.len());
        while let Some(event) = match take_event(&mut buffer) {
            Ok(event) => event,
            Err(dunix_wire::Malformed) => return tracing::warn!("a malformed event"),
        } {
            if sender.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// Takes one event off the front of `buffer`, if it is whole.
fn take_event(buffer: &mut Vec<u8>) -> Result<Option<Event>, dunix_wire::Malformed> {
    let Some((length, rest)) = buffer.split_first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length > EVENT_BYTES_MAX {
        return Err(dunix_wire::Malformed);
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let event = dunix_wire::decode(body)?;
    buffer.drain(..4 + length);
    Ok(Some(event))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dunix_admin_api::EventKind;

    fn event(at: u64) -> Event {
        Event { at_unix_ms: at, node: NodeId(1), kind: EventKind::Lost { events: at } }
    }

    fn framed(event: &Event) -> Vec<u8> {
        let body = dunix_wire::encode(event);
        let mut bytes = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
        bytes.extend(body);
        bytes
    }

    #[test]
    fn events_are_taken_whole_from_any_chunks() {
        let bytes: Vec<u8> = [1, 2, 3].iter().flat_map(|at| framed(&event(*at))).collect();
        let (mut buffer, mut taken) = (Vec::new(), Vec::new());
        for byte in bytes {
            buffer.push(byte);
            taken.extend(take_event(&mut buffer).unwrap());
        }
        assert_eq!(taken, [event(1), event(2), event(3)]);
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_senseless_length_is_refused() {
        assert!(take_event(&mut vec![255; 8]).is_err());
    }
}
