//! Tells handlers of the peers that come and go, and lets them have what those say in between.
//!
//! Runs where the mesh was started, not on the mesh's own threads: a handler may wait (for a file of
//! the tree, which this very mesh carries), and the proofs of life must go on meanwhile.
//!
//! ```text
//! members --Up(link)--> handlers told --> the link's inboxes are handed over ... they end
//!         --Down(link)-------------------------------------------------> handlers told
//! ```

use crate::{Peer, PeerEvent, inbox, link::Link, mesh::Core};
use dunix_ids::NodeId;
use dunix_wire::{Topic, frame::Lane};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use tokio::{sync::mpsc, task::JoinSet};

/// Events that wait; beyond it the members' task waits, and with it whoever comes and goes.
pub(crate) const EVENTS_MAX: usize = 1024;

/// What became of a link.
pub(crate) enum LinkEvent {
    Up(Arc<Link>),
    /// Its inboxes are closed.
    Down(Arc<Link>),
}

/// The peers that handlers have been told of, but for those of [prompt](is_prompt) topics. Held
/// while they are told, so that each hears of it in order.
#[derive(Default)]
pub(crate) struct Announced(pub(crate) Mutex<BTreeMap<NodeId, Peer>>);

/// Whether a topic's handler is called on the mesh's own threads, as what the tree says is: everyone
/// may wait for a file, so its answers must wait for nobody.
pub(crate) fn is_prompt(topic: Topic) -> bool {
    Lane::of_topic(topic) == Lane::Files
}

/// Tells the handlers until the members' task has gone.
pub(crate) async fn run(core: Arc<Core>, mut events: mpsc::Receiver<LinkEvent>) {
    let mut links: BTreeMap<u64, JoinSet<()>> = BTreeMap::new();
    while let Some(event) = events.recv().await {
        match event {
            LinkEvent::Up(link) => {
                tell(&core, &PeerEvent::Up(link.peer.clone()));
                let mut readers = JoinSet::new();
                for inbox in link.inboxes() {
                    readers.spawn(inbox::run(core.clone(), link.peer.node, inbox.clone()));
                }
                links.insert(link.id, readers);
            }
            LinkEvent::Down(link) => {
                if let Some(readers) = links.remove(&link.id) {
                    end(readers).await;
                }
                tell(&core, &PeerEvent::Down(link.peer.node));
            }
        }
    }
    for (_, readers) in links {
        end(readers).await;
    }
}

/// Waits until what came has been handed over.
async fn end(mut readers: JoinSet<()>) {
    // One that was cancelled ended with its runtime.
    while readers.join_next().await.is_some() {}
}

fn tell(core: &Core, event: &PeerEvent) {
    let mut announced = core.announced.0.lock().expect("no panic under this lock");
    match event {
        PeerEvent::Up(peer) => drop(announced.insert(peer.node, peer.clone())),
        PeerEvent::Down(node) => drop(announced.remove(node)),
    }
    for handler in core.all_handlers(false) {
        handler.handle_peer(event);
    }
}
