//! The doorbell's calls that are not about processes: handed to the drivers of ports, locks and terminals.

use super::{locks, ports, terminals::NodeTerminals};
use dunix_files::Files;
use dunix_ids::{Ino, ObjectId, Pid};
use dunix_linux::Errno;
use dunix_locks::Locks;
use dunix_names::Names;
use dunix_processes::{
    DoorbellCall, Extension, FlockAnswer, FlockWish, Job, PortCall, TerminalCall,
};
use rustix::fs::OFlags;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use tokio::runtime::Handle;

/// Answers guests for ports and terminals.
pub(super) struct GuestCalls {
    names: Names,
    locks: Locks,
    runtime: Handle,
    /// `None`: the kernel serves the tree.
    tree: Option<Files>,
    /// Set once the process driver, which the terminals need, has started.
    terminals: OnceLock<Arc<NodeTerminals>>,
}

impl GuestCalls {
    pub(super) fn new(
        names: Names,
        locks: Locks,
        runtime: Handle,
        tree: Option<Files>,
    ) -> GuestCalls {
        GuestCalls { names, locks, runtime, tree, terminals: OnceLock::new() }
    }

    pub(super) fn set_terminals(&self, terminals: Arc<NodeTerminals>) {
        // A node sets them once.
        let _ = self.terminals.set(terminals);
    }
}

impl Extension for GuestCalls {
    fn handle_call(&self, call: DoorbellCall) {
        let Some(call) = ports::handle(&self.names, &self.runtime, call) else { return };
        let Some(call) = locks::handle(&self.locks, &self.runtime, call) else { return };
        match self.terminals.get() {
            Some(terminals) => {
                if let Some(unknown) = terminals.handle(call) {
                    unknown.refuse(Errno::NOSYS);
                }
            }
            None => call.refuse(Errno::NOTTY),
        }
    }

    fn may_have_attributes(&self, ino: u64) -> Option<bool> {
        self.tree.as_ref().map(|tree| !tree.has_no_attributes(Ino(ino)))
    }

    fn handle_root(&self, pid: Pid, terminal: ObjectId) {
        if let Some(terminals) = self.terminals.get() {
            terminals.handle_root(pid, terminal);
        }
    }

    fn handle_terminal_call(&self, call: TerminalCall) {
        match self.terminals.get() {
            Some(terminals) => terminals.handle_from_elsewhere(call),
            None => call.conclude(Err(Errno::NOTTY)),
        }
    }

    fn handle_port_call(&self, call: PortCall) {
        ports::handle_from_elsewhere(&self.names, &self.runtime, call);
    }

    fn handle_flock_call(&self, wish: FlockWish, answer: FlockAnswer) {
        locks::handle_from_elsewhere(&self.locks, &self.runtime, wish, answer);
    }

    fn open_terminal(&self, pid: Pid, job: Job, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.terminals.get().ok_or(Errno::NXIO)?.open_for(pid, job, flags)
    }

    fn handle_hang_up(&self, session: Pid, terminal: ObjectId) {
        if let Some(terminals) = self.terminals.get() {
            terminals.handle_hang_up(session, terminal);
        }
    }

    fn handle_terminal_lost(&self, _pid: Pid) {}

    fn handle_gone(&self, pid: Pid) {
        self.locks.gone(pid);
        if let Some(terminals) = self.terminals.get() {
            terminals.handle_gone(pid);
        }
    }
}
