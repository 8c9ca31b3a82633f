//! The hand-over of running processes: one [`Migration`] per node, for the moves that leave it and
//! those that come to it.
//!
//! Owns: the phases of each move, who decides what, and what the death of a node or of a host process
//! means in each phase. Refuses: freezing, images, pages and the process table, which its driver
//! works for it.
//!
//! ```text
//! source: Freezing --Packed--> Preparing --Prepared--> Committing --Committed--> Donating --Complete--> closed
//!            |                     |                       |                        `--target's death--> lost
//!            |--not frozen         |--refused, too slow,   |--refused--> stays
//!            |--ended              |  ended, target's      `--target's death--> lost
//!            `--too slow--> stays  `--death-----> stays
//!
//! target: Preparing --Ready--> Prepared --Commit--> Adopting --Adopted--> Running --last page--> Ended
//!            |                    |                     |                    `--no more pages--> killed, Ended
//!            |--failed            |--failed             `--cannot--> Ended (refused)
//!            |  --> Ended         |  --> Ended (refused)
//!            `--closed, source's -´--> forgotten             Ended --closed, source's death--> forgotten
//!                death
//! ```
//! The source decides to commit; what makes it true is the adoption by the target, which tells so or
//! that it never will. Until it has told, the source lets the process run nowhere; if it dies before,
//! the process counts as lost with it.
//!
//! Messages may be lost, doubled and reordered: the words of either side are repeated until they are
//! answered, and each names its move. A move that the source has closed never begins again.
//!
//! Invariants ([`Migration::check_invariants`] and the simulation): a process that is moved runs at
//! one node at most, and at one unless a node died that had a part in it.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod source;
mod target;

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::time::Duration;
use dunix_ids::{NodeId, Pid};
use dunix_wire::processes::{MoveId, MoveMessage, Refusal};
use source::Outgoing;
use target::Incoming;

/// Most moves that leave a node at a time; a further one is refused ([`Refusal::TooManyMoves`]).
pub const OUTGOING_MAX: usize = 64;
/// Most moves that come to a node and are not known to be over at their sources; further ones are
/// refused, and from twice as many on not even answered: they end at their source's patience.
pub const INCOMING_MAX: usize = 128;
/// Most dead nodes that are remembered; of further ones late words may be heard.
pub const DEAD_MAX: usize = 65536;
/// How long a freeze and the making of an image may take in all; then the process stays.
pub const PACK_WAIT: Duration = Duration::from_secs(20);
/// How long a target may take to make everything ready; then the process stays.
pub const PREPARE_WAIT: Duration = Duration::from_secs(60);
/// How often a word that was not answered is said again. A decided move waits for its answer until
/// the other node is declared dead.
pub const REPEAT: Duration = Duration::from_millis(500);

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// Source: all threads are parked, the process table holds what comes for the process, and the
    /// package is ready to be sent.
    Packed { id: MoveId },
    /// Source: it could not be frozen or packed; whatever was begun has been undone.
    NotPacked { id: MoveId, refusal: Refusal },
    /// Source: the host process (or later the donor of its pages) ended by itself.
    HostEnded { id: MoveId },
    /// Target: a package came.
    Offered { from: NodeId, id: MoveId, order: u64, pid: Pid },
    /// Target: everything is ready.
    Ready { id: MoveId },
    /// Target: it cannot be made ready, or what was ready has ended.
    Failed { id: MoveId, refusal: Refusal },
    /// Target: the answer to [`Effect::Adopt`]. `bytes` of pages are here; `is_whole` if that is all.
    Adopted { id: MoveId, bytes: u64, is_whole: bool },
    /// Target: the other answer.
    CannotAdopt { id: MoveId, refusal: Refusal },
    /// Target: so many bytes came after the adoption, and they were the last (or the process has
    /// ended and needs none). `is_lost`: the others will not come, and it was killed.
    Whole { id: MoveId, bytes: u64, is_lost: bool },
    /// A peer speaks ([`MoveMessage::Prepare`] comes as [`Input::Offered`]).
    Message { from: NodeId, message: MoveMessage },
    /// A node was declared dead.
    NodeDown { node: NodeId },
    /// Time has passed.
    Tick,
}

