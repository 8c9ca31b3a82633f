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
use crate::node::{Local, Node};
use dunix_ids::Pid;
use dunix_placement::ChildDid;
use dunix_wire::processes::Refusal;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A child that has used the processor for so long works by itself: several times what a move costs.
const WORKING_TIME: Duration = Duration::from_millis(20);
/// When it is first looked at; then whenever it is twice as old.
const FIRST_LOOK: Duration = Duration::from_millis(25);
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
            None => drop(self.runtime.spawn(watch(Arc::downgrade(self), pid))),
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
        self.note(pid, format!("{story} {to}: {why}"));
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

/// Waits until a young child has executed, ended or worked; the last is placed anew. The kernel tells
/// nobody what a process has computed: it is looked at.
async fn watch(node: Weak<Node>, pid: Pid) {
    let mut age = FIRST_LOOK;
    tokio::time::sleep(FIRST_LOOK).await;
    loop {
        let Some(node) = node.upgrade() else { return };
        let young = |local: &&Local| local.is_young;
        let host = node
            .look(|state| state.locals.get(&pid).filter(young).and_then(|_| state.host_pid(pid)));
        let Some(host_pid) = host else { return };
        if crate::host::processor_time_of(host_pid) >= WORKING_TIME {
            node.child_works(pid);
            return;
        }
        drop(node);
        if age >= LAST_LOOK {
            return;
        }
        tokio::time::sleep(age).await;
        age *= 2;
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
