//! The authority's side: grants, and watches for those who wait.

use crate::Locks;
use dunix_ids::{Ino, NodeId, Pid};
use dunix_locks_table::{Edge, Held, LockTable, Waiter};
use dunix_wire::locks::{FILES_MAX, Lock, LockCall, LockNotice, LockOwner, LockReply, LockWish};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

/// How soon what is waited for is looked at again: at first, and at most. Kernels tell nobody that a lock
/// has ended.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_MAX: Duration = Duration::from_millis(16);

/// How often the table is looked at for one wish: after each, entries of it were found to be out of date. One that is
/// undecided then is refused (`ENOLCK`).
const LOOKS_MAX: usize = 16;

/// What a look at the table came to.
enum Settled {
    Answered(LockReply),
    /// There is no room.
    Full,
    /// The asker would wait for itself, if these entries are true.
    Circle(Vec<Edge>),
}

/// Whether a peer may ask for such a lock.
pub(crate) fn is_sound(from: NodeId, lock: &Lock) -> bool {
    let is_own = match lock.owner {
        LockOwner::Process(_) => true,
        LockOwner::Descriptions(node) | LockOwner::Flocks(node) => node == from,
    };
    is_own && lock.first <= lock.last && i64::try_from(lock.last).is_ok()
}

impl Locks {
    /// Decides on a wish of a node's process.
    pub(crate) async fn decide(
        &self,
        from: NodeId,
        ino: Ino,
        lock: Lock,
        wish: LockWish,
    ) -> LockReply {
        let wanted = Held { node: from, lock };
        let in_the_way = self.table().in_the_way(ino, wanted);
        if !in_the_way.is_empty() {
            self.confirm(in_the_way.iter().map(|held| (held.node, ino))).await;
        }
        let (mut confirmed, mut has_made_room) = (BTreeSet::new(), false);
        for _ in 0..LOOKS_MAX {
            match self.settle(ino, wanted, wish) {
                Settled::Answered(reply) => return reply,
                Settled::Full if has_made_room => break,
                // What has ended unseen makes room.
                Settled::Full => {
                    let all = self.table().all();
                    self.confirm(edges(all)).await;
                    has_made_room = true;
                }
                Settled::Circle(circle) if circle.iter().all(|edge| confirmed.contains(edge)) => {
                    return LockReply::Deadlock;
                }
                // Without what has ended there may be another circle, of which nothing is confirmed.
                Settled::Circle(circle) => {
                    self.confirm(circle.iter().copied()).await;
                    confirmed.extend(circle);
                }
            }
        }
        LockReply::Full
    }

    /// Grants, lets wait, or says what is in the way.
    fn settle(&self, ino: Ino, wanted: Held, wish: LockWish) -> Settled {
        let mut table = self.table();
        let in_the_way = table.in_the_way(ino, wanted);
        let reply = match (in_the_way.first(), wish) {
            (None, LockWish::Test) => LockReply::Granted,
            (None, LockWish::Try | LockWish::Wait { .. }) => {
                if table.grant(ino, wanted).is_err() {
                    return Settled::Full;
                }
                if let LockWish::Wait { thread, .. } = wish {
                    table.stop_waiting(thread);
                }
                LockReply::Granted
            }
            (Some(held), LockWish::Try | LockWish::Test) => LockReply::Taken(held.lock),
            (Some(_), LockWish::Wait { thread, process }) => {
                if let Some(circle) = table.circle(ino, wanted) {
                    table.stop_waiting(thread);
                    return Settled::Circle(circle);
                }
                let waiter = Waiter { node: wanted.node, pid: process, ino, lock: wanted.lock };
                if table.wait(thread, waiter).is_err() {
                    return Settled::Full;
                }
                if !std::mem::replace(&mut *self.is_watching(), true) {
                    self.0.runtime.spawn(self.clone().watch());
                }
                LockReply::Waits
            }
        };
        Settled::Answered(reply)
    }

    pub(crate) fn waits_no_more(&self, from: NodeId, thread: Pid) {
        let mut table = self.table();
        if table.waiter(thread).is_some_and(|waiter| waiter.node == from) {
            table.stop_waiting(thread);
        }
    }

    pub(crate) fn process_gone(&self, from: NodeId, pid: Pid) {
        self.table().process_gone(from, pid);
        self.tell_free();
    }

    pub(crate) fn node_gone(&self, node: NodeId) {
        self.table().node_gone(node);
        self.tell_free();
    }

    /// Has nodes confirm what their processes hold of files.
    async fn confirm(&self, edges: impl Iterator<Item = Edge>) {
        let mut files: BTreeMap<NodeId, Vec<Ino>> = BTreeMap::new();
        for (node, ino) in edges {
            let inos = files.entry(node).or_default();
            if !inos.contains(&ino) {
                inos.push(ino);
            }
        }
        let questions = files.into_iter().flat_map(|(node, inos)| {
            let chunks: Vec<Vec<Ino>> = inos.chunks(FILES_MAX).map(<[Ino]>::to_vec).collect();
            chunks.into_iter().map(move |inos| (node, inos))
        });
        let tasks: Vec<_> = questions
            .map(|(node, inos)| {
                let locks = self.clone();
                self.0.runtime.spawn(async move { locks.confirm_by(node, inos).await })
            })
            .collect();
        for task in tasks {
            // A task that panicked took the process with it.
            let _ = task.await;
        }
    }

    /// A node that does not answer keeps what it has until it is declared dead.
    async fn confirm_by(&self, node: NodeId, inos: Vec<Ino>) {
        let grants = self.table().grants();
        let call = LockCall::Held(inos);
        let (Some(LockReply::Held(held)), LockCall::Held(inos)) =
            (self.call(node, &call).await, call)
        else {
            return;
        };
        let mut table = self.table();
        for ino in inos {
            let own = held.iter().filter(|(of, _)| *of == ino).map(|(_, lock)| *lock);
            table.confirm(ino, node, &own.collect::<Vec<_>>(), grants);
        }
    }

    /// Tells those who wait for what is free now.
    fn tell_free(&self) {
        let free = self.table().may_go_on();
        for (node, pid) in free {
            self.tell(node, LockNotice::Retry(pid));
        }
    }

    /// Looks after those who wait, until nobody does.
    async fn watch(self) {
        let mut pause = LOOK_FIRST;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_MAX);
            let in_the_way = {
                let table = self.table();
                if !table.is_waited_for() {
                    *self.is_watching() = false;
                    return;
                }
                table.waited_for()
            };
            self.confirm(edges(in_the_way)).await;
            if !self.table().may_go_on().is_empty() {
                self.tell_free();
                pause = LOOK_FIRST;
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, LockTable> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_watching(&self) -> MutexGuard<'_, bool> {
        self.0.is_watching.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn edges(files: BTreeMap<NodeId, Vec<Ino>>) -> impl Iterator<Item = Edge> {
    files.into_iter().flat_map(|(node, inos)| inos.into_iter().map(move |ino| (node, ino)))
}
