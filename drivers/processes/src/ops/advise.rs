//! `OP_PROCESS_ADVISE`, `OP_PROCESS_RELEASE`: the memory of a process of this node (process_madvise(2),
//! process_mrelease(2)).
//!
//! The daemon makes the calls: a descriptor for a host process is nothing that a guest should see, and the kernel lets only
//! who has CAP_SYS_NICE on the whole host advise about others. A daemon in a user namespace, as in a lab, has not.

use crate::access;
use crate::call::DoorbellCall;
use crate::node::Node;
use dunix_ids::Pid;
use dunix_linux::advise::{self, ADVICES, PARTS_MAX, Part};
use dunix_linux::{Errno, Result};
use rustix::process::{Pid as HostPid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// CAP_SYS_NICE in a set.
const NICE: u64 = 1 << 23;
/// Bytes of `struct iovec`.
const PART_BYTES: usize = size_of::<Part>();

impl Node {
    pub(crate) fn handle_process_advise(self: &Arc<Node>, call: DoorbellCall) {
        self.speak(call, Node::advise);
    }

    pub(crate) fn handle_process_release(self: &Arc<Node>, call: DoorbellCall) {
        self.speak(call, |node, call| {
            let (process, _) = node.open_host(call.pid_arg(1)?)?;
            advise::release(process.as_fd()).map(|()| 0)
        });
    }

    /// Makes a call that may take its time: pages are written to a disk, or many are given back.
    fn speak(
        self: &Arc<Node>,
        call: DoorbellCall,
        make: impl FnOnce(&Node, &DoorbellCall) -> Result<i64> + Send + 'static,
    ) {
        let node = self.clone();
        self.runtime.spawn(async move {
            let maker = node.clone();
            let made = node.runtime.spawn_blocking(move || (make(&maker, &call), call)).await;
            // A call that was lost has answered.
            let Ok((made, call)) = made else { return };
            let made = match (made, call.pid_arg(1)) {
                (Err(Errno::SRCH), Ok(Some(pid))) => {
                    let is_elsewhere = node.node_of(pid).await.is_some_and(|at| at != node.id);
                    Err(if is_elsewhere { Errno::REMOTE } else { Errno::SRCH })
                }
                (made, _) => made,
            };
            call.conclude(made);
        });
    }

    fn advise(&self, call: &DoorbellCall) -> Result<i64> {
        let (caller, advice) = (call.caller()?, call.int_arg(4));
        let parts = parts_of(call)?;
        if !ADVICES.contains(&advice) {
            return Err(Errno::INVAL);
        }
        let (process, host_pid) = self.open_host(call.pid_arg(1)?)?;
        let asker = access::asker(caller.host_pid, self.ids_base)?;
        // As the kernel answers here.
        let denied = |errno| if errno == Errno::PERM { Errno::ACCESS } else { errno };
        self.check_access(&asker, host_pid).map_err(denied)?;
        if asker.effective & NICE == 0 {
            return Err(Errno::PERM);
        }
        advise::advise(process.as_fd(), &parts, advice)
    }

    /// The host's descriptor for a process of this node, and its number.
    fn open_host(&self, pid: Option<Pid>) -> Result<(OwnedFd, u32)> {
        let pid = pid.ok_or(Errno::SRCH)?;
        let find = || self.look(|state| state.host_pid(pid)).ok_or(Errno::SRCH);
        let host_pid = find()?;
        let raw = HostPid::from_raw(host_pid.cast_signed()).ok_or(Errno::SRCH)?;
        let process = pidfd_open(raw, PidfdFlags::empty())?;
        // Else the number may have become another's before it was opened.
        if find()? == host_pid { Ok((process, host_pid)) } else { Err(Errno::SRCH) }
    }
}

/// Reads `a2` and `a3`.
fn parts_of(call: &DoorbellCall) -> Result<Vec<Part>> {
    let count = usize::try_from(call.arg(3)).ok().filter(|count| *count <= PARTS_MAX);
    let mut bytes = vec![0; count.ok_or(Errno::INVAL)? * PART_BYTES];
    if !bytes.is_empty() {
        call.memory().read(call.arg(2), &mut bytes)?;
    }
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
    let part = |bytes: &[u8]| Part { start: word(&bytes[..8]), bytes: word(&bytes[8..]) };
    Ok(bytes.chunks_exact(PART_BYTES).map(part).collect())
}
