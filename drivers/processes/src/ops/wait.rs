//! `OP_WAIT`: wait4(2) and waitid(2).

use crate::call::{DoorbellCall, errno_of};
use crate::node::{Node, State};
use crate::tracing::Report;
use dunix_guest_abi::doorbell::{CHILDREN_REAPED, STOPS_SILENT, WAIT_AGAIN, WaitResult};
use dunix_ids::Pid;
use dunix_linux::{Errno, Result};
use dunix_proc_table::{Kind, WaitFor, WaitOptions, WaitOutcome, Waited};

/// Options as `waitid` has them (`linux/wait.h`).
const WNOHANG: u64 = 1;
const WSTOPPED: u64 = 2;
const WEXITED: u64 = 4;
const WCONTINUED: u64 = 8;
const WNOWAIT: u64 = 0x0100_0000;
const WNOTHREAD: u64 = 0x2000_0000;
const WALL: u64 = 0x4000_0000;
const WCLONE: u64 = 0x8000_0000;
const KNOWN: u64 = WNOHANG | WSTOPPED | WEXITED | WCONTINUED | WNOWAIT | WNOTHREAD | WALL | WCLONE;

/// `si_code` of a tracee's stop.
const CLD_TRAPPED: i32 = 4;

/// Id types of `waitid`.
const P_ALL: u64 = 0;
const P_PID: u64 = 1;
const P_PGID: u64 = 2;

impl Node {
    pub(crate) fn handle_wait(&self, call: DoorbellCall) {
        let result = self.wait(&call);
        call.conclude(result);
    }

    /// `OP_CHILD_POLICY`: what SIGCHLD means to the caller.
    pub(crate) fn handle_child_policy(&self, call: DoorbellCall) {
        let policy = call.arg(1);
        let result = call.caller().map(|caller| {
            let (reaped, silent) = (policy & CHILDREN_REAPED != 0, policy & STOPS_SILENT != 0);
            self.with(|state, _| state.table.set_child_policy(caller.pid, reaped, silent));
            0
        });
        call.conclude(result);
    }

    fn wait(&self, call: &DoorbellCall) -> Result<i64> {
        let parent = call.caller()?.pid;
        // The kernel takes options as an int.
        let flags = call.arg(3) & 0xffff_ffff;
        let options = options(flags)?;
        // The result's place is tried before a child is reaped for it.
        let place = call.arg(4);
        let _: WaitResult = call.memory().read_plain(place)?;
        let which = self.which(call, parent)?;
        // Asked first: a tracee that ends after this has its end reported before it is none any more.
        let has_tracees = self.tracing.expects(parent, which);
        if let Some(report) = self.traced(parent, which, options) {
            call.memory().write_plain(place, &result_of_traced(&report))?;
            return Ok(i64::from(report.tid.get()));
        }
        let (outcome, rest) = self.with(|state, now| {
            let outcome = state.table.wait(now, parent, which, options).map_err(errno_of);
            (outcome, self.rest(state, parent))
        });
        let outcome = match outcome {
            Err(Errno::CHILD) if has_tracees => WaitOutcome::NotYet,
            outcome => outcome?,
        };
        match outcome {
            WaitOutcome::NotYet if flags & WNOHANG != 0 => {
                call.memory().write_plain(place, &rest)?;
                Ok(0)
            }
            WaitOutcome::NotYet => Err(Errno::AGAIN),
            WaitOutcome::Found(waited) => {
                let result =
                    WaitResult { seq: rest.seq, children: rest.children, ..result_of(&waited) };
                call.memory().write_plain(place, &result)?;
                Ok(i64::from(waited.pid.get()))
            }
        }
    }

    /// What a process may know of its children, for its next waits.
    fn rest(&self, state: &State, parent: Pid) -> WaitResult {
        let quiet = state.table.quiet_children(parent).filter(|_| !self.tracing.is_tracer(parent));
        let slot = state.locals.get(&parent).map(|local| local.slot);
        match (quiet.and_then(|count| u32::try_from(count).ok()), slot) {
            (Some(children), Some(slot)) => {
                WaitResult { seq: self.arena.events(slot), children, ..NOTHING }
            }
            _ => NOTHING,
        }
    }

    /// What a tracer finds before it looks at its children.
    fn traced(&self, tracer: Pid, which: WaitFor, options: WaitOptions) -> Option<Report> {
        let accepts = |report: &Report| {
            let is_meant = match which {
                WaitFor::Any => true,
                WaitFor::Child(pid) => report.tid == pid,
                WaitFor::Group(group) => {
                    self.look(|state| state.table.group(report.process)) == Some(group)
                }
            };
            is_meant && (report.code == CLD_TRAPPED || options.exited)
        };
        self.tracing.find(tracer, accepts, options.keep)
    }

    fn which(&self, call: &DoorbellCall, parent: Pid) -> Result<WaitFor> {
        let no_child = |_| Errno::CHILD;
        match call.arg(1) {
            P_ALL => Ok(WaitFor::Any),
            P_PID => {
                let pid = call.pid_arg(2).map_err(no_child)?.ok_or(Errno::CHILD)?;
                Ok(WaitFor::Child(pid))
            }
            P_PGID => match call.pid_arg(2).map_err(no_child)? {
                Some(group) => Ok(WaitFor::Group(group)),
                None => {
                    let own = self.look(|state| state.table.group(parent));
                    own.map(WaitFor::Group).ok_or(Errno::CHILD)
                }
            },
            _ => Err(Errno::INVAL),
        }
    }
}

fn options(flags: u64) -> Result<WaitOptions> {
    if flags & !KNOWN != 0 || flags & (WEXITED | WSTOPPED | WCONTINUED) == 0 {
        return Err(Errno::INVAL);
    }
    let kind = match flags {
        _ if flags & WALL != 0 => Kind::All,
        _ if flags & WCLONE != 0 => Kind::Clone,
        _ => Kind::Ordinary,
    };
    Ok(WaitOptions {
        exited: flags & WEXITED != 0,
        stopped: flags & WSTOPPED != 0,
        continued: flags & WCONTINUED != 0,
        keep: flags & WNOWAIT != 0,
        kind,
    })
}

fn result_of_traced(report: &Report) -> WaitResult {
    WaitResult { pid: report.tid.get(), code: report.code, status: report.status, ..NOTHING }
}

/// No child; what comes next is not known.
const NOTHING: WaitResult = WaitResult {
    pid: 0,
    uid: 0,
    code: 0,
    status: 0,
    rusage: [0; 18],
    seq: 0,
    children: WAIT_AGAIN,
};

fn result_of(waited: &Waited) -> WaitResult {
    WaitResult {
        pid: waited.pid.get(),
        uid: waited.uid,
        code: waited.code,
        status: waited.status,
        rusage: waited.rusage.0,
        ..NOTHING
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        assert_eq!(options(WNOHANG), Err(Errno::INVAL));
        assert_eq!(options(WEXITED | 0x100), Err(Errno::INVAL));
        let all = options(WEXITED | WNOWAIT | WALL).unwrap();
        assert!(all.exited && all.keep && !all.stopped && all.kind == Kind::All);
    }
}
