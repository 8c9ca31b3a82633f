//! `OP_FORK_*`: a child is prepared, made by the host, and bound.
//!
//! ```text
//! parent: FORK_PREPARE -> pid      clone      FORK_DONE(pid, host)  -> claim
//! child:                             `------- FORK_CHILD(pid)       -> bound, if the claim agrees
//! ```
//! A parent that dies between the first and the last leaves no child: [`State::abandon_unnamed`].
//! Neither word is believed alone: the parent could name another's process, a stranger could take
//! the child's number. The kernel vouches for who rings, the parent for whom it made.

use crate::call::{DoorbellCall, errno_of};
use crate::node::{Local, Node, State};
use dunix_guest_abi::doorbell::ChildInfo;
use dunix_ids::Pid;
use dunix_linux::{Errno, Result};
use std::sync::Arc;
use std::time::Duration;

impl Node {
    pub(crate) fn handle_fork_prepare(self: &Arc<Node>, call: DoorbellCall) {
        let caller = call.caller().ok();
        let paging = caller.and_then(|caller| self.look(|state| state.paging_of(caller.pid)));
        let Some(paging) = paging.filter(|paging| !paging.allows_forks()) else {
            return self.make_numbered(call, Node::prepare_fork);
        };
        // The child would find zeros where pages are missing.
        let node = self.clone();
        self.runtime.spawn(async move {
            paging.ended().await;
            node.make_numbered(call, Node::prepare_fork);
        });
    }

    fn prepare_fork(&self, call: &DoorbellCall) -> Result<Pid> {
        // The exit signal is the low byte of clone's flags.
        let exit_signal = u8::try_from(call.arg(1) & 0xff).unwrap_or(0);
        let caller = call.caller()?;
        let pid = self.with(|state, now| state.prepare(now, caller.pid, exit_signal))?;
        self.refresh_slot(pid);
        Ok(pid)
    }

    pub(crate) fn handle_fork_done(self: &Arc<Node>, call: DoorbellCall) {
        let result = self.fork_done(&call);
        call.conclude(result);
    }

    fn fork_done(self: &Arc<Node>, call: &DoorbellCall) -> Result<i64> {
        let parent = call.caller()?.pid;
        let child = call.pid_arg(1)?.ok_or(Errno::INVAL)?;
        let host_pid = u32::try_from(call.arg(2)).map_err(|_| Errno::INVAL)?;
        let early = self.with(|state, now| {
            let prepared =
                state.locals.get(&child).is_some_and(|local| local.forked_by == Some(parent));
            if !prepared {
                return Err(Errno::SRCH);
            }
            if host_pid == 0 {
                state.table.fork_failed(now, child);
                state.forget(child);
                return Ok(None);
            }
            if state.table.from_host(host_pid).is_some() || state.claims.contains_key(&host_pid) {
                return Err(Errno::EXIST);
            }
            state.claims.insert(host_pid, child);
            Ok(state.take_early_end(host_pid))
        })?;
        if let Some((status, rusage)) = early {
            // The child was killed before it could ring.
            self.host_ended(host_pid, status, rusage);
        }
        Ok(0)
    }

    /// Binds the child that rings, or gives the call back until its parent has spoken.
    pub(crate) fn try_fork_child(
        self: &Arc<Node>,
        call: DoorbellCall,
    ) -> core::result::Result<(), DoorbellCall> {
        let host_tid = call.host_tid();
        let Ok(Some(pid)) = call.pid_arg(1) else {
            call.refuse(Errno::SRCH);
            return Ok(());
        };
        let bound = self.with(|state, now| {
            if !state.locals.contains_key(&pid) {
                return Some(Err(Errno::SRCH));
            }
            if state.claims.get(&host_tid) != Some(&pid) {
                return None;
            }
            state.claims.remove(&host_tid);
            Some(state.bind_child(now, pid, host_tid))
        });
        match bound {
            None => return Err(call),
            Some(Err(_)) => end_unbound(call),
            // Those that were known when the pages were lost have been killed.
            Some(Ok(_)) if self.look(|state| state.lacks_lost_pages(pid)) => end_unbound(call),
            Some(Ok(info)) => {
                let written = call.memory().write_plain(call.arg(2), &info);
                self.tracing.named();
                // It has run nothing yet, and runs nothing here if it is placed elsewhere.
                self.place_new_child(pid);
                call.conclude(written.map(|()| 0));
                self.arrived.notify_waiters();
            }
        }
        Ok(())
    }
}

/// Ends a child that is nobody's: its parent died within fork(2), before it could name it, which is
/// as if it had died before.
pub(crate) fn end_unbound(call: DoorbellCall) {
    crate::launch::kill(call.host_tid());
    call.refuse(Errno::SRCH);
}

impl State {
    /// Gives up the children that a process has asked for and not named: it cannot any more.
    pub(crate) fn abandon_unnamed(&mut self, now: Duration, parent: Pid) {
        let unnamed = |(child, local): (&Pid, &Local)| {
            let is_named = self.claims.values().any(|claimed| claimed == child);
            (local.forked_by == Some(parent) && !is_named).then_some(*child)
        };
        let children: Vec<Pid> = self.locals.iter().filter_map(unnamed).collect();
        for child in children {
            self.table.fork_failed(now, child);
            self.forget(child);
        }
    }

    fn prepare(&mut self, now: Duration, parent: Pid, exit_signal: u8) -> Result<Pid> {
        if self.is_shutting_down {
            return Err(Errno::AGAIN);
        }
        let local = self.locals.get(&parent).ok_or(Errno::SRCH)?;
        let (exe_path, remote) = (local.exe_path.clone(), local.remote.for_child());
        let wish = local.wish;
        let placed = "its parent made it here by fork".into();
        let paging = self.paging_of(parent);
        let slot = self.slots.take().ok_or(Errno::AGAIN)?;
        match self.table.fork(now, parent, exit_signal) {
            Ok(pid) => {
                let forked_by = Some(parent);
                let local = Local {
                    slot,
                    slot_is_lent: false,
                    is_executing_away: false,
                    was_taken_from: false,
                    forked_by,
                    ticket: None,
                    exe_path,
                    wish,
                    is_young: true,
                    placed,
                    remote,
                    paging,
                    is_ending: false,
                };
                self.locals.insert(pid, local);
                Ok(pid)
            }
            Err(errno) => {
                self.slots.give_back(slot);
                Err(errno_of(errno))
            }
        }
    }

    fn bind_child(&mut self, now: Duration, pid: Pid, host_pid: u32) -> Result<ChildInfo> {
        self.table.bind_host(now, pid, host_pid).map_err(errno_of)?;
        self.table.set_start(pid, crate::host::unix_seconds());
        let local = self.locals.get_mut(&pid).ok_or(Errno::SRCH)?;
        local.forked_by = None;
        Ok(ChildInfo { slot: local.slot.get(), flags: 0 })
    }
}
