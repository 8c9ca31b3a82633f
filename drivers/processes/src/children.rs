//! Where a child goes that fork(2) made.
//!
//! ```text
//! made -- the policy sends it away at once --> moves before its first instruction
//!   |---- executes, ends ------------------> the policy hears of it
//!   `---- computes for WORKING_TIME -------> the policy is asked again, it moves as it runs
//! ```
//! It is made here, by the host's copy on write, and moved: the parent never waits for it. Most
//! children execute at once, and are placed then.

use crate::config::{ChildQuestion, Decision, Placement};
use crate::node::{Local, Node, lock};
use dunix_ids::Pid;
use dunix_placement::ChildDid;
use dunix_wire::processes::Refusal;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// A child that has used the processor for so long works by itself: several times what a move costs.
const WORKING_TIME: Duration = Duration::from_millis(20);
/// When it is first looked at; then whenever it is twice as old.
const FIRST_LOOK: Duration = Duration::from_millis(25);
/// How often children are looked at, at most.
const ROUND: Duration = Duration::from_millis(10);
/// A child that has slept until this age is left where it is.
const LAST_LOOK: Duration = Duration::from_secs(2);

impl Node {
    /// Places a child that is bound and has not run. If it goes away, its threads have been asked to
    /// park when this returns.
    pub(crate) fn place_new_child(self: &Arc<Node>, pid: Pid) {
        let (host, parent) = self.look(|state| (state.host_pid(pid), state.table.parent(pid)));
        let is_traced = host.is_some_and(|host| self.tracing.is_traced(host));
        let is_tracers = parent.is_some_and(|parent| self.tracing.is_tracer(parent));
        if self.mesh.is_none() || is_traced || is_tracers {
            return;
        }
        match self.decide_for_child(pid, false) {
            Some(decision) => self.follow(pid, decision, "was made by fork for"),
            None => self.nursery.add(self, pid),
        }
    }

    /// A young child that works is placed anew; one that has executed or ended is none any more.
    fn look_at_child(self: &Arc<Node>, pid: Pid, age: Duration) {
        let young = |local: &&Local| local.is_young;
        let host = self
            .look(|state| state.locals.get(&pid).filter(young).and_then(|_| state.host_pid(pid)));
        let Some(host_pid) = host else { return };
        if crate::host::processor_time_of(host_pid) >= WORKING_TIME {
            self.child_works(pid);
        } else {
            self.nursery.look_again(pid, age);
        }
    }

    fn child_works(self: &Arc<Node>, pid: Pid) {
        let program = self.look(|state| state.locals.get(&pid).map(|l| l.exe_path.clone()));
        if let Some(program) = program {
            self.policy.child_did(&program, ChildDid::Worked);
        }
        match self.decide_for_child(pid, true) {
            Some(decision) => self.follow(pid, decision, "works, and goes to"),
            None => drop(self.take_young(pid)),
        }
    }

    /// A process is about to execute: what forked it learns that, if it was young.
    pub(crate) fn child_executes(&self, pid: Pid) {
        if let Some(program) = self.take_young(pid) {
            self.policy.child_did(&program, ChildDid::Executed);
        }
    }

    /// The same of one that has ended.
    pub(crate) fn child_ended(&self, local: &Local) {
        if local.is_young {
            self.policy.child_did(&local.exe_path, ChildDid::Ended);
        }
    }

    fn take_young(&self, pid: Pid) -> Option<Arc<[u8]>> {
        self.with(|state, _| {
            let local = state.locals.get_mut(&pid).filter(|local| local.is_young)?;
            local.is_young = false;
            Some(local.exe_path.clone())
        })
    }

    fn decide_for_child(&self, pid: Pid, is_working: bool) -> Option<Decision> {
        let question = self.look(|state| {
            let local = state.locals.get(&pid)?;
            let (program, wish) = (local.exe_path.clone(), local.wish);
            // Nothing is copied from a process that lacks pages itself.
            let is_whole = local.paging.is_none();
            is_whole.then_some(ChildQuestion { pid, program, wish, is_working })
        })?;
        self.policy.place_child(&question)
    }

    /// Sends a child where it is to run, if that is elsewhere.
    fn follow(self: &Arc<Node>, pid: Pid, decision: Decision, story: &str) {
        let Decision { placement, why } = decision;
        let program = self.take_young(pid);
        let to = match placement {
            Placement::At(node) | Placement::OnlyAt(node) if node != self.id => node,
            _ => return,
        };
        self.explain_move(pid, to, story, &why);
        let answer = self.move_child(pid, to);
        let (Some(program), Ok(answer)) = (program, answer) else { return };
        let node = Arc::downgrade(self);
        self.runtime.spawn(async move {
            let stays = matches!(answer.await, Ok(Err(refusal)) if is_lasting(&refusal));
            if let (true, Some(node)) = (stays, node.upgrade()) {
                node.policy.child_did(&program, ChildDid::Stays);
            }
        });
    }
}

/// Young children that are to be looked at, one task for all: most execute or end before their first look, and a
/// task or a timer for each would cost more than they do.
#[derive(Debug, Default)]
pub(crate) struct Nursery(Mutex<Watched>);

#[derive(Debug, Default)]
struct Watched {
    /// When each is looked at next, and how old it is then.
    due: BTreeSet<(Instant, Pid, Duration)>,
    /// There is a task that looks.
    has_watcher: bool,
}

impl Nursery {
    pub(crate) fn add(&self, node: &Arc<Node>, pid: Pid) {
        let mut watched = lock(&self.0);
        watched.due.insert((Instant::now() + FIRST_LOOK, pid, FIRST_LOOK));
        if !std::mem::replace(&mut watched.has_watcher, true) {
            node.runtime.spawn(watch(Arc::downgrade(node)));
        }
    }

    /// When the next is due; `None`: there is none, and the task ends.
    fn next(&self) -> Option<Instant> {
        let mut watched = lock(&self.0);
        let next = watched.due.first().map(|(at, ..)| *at);
        watched.has_watcher = next.is_some();
        next
    }

    fn take_due(&self, now: Instant) -> Vec<(Pid, Duration)> {
        let mut watched = lock(&self.0);
        let due = || {
            let is_due = watched.due.first().is_some_and(|(at, ..)| *at <= now);
            is_due.then(|| watched.due.pop_first()).flatten()
        };
        std::iter::from_fn(due).map(|(_, pid, age)| (pid, age)).collect()
    }

    fn look_again(&self, pid: Pid, age: Duration) {
        if age < LAST_LOOK {
            lock(&self.0).due.insert((Instant::now() + age, pid, age * 2));
        }
    }
}

/// Looks at young children until there are none. The kernel tells nobody what a process has computed.
async fn watch(node: Weak<Node>) {
    loop {
        let Some(next) = node.upgrade().and_then(|node| node.nursery.next()) else { return };
        let round = Instant::now() + ROUND;
        tokio::time::sleep_until(next.max(round).into()).await;
        let Some(node) = node.upgrade() else { return };
        for (pid, age) in node.nursery.take_due(Instant::now()) {
            node.look_at_child(pid, age);
        }
    }
}

/// Whether another child of the same program would be refused too.
fn is_lasting(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::SharedMemory { .. }
            | Refusal::Mapping { .. }
            | Refusal::Descriptor { .. }
            | Refusal::KernelState { .. }
            | Refusal::TooLarge { .. }
            | Refusal::KernelDiffers
            | Refusal::BuildDiffers
            | Refusal::ProcessorDiffers { .. }
    )
}
