//! Measures this node's load, exchanges it, and decides where programs are placed.
//!
//! Owns: sampling ([`Sampler`]), the window of what is known of others, reservations, the spread's
//! turns. The policy is the `placement` machine's.
//!
//! ```text
//! Sampler --fresh--> own entry --+--> window --1/s, one peer at random--> peers
//!                                +--> probe from a peer: entry + reservation
//! place(wish): policy -> here | there | ask two, reserve at both, release the loser
//! ```

mod children;
mod place;
mod reservations;
mod sample;
mod turns;
mod window;

pub use dunix_placement::{ChildDid, NodeLoad, Reason, Wish};
pub use place::{PlaceError, Placed};
pub use sample::SampleConfig;

use bytes::Bytes;
use dunix_ids::NodeId;
use dunix_placement::{Habits, Weights};
use dunix_transport::{Handler, Mesh, MeshStream, PeerEvent, Responder};
use dunix_wire::{
    Topic,
    load::{LoadEntry, LoadMessage, Probe, Probed},
};
use reservations::Reservations;
use sample::Sampler;
use std::{
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::{Duration, Instant},
};
use turns::Turns;
use window::Window;

/// Time between two windows sent.
const EXCHANGE_INTERVAL: Duration = Duration::from_secs(1);
/// Least time between two rounds of asking peers.
const ASK_INTERVAL: Duration = Duration::from_millis(20);
/// Peers asked in one round.
const ASKED_MAX: usize = 4;

/// The load of this node and what it knows of others. Cheap to clone.
#[derive(Clone)]
pub struct Load {
    shared: Arc<Shared>,
}

struct Shared {
    mesh: Mesh,
    weights: Weights,
    state: Mutex<State>,
}

struct State {
    sampler: Sampler,
    window: Window,
    reservations: Reservations,
    turns: Turns,
    habits: Habits,
    /// Programs placed here since the last sample, which does not show them.
    unseen: u32,
    /// When peers were last asked for their windows.
    asked: Option<Instant>,
    random: Random,
}

impl Load {
    /// Begins to measure and to exchange; needs a tokio runtime. Ends when the last clone is dropped.
    #[must_use]
    pub fn start(mesh: Mesh, config: SampleConfig) -> Load {
        let state = State {
            sampler: Sampler::new(config),
            window: Window::default(),
            reservations: Reservations::default(),
            turns: Turns::default(),
            habits: Habits::default(),
            unseen: 0,
            asked: None,
            random: Random::new(),
        };
        let shared = Shared { mesh, weights: Weights::DEFAULT, state: Mutex::new(state) };
        let shared = Arc::new(shared);
        let handler = LoadHandler { shared: Arc::downgrade(&shared) };
        shared.mesh.register(Topic::Load, Arc::new(handler));
        tokio::spawn(exchange(Arc::downgrade(&shared)));
        Load { shared }
    }

    /// Returns this node's load now, reservations included.
    #[must_use]
    pub fn own(&self) -> LoadEntry {
        self.shared.own_entry()
    }

