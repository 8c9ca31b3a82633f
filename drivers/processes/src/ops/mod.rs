//! The doorbell's operations, one file a verb.
//!
//! Each handler runs on the doorbell's thread, checks every value that the guest gave, and either
//! answers or hands the call to someone who will.

mod advise;
mod exec;
mod fork;
mod identity;
mod kill;
mod numbers;
mod pidfd;
mod privileges;
mod start;
mod thread;
mod wait;

pub(crate) use fork::end_unbound;
pub(crate) use pidfd::Pidfds;
pub use privileges::FilePrivileges;
pub(crate) use privileges::PrivilegedShim;
pub(crate) use start::bits;

use crate::call::DoorbellCall;
use crate::node::Node;
use dunix_guest_abi::doorbell::*;
use std::sync::Arc;

impl Node {
    /// Handles a call whose caller is known.
    pub(crate) fn handle_call(self: &Arc<Node>, call: DoorbellCall) {
        match call.op() {
            OP_START => self.handle_start(call),
            OP_FORK_PREPARE => self.handle_fork_prepare(call),
            OP_FORK_DONE => self.handle_fork_done(call),
            OP_THREAD_PREPARE => self.handle_thread_prepare(call),
            OP_THREAD_DONE => self.handle_thread_done(call),
            OP_THREAD_EXIT => self.handle_thread_exit(call),
            OP_EXEC => self.handle_exec(call),
            OP_EXEC_FAILED => self.handle_exec_failed(call),
            OP_WAIT => self.handle_wait(call),
            OP_CHILD_POLICY => self.handle_child_policy(call),
            OP_KILL => self.handle_kill(call),
            OP_TGKILL => self.handle_tgkill(call),
            OP_GETPPID => self.handle_getppid(call),
            OP_GETPGID => self.handle_getpgid(call),
            OP_SETPGID => self.handle_setpgid(call),
            OP_GROUP => self.handle_group(call),
            OP_GETSID => self.handle_getsid(call),
            OP_SETSID => self.handle_setsid(call),
            OP_TO_HOST => self.handle_to_host(call),
            OP_FROM_HOST => self.handle_from_host(call),
            OP_PIDFD_OPEN => self.handle_pidfd_open(call),
            OP_PIDFD => self.handle_pidfd(call),
            OP_PIDFD_GETFD => self.handle_take(call),
            OP_PROCESS_ADVISE => self.handle_process_advise(call),
            OP_PROCESS_RELEASE => self.handle_process_release(call),
            OP_EXE_PATH => self.handle_exe_path(call),
            OP_PTRACE => self.tracing.request(self, call),
            OP_PROCESSES => self.handle_processes(call),
            OP_PROC_NAMES => self.handle_proc_names(call),
            OP_PARKED | OP_SCRIPT_DONE => self.handle_parking(call),
            OP_REMOTE => self.handle_remote(call),
            OP_REMOTE_CANCEL => self.handle_remote_cancel(call),
            OP_REMOTE_FD => self.handle_remote_fd(call),
            OP_NAME_BOUND => self.handle_name_bound(call),
            OP_NAME_CLAIM => self.handle_name_claim(call),
            OP_PASS => self.handle_pass(call),
            OP_RECEIVED => self.handle_received(call),
            OP_BACKGROUND => self.handle_background(call),
            OP_TERMINAL => self.handle_terminal(call),
            OP_OPEN_TERMINAL => self.handle_open_terminal(call),
            _ => self.extension.handle_call(call),
        }
    }
}

/// Whether an operation may give a host thread its number in the fabric, for which others wait.
pub(crate) fn may_bind(op: u64) -> bool {
    matches!(op, OP_FORK_DONE | OP_THREAD_DONE)
}
