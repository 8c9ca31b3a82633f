//! What must hold of one node's table at any time between calls.

use crate::{ProcTable, limits, number::Place};
use alloc::{format, string::String};
use dunix_ids::Pid;
use dunix_wire::processes::RunState;

impl ProcTable {
    /// Checks the table's invariants.
    ///
    /// # Errors
    /// Says which one does not hold, for people.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.check_processes()?;
        self.check_hosts()?;
        self.check_numbers()?;
        self.check_limits()
    }

    fn check_processes(&self) -> Result<(), String> {
        for (pid, process) in &self.processes {
            let fail = |what: &str| Err(format!("process {pid}: {what}"));
            if matches!(process.state, RunState::Leaving(_)) {
                return fail("the state of one that leaves is kept apart");
            }
            if process.is_zombie() != (process.end.is_some() && process.leaving.is_none()) {
                return fail("a zombie has an end, and only a zombie or one that leaves");
            }
            if process.is_zombie() && !(process.children.is_empty() && process.host.is_none()) {
                return fail("a zombie has children or a host process");
            }
            if !process.held.is_empty() && !process.is_in_between() {
                return fail("something is held for a process that could have it");
            }
            if process.state == RunState::Starting && process.host.is_some() {
                return fail("one that starts has a host process");
            }
            if process.sid == *pid && process.pgid != *pid {
                return fail("a session's leader leads its group");
            }
            let is_ours = self.leases(*pid) && process.leaving.is_none();
            if is_ours && !matches!(self.numbers.place(*pid), Place::At { .. }) {
                return fail("its number is not in use at its leaser");
            }
        }
        Ok(())
    }

    fn check_hosts(&self) -> Result<(), String> {
        for (host, pid) in &self.hosts {
            if self.processes.get(pid).and_then(|process| process.host) != Some(*host) {
                return Err(format!("host process {host} is not that of {pid}"));
            }
        }
        for (tid, thread) in self.threads.iter() {
            let known =
                self.processes.get(&thread.process).is_some_and(|p| p.threads.contains(&tid));
            if !known {
                return Err(format!("thread {tid} has no process"));
            }
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), String> {
        for (pid, number) in &self.numbers.used {
            let is_empty =
                number.place == Place::None && number.group.is_none() && number.session.is_empty();
            if is_empty || *pid == Pid::INIT {
                return Err(format!("number {pid} is in use for nothing"));
            }
            if number.group.as_ref().is_some_and(|group| group.members.is_empty()) {
                return Err(format!("group {pid} has no members"));
            }
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<(), String> {
        let within = self.processes.len() <= limits::PROCESSES_MAX
            && self.tombstones.len() <= limits::TOMBSTONES_MAX
            && self.fans.len() <= limits::OPERATIONS_MAX;
        if within { Ok(()) } else { Err(String::from("a table is above its limit")) }
    }
}