/// What is to be done, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Send to a peer.
    Send { to: NodeId, message: MoveMessage },
    /// Source: send the package, with this order.
    Offer { id: MoveId, to: NodeId, order: u64 },
    /// Source: from now on the process may run at the target: here it does not, whatever happens,
    /// before [`Effect::Stay`].
    Decide { id: MoveId, pid: Pid },
    /// Source: the move is over and the process lives on here; thaw it if it was frozen.
    Stay { id: MoveId, pid: Pid, refusal: Refusal },
    /// Source: it runs at the target. What is left here gives its pages, if any are wanted.
    Left { id: MoveId, pid: Pid, bytes: u64 },
    /// Source: no page is wanted any more: what is left here may go. `is_lost`: pages did not come,
    /// and it was killed.
    Finish { id: MoveId, pid: Pid, bytes: u64, is_lost: bool },
    /// Source: the target has died, and the process with it or nobody knows: what is left here must
    /// go and never run.
    Lose { id: MoveId, pid: Pid },
    /// Target: make everything ready; answer [`Input::Ready`] or [`Input::Failed`].
    Prepare { id: MoveId, from: NodeId, pid: Pid },
    /// Target: take it into the process table and let it run; answer [`Input::Adopted`] or
    /// [`Input::CannotAdopt`].
    Adopt { id: MoveId, from: NodeId, pid: Pid },
    /// Target: what was prepared is void; it never ran.
    Discard { id: MoveId, pid: Pid },
    /// Target: pages are missing for good: kill it.
    Kill { id: MoveId, pid: Pid },
}

/// The moves of one node.
#[derive(Debug)]
pub struct Migration {
    own: NodeId,
    now: Duration,
    next_epoch: u64,
    next_order: u64,
    outgoing: BTreeMap<MoveId, Outgoing>,
    incoming: BTreeMap<MoveId, Incoming>,
    /// By source: no package up to this order is taken (again).
    closed: BTreeMap<NodeId, u64>,
    dead: BTreeSet<NodeId>,
    effects: Vec<Effect>,
}

impl Migration {
    #[must_use]
    pub fn new(own: NodeId) -> Migration {
        Migration {
            own,
            now: Duration::ZERO,
            next_epoch: 1,
            next_order: 1,
            outgoing: BTreeMap::new(),
            incoming: BTreeMap::new(),
            closed: BTreeMap::new(),
            dead: BTreeSet::new(),
            effects: Vec::new(),
        }
    }

    /// Begins a move from here: freeze the process and report [`Input::Packed`] or
    /// [`Input::NotPacked`].
    ///
    /// # Errors
    /// [`Refusal::AlreadyThere`], [`Refusal::NodeNotLive`], [`Refusal::AlreadyMoving`],
    /// [`Refusal::StillArriving`], [`Refusal::TooManyMoves`].
    pub fn start(&mut self, now: Duration, pid: Pid, to: NodeId) -> Result<MoveId, Refusal> {
        self.now = self.now.max(now);
        if to == self.own {
            return Err(Refusal::AlreadyThere);
        }
        if self.dead.contains(&to) {
            return Err(Refusal::NodeNotLive);
        }
        if self.outgoing.values().any(|outgoing| outgoing.pid == pid && outgoing.has_it()) {
            return Err(Refusal::AlreadyMoving);
        }
        if self.incoming.values().any(|incoming| incoming.pid == pid && incoming.is_live()) {
            return Err(Refusal::StillArriving);
        }
        if self.outgoing.len() >= OUTGOING_MAX {
            return Err(Refusal::TooManyMoves);
        }
        let id = MoveId { source: self.own, epoch: self.next_epoch };
        self.next_epoch += 1;
        self.outgoing.insert(id, Outgoing::new(pid, to, self.now));
        Ok(id)
    }

    /// Takes one input and says what is to be done.
    pub fn step(&mut self, now: Duration, input: Input) -> Vec<Effect> {
        self.now = self.now.max(now);
        match input {
            Input::Packed { id } => self.handle_packed(id),
            Input::NotPacked { id, refusal } => self.handle_not_packed(id, refusal),
            Input::HostEnded { id } => self.handle_host_ended(id),
            Input::Offered { from, id, order, pid } => self.handle_offered(from, id, order, pid),
            Input::Ready { id } => self.handle_ready(id),
            Input::Failed { id, refusal } => self.handle_failed(id, refusal),
            Input::Adopted { id, bytes, is_whole } => self.handle_adopted(id, bytes, is_whole),
            Input::CannotAdopt { id, refusal } => self.handle_cannot_adopt(id, refusal),
            Input::Whole { id, bytes, is_lost } => self.handle_whole(id, bytes, is_lost),
            Input::Message { from, message } => self.handle_message(from, message),
            Input::NodeDown { node } => self.handle_node_down(node),
            Input::Tick => {}
        }
        self.expire_outgoing();
        self.repeat_outgoing();
        self.repeat_incoming();
        core::mem::take(&mut self.effects)
    }

