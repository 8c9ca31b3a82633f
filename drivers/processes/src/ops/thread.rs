//! `OP_THREAD_*`: threads get numbers of the fabric.

use crate::call::{DoorbellCall, errno_of};
use crate::node::Node;
use dunix_linux::{Errno, Result};
use std::sync::Arc;

impl Node {
    pub(crate) fn handle_thread_prepare(self: &Arc<Node>, call: DoorbellCall) {
        self.make_numbered(call, Node::prepare_thread);
    }

    fn prepare_thread(&self, call: &DoorbellCall) -> Result<i64> {
        let caller = call.caller()?;
        let tid = self.with(|state, now| state.table.thread_prepare(now, caller.pid));
        Ok(i64::from(tid.map_err(errno_of)?.get()))
    }

    pub(crate) fn handle_thread_done(&self, call: DoorbellCall) {
        let result = self.thread_done(&call);
        call.conclude(result);
    }

    fn thread_done(&self, call: &DoorbellCall) -> Result<i64> {
        let caller = call.caller()?;
        let tid = call.pid_arg(1)?.ok_or(Errno::INVAL)?;
        let host_tid = u32::try_from(call.arg(2)).map_err(|_| Errno::INVAL)?;
        // A thread that has ended already is known to nobody: its number goes back.
        let is_alive = host_tid != 0 && crate::host::has_thread(caller.host_pid, host_tid);
        self.with(|state, now| {
            if state.table.process_of(tid) != Some(caller.pid) || tid == caller.pid {
                return Err(Errno::SRCH);
            }
            if is_alive {
                state.table.thread_bound(now, tid, host_tid).map_err(errno_of)?;
            } else {
                state.table.thread_exited(now, tid);
            }
            Ok(0)
        })
    }

    pub(crate) fn handle_thread_exit(&self, call: DoorbellCall) {
        let result = call.caller().and_then(|caller| {
            let tid = call.pid_arg(1)?.ok_or(Errno::INVAL)?;
            self.with(|state, now| {
                if state.table.process_of(tid) != Some(caller.pid) || tid == caller.pid {
                    return Err(Errno::SRCH);
                }
                state.table.thread_exited(now, tid);
                Ok(0)
            })
        });
        call.conclude(result);
    }
}
