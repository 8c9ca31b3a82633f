//! `OP_START`: an image begins.

use crate::call::DoorbellCall;
use crate::inspect::ProcessEvent;
use crate::node::{Local, Node, Ticket, TicketExe};
use dunix_guest_abi::ABI_VERSION;
use dunix_guest_abi::doorbell::{
    PATH_BYTES, REMOTE_FD_WORDS, START_EXECUTE, START_PROCESS_FILES, START_REWRITE, START_SIGNALS,
    StartInfo,
};
use dunix_ids::Pid;
use dunix_keeper::protocol::EXE_FD;
use dunix_linux::guest_memory::plain_bytes;
use dunix_linux::{Errno, Result};
use std::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};

impl Node {
    /// Tells a new image who it is and gives it its program and the arena.
    pub(crate) fn handle_start(self: &Arc<Node>, call: DoorbellCall) {
        match self.take_ticket(&call) {
            Ok((ticket, Some(exe))) => {
                let node = self.clone();
                // Looks at the file, which may wait for this thread.
                self.runtime.spawn_blocking(move || {
                    let result = node.start_privileged(&call, ticket, exe);
                    node.conclude_start(call, result);
                });
            }
            Ok((ticket, None)) => {
                let result = self.start(&call, ticket);
                self.conclude_start(call, result);
            }
            Err(errno) => self.conclude_start(call, Err(errno)),
        }
    }

    fn conclude_start(&self, call: DoorbellCall, result: Result<Begun>) {
        if let Err(errno) = &result {
            tracing::warn!(node = %self.id, caller = ?call.caller(), %errno, "an image cannot start");
        }
        match result {
            // With the answer: a descriptor that is given before it costs the caller another way to wake and sleep.
            Ok(Begun::Program) => call.answer_fd(self.arena.as_fd()),
            Ok(Begun::Shim) => call.answer(0),
            Err(errno) => call.refuse(errno),
        }
        self.arrived.notify_waiters();
    }

    /// Takes what the caller may start; with its program, if that lies with the guest and may give
    /// privileges.
    fn take_ticket(&self, call: &DoorbellCall) -> Result<(Ticket, Option<OwnedFd>)> {
        let caller = call.caller()?;
        let version: u32 = call.memory().read_plain(call.arg(1))?;
        if version != ABI_VERSION || call.arg(2) < size_of::<StartInfo>() as u64 {
            return Err(Errno::PROTO);
        }
        let ticket = self.with(|state, _| state.locals.get_mut(&caller.pid)?.ticket.take());
        // An image that nobody let start: a guest executed a shim by itself.
        let ticket = ticket.ok_or(Errno::PROTO)?;
        // It may have what it was not to have.
        self.check_shim(caller, &ticket).inspect_err(|_| crate::launch::kill(caller.host_pid))?;
        if self.privileges.is_none() || !matches!(ticket.exe, TicketExe::AtGuest) {
            return Ok((ticket, None));
        }
        let exe = call.take_fd(EXE_FD)?;
        let may = self.may_give_privileges(exe.as_fd());
        Ok((ticket, may.then_some(exe)))
    }

    /// A program that was found on this node by somebody without its privileges: if it gives some, it is
    /// executed once more, by a shim that has them.
    fn start_privileged(
        self: &Arc<Node>,
        call: &DoorbellCall,
        ticket: Ticket,
        exe: OwnedFd,
    ) -> Result<Begun> {
        let caller = call.caller()?;
        let Some(shim) = self.privileged_shim(caller, exe.as_fd())? else {
            return self.start(call, ticket);
        };
        let remote = self.look(|state| Some(state.locals.get(&caller.pid)?.remote.descriptors()));
        let info = StartInfo {
            flags: START_EXECUTE,
            exe_fd: call.add_fd(shim.as_fd())?,
            arena_fd: EXE_FD,
            // Filters are installed while that needs no `no_new_privs`.
            remote_fds: bits(&remote.ok_or(Errno::SRCH)?),
            ..empty_info(caller.pid)
        };
        call.memory().write_plain(call.arg(1), &info)?;
        let ticket = Ticket { exe: TicketExe::Held(exe), shim: Some(shim), ..ticket };
        self.with(|state, _| {
            let local = state.locals.get_mut(&caller.pid).ok_or(Errno::SRCH)?;
            local.ticket = Some(ticket);
            Ok(Begun::Shim)
        })
    }

    fn start(self: &Arc<Node>, call: &DoorbellCall, ticket: Ticket) -> Result<Begun> {
        let caller = call.caller()?;
        let begun = self.with(|state, _| {
            let local = state.locals.get_mut(&caller.pid)?;
            local.exe_path = ticket.exe_path.as_slice().into();
            local.wish = ticket.wish;
            local.paging = None;
            Some((local.slot, local.remote.descriptors()))
        });
        let (slot, remote) = begun.ok_or(Errno::SRCH)?;
        self.refresh_slot(caller.pid);
        let open =
            |number: &i32| crate::host::link(caller.host_pid, &format!("fd/{number}")).is_ok();
        let (kept, closed): (Vec<i32>, Vec<i32>) = remote.into_iter().partition(open);
        let exe_fd = match &ticket.exe {
            TicketExe::Held(exe) => call.add_fd(exe.as_fd())?,
            // What gives privileges is started from what was looked at.
            TicketExe::Kept(exe, _) if ticket.shim.is_some() => call.add_fd(exe.as_fd())?,
            TicketExe::Kept(_, number) => *number,
            TicketExe::AtGuest => EXE_FD,
        };
        let signals = if ticket.ignored.is_some() { START_SIGNALS } else { 0 };
        let mut info = StartInfo {
            slot: slot.get(),
            flags: self.start_flags(caller.host_pid) | signals,
            signals_ignored: ticket.ignored.unwrap_or(0),
            exe_fd,
            remote_fds: bits(&kept),
            ..empty_info(caller.pid)
        };
        let used = fill(&mut info.paths, &ticket.exe_path, &ticket.exec_fn)?;
        // Without the tail of the paths, which would touch the guest's memory for nothing.
        let bytes = &plain_bytes(&info)[..offset_of!(StartInfo, paths) + used];
        call.memory().write(call.arg(1), bytes)?;
        self.started(&ticket, caller.pid, caller.host_pid);
        for number in closed {
            self.close_remote(caller.pid, number);
        }
        Ok(Begun::Program)
    }

