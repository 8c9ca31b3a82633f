//! Where the threads of one host process are waited for: who has parked, which script has ended.
//!
//! Every process that is frozen, arrives, or has given itself away has a [`Hall`], found by its host
//! number until the host process ends. Its threads ring `OP_PARKED` and `OP_SCRIPT_DONE`; at an
//! arrival, which the table does not know yet, also `OP_START` and `OP_MOVE_DESCRIPTORS`.

use crate::call::DoorbellCall;
use crate::node::{Node, lock};
use crate::slots::SlotIndex;
use dunix_guest_abi::ABI_VERSION;
use dunix_guest_abi::doorbell::{
    OP_MOVE_DESCRIPTORS, OP_PARKED, OP_SCRIPT_DONE, OP_START, PATH_BYTES, REMOTE_FD_WORDS,
    START_ARRIVAL, StartInfo,
};
use dunix_linux::{Errno, Result};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, oneshot};

/// A thread that waits for scripts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Parked {
    /// Its number in the fabric, as it says.
    pub(crate) tid: u32,
    /// Address of its `ParkRecord`; 0 if it is arriving.
    pub(crate) record: u64,
    /// `PARK_*` bits.
    pub(crate) flags: u64,
    /// The slot's epoch that it answers.
    pub(crate) epoch: u64,
}

/// The threads of one host process.
pub(crate) struct Hall {
    pub(crate) host_pid: u32,
    pub(crate) slot: SlotIndex,
    pub(crate) changed: Notify,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    /// The table does not know the host process: its slot and its end are the hall's business.
    is_its_own: bool,
    has_ended: bool,
    /// By host TID.
    parked: BTreeMap<u32, Parked>,
    done: Option<oneshot::Sender<()>>,
    /// What `OP_MOVE_DESCRIPTORS` hands over.
    descriptors: Vec<(OwnedFd, Vec<i32>)>,
}

impl Hall {
    pub(crate) fn parked(&self) -> BTreeMap<u32, Parked> {
        lock(&self.inside).parked.clone()
    }

    pub(crate) fn has_ended(&self) -> bool {
        lock(&self.inside).has_ended
    }

    /// Waits for the end of the script that is published next.
    pub(crate) fn expect_done(&self) -> oneshot::Receiver<()> {
        let (sender, done) = oneshot::channel();
        let mut inside = lock(&self.inside);
        if !inside.has_ended {
            inside.done = Some(sender);
        }
        done
    }

    /// What the next `OP_MOVE_DESCRIPTORS` gets.
    pub(crate) fn offer_descriptors(&self, descriptors: Vec<(OwnedFd, Vec<i32>)>) {
        lock(&self.inside).descriptors = descriptors;
    }

    /// Whether the host process, its slot and its end are the hall's business from now on, and not
    /// the table's.
    pub(crate) fn own(&self, is_its_own: bool) {
        lock(&self.inside).is_its_own = is_its_own;
    }

    /// Takes over the host process and its slot; false if that has ended already.
    pub(crate) fn try_own(&self) -> bool {
        let mut inside = lock(&self.inside);
        inside.is_its_own = !inside.has_ended;
        inside.is_its_own
    }

    /// Kills the host process, if it is still there.
    pub(crate) fn kill(&self) {
        let inside = lock(&self.inside);
        if !inside.has_ended {
            // Its number is its own until its end has been reported.
            crate::launch::kill(self.host_pid);
        }
    }
}

/// All halls of a node.
#[derive(Default)]
pub(crate) struct Halls(Mutex<BTreeMap<u32, Arc<Hall>>>);

impl Halls {
    /// Opens a hall; `None` if the host process has one.
    pub(crate) fn open(
        &self,
        host_pid: u32,
        slot: SlotIndex,
        is_its_own: bool,
    ) -> Option<Arc<Hall>> {
        let mut halls = lock(&self.0);
        if halls.contains_key(&host_pid) {
            return None;
        }
        let inside = Mutex::new(Inside { is_its_own, ..Inside::default() });
        let hall = Arc::new(Hall { host_pid, slot, changed: Notify::new(), inside });
        halls.insert(host_pid, hall.clone());
        Some(hall)
    }

    /// The process goes on as every other.
    pub(crate) fn close(&self, hall: &Arc<Hall>) {
        let mut halls = lock(&self.0);
        if halls.get(&hall.host_pid).is_some_and(|known| Arc::ptr_eq(known, hall)) {
            halls.remove(&hall.host_pid);
        }
    }

