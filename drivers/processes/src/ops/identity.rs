//! Parents, groups, sessions, and the host's numbers.

use crate::call::DoorbellCall;
use crate::node::{Node, Pending, State};
use dunix_guest_abi::doorbell::PROCESSES_MAX;
use dunix_ids::Pid;
use dunix_linux::{Errno, Result};
use dunix_proc_table::{HostTarget, Token};
use std::time::Duration;

impl Node {
    /// The program of a process, which the host takes for the shim.
    pub(crate) fn handle_exe_path(&self, call: DoorbellCall) {
        let result = call.pid_arg(1).and_then(|pid| {
            let pid = pid.ok_or(Errno::SRCH)?;
            let path =
                self.look(|state| state.locals.get(&pid).map(|local| local.exe_path.clone()));
            let path = path.ok_or(Errno::SRCH)?;
            let room = usize::try_from(call.arg(3)).unwrap_or(0);
            let path = path.get(..path.len().min(room)).unwrap_or(&[]);
            call.memory().write(call.arg(2), path)?;
            i64::try_from(path.len()).map_err(|_| Errno::INVAL)
        });
        call.conclude(result);
    }

    pub(crate) fn handle_getppid(&self, call: DoorbellCall) {
        let parent = call.caller().and_then(|caller| {
            let of = call.pid_arg(1)?.unwrap_or(caller.pid);
            self.look(|state| state.table.parent(of)).ok_or(Errno::SRCH)
        });
        call.conclude(parent.map(|pid| i64::from(pid.get())));
    }

    pub(crate) fn handle_getpgid(&self, call: DoorbellCall) {
        self.ask_about_one(call, |state, now, token, pid| state.table.getpgid(now, token, pid));
    }

    pub(crate) fn handle_getsid(&self, call: DoorbellCall) {
        self.ask_about_one(call, |state, now, token, pid| state.table.getsid(now, token, pid));
    }

    pub(crate) fn handle_group(&self, call: DoorbellCall) {
        let told = (|| {
            let (caller, asked) = (call.caller()?.pid, call.pid_arg(1)?);
            let room = usize::try_from(call.arg(3)).unwrap_or(0).min(PROCESSES_MAX);
            let mut hosts = self.look(|state| {
                let group = asked.or_else(|| state.table.group(caller));
                let members = group.map(|group| state.table.group_here(group)).unwrap_or_default();
                let threads = members.into_iter().flat_map(|pid| state.table.threads_of(pid));
                let host = |tid| match state.table.to_host(tid)? {
                    HostTarget::Process(host) | HostTarget::Thread { thread: host, .. } => {
                        Some(host)
                    }
                };
                let hosts = threads.filter_map(host).filter(|host| u64::from(*host) > call.arg(4));
                hosts.collect::<Vec<u32>>()
            });
            hosts.sort_unstable();
            hosts.truncate(room);
            let bytes: Vec<u8> = hosts.iter().flat_map(|host| host.to_ne_bytes()).collect();
            call.memory().write(call.arg(2), &bytes)?;
            Ok(i64::try_from(hosts.len()).unwrap_or(0))
        })();
        call.conclude(told);
    }

    pub(crate) fn handle_setpgid(&self, call: DoorbellCall) {
        let asked = (|| {
            if call.int_arg(2) < 0 {
                return Err(Errno::INVAL);
            }
            Ok((call.caller()?.pid, call.pid_arg(1)?, call.pid_arg(2)?))
        })();
        self.ask(call, asked, |state, now, token, (caller, pid, group)| {
            state.table.setpgid(now, token, caller, pid, group);
        });
    }

    pub(crate) fn handle_setsid(&self, call: DoorbellCall) {
        let caller = call.caller();
        self.ask(call, caller, |state, now, token, caller| {
            state.table.setsid(now, token, caller.pid);
        });
    }

    pub(crate) fn handle_to_host(&self, call: DoorbellCall) {
        let asked = call.pid_arg(1).and_then(|pid| pid.ok_or(Errno::SRCH));
        let pid = match asked {
            Ok(pid) => pid,
            Err(errno) => return call.refuse(errno),
        };
        match self.look(|state| state.table.to_host(pid)) {
            Some(HostTarget::Process(host) | HostTarget::Thread { thread: host, .. }) => {
                call.answer(i64::from(host));
            }
            None => self.with(|state, now| {
                let token = state.expect_reply(Pending::Location(call));
                state.table.locate(now, token, pid);
            }),
        }
    }

    pub(crate) fn handle_from_host(&self, call: DoorbellCall) {
        let host = u32::try_from(call.arg(1)).unwrap_or(0);
        // A child that ended before its parent named it is claimed until its end is reported.
        let pid = self
            .look(|state| state.table.was_host(host).or_else(|| state.claims.get(&host).copied()));
        call.answer(pid.map_or(0, |pid| i64::from(pid.get())));
    }

    /// Asks the table about the process that `a1` names, 0 being the caller.
    fn ask_about_one(
        &self,
        call: DoorbellCall,
        ask: impl FnOnce(&mut State, Duration, Token, Pid),
    ) {
        let asked = call.caller().and_then(|caller| Ok(call.pid_arg(1)?.unwrap_or(caller.pid)));
        self.ask(call, asked, ask);
    }

    fn ask<T>(
        &self,
        call: DoorbellCall,
        asked: Result<T>,
        ask: impl FnOnce(&mut State, Duration, Token, T),
    ) {
        match asked {
            Err(errno) => call.refuse(errno),
            Ok(asked) => self.with(|state, now| {
                let token = state.expect_reply(Pending::Call(call));
                ask(state, now, token, asked);
            }),
        }
    }
}
