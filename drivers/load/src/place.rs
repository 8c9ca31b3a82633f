//! Carries a placement decision out: asks, reserves, releases.

use crate::{Load, NodeLoad, Reason, Wish};
use dunix_ids::NodeId;
use dunix_placement::{Placement, PlacementInput, place, settle, without_one};
use dunix_wire::{
    Topic,
    load::{LoadEntry, LoadMessage, Probe, Probed},
};
use std::time::{Duration, Instant};

/// A peer that does not answer a probe within this time is not chosen.
const PROBE_TIME_MAX: Duration = Duration::from_millis(100);

/// Entries as young as this are as good as an answer.
const FRESH_MS: u32 = 100;

/// Where a program is to run, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    pub node: NodeId,
    /// Its text is what `dunix explain` shows.
    pub why: Reason,
}

/// Why a program can run nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlaceError {
    /// The node that was asked for is not up.
    NotUp(NodeId),
}

impl std::fmt::Display for PlaceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PlaceError::NotUp(node) => write!(f, "node {node} is not up"),
        }
    }
}

impl std::error::Error for PlaceError {}

impl Load {
    /// Decides where a program (its path) is to run, asking two peers if this node has no room; a place is
    /// reserved for it there for a moment.
    ///
    /// # Errors
    /// A node was asked for that is not up.
    pub async fn place(&self, wish: Wish, program: &[u8]) -> Result<Placed, PlaceError> {
        let peers = self.peers();
        let input = self.input(wish, program, &peers);
        match place(&input) {
            Placement::On { node, why } => Ok(self.placed(node, why)),
            Placement::Nowhere(node) => Err(PlaceError::NotUp(node)),
            Placement::Ask(asked) => {
                let (node, why) = self.ask(&input, asked).await;
                Ok(self.placed(node, why))
            }
        }
    }

    /// Decides at once, from what is known of others: for callers that cannot wait. Nothing is
    /// reserved at the other node, only remembered here; some peers are asked for next time.
    ///
    /// # Errors
    /// As [`Load::place`].
    pub fn place_now(&self, wish: Wish, program: &[u8]) -> Result<Placed, PlaceError> {
        self.decide_now(wish, program).map(|placed| self.placed(placed.node, placed.why))
    }

    /// As [`Load::place_now`] for what runs already, and is counted here if it stays.
    pub(crate) fn decide_now(&self, wish: Wish, program: &[u8]) -> Result<Placed, PlaceError> {
        let peers = self.peers();
        let input = self.input(wish, program, &peers);
        match place(&input) {
            Placement::On { node, why } => Ok(Placed { node, why }),
            Placement::Nowhere(node) => Err(PlaceError::NotUp(node)),
            Placement::Ask(asked) => {
                self.shared.ask_some(&peers);
                let known = self.peers_load();
                let useful =
                    |entry: &&LoadEntry| entry.age_ms <= FRESH_MS || asked.contains(&entry.node);
                let loads: Vec<_> = known
                    .iter()
                    .filter(useful)
                    .map(|entry| (entry.node, Some(node_load(entry))))
                    .collect();
                let (node, why) = settle(&input, &loads);
                Ok(Placed { node, why })
            }
        }
    }

    /// Looks for a peer that is less busy than this node would be without one of the programs that run here, and
    /// reserves a place there. `None`: none of two was.
    pub async fn relieve(&self) -> Option<Placed> {
        let peers = self.peers();
        let mut input = self.input(Wish::Best, &[], &peers);
        input.own_load = without_one(self.own_load(), input.weights);
        let Placement::Ask(asked) = place(&input) else { return None };
        let (node, why) = self.ask(&input, asked).await;
        (node != input.own).then(|| self.placed(node, why))
    }

    /// How busy this node is now.
    #[must_use]
    pub fn own_load(&self) -> NodeLoad {
        node_load(&self.own())
    }

    fn peers(&self) -> Vec<NodeId> {
        self.shared.mesh.peers().into_iter().map(|peer| peer.node).collect()
    }

    fn input<'a>(&self, wish: Wish, program: &[u8], peers: &'a [NodeId]) -> PlacementInput<'a> {
        let own = self.shared.mesh.node();
        let mut state = self.shared.lock();
        let own_load = node_load(&state.entry_without(1, own, Instant::now()));
        let cursor = if wish == Wish::Spread { state.turns.take(program) } else { 0 };
        let (random, weights) = (state.random.next(), self.shared.weights);
        PlacementInput { own, own_load, peers, wish, random, cursor, weights }
    }

    /// A program counts at once, not only when it is first seen to run.
    pub(crate) fn placed(&self, node: NodeId, why: Reason) -> Placed {
        let mut state = self.shared.lock();
        if node == self.shared.mesh.node() {
            state.unseen = state.unseen.saturating_add(1);
        } else {
            state.window.charge(node);
        }
        drop(state);
        Placed { node, why }
    }

    async fn probe(&self, node: NodeId) -> Option<Probed> {
        let mesh = &self.shared.mesh;
        let answer = mesh.call(node, Topic::Load, Probe.encode(), PROBE_TIME_MAX).await.ok()?;
        let probed = Probed::try_decode(&answer);
        if probed.is_none() {
            tracing::warn!(%node, "a malformed answer to a probe");
        }
        probed
    }

    /// Asks two peers, perhaps one and the same, and gives back the place at whom was not chosen.
    async fn ask(&self, input: &PlacementInput<'_>, [a, b]: [NodeId; 2]) -> (NodeId, Reason) {
        let mut answers = Vec::with_capacity(2);
        if a == b {
            answers.push((a, self.probe(a).await));
        } else {
            let (of_a, of_b) = tokio::join!(self.probe(a), self.probe(b));
            answers.extend([(a, of_a), (b, of_b)]);
        }
        let loads: Vec<_> = answers
            .iter()
            .map(|(node, probed)| (*node, probed.map(|probed| node_load(&probed.load))))
            .collect();
        let (chosen, why) = settle(input, &loads);
        for (node, probed) in answers {
            let (true, Some(probed)) = (node != chosen, probed) else { continue };
            let release = LoadMessage::Release(probed.reservation).encode();
            // If it does not arrive, the reservation runs out by itself.
            let _ = self.shared.mesh.send(node, Topic::Load, release);
        }
        (chosen, why)
    }
}

fn node_load(entry: &LoadEntry) -> NodeLoad {
    NodeLoad {
        runnable_centi: entry.runnable_centi,
        cpus_centi: entry.cpus_centi,
        memory_free_mib: entry.memory_free_mib,
    }
}
