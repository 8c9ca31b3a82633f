//! Asking for a move, at any node: the process is found, and its node moves it.

use super::handover::Order;
use super::leave::Leaving;
use crate::Processes;
use crate::node::{Local, Node, Pending};
use dunix_ids::{NodeId, Pid};
use dunix_wire::Topic;
use dunix_wire::processes::{
    Answer, Errno, MoveId, MoveReport, MoveRequest, MoveWish, ProcessesAnswer, ProcessesCall,
    Refusal,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How often a process is looked for that has gone on when it is asked for.
const LOOKS_MAX: usize = 8;
/// How long a move waits for what the process's last node has of it, messages and pages, and for an
/// image to begin.
const ARRIVAL_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for a move at another node: all its phases, and the pages of a large process.
const MOVE_WAIT: Duration = Duration::from_secs(600);

impl Processes {
    /// Moves a running process to a node, from wherever it runs. Answers when its last page has
    /// arrived, or with [`MoveWish::no_wait`] when it runs there. Dropping the future stops nothing.
    ///
    /// # Errors
    /// The reason why it did not move; [`Refusal::is_fatal`] tells whether it still lives.
    pub async fn move_to(
        &self,
        pid: Pid,
        to: NodeId,
        wish: MoveWish,
    ) -> Result<MoveReport, Refusal> {
        let request = MoveRequest { pid, to, wish };
        for _ in 0..LOOKS_MAX {
            let at = self.0.locate(pid).await.ok_or(Refusal::NoSuchProcess)?;
            if let Some(result) = self.0.move_at(at, request).await {
                return result;
            }
        }
        Err(Refusal::NotFound)
    }

    /// Moves that are not over: (leaving this node, coming to it).
    #[must_use]
    pub fn moves(&self) -> (usize, usize) {
        self.0.look(|state| state.moves.counts())
    }
}

/// A move and its orders.
type Started = (MoveId, mpsc::Receiver<Order>);

impl Node {
    pub(crate) async fn locate(&self, pid: Pid) -> Option<NodeId> {
        let (sender, answer) = oneshot::channel();
        self.with(|state, now| {
            let token = state.expect_reply(Pending::Daemon(sender));
            state.table.locate(now, token, pid);
        });
        self.ring_bell();
        match answer.await {
            Ok(Ok(Answer::Node(node))) => Some(node),
            _ => None,
        }
    }

    async fn move_at(
        self: &Arc<Node>,
        at: NodeId,
        request: MoveRequest,
    ) -> Option<Result<MoveReport, Refusal>> {
        if at == self.id {
            return self.move_away(request).await;
        }
        let Some(mesh) = &self.mesh else { return Some(Err(Refusal::NodeNotLive)) };
        let body = dunix_wire::encode(&ProcessesCall::Move(request));
        let answer = mesh.call(at, Topic::Processes, body, MOVE_WAIT).await;
        match answer.map(|body| dunix_wire::decode(&body)) {
            Ok(Ok(ProcessesAnswer::Moved(moved))) => moved,
            Ok(_) => Some(Err(Refusal::Protocol)),
            Err(error) => {
                let doing = Refusal::text(&format!("asking {at} to move it ({error})"));
                Some(Err(Refusal::Host { errno: Errno::HOSTUNREACH, doing }))
            }
        }
    }

    fn start_move(&self, request: MoveRequest) -> Result<Started, Refusal> {
        let MoveRequest { pid, to, .. } = request;
        self.with(|state, now| {
            if state.is_shutting_down {
                return Err(Refusal::ShuttingDown);
            }
            state.table.check_move(pid)?;
            if state.locals.get(&pid).is_some_and(Local::is_starting) {
                return Err(Refusal::Starting);
            }
            if to != self.id && !state.table.is_node_live(to) {
                return Err(Refusal::NodeNotLive);
            }
            let id = state.moves.machine().start(now, pid, to)?;
            Ok((id, state.moves.enlist(id)))
        })
    }

    async fn start_when_arrived(&self, request: MoveRequest) -> Result<Started, Refusal> {
        loop {
            let arrived = self.arrived.notified();
            match self.start_move(request) {
                Err(Refusal::StillArriving | Refusal::Starting) => arrived.await,
                started => return started,
            }
        }
    }

    /// Moves a process of this node; `None` if it is not (any more).
    pub(crate) async fn move_away(
        self: &Arc<Node>,
        request: MoveRequest,
    ) -> Option<Result<MoveReport, Refusal>> {
        let MoveRequest { pid, to, wish } = request;
        let started = match self.start_move(request) {
            // What its last node has of it is on its way, or it is just being made.
            Err(refusal @ (Refusal::StillArriving | Refusal::Starting)) => {
                let started = tokio::time::timeout(ARRIVAL_WAIT, self.start_when_arrived(request));
                started.await.unwrap_or(Err(refusal))
            }
            started => started,
        };
        let (id, orders) = match started {
            Err(Refusal::NoSuchProcess) => return None,
            Err(refusal) => return Some(Err(refusal)),
            Ok(started) => started,
        };
        let (asker, answer) = oneshot::channel();
        let (node, asker) = (self.clone(), Some(asker));
        let leaving = Leaving { node, id, pid, to, wish, orders, asker };
        self.runtime.spawn(leaving.run(None));
        Some(answer.await.unwrap_or(Err(Refusal::ShuttingDown)))
    }

    /// Moves a child of this node's that fork(2) made. Its threads have been asked to park when this
    /// returns; how it goes comes later, or not at all if the node ends.
    ///
    /// # Errors
    /// Why it cannot begin to move now.
    pub(crate) fn move_child(
        self: &Arc<Node>,
        pid: Pid,
        to: NodeId,
    ) -> Result<oneshot::Receiver<Result<MoveReport, Refusal>>, Refusal> {
        let wish = MoveWish { safe: false, no_wait: true };
        let (id, orders) = self.start_move(MoveRequest { pid, to, wish })?;
        let begun = self.begin_freeze(pid);
        let (asker, answer) = oneshot::channel();
        let (node, asker) = (self.clone(), Some(asker));
        let leaving = Leaving { node, id, pid, to, wish, orders, asker };
        self.runtime.spawn(leaving.run(Some(begun)));
        Ok(answer)
    }
}
