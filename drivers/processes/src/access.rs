//! Who may look at and change a process of this node: ptrace(2), "access mode checking", with the real ids of the caller
//! (`PTRACE_MODE_ATTACH_REALCREDS`). Security modules of the host see the daemon, not the guest.

use crate::host::{self, Status, TRACE_ANY};
use crate::node::{Local, Node};
use dunix_linux::{Errno, Result};
use dunix_wire::processes::Asker;

/// What a process of this node may go by.
pub(crate) fn asker(host_pid: u32, ids_base: u32) -> Result<Asker> {
    let status = Status::of(host_pid, ids_base)?;
    let (uid, gid) = (status.uids[0], status.gids[0]);
    Ok(Asker { uid, gid, effective: status.capabilities, permitted: status.permitted })
}

impl Node {
    /// Checks that an asker, of whichever node, may attach to a process of this one: nobody without the
    /// capability may to one that is about to get privileges, either.
    ///
    /// # Errors
    /// `EPERM`; `ESRCH` if the process has ended.
    pub(crate) fn check_access(&self, asker: &Asker, host_pid: u32) -> Result<()> {
        let status = Status::of(host_pid, self.ids_base)?;
        let gets_more = self.look(|state| {
            let process = state.table.from_host(host_pid);
            let local = process.and_then(|pid| state.locals.get(&pid));
            local.is_some_and(Local::is_getting_privileges)
        });
        let is_open = !gets_more && host::is_dumpable(host_pid);
        if may_attach(asker, &status, is_open) { Ok(()) } else { Err(Errno::PERM) }
    }
}

fn may_attach(asker: &Asker, target: &Status, is_open: bool) -> bool {
    let has_its_ids = target.uids.iter().all(|id| *id == asker.uid)
        && target.gids.iter().all(|id| *id == asker.gid);
    let has_its_capabilities = target.permitted & !asker.permitted == 0;
    asker.effective & TRACE_ANY != 0 || (has_its_ids && is_open && has_its_capabilities)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(uids: [u32; 3], gids: [u32; 3], permitted: u64) -> Status {
        Status { uids, gids, permitted, ..Status::default() }
    }

    #[test]
    fn all_ids_of_the_target_must_be_the_real_ones_of_the_asker() {
        let asker = Asker { uid: 5, gid: 6, ..Asker::default() };
        assert!(may_attach(&asker, &process([5; 3], [6; 3], 0), true));
        for (uids, gids) in [([5, 0, 5], [6; 3]), ([5, 5, 0], [6; 3]), ([5; 3], [6, 6, 7])] {
            assert!(!may_attach(&asker, &process(uids, gids, 0), true), "{uids:?} {gids:?}");
        }
    }

    #[test]
    fn what_is_closed_or_can_do_more_is_out_of_reach_without_the_capability() {
        let (mut asker, target) = (Asker::default(), process([0; 3], [0; 3], 3));
        asker.permitted = 1;
        assert!(!may_attach(&asker, &target, true));
        asker.permitted = 7;
        assert!(may_attach(&asker, &target, true));
        assert!(!may_attach(&asker, &target, false));
        asker.effective = TRACE_ANY;
        assert!(may_attach(&asker, &process([9; 3], [9; 3], u64::MAX), false));
    }
}
