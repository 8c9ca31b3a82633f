//! `OP_EXEC`: an image asks to be replaced, here or at another node.

use crate::call::DoorbellCall;
use crate::config::{Decision, PlaceQuestion, PlaceWish, Placement, Policy, StayHere};
use crate::node::{Node, Ticket, TicketExe};
use crate::ops::PrivilegedShim;
use crate::remote::Destination;
use dunix_guest_abi::doorbell::{EXEC_KEEPS_PROGRAM, ExecRequest, PATH_BYTES};
use dunix_linux::{Errno, Result};
use rustix::fs::{AtFlags, FileType, StatxFlags, statx};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

impl Node {
    pub(crate) fn handle_exec(self: &Arc<Node>, call: DoorbellCall) {
        let (request, ticket) = match read_request(&call) {
            Ok(read) => read,
            Err(errno) => return call.refuse(errno),
        };
        let Ok(caller) = call.caller() else { return call.refuse(Errno::SRCH) };
        self.child_executes(caller.pid);
        if ticket.exe.held().is_some_and(|exe| self.may_give_privileges(exe)) {
            return self.look_for_privileges(call, request, ticket);
        }
        self.exec_placed(call, request, ticket);
    }

    /// A program that gives privileges starts here, where the kernel knows who executes it.
    fn look_for_privileges(
        self: &Arc<Node>,
        call: DoorbellCall,
        request: ExecRequest,
        mut ticket: Ticket,
    ) {
        let node = self.clone();
        // Looks at the file, which may wait for this thread.
        self.runtime.spawn_blocking(move || {
            let shim = match (ticket.exe.held(), call.caller()) {
                (Some(exe), Ok(caller)) => node.privileged_shim(caller, exe),
                _ => Ok(None),
            };
            match shim {
                Ok(_) if !call.is_pending() => {}
                Ok(None) => node.exec_placed(call, request, ticket),
                Ok(shim) => {
                    ticket.shim = shim;
                    node.exec_here(call, ticket, "its file gives it privileges".into());
                }
                Err(errno) => call.refuse(errno),
            }
        });
    }

    fn exec_placed(self: &Arc<Node>, call: DoorbellCall, request: ExecRequest, ticket: Ticket) {
        let Ok(caller) = call.caller() else { return call.refuse(Errno::SRCH) };
        let exe_path = ticket.exe_path.clone();
        let wish = ticket.wish;
        let question = PlaceQuestion { pid: caller.pid, exe_path, is_root: false, wish };
        let Decision { placement, why } = match self.mesh {
            Some(_) if !self.tracing.concerns(caller.pid) => self.policy.place(&question),
            _ => StayHere.place(&question),
        };
        match placement {
            Placement::At(node) | Placement::OnlyAt(node) if node != self.id => {
                let must = matches!(placement, Placement::OnlyAt(_));
                self.exec_at(Destination { node, must, why }, call, request, ticket);
            }
            _ => self.exec_here(call, ticket, why),
        }
    }

    /// Grants the exec: the caller gets the shim, its next image the ticket's program.
    pub(crate) fn exec_here(&self, call: DoorbellCall, ticket: Ticket, why: String) {
        let shim = ticket.shim.clone();
        let granted = call.caller().and_then(|caller| {
            self.with(|state, _| {
                let local = state.locals.get_mut(&caller.pid).ok_or(Errno::SRCH)?;
                local.ticket = Some(ticket);
                local.placed = why.into();
                Ok(())
            })
        });
        match granted {
            Ok(()) => {
                call.answer_fd(shim.as_ref().map_or(self.shim.as_fd(), PrivilegedShim::as_fd))
            }
            Err(errno) => call.refuse(errno),
        }
    }

    pub(crate) fn handle_exec_failed(&self, call: DoorbellCall) {
        if let Ok(caller) = call.caller() {
            self.with(|state, _| {
                if let Some(local) = state.locals.get_mut(&caller.pid) {
                    local.void_ticket();
                }
            });
        }
        call.answer(0);
    }
}

/// Reads and checks what the guest asks for.
fn read_request(call: &DoorbellCall) -> Result<(ExecRequest, Ticket)> {
    let request: ExecRequest = call.memory().read_plain(call.arg(1))?;
    let exec_fn = call.memory().read_string(request.exec_fn, PATH_BYTES)?;
    let exe = call.take_fd(request.exe_fd)?;
    // What the kernel knows already: this thread does not wait for the tree.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(&exe, c"", flags, StatxFlags::TYPE)?;
    if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::RegularFile {
        return Err(Errno::ACCESS);
    }
    let link = format!("/proc/self/fd/{}", exe.as_raw_fd());
    let exe_path = rustix::fs::readlink(link, Vec::new())?.into_bytes();
    let exe_path = if exe_path.len() < PATH_BYTES { exe_path } else { exec_fn.clone() };
    // What was read belongs to this caller only if he still waits.
    if !call.is_pending() {
        return Err(Errno::SRCH);
    }
    let wish = PlaceWish::of_flags(request.flags);
    let keeps = request.flags & EXEC_KEEPS_PROGRAM != 0;
    let exe = if keeps { TicketExe::Kept(exe, request.exe_fd) } else { TicketExe::Held(exe) };
    let ignored = Some(request.signals_ignored);
    Ok((request, Ticket { exe, shim: None, exe_path, exec_fn, wish, ignored }))
}
