//! Carries out the hand-over: inputs go to the machine ([`Migration`]), what it decides about the
//! process table is done under the same lock, and all else by one task for each move.
//!
//! ```text
//! request, peers, deaths, ends --> Node::advance_move --> machine + table (one lock)
//!                                        |--> messages to the other node
//!                                        `--> orders --> the move's task: leave.rs, come.rs
//! ```
//!
//! Architecture invariant: whether a process runs is decided here and nowhere else in this folder; a
//! task does what it is ordered, in order, and ends with its move.

use crate::node::{Node, State};
use dunix_ids::{NodeId, Pid};
use dunix_migration::{Effect, Input, Migration};
use dunix_wire::processes::{MoveId, MoveMessage, Package, ProcessesMessage, Refusal};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Orders that wait for a move's task: no move gets more than these in all.
const ORDERS_MAX: usize = 8;

/// What a move's task is to do next.
#[derive(Debug)]
pub(super) enum Order {
    /// Source: it lives on here.
    Thaw(Refusal),
    /// Source: it runs at the target; so many bytes of pages were there by then.
    Donate { bytes: u64 },
    /// Source: the target wants no more pages; so many bytes came since, or they were lost and it was
    /// killed.
    Finish { bytes: u64, is_lost: bool },
    /// Source: nothing of it may go on here.
    Lose,
    /// Target: take it into the table and let it run.
    Adopt,
    /// Target: it never was here.
    Discard,
}

/// The moves of a node, beside what the machine knows.
pub(crate) struct Moves {
    machine: Migration,
    tasks: BTreeMap<MoveId, mpsc::Sender<Order>>,
    /// Ready to be sent.
    packages: BTreeMap<MoveId, Package>,
}

impl Moves {
    pub(crate) fn new(own: NodeId) -> Moves {
        Moves { machine: Migration::new(own), tasks: BTreeMap::new(), packages: BTreeMap::new() }
    }

    /// When the machine wants to look at the clock.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.machine.deadline()
    }

    /// Moves that are not over: (leaving, coming).
    pub(crate) fn counts(&self) -> (usize, usize) {
        self.machine.counts()
    }

    /// The move that a process is leaving by.
    pub(crate) fn leaving_by(&self, pid: Pid) -> Option<MoveId> {
        self.machine.leaving_by(pid)
    }

    /// The move that a process has come here by, while pages of it are on their way.
    pub(crate) fn arriving_by(&self, pid: Pid) -> Option<MoveId> {
        self.machine.arriving_by(pid)
    }

    pub(super) fn machine(&mut self) -> &mut Migration {
        &mut self.machine
    }

    /// Makes room for the orders of a move.
    pub(super) fn enlist(&mut self, id: MoveId) -> mpsc::Receiver<Order> {
        let (sender, orders) = mpsc::channel(ORDERS_MAX);
        self.tasks.insert(id, sender);
        orders
    }

    pub(super) fn put_package(&mut self, package: Package) {
        self.packages.insert(package.id, package);
    }

    fn order(&mut self, id: MoveId, order: Order) {
        let is_last = !matches!(order, Order::Donate { .. });
        if let Some(task) = self.tasks.get(&id) {
            // A task that has ended has nothing left to do it with.
            let _ = task.try_send(order);
        }
        if is_last {
            self.tasks.remove(&id);
            self.packages.remove(&id);
        }
    }
}

/// What is left to do when the lock is released.
enum Todo {
    Send { to: NodeId, message: MoveMessage },
    Prepare { id: MoveId, from: NodeId, orders: mpsc::Receiver<Order> },
}

impl Node {
    /// Gives the machine an input and does what it decides.
    pub(crate) fn advance_move(self: &Arc<Node>, input: Input) {
        self.advance_with(input, None);
    }

    /// A peer speaks of a move.
    pub(crate) fn hear_of_move(self: &Arc<Node>, from: NodeId, message: MoveMessage) {
        match message {
            MoveMessage::Prepare(package) => {
                let (id, order, pid) = (package.id, package.order, package.record.pid);
                self.advance_with(Input::Offered { from, id, order, pid }, Some(*package));
            }
            message => self.advance_move(Input::Message { from, message }),
        }
        // The machine's next deadline may have come nearer.
        self.ring_bell();
    }

