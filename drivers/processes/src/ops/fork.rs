//! `OP_FORK_*`: a child is prepared, made by the host, and bound.
//!
//! ```text
//! parent: FORK_PREPARE -> pid      clone      FORK_DONE(pid, host)  -> claim
//! child:                             `------- FORK_CHILD(pid)       -> bound, if the claim agrees
//! ```
//! A child that nobody may want to hold or to send away does not ring: its parent gets PID and slot for it before the
//! clone, and puts them into its own memory. There the daemon finds them when the parent names the host process, as a
//! proof that it has a copy of the parent's memory, and binds it. What the child asks before that is kept.
//!
//! A parent that dies between the first and the last leaves no child that rings ([`State::abandon_unnamed`]); one that does
//! not is found by its word ([`Node::find_unnamed`]).
//! Neither word is believed alone: the parent could name another's process, a stranger could take
//! the child's number. The kernel vouches for who rings, the parent for whom it made.

use crate::balance::Settled;
use crate::call::{DoorbellCall, errno_of};
use crate::node::{Local, Node, State};
use crate::slots::SlotIndex;
use dunix_guest_abi::doorbell::{ChildInfo, FORK_RINGS, FORK_SLOT_SHIFT};
use dunix_guest_abi::layout;
use dunix_ids::Pid;
use dunix_linux::{Errno, Result};
use dunix_wire::processes::{ExitStatus, Rusage};
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

    fn prepare_fork(&self, call: &DoorbellCall) -> Result<i64> {
        // The exit signal is the low byte of clone's flags.
        let exit_signal = u8::try_from(call.arg(1) & 0xff).unwrap_or(0);
        let parent = call.caller()?.pid;
        let word = Some(call.arg(2)).filter(|word| is_fork_word(*word) && !self.rings(parent));
        let (pid, slot) = self.with(|state, now| state.prepare(now, parent, exit_signal, word))?;
        self.refresh_slot(pid);
        let answer = fork_word(pid, slot) | if word.is_none() { FORK_RINGS } else { 0 };
        Ok(answer.cast_signed())
    }

    /// Whether children of a process are to say that they are there before they run anything: those that may
    /// be sent away, that lack pages, or that somebody traces.
    fn rings(&self, parent: Pid) -> bool {
        let (program, paging) = self.look(|state| {
            let program = state.locals.get(&parent).map(|local| local.exe_path.clone());
            (program, state.paging_of(parent))
        });
        paging.is_some()
            || self.tracing.concerns(parent)
            || self.mesh.is_some()
                && program.is_none_or(|program| self.policy.may_send_child(&program))
    }

    pub(crate) fn handle_fork_done(self: &Arc<Node>, call: DoorbellCall) {
        let result = self.fork_done(&call);
        call.conclude(result);
    }

    fn fork_done(self: &Arc<Node>, call: &DoorbellCall) -> Result<i64> {
        let parent = call.caller()?.pid;
        let child = call.pid_arg(1)?.ok_or(Errno::INVAL)?;
        let host_pid = u32::try_from(call.arg(2)).map_err(|_| Errno::INVAL)?;
        let has_word = host_pid != 0 && self.has_fork_word(parent, child, host_pid);
        let done = self.with(|state, now| {
            let prepared =
                state.locals.get(&child).is_some_and(|local| local.forked_by == Some(parent));
            if !prepared {
                return Err(Errno::SRCH);
            }
            if host_pid == 0 {
                state.table.fork_failed(now, child);
                state.forget(child);
                return Ok(Done::Nothing);
            }
            // A claim without the word is somebody else's mere allegation.
            let is_claimed = !has_word && state.claims.contains_key(&host_pid);
            if state.table.from_host(host_pid).is_some() || is_claimed {
                return Err(Errno::EXIST);
            }
            let early = state.take_early_end(host_pid);
            if has_word {
                state.claims.remove(&host_pid);
                // An end of this number was another's.
                state.bind_child(now, child, host_pid)?;
                return Ok(Done::Bound);
            }
            state.claims.insert(host_pid, child);
            Ok(early.map_or(Done::Nothing, |(status, rusage)| Done::Ended(status, rusage)))
        })?;
        match done {
            // The child has ended before its parent could name it.
            Done::Ended(status, rusage) => self.host_ended(host_pid, status, rusage),
            Done::Bound => {
                self.counts.count_fork();
                if self.mesh.is_some() {
                    self.nursery.add(self, child);
                }
                self.arrived.notify_waiters();
            }
            Done::Nothing => {}
        }
        Ok(0)
    }

    /// Whether a host process has the word of a child of `parent` that does not ring: only who has a copy
    /// of that process's memory, or shares it, has it there.
    fn has_fork_word(&self, parent: Pid, child: Pid, host_pid: u32) -> bool {
        let word = self.look(|state| {
            let local = state.locals.get(&child).filter(|it| it.forked_by == Some(parent))?;
            Some((local.fork_word?, fork_word(child, local.slot)))
        });
        word.is_some_and(|(at, word)| {
            dunix_linux::guest_memory::GuestMemory::of(host_pid).read_plain(at) == Ok(word)
        })
    }

    /// Finds the children that a process has made, and not named before it ended, if they do not ring. Ends those whose
    /// name is in doubt.
    pub(crate) fn find_unnamed(&self, parent: Pid) {
        let unnamed = self.look(|state| state.unnamed(parent));
        if unnamed.is_empty() {
            return;
        }
        for host_pid in crate::host::all_processes() {
            let is_free = self.look(|state| {
                state.table.from_host(host_pid).is_none() && !state.claims.contains_key(&host_pid)
            });
            let has_word = |child: &&Pid| self.has_fork_word(parent, **child, host_pid);
            let words: Vec<&Pid> = unnamed.iter().filter(has_word).collect();
            match words[..] {
                // It lives on as any child does whose parent has ended.
                [child] if is_free => {
                    let bound =
                        self.with(|state, now| state.bind_child(now, *child, host_pid).map(drop));
                    tracing::debug!(node = %self.id, %child, host_pid, ?bound, "found by its word");
                }
                // Threads that forked at the same time: which of them made it nobody can tell any more.
                [_, _, ..] if is_free => crate::launch::kill(host_pid),
                _ => {}
            }
        }
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
                self.counts.count_fork();
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

/// What a parent's word on its child has led to.
enum Done {
    Nothing,
    Bound,
    Ended(ExitStatus, Rusage),
}

/// What a child has in its fork word.
fn fork_word(pid: Pid, slot: SlotIndex) -> u64 {
    u64::from(pid.get()) | u64::from(slot.get()) << FORK_SLOT_SHIFT
}

/// Whether an address is that of a fork word in the state of a thread, where only the shim writes.
fn is_fork_word(address: u64) -> bool {
    let at = address.wrapping_sub(layout::THREADS_START) % layout::THREAD_BYTES;
    (layout::THREADS_START..layout::END).contains(&address)
        && at == layout::THREAD_STATE + layout::THREAD_FORK_WORD
}

impl State {
    /// The children that a process has asked for and not named, and that do not ring.
    fn unnamed(&self, parent: Pid) -> Vec<Pid> {
        let is_unnamed = |(child, local): (&Pid, &Local)| {
            let is = local.forked_by == Some(parent) && local.fork_word.is_some();
            (is && !self.claims.values().any(|claimed| claimed == child)).then_some(*child)
        };
        self.locals.iter().filter_map(is_unnamed).collect()
    }

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

    fn prepare(
        &mut self,
        now: Duration,
        parent: Pid,
        exit_signal: u8,
        fork_word: Option<u64>,
    ) -> Result<(Pid, SlotIndex)> {
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
                    fork_word,
                    ticket: None,
                    exe_path,
                    wish,
                    is_young: true,
                    settled: Settled::now(),
                    placed,
                    leaves_for: None,
                    remote,
                    paging,
                    is_ending: false,
                };
                self.locals.insert(pid, local);
                Ok((pid, slot))
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
        self.note_early_stops(now, pid, host_pid);
        let local = self.locals.get_mut(&pid).ok_or(Errno::SRCH)?;
        local.forked_by = None;
        Ok(ChildInfo { slot: local.slot.get(), flags: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_word_is_in_the_state_of_a_thread_and_nowhere_else() {
        let first = layout::THREADS_START + layout::THREAD_STATE + layout::THREAD_FORK_WORD;
        assert!(is_fork_word(first) && is_fork_word(first + 7 * layout::THREAD_BYTES));
        for wrong in [0, first - 8, first + 1, first - layout::THREAD_BYTES, layout::DATA_START] {
            assert!(!is_fork_word(wrong), "{wrong:x}");
        }
        assert!(!is_fork_word(first + layout::END - layout::THREADS_START));
    }
}
