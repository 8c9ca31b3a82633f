//! Priorities of a process group (getpriority(2), setpriority(2), ioprio_get(2), ioprio_set(2)): the host's groups mean
//! nothing, so the members that run on this node are asked one by one.

use super::kill;
use crate::doorbell::ring;
use crate::host;
use dunix_guest_abi::doorbell::OP_GROUP;
use dunix_shim_core::{Errno, nr};

const PRIO_PROCESS: u64 = 0;
const PRIO_PGRP: u64 = 1;
const IOPRIO_WHO_PROCESS: u64 = 1;
const IOPRIO_WHO_PGRP: u64 = 2;
/// Members that are told at a time.
const MEMBERS: usize = 256;

/// Handles such a call, if it names a group.
pub(crate) fn try_handle(number: u64, args: [u64; 6]) -> Option<Result<u64, Errno>> {
    let one = match (number, args[0]) {
        (nr::GETPRIORITY | nr::SETPRIORITY, PRIO_PGRP) => PRIO_PROCESS,
        (nr::IOPRIO_GET | nr::IOPRIO_SET, IOPRIO_WHO_PGRP) => IOPRIO_WHO_PROCESS,
        _ => return None,
    };
    let group = u64::from(host::uint_arg(args[1]));
    let mut members = [0u32; MEMBERS];
    let (mut all, mut after) = (None, 0);
    loop {
        let ask = [group, members.as_mut_ptr() as u64, MEMBERS as u64, u64::from(after)];
        let count = match ring(OP_GROUP, ask) {
            Ok(count) => usize::try_from(count).unwrap_or(0).min(MEMBERS),
            Err(error) => return Some(Err(error)),
        };
        for &member in &members[..count] {
            let args = [one, u64::from(member), args[2], 0, 0, 0];
            // SAFETY: the guest's own call for one of the threads; it does not wait.
            all = joined(number, all, unsafe { host::call(number, args) });
        }
        match members.last() {
            Some(&last) if count == MEMBERS => after = last,
            _ => break,
        }
    }
    Some(all.unwrap_or_else(|| Err(nobody_here(host::int_arg(group)))))
}

/// What the call answers for those before and one more: of priorities the strongest, of changes the last failure.
fn joined(
    number: u64,
    before: Option<Result<u64, Errno>>,
    one: Result<u64, Errno>,
) -> Option<Result<u64, Errno>> {
    match (before, one) {
        // It has ended meanwhile.
        (before, Err(Errno::ESRCH)) => before,
        (Some(Ok(a)), Ok(b)) if number == nr::GETPRIORITY => Some(Ok(a.max(b))),
        (Some(Ok(a)), Ok(b)) if number == nr::IOPRIO_GET => Some(Ok(a.min(b))),
        (Some(Err(error)), Ok(_)) if matches!(number, nr::SETPRIORITY | nr::IOPRIO_SET) => {
            Some(Err(error))
        }
        (_, one) => Some(one),
    }
}

/// Whether a group without a member here is one of other nodes, which are not asked (`EPERM`).
fn nobody_here(group: i32) -> Errno {
    match kill::kill_other(group.wrapping_neg().cast_unsigned(), 0, None) {
        Err(Errno::ESRCH) => Errno::ESRCH,
        _ => Errno::EPERM,
    }
}
