//! wait4, waitid (POSIX XSH wait, waitid; Linux wait(2)). All that a wait asks is known where the
//! parent runs.

use crate::{
    CLD_CONTINUED, CLD_STOPPED, Kind, ProcTable, SIGCHLD, SIGCONT, WaitFor, WaitOptions,
    WaitOutcome, Waited, cld_of,
};
use core::time::Duration;
use dunix_ids::Pid;
use dunix_wire::processes::{Child, ChildState, Errno, Rusage};

pub(crate) fn has_ended(child: &Child) -> bool {
    matches!(child.state, ChildState::Zombie { .. })
}

fn is_wanted(which: WaitFor, kind: Kind, pid: Pid, child: &Child) -> bool {
    let in_scope = match which {
        WaitFor::Any => true,
        WaitFor::Child(wanted) => wanted == pid,
        WaitFor::Group(pgid) => pgid == child.pgid,
    };
    in_scope
        && match kind {
            Kind::All => true,
            Kind::Ordinary => child.exit_signal == SIGCHLD,
            Kind::Clone => child.exit_signal != SIGCHLD,
        }
}

/// What a wait with these options would say of the child.
fn report(pid: Pid, child: &Child, options: WaitOptions) -> Option<Waited> {
    let (code, status, rusage) = match child.state {
        ChildState::Zombie { status, rusage } if options.exited => {
            let (code, status) = cld_of(status);
            (code, status, rusage)
        }
        ChildState::Stopped { signal, waited: false } if options.stopped => {
            (CLD_STOPPED, i32::from(signal), Rusage::default())
        }
        ChildState::Continued if options.continued => {
            (CLD_CONTINUED, i32::from(SIGCONT), Rusage::default())
        }
        _ => return None,
    };
    Some(Waited { pid, uid: child.uid, code, status, rusage })
}

impl ProcTable {
    /// Looks for a child that has changed, and takes the change unless asked to keep it.
    ///
    /// # Errors
    /// `ECHILD` if the process has no such child; `ESRCH` if there is no such process.
    pub fn wait(
        &mut self,
        now: Duration,
        parent: Pid,
        which: WaitFor,
        options: WaitOptions,
    ) -> Result<WaitOutcome, Errno> {
        self.begin(now);
        let process = self.processes.get(&parent).ok_or(Errno::SRCH)?;
        let mut wanted = process
            .children
            .iter()
            .filter(|(pid, child)| is_wanted(which, options.kind, **pid, child))
            .peekable();
        if wanted.peek().is_none() {
            return Err(Errno::CHILD);
        }
        let found = wanted.find_map(|(pid, child)| report(*pid, child, options));
        let Some(found) = found else { return Ok(WaitOutcome::NotYet) };
        // While the parent leaves, its record is fixed: the answer comes after.
        if !options.keep && process.leaving.is_some() {
            return Ok(WaitOutcome::NotYet);
        }
        if !options.keep {
            self.take_change(parent, found.pid);
        }
        self.finish();
        Ok(WaitOutcome::Found(found))
    }

    /// How many children a process has, if none has anything for a wait of whatever options, and all are
    /// ordinary ones; `None` otherwise.
    #[must_use]
    pub fn quiet_children(&self, parent: Pid) -> Option<usize> {
        let process = self.processes.get(&parent).filter(|process| process.leaving.is_none())?;
        let is_quiet = |child: &Child| {
            let all = WaitOptions {
                exited: true,
                stopped: true,
                continued: true,
                keep: true,
                kind: Kind::All,
            };
            child.exit_signal == SIGCHLD && report(Pid::INIT, child, all).is_none()
        };
        process.children.values().all(is_quiet).then_some(process.children.len())
    }

    fn take_change(&mut self, parent: Pid, child: Pid) {
        let Some(process) = self.processes.get_mut(&parent) else { return };
        let Some(entry) = process.children.get_mut(&child) else { return };
        match entry.state {
            ChildState::Zombie { rusage, .. } => {
                let node = entry.node;
                process.children_rusage.add(&rusage);
                process.children.remove(&child);
                self.send_reaped(child, node);
            }
            ChildState::Stopped { signal, .. } => {
                entry.state = ChildState::Stopped { signal, waited: true };
            }
            ChildState::Continued => entry.state = ChildState::Running,
            ChildState::Running => {}
        }
    }

    /// Sets what SIGCHLD means to a process: `children_reaped` if it is ignored or has
    /// `SA_NOCLDWAIT` (no zombies), `stops_silent` if it has `SA_NOCLDSTOP`.
    pub fn set_child_policy(&mut self, pid: Pid, children_reaped: bool, stops_silent: bool) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.children_reaped = children_reaped;
            process.stops_silent = stops_silent;
        }
    }
}
