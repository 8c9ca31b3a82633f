//! Host processes that are to become somebody: made by the keeper, in the guests' namespaces, with
//! nothing but the shim.

use super::hall::{ARRIVING_TID, Hall};
use crate::node::{Node, lock};
use crate::slots::SlotIndex;
use dunix_keeper::protocol::SpawnSpec;
use dunix_linux::{Errno, scm};
use dunix_wire::processes::Refusal;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Shells that wait for an arrival; beyond it none is made ready.
const READY_MAX: usize = 2;
/// How long making one ready may take.
const READY_WAIT: Duration = Duration::from_secs(10);
/// How long one waits before it is given up.
const READY_LIFETIME: Duration = Duration::from_secs(30);

/// A spawn that the keeper has not answered yet.
pub(crate) struct Spawning {
    slot: SlotIndex,
    done: oneshot::Sender<Result<Arc<Hall>, Errno>>,
}

/// A process in arrival mode whose first thread waits for scripts. Dropped, it ends.
pub(crate) struct Shell {
    pub(crate) hall: Arc<Hall>,
    is_settled: bool,
}

impl Shell {
    /// It has become a process of this node.
    pub(crate) fn settle(mut self) {
        self.is_settled = true;
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        if !self.is_settled {
            self.hall.kill();
        }
    }
}

impl Node {
    /// A shell that serves scripts: one that is ready, or a new one.
    pub(crate) async fn take_shell(self: &Arc<Node>) -> Result<Shell, Refusal> {
        loop {
            let Some(shell) = lock(&self.shells).pop() else { break };
            if !shell.hall.has_ended() {
                return Ok(shell);
            }
        }
        self.make_shell().await
    }

    /// Has a shell ready for the next arrival, for a while: where one process has moved to, others
    /// follow, and making a shell is a good part of a freeze.
    pub(crate) fn ready_a_shell(self: &Arc<Node>) {
        if lock(&self.shells).len() >= READY_MAX {
            return;
        }
        let node = self.clone();
        self.runtime.spawn(async move {
            let made = tokio::time::timeout(READY_WAIT, node.make_shell()).await;
            let Ok(Ok(shell)) = made else { return };
            let host_pid = shell.hall.host_pid;
            lock(&node.shells).push(shell);
            tokio::time::sleep(READY_LIFETIME).await;
            lock(&node.shells).retain(|shell| shell.hall.host_pid != host_pid);
        });
    }

    /// Makes a shell and waits until it serves scripts.
    async fn make_shell(self: &Arc<Node>) -> Result<Shell, Refusal> {
        let hall = self.spawn_shell().await?;
        let shell = Shell { hall, is_settled: false };
        loop {
            if shell.hall.parked().contains_key(&shell.hall.host_pid) {
                return Ok(shell);
            }
            if shell.hall.has_ended() {
                return Err(super::script::host(Errno::IO, "starting a process"));
            }
            // Bounded by whoever prepares.
            shell.hall.changed.notified().await;
        }
    }

    async fn spawn_shell(self: &Arc<Node>) -> Result<Arc<Hall>, Refusal> {
        let host = |errno| super::script::host(errno, "starting a process");
        let (daemon_end, guest_end) = scm::packet_pair().map_err(host)?;
        let (done, outcome) = oneshot::channel();
        let (token, slot) = self.with(|state, _| {
            if state.is_shutting_down {
                return Err(Refusal::ShuttingDown);
            }
            Ok((state.fresh_number(), state.slots.take().ok_or(Refusal::TargetFull)?))
        })?;
        self.arena.begin_park(slot);
        lock(&self.spawning).insert(token, Spawning { slot, done });
        lock(&self.arrivals).push((token, daemon_end));
        self.ring_bell();
        let spec = SpawnSpec {
            root: self.root.clone(),
            cwd: b"/".to_vec(),
            groups: Some(Vec::new()),
            umask: 0o22,
            is_arrival: true,
            ..SpawnSpec::default()
        };
        if let Err(error) = self.ask_spawn(token, spec, guest_end, Vec::new()).await {
            tracing::error!(node = %self.id, %error, "the keeper cannot be asked for a process");
            self.shell_refused(token, Errno::IO);
        }
        match outcome.await {
            Ok(Ok(hall)) => Ok(hall),
            Ok(Err(errno)) => Err(host(errno)),
            Err(_) => Err(Refusal::ShuttingDown),
        }
    }

    /// The keeper has forked; tells whether it was for a shell.
    pub(crate) fn shell_spawned(&self, token: u64, host_pid: u32) -> bool {
        let Some(Spawning { slot, done }) = lock(&self.spawning).remove(&token) else {
            return false;
        };
        match self.halls.open(host_pid, slot, true) {
            Some(hall) => {
                if let Err(Ok(hall)) = done.send(Ok(hall)) {
                    // Nobody waits for it any more.
                    hall.kill();
                }
            }
            None => {
                crate::launch::kill(host_pid);
                self.with(|state, _| state.slots.give_back(slot));
                let _ = done.send(Err(Errno::EXIST));
            }
        }
        true
    }

    /// The keeper could not fork; tells whether it was for a shell.
    pub(crate) fn shell_refused(&self, token: u64, errno: Errno) -> bool {
        let Some(Spawning { slot, done }) = lock(&self.spawning).remove(&token) else {
            return false;
        };
        self.arena.end_park(slot);
        self.with(|state, _| state.slots.give_back(slot));
        let _ = done.send(Err(errno));
        true
    }
}

/// The first thread's name in scripts.
pub(crate) const FIRST: u32 = ARRIVING_TID;