    fn start_flags(&self, host_pid: u32) -> u32 {
        // Who traces is to see every call where it is made.
        let is_rewriting = rewrites() && !self.tracing.is_traced(host_pid);
        let flag = |is_on, flag| if is_on { flag } else { 0 };
        flag(is_rewriting, START_REWRITE) | flag(self.proc_facts().is_served, START_PROCESS_FILES)
    }

    fn started(self: &Arc<Node>, ticket: &Ticket, pid: Pid, host_pid: u32) {
        self.counts.count_exec_here();
        self.announce(|| {
            let arguments = crate::host::arguments(host_pid);
            ProcessEvent::Executed { pid, arguments }
        });
        let name = ticket.exec_fn.rsplit(|&b| b == b'/').next().unwrap_or(&[]);
        let comm: String = String::from_utf8_lossy(name).chars().take(15).collect();
        let credentials = crate::host::Status::of(host_pid, self.ids_base)
            .map_or(crate::node::ROOT, |status| status.credentials());
        self.with(|state, now| {
            if let Err(error) = state.table.exec(now, pid, comm, credentials) {
                tracing::warn!(%pid, ?error, "the table does not know who executes");
            }
            // Handlers are gone; an image that ignores SIGCHLD says so itself.
            state.table.set_child_policy(pid, false, false);
        });
    }
}

/// What an image is answered.
enum Begun {
    /// It runs its program.
    Program,
    /// It executes another shim.
    Shim,
}

fn empty_info(pid: Pid) -> StartInfo {
    StartInfo {
        version: ABI_VERSION,
        pid: pid.get(),
        slot: 0,
        flags: 0,
        exe_fd: -1,
        arena_fd: -1,
        remote_fds: [0; REMOTE_FD_WORDS],
        signals_ignored: 0,
        paths: [0; 2 * PATH_BYTES],
    }
}

/// Whether shims rewrite system-call sites: unless the daemon's environment says `DUNIX_REWRITE=0`.
fn rewrites() -> bool {
    static REWRITES: OnceLock<bool> = OnceLock::new();
    *REWRITES.get_or_init(|| std::env::var_os("DUNIX_REWRITE").is_none_or(|value| value != "0"))
}

impl Local {
    /// Takes the right to start an image back.
    pub(crate) fn void_ticket(&mut self) {
        self.ticket = None;
    }
}

/// Puts two paths behind one another, each with its zero; returns the bytes used.
fn fill(into: &mut [u8; 2 * PATH_BYTES], path: &[u8], name: &[u8]) -> Result<usize> {
    if path.len().max(name.len()) >= PATH_BYTES {
        return Err(Errno::NAMETOOLONG);
    }
    let at = path.len() + 1;
    into[..path.len()].copy_from_slice(path);
    into[path.len()] = 0;
    into[at..at + name.len()].copy_from_slice(name);
    into[at + name.len()] = 0;
    Ok(at + name.len() + 1)
}

/// A bit for each descriptor.
pub(crate) fn bits(numbers: &[i32]) -> [u64; REMOTE_FD_WORDS] {
    let mut words = [0; REMOTE_FD_WORDS];
    for number in numbers {
        let number = usize::try_from(*number).unwrap_or(usize::MAX);
        if let Some(word) = words.get_mut(number / 64) {
            *word |= 1 << (number % 64);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_ignore_what_is_out_of_range() {
        let words = bits(&[0, 64, 1023, 1024, -1]);
        assert_eq!((words[0], words[1], words[15]), (1, 1, 1 << 63));
    }

    #[test]
    fn paths_leave_room_for_their_zeros() {
        let mut into = [0; 2 * PATH_BYTES];
        assert_eq!(fill(&mut into, &[b'a'; PATH_BYTES], b"a"), Err(Errno::NAMETOOLONG));
        assert_eq!(fill(&mut into, b"a", &[b'a'; PATH_BYTES]), Err(Errno::NAMETOOLONG));
        let (path, name) = ([b'a'; PATH_BYTES - 1], [b'b'; PATH_BYTES - 1]);
        assert_eq!(fill(&mut into, &path, &name), Ok(2 * PATH_BYTES));
        assert_eq!((into[PATH_BYTES - 1], into[2 * PATH_BYTES - 1]), (0, 0));
        assert_eq!(fill(&mut into, b"/a", b"b"), Ok(5));
        assert_eq!(&into[..5], b"/a\0b\0");
    }
}
