//! The source's side: a process stops where it is, and goes on, gives its pages away, or ends.
//!
//! ```text
//! freeze -> Freezing -> Frozen --image--> described, its pages served
//!             | thaw: timers and signals are given back, it goes on
//!             `donate -> Donor: no descriptors, no end that anybody hears of
//! ```

use super::donor::{Donor, close_all};
use super::hall::Hall;
use super::image;
use super::image::Described;
use super::late::ARRIVING_WAIT;
use super::pager::{PagingEnd, Serving};
use super::pending::{Member, Pending};
use super::script::host;
use crate::node::Node;
use crate::remote::Offer;
use dunix_guest_abi::moving::PARK_SHARES_MEMORY;
use dunix_guest_abi::signal::{MOVE_CODE, MOVE_SIGNAL};
use dunix_ids::{NodeId, Pid};
use dunix_linux::Errno;
use dunix_linux::signal::{Payload, queue_to_thread};
use dunix_wire::processes::moving::IMAGE_BYTES_MAX;
use dunix_wire::processes::{MoveId, Refusal};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the threads of a process may take to park.
pub(crate) const FREEZE_WAIT: Duration = Duration::from_millis(200);
/// How long, if one of them only waits for a processor.
const RUNNABLE_WAIT: Duration = Duration::from_millis(500);
/// Pauses after which a process is asked again that has lent its memory, in milliseconds. Its child may
/// give it back by an exec, by its end or by a death that nobody announces: it is looked at again.
const LENT_PAUSES_MS: [u64; 7] = [2, 4, 8, 16, 32, 64, 128];
/// What `T` of a state means here, where only the host is asked.
const SIGSTOP: u8 = 19;
/// How often it is looked whether a thread has ended instead: that rings no bell.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A process whose threads are all parked. It runs no instruction of its own until
/// [`Frozen::thaw`]; the host may still kill it.
///
/// Dropped without a word it goes on if nobody has its image, else it is killed: lost is better than
/// twice.
pub(crate) struct Frozen {
    node: Arc<Node>,
    pid: Pid,
    hall: Arc<Hall>,
    members: Vec<Member>,
    records: Vec<u64>,
    since: Instant,
    /// When its threads had parked.
    parked: Instant,
    pending: Pending,
    offer: Option<Offer>,
    serving: Option<Serving>,
    is_settled: bool,
}

impl Node {
    /// Freezes a process that runs here: its threads park, or after
    /// [`FREEZE_WAIT`] it goes on and the refusal names the thread that did not. One whose memory a
    /// child made by vfork(2) uses is asked again for a while: it is lent only until the child's exec.
    pub(crate) async fn freeze(self: &Arc<Node>, pid: Pid) -> Result<Frozen, Refusal> {
        self.wait_for_pages(pid).await?;
        for pause in LENT_PAUSES_MS.map(Duration::from_millis) {
            match self.begin_freeze(pid)?.parked().await {
                Err(Refusal::SharedMemory { .. }) => tokio::time::sleep(pause).await,
                other => return other,
            }
        }
        self.begin_freeze(pid)?.parked().await
    }

    /// Asks the threads of a process that lacks no pages to park; does not wait for them. They run
    /// none of their own instructions after a system call that they are in.
    pub(super) fn begin_freeze(self: &Arc<Node>, pid: Pid) -> Result<Freezing, Refusal> {
        let since = Instant::now();
        let (host_pid, slot) = self.look(|state| {
            let local = state.locals.get(&pid).ok_or(Refusal::NoSuchProcess)?;
            if local.is_ending {
                return Err(Refusal::Ended);
            }
            let host_pid = state.host_pid(pid).ok_or(Refusal::Starting)?;
            if local.is_starting() {
                return Err(Refusal::Starting);
            }
            Ok((host_pid, local.slot))
        })?;
        refuse_stopped(host_pid)?;
        if self.tracing.concerns(pid) {
            return Err(Refusal::Traced);
        }
        let hall = self.halls.open(host_pid, slot, false).ok_or(Refusal::AlreadyMoving)?;
        let epoch = self.arena.begin_park(slot);
        // On an error the process goes on when `frozen` is dropped.
        let frozen = Frozen {
            node: self.clone(),
            pid,
            hall,
            members: Vec::new(),
            records: Vec::new(),
            since,
            parked: since,
            pending: Pending::default(),
            offer: None,
            serving: None,
            is_settled: false,
        };
        let mut freezing = Freezing { frozen, epoch, asked: BTreeSet::new() };
        freezing.ask(&tasks_of(host_pid)?);
        Ok(freezing)
    }

    /// A process that lacks pages of its last move runs on until it has them.
    async fn wait_for_pages(&self, pid: Pid) -> Result<(), Refusal> {
        let Some(paging) = self.look(|state| state.paging_of(pid)) else { return Ok(()) };
        match tokio::time::timeout(ARRIVING_WAIT, paging.ended()).await {
            Ok(PagingEnd::Complete) => Ok(()),
            Ok(PagingEnd::Lost(_)) => Err(Refusal::Ended),
            Err(_) => Err(Refusal::StillArriving),
        }
    }
}