    /// Returns when the next [`Input::Tick`] is due, if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let outgoing = self.outgoing.values().filter_map(Outgoing::deadline);
        let incoming = self.incoming.values().filter_map(Incoming::deadline);
        outgoing.chain(incoming).min()
    }

    /// The move that a process of this node is leaving by, while it may still come back.
    #[must_use]
    pub fn leaving_by(&self, pid: Pid) -> Option<MoveId> {
        let mut moves = self.outgoing.iter();
        moves.find(|(_, outgoing)| outgoing.pid == pid && outgoing.has_it()).map(|(id, _)| *id)
    }

    /// The process that leaves by a move.
    #[must_use]
    pub fn who_leaves_by(&self, id: MoveId) -> Option<Pid> {
        self.outgoing.get(&id).map(|outgoing| outgoing.pid)
    }

    /// The move that a process of this node has come by, while pages of it are on their way.
    #[must_use]
    pub fn arriving_by(&self, pid: Pid) -> Option<MoveId> {
        let mut moves = self.incoming.iter();
        moves.find(|(_, incoming)| incoming.pid == pid && incoming.is_live()).map(|(id, _)| *id)
    }

    /// Moves that are not over: (leaving, coming).
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.outgoing.len(), self.incoming.len())
    }

    fn handle_message(&mut self, from: NodeId, message: MoveMessage) {
        use MoveMessage as M;
        if self.dead.contains(&from) || from == self.own {
            return;
        }
        match message {
            // The driver has kept the package and reports the offer.
            M::Prepare(_) => {}
            M::Prepared { id } => self.handle_prepared(from, id),
            M::Refused { id, refusal } => self.handle_refused(from, id, refusal),
            M::Committed { id, bytes } => self.handle_committed(from, id, bytes),
            M::Complete { id, bytes, is_lost } => self.handle_complete(from, id, bytes, is_lost),
            M::Commit { id } if id.source == from => self.handle_commit(id),
            M::Closed { id } if id.source == from => self.handle_closed(id),
            M::DonorLost { id } if id.source == from => self.handle_donor_lost(id),
            // A move is its source's.
            M::Commit { .. } | M::Closed { .. } | M::DonorLost { .. } => {}
        }
    }

    fn handle_node_down(&mut self, node: NodeId) {
        if node == self.own || self.dead.len() >= DEAD_MAX || !self.dead.insert(node) {
            return;
        }
        self.closed.remove(&node);
        self.lose_target(node);
        self.lose_source(node);
    }

    fn send(&mut self, to: NodeId, message: MoveMessage) {
        self.effects.push(Effect::Send { to, message });
    }

    /// Asserts what holds between any two steps.
    pub fn check_invariants(&self) {
        assert!(self.outgoing.len() <= OUTGOING_MAX, "too many moves leave");
        assert!(self.incoming.len() <= 2 * INCOMING_MAX, "too many moves come");
        let mut leaving = BTreeSet::new();
        for (id, outgoing) in &self.outgoing {
            assert!(id.source == self.own && id.epoch < self.next_epoch, "{id} is not ours");
            assert!(!self.dead.contains(&outgoing.to), "{id} goes to a dead node");
            let is_first = !outgoing.has_it() || leaving.insert(outgoing.pid);
            assert!(is_first, "{} leaves twice", outgoing.pid);
        }
        let mut coming = BTreeSet::new();
        for (id, incoming) in &self.incoming {
            let source_lives = !self.dead.contains(&id.source) || incoming.is_being_adopted();
            assert!(id.source != self.own && source_lives, "{id} is nobody's");
            let is_first = !incoming.is_live() || coming.insert(incoming.pid);
            assert!(is_first, "{} comes twice", incoming.pid);
        }
    }
}