    fn of(&self, host_pid: u32) -> Option<Arc<Hall>> {
        lock(&self.0).get(&host_pid).cloned()
    }

    /// The hall of a host thread that the table does not know.
    fn of_stranger(&self, host_tid: u32) -> Option<Arc<Hall>> {
        let halls: Vec<Arc<Hall>> =
            lock(&self.0).values().filter(|hall| lock(&hall.inside).is_its_own).cloned().collect();
        let is_its = |hall: &&Arc<Hall>| {
            hall.host_pid == host_tid || crate::host::has_thread(hall.host_pid, host_tid)
        };
        halls.iter().find(is_its).cloned()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        lock(&self.0).len()
    }
}

impl Node {
    /// `OP_PARKED` and `OP_SCRIPT_DONE` of a process that the table knows.
    pub(crate) fn handle_parking(&self, call: DoorbellCall) {
        if let Some(hall) = call.caller().ok().and_then(|caller| self.halls.of(caller.host_pid)) {
            hall.hear(&call);
        }
        call.answer(0);
    }

    /// A call of a host thread that the table does not know; gives it back if it is no arrival's.
    pub(crate) fn try_arrival_call(
        &self,
        call: DoorbellCall,
    ) -> core::result::Result<(), DoorbellCall> {
        if !matches!(call.op(), OP_START | OP_PARKED | OP_SCRIPT_DONE | OP_MOVE_DESCRIPTORS) {
            return Err(call);
        }
        let Some(hall) = self.halls.of_stranger(call.host_tid()) else { return Err(call) };
        match call.op() {
            OP_START => {
                let started = self.start_arrival(&hall, &call);
                match started {
                    Ok(()) => call.answer_fd(self.arena.as_fd()),
                    Err(errno) => call.refuse(errno),
                }
            }
            OP_MOVE_DESCRIPTORS => {
                let given = hall.give_descriptors(&call);
                call.conclude(given.map(|()| 0));
            }
            _ => {
                hall.hear(&call);
                call.answer(0);
            }
        }
        Ok(())
    }

    /// The host process has ended; tells whether it was none of the table's.
    pub(crate) fn hall_ended(&self, host_pid: u32) -> bool {
        let Some(hall) = lock(&self.halls.0).remove(&host_pid) else { return false };
        let is_its_own = {
            let mut inside = lock(&hall.inside);
            inside.has_ended = true;
            inside.done = None;
            inside.descriptors.clear();
            inside.is_its_own
        };
        self.arena.end_park(hall.slot);
        if is_its_own {
            self.with(|state, _| state.slots.give_back(hall.slot));
        }
        hall.changed.notify_one();
        is_its_own
    }

    fn start_arrival(&self, hall: &Hall, call: &DoorbellCall) -> Result<()> {
        let version: u32 = call.memory().read_plain(call.arg(1))?;
        if version != ABI_VERSION || call.arg(2) < size_of::<StartInfo>() as u64 {
            return Err(Errno::PROTO);
        }
        let info = StartInfo {
            version: ABI_VERSION,
            pid: ARRIVING_TID,
            slot: hall.slot.get(),
            flags: START_ARRIVAL,
            exe_fd: -1,
            arena_fd: -1,
            remote_fds: [0; REMOTE_FD_WORDS],
            signals_ignored: 0,
            paths: [0; 2 * PATH_BYTES],
        };
        call.memory().write_plain(call.arg(1), &info)
    }
}

/// What the first thread of an arrival is called until it is somebody.
pub(crate) const ARRIVING_TID: u32 = 0;

impl Hall {
    fn hear(&self, call: &DoorbellCall) {
        let mut inside = lock(&self.inside);
        if call.op() == OP_SCRIPT_DONE {
            if let Some(done) = inside.done.take() {
                let _ = done.send(());
            }
            return;
        }
        let parked = Parked {
            tid: u32::try_from(call.arg(1)).unwrap_or(ARRIVING_TID),
            record: call.arg(2),
            flags: call.arg(3),
            epoch: call.arg(4),
        };
        inside.parked.insert(call.host_tid(), parked);
        drop(inside);
        self.changed.notify_one();
    }

    fn give_descriptors(&self, call: &DoorbellCall) -> Result<()> {
        let descriptors = std::mem::take(&mut lock(&self.inside).descriptors);
        for (fd, numbers) in &descriptors {
            for number in numbers {
                call.set_fd(fd.as_fd(), *number)?;
            }
        }
        Ok(())
    }
}