/// A process whose threads have been asked to park. Dropped, it goes on.
pub(super) struct Freezing {
    frozen: Frozen,
    epoch: u32,
    asked: BTreeSet<u32>,
}

impl Freezing {
    /// Waits until all threads have parked.
    pub(super) async fn parked(mut self) -> Result<Frozen, Refusal> {
        let tasks = self.wait_until_parked().await?;
        let mut frozen = self.frozen;
        frozen.enlist(&tasks)?;
        frozen.parked = Instant::now();
        Ok(frozen)
    }

    fn ask(&mut self, tasks: &BTreeSet<u32>) {
        let ours = Payload { code: MOVE_CODE, ..Payload::default() };
        for &task in tasks {
            if self.asked.insert(task) {
                let host_pid = self.frozen.hall.host_pid;
                // One that has ended meanwhile is not in the next list.
                let _ = queue_to_thread(host_pid, task, MOVE_SIGNAL.cast_signed(), &ours);
            }
        }
    }

    /// Returns the parked threads.
    async fn wait_until_parked(&mut self) -> Result<BTreeSet<u32>, Refusal> {
        let (hall, since) = (self.frozen.hall.clone(), self.frozen.since);
        let host_pid = hall.host_pid;
        let deadline = since + FREEZE_WAIT;
        loop {
            let tasks = tasks_of(host_pid)?;
            self.ask(&tasks);
            let parked = hall.parked();
            if parked.values().any(|p| p.flags & u64::from(PARK_SHARES_MEMORY) != 0) {
                return Err(Refusal::SharedMemory {
                    mapping: "all of it, with a child made by vfork".into(),
                });
            }
            let epoch = u64::from(self.epoch);
            let missing =
                tasks.iter().find(|task| parked.get(task).is_none_or(|p| p.epoch != epoch));
            let Some(&missing) = missing else {
                // A thread may have been made just before its maker parked.
                if tasks_of(host_pid)? == tasks {
                    return Ok(tasks);
                }
                continue;
            };
            if hall.has_ended() {
                return Err(Refusal::Ended);
            }
            let waits_for_processor = || {
                since.elapsed() < RUNNABLE_WAIT && thread_state(host_pid, missing).starts_with('R')
            };
            if Instant::now() >= deadline && !waits_for_processor() {
                return Err(self.frozen.not_parked(missing));
            }
            let _ = tokio::time::timeout(LOOK_AGAIN, hall.changed.notified()).await;
        }
    }
}

impl Frozen {
    /// Since when it does not run.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// Describes it for a node, as [`Package::image`](dunix_wire::processes::Package) wants it, and
    /// from then on serves its pages to that node. Once for each `Frozen`. `is_safe`: all pages go
    /// before it runs there.
    pub(crate) async fn image(
        &mut self,
        id: MoveId,
        to: NodeId,
        is_safe: bool,
    ) -> Result<Vec<u8>, Refusal> {
        let node = self.node.clone();
        self.pending.take(&node, &self.hall, &self.members).await?;
        let taken = Instant::now();
        let described = image::describe(&node, self, to, is_safe).await?;
        let Described { image, offer, source } = described;
        let body = dunix_wire::encode(&image);
        if body.len() > IMAGE_BYTES_MAX {
            return Err(Refusal::TooLarge { what: "its description is too long".into() });
        }
        tracing::info!(
            pid = %self.pid, %to, threads = self.members.len(), mappings = image.mappings.len(),
            image = body.len(), park = ?(self.parked - self.since),
            kernel = ?(taken - self.parked), describe = ?taken.elapsed(), "a process is frozen"
        );
        self.offer = Some(offer);
        self.serving = Some(node.offers.offer(id, to, source));
        Ok(body)
    }

    /// It goes on here. The table must have it as a process of this node again
    /// ([`stayed`](dunix_proc_table::ProcTable::stayed)) before.
    pub(crate) async fn thaw(mut self) {
        self.withdraw();
        let pending = std::mem::take(&mut self.pending);
        if let Err(refusal) = pending.give_back(&self.node, &self.hall, &self.members).await
            && !self.hall.has_ended()
        {
            tracing::error!(pid = %self.pid, %refusal, "signals or timers of a process are lost");
        }
        self.let_go();
    }