    fn advance_with(self: &Arc<Node>, input: Input, mut offered: Option<Package>) {
        let todos = self.with(|state, now| state.advance_move(now, input));
        for todo in todos {
            match todo {
                Todo::Send { to, message } => {
                    self.tell(to, &ProcessesMessage::Move(message));
                }
                Todo::Prepare { id, from, orders } => {
                    if let Some(package) = offered.take() {
                        self.runtime.spawn(self.clone().come(id, from, package, orders));
                    }
                }
            }
        }
    }

    /// Does what has become due.
    pub(crate) fn advance_moves_in_time(self: &Arc<Node>) {
        let now = self.now();
        if self.look(|state| state.moves.deadline().is_some_and(|at| at <= now)) {
            self.advance_move(Input::Tick);
        }
    }
}

impl State {
    fn advance_move(&mut self, now: Duration, input: Input) -> Vec<Todo> {
        let mut todos = Vec::new();
        // The table may have heard of a death before the mesh says so, and it has acted upon it.
        if let Input::Message { from, .. } | Input::Offered { from, .. } = &input
            && self.table.is_declared_dead(*from)
        {
            let node = *from;
            self.step_move(now, Input::NodeDown { node }, &mut todos);
        }
        // One that was killed while it was frozen does not run elsewhere first.
        if let Input::Message { message: MoveMessage::Prepared { id }, .. } = input
            && let Some(pid) = self.moves.machine.who_leaves_by(id)
            && self.table.is_struck(pid)
        {
            self.step_move(now, Input::HostEnded { id }, &mut todos);
        }
        self.step_move(now, input, &mut todos);
        todos
    }

    fn step_move(&mut self, now: Duration, input: Input, todos: &mut Vec<Todo>) {
        for effect in self.moves.machine.step(now, input) {
            self.carry_out_move(now, effect, todos);
        }
    }

    fn carry_out_move(&mut self, now: Duration, effect: Effect, todos: &mut Vec<Todo>) {
        match effect {
            Effect::Send { to, message } => todos.push(Todo::Send { to, message }),
            Effect::Offer { id, to, order } => {
                if let Some(mut package) = self.moves.packages.remove(&id) {
                    package.order = order;
                    todos.push(Todo::Send { to, message: MoveMessage::Prepare(Box::new(package)) });
                }
            }
            Effect::Decide { pid, .. } => {
                let is_decided = self.table.commit_move(pid);
                debug_assert!(is_decided, "{pid} is frozen");
                // If the target dies before it answers the table lets go of the process: its slot
                // must not be another's before its threads are gone.
                self.lend_slot(pid, true);
            }
            Effect::Stay { id, pid, refusal } => {
                self.lend_slot(pid, false);
                self.table.stayed(now, pid);
                self.moves.order(id, Order::Thaw(refusal));
            }
            Effect::Left { id, bytes, .. } => self.moves.order(id, Order::Donate { bytes }),
            Effect::Finish { id, bytes, is_lost, .. } => {
                self.moves.order(id, Order::Finish { bytes, is_lost });
            }
            Effect::Lose { id, .. } => self.moves.order(id, Order::Lose),
            Effect::Prepare { id, from, .. } => {
                let orders = self.moves.enlist(id);
                todos.push(Todo::Prepare { id, from, orders });
            }
            Effect::Adopt { id, .. } => self.moves.order(id, Order::Adopt),
            Effect::Discard { id, .. } => self.moves.order(id, Order::Discard),
            Effect::Kill { pid, .. } => {
                if let Some(host_pid) = self.host_pid(pid) {
                    crate::launch::kill(host_pid);
                }
            }
        }
    }

    fn lend_slot(&mut self, pid: Pid, is_lent: bool) {
        if let Some(local) = self.locals.get_mut(&pid) {
            local.slot_is_lent = is_lent;
        }
    }
}