    /// Returns what is known of the peers that are up, with the age of each entry.
    #[must_use]
    pub fn peers_load(&self) -> Vec<LoadEntry> {
        self.shared.lock().window.entries(Instant::now())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    fn own_entry(&self) -> LoadEntry {
        let mut state = self.lock();
        state.own_entry(self.mesh.node(), Instant::now())
    }

    fn handle_message(&self, from: NodeId, message: LoadMessage) {
        let now = Instant::now();
        let mut state = self.lock();
        match message {
            LoadMessage::Window(entries) => {
                let own = self.mesh.node();
                for entry in entries {
                    if entry.node != own {
                        state.window.learn(entry, now);
                    }
                }
            }
            LoadMessage::Release(reservation) => state.reservations.release(reservation),
            LoadMessage::Ask => {
                drop(state);
                self.tell_own(from);
            }
        }
    }

    /// Sends this node's own entry to a peer.
    fn tell_own(&self, to: NodeId) {
        let window = LoadMessage::Window(vec![self.own_entry()]).encode();
        // A peer that cannot be reached just now needs no window.
        let _ = self.mesh.send(to, Topic::Load, window);
    }

    /// Asks some peers how they are, for the next decision rather than for this one.
    fn ask_some(&self, peers: &[NodeId]) {
        let mut state = self.lock();
        let now = Instant::now();
        if state.asked.is_some_and(|asked| now.saturating_duration_since(asked) < ASK_INTERVAL) {
            return;
        }
        state.asked = Some(now);
        let first = state.random.next();
        drop(state);
        let count = peers.len();
        let first = usize::try_from(first % count.max(1) as u64).unwrap_or(0);
        for peer in peers.iter().cycle().skip(first).take(count.min(ASKED_MAX)) {
            let _ = self.mesh.send(*peer, Topic::Load, LoadMessage::Ask.encode());
        }
    }

    fn probe(&self) -> Probed {
        let now = Instant::now();
        let mut state = self.lock();
        let load = state.own_entry(self.mesh.node(), now);
        Probed { load, reservation: state.reservations.add(now) }
    }

    /// Sends the window to one peer at random.
    fn exchange(&self) {
        let peers = self.mesh.peers();
        let mut state = self.lock();
        let now = Instant::now();
        let own = state.own_entry(self.mesh.node(), now);
        let entries = state.window.best(own, now);
        let Some(peer) = state.random.one_of(&peers) else { return };
        let peer = peer.node;
        drop(state);
        // A peer that cannot be reached just now needs no window.
        let _ = self.mesh.send(peer, Topic::Load, LoadMessage::Window(entries).encode());
    }
}

impl State {
    fn own_entry(&mut self, own: NodeId, now: Instant) -> LoadEntry {
        self.entry_without(0, own, now)
    }

    /// As [`State::own_entry`] without so many young processes: the one that asks where to go is
    /// among them.
    fn entry_without(&mut self, leaving: u32, own: NodeId, now: Instant) -> LoadEntry {
        let (sample, is_new) = self.sampler.fresh(now);
        if is_new {
            self.unseen = 0;
        }
        let expected = self.reservations.count(now).saturating_add(self.unseen);
        let young = sample.young.saturating_sub(leaving);
        let runnable = sample.running.saturating_add(young).saturating_add(expected);
        LoadEntry {
            node: own,
            runnable_centi: runnable.saturating_mul(100),
            cpus_centi: sample.cpus_centi,
            pressure: sample.pressure,
            memory_free_mib: sample.memory_free_mib,
            age_ms: 0,
        }
    }
}

async fn exchange(shared: Weak<Shared>) {
    let mut ticks = tokio::time::interval(EXCHANGE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        shared.exchange();
    }
}

struct LoadHandler {
    shared: Weak<Shared>,
}

impl Handler for LoadHandler {
    fn handle_message(&self, from: NodeId, body: Bytes) {
        let Some(shared) = self.shared.upgrade() else { return };
        match LoadMessage::try_decode(&body) {
            Some(message) => shared.handle_message(from, message),
            None => tracing::warn!(%from, "a malformed load message"),
        }
    }

    fn handle_call(&self, from: NodeId, body: Bytes, reply: Responder) {
        let Some(shared) = self.shared.upgrade() else { return };
        match Probe::try_decode(&body) {
            Some(Probe) => reply.send(shared.probe().encode()),
            None => tracing::warn!(%from, "a malformed probe"),
        }
    }

    fn handle_stream(&self, _from: NodeId, _header: Bytes, _stream: MeshStream) {}

    fn handle_peer(&self, event: &PeerEvent) {
        let Some(shared) = self.shared.upgrade() else { return };
        match event {
            // So that both know each other before the first tick.
            PeerEvent::Up(peer) => shared.tell_own(peer.node),
            PeerEvent::Down(node) => shared.lock().window.forget(*node),
        }
    }
}

/// A small generator for choices that need no secrecy (xorshift64*).
struct Random(u64);

impl Random {
    fn new() -> Random {
        let mut bytes = [0; 8];
        // Without randomness every node makes the same choices: worse placement, nothing else.
        let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK);
        Random(u64::from_le_bytes(bytes) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn one_of<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let index = self.next().checked_rem(from.len() as u64)?;
        from.get(usize::try_from(index).ok()?)
    }
}