    /// It lives elsewhere from now on; what remains serves pages. Call it before the table's
    /// [`departed`](dunix_proc_table::ProcTable::departed): the host process keeps its slot, and its
    /// end is nobody's.
    pub(crate) fn donate(mut self) -> Donor {
        self.is_settled = true;
        let (pid, slot) = (self.pid, self.hall.slot);
        let is_lent = self.hall.try_own();
        self.node.with(|state, _| match state.locals.get_mut(&pid) {
            Some(local) if local.slot == slot => local.slot_is_lent = is_lent,
            // The table has let go of the process, and its slot was lent then.
            _ if !is_lent => state.slots.give_back(slot),
            _ => {}
        });
        if let Some(offer) = self.offer.take() {
            offer.was_taken();
        }
        self.node.runtime.spawn(close_all(self.node.clone(), self.hall.clone(), self.pid));
        Donor { hall: self.hall.clone(), serving: self.serving.take() }
    }

    /// Whom an image describes.
    pub(super) fn subject(&self, is_safe: bool) -> image::Subject {
        image::Subject {
            pid: self.pid,
            hall: self.hall.clone(),
            members: self.members.clone(),
            records: self.records.clone(),
            signals: self.pending.signals.clone(),
            of_threads: self.pending.of_threads.clone(),
            timers: self.pending.timers.clone(),
            is_safe,
        }
    }

    /// Nobody gets its pages any more, and what its descriptors promised is void.
    fn withdraw(&mut self) {
        self.offer = None;
        self.serving = None;
    }

    fn let_go(&mut self) {
        self.is_settled = true;
        self.node.halls.close(&self.hall);
        self.node.arena.end_park(self.hall.slot);
        self.node.refresh_slot(self.pid);
    }

    /// Notes who the parked threads are, the first one first.
    fn enlist(&mut self, tasks: &BTreeSet<u32>) -> Result<(), Refusal> {
        let parked = self.hall.parked();
        let mut members = Vec::new();
        for &host_tid in tasks {
            let tid = self.node.look(|state| state.table.from_host(host_tid));
            let said = parked.get(&host_tid).copied();
            match (tid, said) {
                (Some(tid), Some(said)) if said.tid == tid.get() && said.record != 0 => {
                    members.push((Member { tid, host_tid }, said.record));
                }
                _ => return Err(self.not_parked(host_tid)),
            }
        }
        members.sort_by_key(|(member, _)| (member.tid != self.pid, member.tid));
        if members.first().is_none_or(|(first, _)| first.tid != self.pid) {
            return Err(Refusal::KernelState { what: "its first thread has ended".into() });
        }
        (self.members, self.records) = members.into_iter().unzip();
        Ok(())
    }

    fn not_parked(&self, host_tid: u32) -> Refusal {
        let tid = self.node.look(|state| state.table.from_host(host_tid));
        let state = thread_state(self.hall.host_pid, host_tid);
        Refusal::NotParked { thread: tid.unwrap_or(self.pid), state: Refusal::text(&state) }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        if self.serving.is_some() {
            self.withdraw();
            tracing::error!(pid = %self.pid, "a frozen process was forgotten: it is killed");
            self.hall.kill();
            return;
        }
        if self.pending.is_untouched() {
            self.withdraw();
            self.let_go();
            return;
        }
        // What was taken from it has to be given back first.
        let mut rest = Frozen {
            node: self.node.clone(),
            pid: self.pid,
            hall: self.hall.clone(),
            members: std::mem::take(&mut self.members),
            records: Vec::new(),
            since: self.since,
            parked: self.parked,
            pending: std::mem::take(&mut self.pending),
            offer: self.offer.take(),
            serving: None,
            is_settled: false,
        };
        rest.withdraw();
        self.node.runtime.spawn(rest.thaw());
    }
}

fn refuse_stopped(host_pid: u32) -> Result<(), Refusal> {
    let facts = image::Facts::of(host_pid)?;
    if facts.tracer != 0 {
        return Err(Refusal::Traced);
    }
    match facts.state {
        b'T' => Err(Refusal::Stopped { signal: SIGSTOP }),
        b'Z' | b'X' => Err(Refusal::Ended),
        _ => Ok(()),
    }
}

fn tasks_of(host_pid: u32) -> Result<BTreeSet<u32>, Refusal> {
    let tasks = std::fs::read_dir(format!("/proc/{host_pid}/task")).map_err(|_| Refusal::Ended)?;
    let tasks: BTreeSet<u32> =
        tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse().ok()).collect();
    if tasks.is_empty() { Err(Refusal::Ended) } else { Ok(tasks) }
}

/// What a thread does instead of parking, for people: its state, call and kernel function.
fn thread_state(host_pid: u32, host_tid: u32) -> String {
    let read = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/{host_pid}/task/{host_tid}/{name}"));
        text.unwrap_or_default()
    };
    let status = read("status");
    let state = status.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or("gone");
    let call = read("syscall");
    let call = call.split_whitespace().next().unwrap_or("unknown").to_owned();
    format!("{}, call {call}, in {}", state.trim(), read("wchan"))
}

/// The host's word for a failure with the process itself.
pub(super) fn host_or_end(errno: Errno, doing: &str) -> Refusal {
    if errno == Errno::SRCH { Refusal::Ended } else { host(errno, doing) }
}
