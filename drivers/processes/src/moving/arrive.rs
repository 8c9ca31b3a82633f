//! The target's side: a fresh host process becomes the one that the image describes.
//!
//! ```text
//! shell -> its memory is mapped -> pages come, descriptors and identity are made
//!       -> threads are made -> each resumes -> bind (the table has it) -> release
//! ```

use super::hall::{Hall, Parked};
use super::image::Facts;
use super::late::{self, Unreleased};
use super::pager::{Incoming, Paging, PagingEnd, StageError};
use super::pages::Sink;
use super::pending::{Member, Pending};
use super::restore::{self, Batch};
use super::script::{Outcome, Particulars, Script, host};
use super::shell::{FIRST, Shell};
use super::{clocks, image, mappings, timers};
use crate::balance::Settled;
use crate::config::PlaceWish;
use crate::node::{Local, Node, State};
use crate::ops::bits;
use crate::remote::{Owner, PendingRelay, Rebuilt, RemoteTable};
use dunix_guest_abi::doorbell::OP_MOVE_DESCRIPTORS;
use dunix_guest_abi::layout::ARRIVAL_STACKS;
use dunix_guest_abi::moving::{
    ARRIVAL_STACK_BYTES, ARRIVAL_STACKS_MAX, RESUME_PROCESS, SCRIPT_CLONE, SCRIPT_RESUME,
};
use dunix_ids::{NodeId, Pid};
use dunix_linux::Errno;
use dunix_wire::processes::image::UNDRAINED_MAX;
use dunix_wire::processes::resident::{ResidentImage, ThreadImage};
use dunix_wire::processes::{MoveId, ProcessRecord, Refusal};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest time from the image to a process that could run.
pub(crate) const PREPARE_WAIT: Duration = Duration::from_secs(30);

/// A process that is complete here and does not run. Dropping it ends the host process; it never was
/// here.
pub(crate) struct Arrival {
    node: Arc<Node>,
    shell: Shell,
    pid: Pid,
    members: Vec<Member>,
    exe_path: Vec<u8>,
    wish: PlaceWish,
    settled: Settled,
    placed: Arc<str>,
    table: RemoteTable,
    relays: Vec<PendingRelay>,
    bytes: u64,
    /// Pages that follow.
    paging: Unreleased,
    is_bound: bool,
}

impl Arrival {
    /// Makes everything ready. Waits at most [`PREPARE_WAIT`]; the pages that must be here before it
    /// runs are.
    ///
    /// # Errors
    /// Why it cannot live here; nothing has changed then.
    pub(crate) async fn prepare(
        node: &Arc<Node>,
        from: NodeId,
        id: MoveId,
        record: &ProcessRecord,
        image: &[u8],
    ) -> Result<Arrival, Refusal> {
        let image: ResidentImage = dunix_wire::decode(image).map_err(|_| Refusal::Protocol)?;
        restore::check(&image, record)?;
        if image.shim != node.shim_fingerprint() {
            return Err(Refusal::BuildDiffers);
        }
        let making = Maker {
            node: node.clone(),
            image: Arc::new(image),
            particulars: Particulars::default(),
        };
        let made = tokio::time::timeout(PREPARE_WAIT, making.make(from, id));
        made.await.unwrap_or(Err(Refusal::TooSlow))
    }

    /// Bytes of pages that have come.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether its host process has ended: then it cannot live here.
    pub(crate) fn has_ended(&self) -> bool {
        self.shell.hall.has_ended()
    }

    /// Gives the process and its threads their host numbers in the table, which must have adopted the
    /// record just before, and makes it a process of this node. On an error drop the arrival.
    pub(crate) fn bind(&mut self, state: &mut State, now: Duration) -> Result<(), Errno> {
        let errno = crate::call::errno_of;
        if self.shell.hall.has_ended() {
            return Err(Errno::SRCH);
        }
        state.table.bind_host(now, self.pid, self.shell.hall.host_pid).map_err(errno)?;
        for member in self.members.iter().skip(1) {
            state.table.thread_bound(now, member.tid, member.host_tid).map_err(errno)?;
        }
        let remote = std::mem::take(&mut self.table);
        for object in remote.objects() {
            *state.arrivals.entry(object).or_default() += 1;
        }
        let local = Local {
            slot: self.shell.hall.slot,
            slot_is_lent: false,
            is_executing_away: false,
            was_taken_from: false,
            forked_by: None,
            fork_word: None,
            ticket: None,
            exe_path: self.exe_path.as_slice().into(),
            wish: self.wish,
            is_young: false,
            settled: self.settled,
            placed: self.placed.clone(),
            leaves_for: None,
            remote,
            paging: self.paging.get(),
            is_ending: false,
        };
        state.locals.insert(self.pid, local);
        self.shell.hall.own(false);
        self.is_bound = true;
        Ok(())
    }

    /// Lets it run: from now on it is here.
    pub(crate) fn release(self) -> Arriving {
        let Arrival { node, shell, pid, relays, paging, .. } = self;
        let hall = shell.hall.clone();
        shell.settle();
        node.refresh_slot(pid);
        node.halls.close(&hall);
        node.arena.end_park(hall.slot);
        node.ready_a_shell();
        for relay in relays {
            node.start_relay(pid, relay);
        }
        Arriving { paging: paging.release() }
    }
}

/// A process that runs while pages of it are on their way.
pub(crate) struct Arriving {
    paging: Option<Paging>,
}

impl Arriving {
    /// Waits for the last page; bytes that came since [`Arrival::release`].
    ///
    /// # Errors
    /// [`Refusal::LostPages`]: they will not come. The process was killed.
    pub(crate) async fn complete(self) -> Result<u64, Refusal> {
        let Some(paging) = self.paging else { return Ok(0) };
        match paging.ended().await {
            PagingEnd::Complete => {
                let figures = paging.figures();
                tracing::info!(?figures, "the last page has arrived");
                Ok(figures.bytes)
            }
            PagingEnd::Lost(_) => Err(Refusal::LostPages),
        }
    }
}

fn not_staged(error: StageError) -> Refusal {
    match error {
        StageError::Mesh(_) => Refusal::NodeNotLive,
        StageError::SourceLeft => Refusal::Ended,
        StageError::Protocol => Refusal::Protocol,
        StageError::Host(errno) => host(errno, "writing pages"),
    }
}

/// An arrival in the making.
struct Maker {
    node: Arc<Node>,
    image: Arc<ResidentImage>,
    particulars: Particulars,
}

impl Maker {
    async fn make(mut self, from: NodeId, id: MoveId) -> Result<Arrival, Refusal> {
        let (image, node) = (self.image.clone(), self.node.clone());
        let started = Instant::now();
        let (shell, pages) = tokio::join!(node.take_shell(), self.open_pages(from, id));
        let (shell, mut pages) = (shell?, pages?);
        let hall = shell.hall.clone();
        let spawned = Instant::now();
        self.map_memory(&hall).await?;
        let fault = if image.late.is_empty() {
            None
        } else {
            Some(late::userfault_of(&node, &hall).await?)
        };
        let mapped = Instant::now();
        let filling = {
            let (node, image, host_pid) = (node.clone(), image.clone(), hall.host_pid);
            node.runtime.clone().spawn_blocking(move || {
                let mut sink = Sink::new(host_pid, &image.mappings);
                let staged =
                    node.runtime.block_on(pages.stage(|at, content| sink.put(at, content)));
                staged.map(|bytes| (bytes, pages)).map_err(not_staged)
            })
        };
        let Rebuilt { descriptors, numbers, opens, table, relays, late } = self.rebuild()?;
        self.particulars.remote_fds = bits(&table.descriptors());
        hall.offer_descriptors(descriptors.into_iter().zip(numbers).collect());
        let (mut batch, opened) =
            restore::descriptors(&opens, [OP_MOVE_DESCRIPTORS, 0, 0, 0, 0, 0]);
        restore::late_descriptors(&mut batch, &late);
        let outcomes = self.run_batch(&hall, batch).await?;
        for (opened, outcome) in opened.iter().zip(&outcomes) {
            opened.check(outcome)?;
        }
        let own = Facts::of(hall.host_pid)?.capabilities[1];
        self.run_batch(&hall, restore::identity(&image, own)).await?;
        self.compare_capabilities(&hall)?;
        let identified = Instant::now();
        let (bytes, pages) = filling.await.unwrap_or(Err(Refusal::Ended))?;
        let filled = Instant::now();
        let pid = image.threads.first().map_or(Pid::INIT, |first| first.tid);
        let paging = match fault {
            Some(fault) => late::page_in(&node, pid, pages, fault, &image.late)?,
            None => {
                pages.finish();
                Unreleased::default()
            }
        };
        self.run(&hall, FIRST, &restore::late_protections(&image)).await?;
        self.await_clock(&hall).await?;
        let members = self.resume_threads(&hall).await?;
        self.give_pending(&hall, &members).await?;
        tracing::info!(
            pid = %members[0].tid, %from, bytes, shell = ?(spawned - started),
            map = ?(mapped - spawned), identity = ?(identified - mapped),
            pages = ?(filled - mapped), threads = ?filled.elapsed(), "a process is prepared"
        );
        let exe_path = image.exe_path.clone();
        let wish = PlaceWish::of_flags(image.place);
        Ok(Arrival {
            node,
            shell,
            pid,
            members,
            exe_path,
            wish,
            settled: Settled::arrived(image.moves, image.is_pinned),
            placed: image.reason.as_str().into(),
            table,
            relays,
            bytes,
            paging,
            is_bound: false,
        })
    }

    async fn open_pages(&self, from: NodeId, id: MoveId) -> Result<Incoming, Refusal> {
        let mesh = self.node.mesh.as_ref().ok_or(Refusal::NodeNotLive)?;
        Incoming::open(mesh, from, id).await.map_err(not_staged)
    }

    async fn run(
        &self,
        hall: &Hall,
        owner: u32,
        script: &Script,
    ) -> Result<Option<Outcome>, Refusal> {
        if script.is_empty() {
            return Ok(None);
        }
        self.node.run_script(hall, owner, script, &self.particulars).await.map(Some)
    }

    async fn run_batch(&self, hall: &Hall, batch: Batch) -> Result<Vec<Outcome>, Refusal> {
        let mut outcomes = Vec::new();
        for script in &batch.0 {
            outcomes.extend(self.run(hall, FIRST, script).await?);
        }
        Ok(outcomes)
    }

    async fn map_memory(&self, hall: &Hall) -> Result<(), Refusal> {
        let areas = mappings::areas_of(hall.host_pid).map_err(|e| host(e, "reading mappings"))?;
        let kernel: Vec<(u64, u64)> =
            areas.iter().filter(|area| area.is_kernels()).map(|a| (a.start, a.end)).collect();
        if image::kernel_fingerprint(hall.host_pid, &kernel) != self.image.kernel.fingerprint {
            return Err(Refusal::KernelDiffers);
        }
        let batch = restore::memory(&self.image, &areas)?;
        self.run_batch(hall, batch).await.map(drop)
    }

    fn rebuild(&self) -> Result<Rebuilt, Refusal> {
        let node = &self.node;
        let id = |id: u32| node.ids_base.checked_add(id).ok_or(Refusal::Protocol);
        let identity = &self.image.identity;
        let owner = Owner { uid: id(identity.uids[1])?, gid: id(identity.gids[1])? };
        let undrained = self.image.undrained.clone();
        if undrained.len() > UNDRAINED_MAX {
            return Err(Refusal::Protocol);
        }
        let rebuilt = node.rebuild(owner, &self.image.descriptors);
        let mut rebuilt = rebuilt.map_err(|errno| host(errno, "rebuilding descriptors"))?;
        rebuilt.table.must_drain(&node.homes, node.id, undrained);
        Ok(rebuilt)
    }

    /// No clock of the process may go back.
    async fn await_clock(&self, hall: &Hall) -> Result<(), Refusal> {
        let mut script = Script::new();
        let clock = clocks::read(&mut script);
        let Some(outcome) = self.run(hall, FIRST, &script).await? else { return Ok(()) };
        let now_ns = clocks::nanos(outcome.words(clock));
        // Nothing but time brings a clock forward.
        tokio::time::sleep(clocks::wait_until(self.image.monotonic_ns, now_ns)?).await;
        Ok(())
    }

    /// A process that has given rights up must not get them back, nor lose any.
    fn compare_capabilities(&self, hall: &Hall) -> Result<(), Refusal> {
        let facts = Facts::of(hall.host_pid)?;
        if facts.capabilities == self.image.identity.capabilities {
            return Ok(());
        }
        tracing::debug!(ours = ?facts.capabilities, wanted = ?self.image.identity.capabilities, "capabilities differ");
        Err(Refusal::KernelState { what: "capabilities of its own".into() })
    }

    /// Makes the further threads and lets all resume, the first one last: it makes the others.
    async fn resume_threads(&self, hall: &Hall) -> Result<Vec<Member>, Refusal> {
        let threads = &self.image.threads;
        let Some((first, further)) = threads.split_first() else { return Err(Refusal::Protocol) };
        let mut members = vec![Member { tid: first.tid, host_tid: hall.host_pid }];
        let at_once = usize::try_from(ARRIVAL_STACKS_MAX - 1).unwrap_or(1);
        for group in further.chunks(at_once) {
            for (thread, host_tid) in group.iter().zip(self.clone_threads(hall, group).await?) {
                let mut script = Script::new();
                restore::thread(&mut script, &self.image, thread);
                self.resume(&mut script, thread, members.len() == 1);
                self.run(hall, thread.tid.get(), &script).await?;
                members.push(Member { tid: thread.tid, host_tid });
            }
        }
        let mut script = Script::new();
        restore::thread(&mut script, &self.image, first);
        let host_tid =
            |tid| members.iter().find(|member| member.tid == tid).map(|member| member.host_tid);
        self.create_timers(hall, host_tid).await?;
        self.resume(&mut script, first, members.len() == 1);
        self.run(hall, FIRST, &script).await?;
        Ok(members)
    }

    /// Makes the timers of timer_create(2), which name the threads.
    async fn create_timers(
        &self,
        hall: &Hall,
        host_tid: impl Fn(Pid) -> Option<u32>,
    ) -> Result<(), Refusal> {
        let timers = &self.image.timers.posix;
        if timers.is_empty() {
            return Ok(());
        }
        let mut script = Script::new();
        let asked = timers::ask_for_ids(&mut script);
        let answer = self.run(hall, FIRST, &script).await?;
        let is_told = answer.is_some_and(|outcome| outcome.value(asked).is_ok());
        let ids = if is_told { timers::Ids::Told } else { timers::Ids::Counted };
        let (batch, created) = timers::create_posix(timers, ids, host_tid)?;
        let outcomes = self.run_batch(hall, batch).await?;
        created.iter().try_for_each(|created| created.check(&outcomes))
    }

    /// Gives the threads, which have resumed, what waited for them. Not before: the signal actions of
    /// the process, which drop what they ignore, are made when the first one resumes.
    async fn give_pending(&self, hall: &Hall, members: &[Member]) -> Result<(), Refusal> {
        let image = &self.image;
        let of_threads = image.threads.iter().map(|thread| (thread.tid, thread.signals.clone()));
        let pending = Pending::of_image(&image.timers, &image.signals, of_threads);
        pending.give_back(&self.node, hall, members).await?;
        let Some(first) = members.first() else { return Err(Refusal::Protocol) };
        self.run(hall, first.tid.get(), &restore::limits(image)).await.map(drop)
    }

    fn resume(&self, script: &mut Script, thread: &ThreadImage, is_first_to_resume: bool) {
        let flags = if is_first_to_resume { RESUME_PROCESS } else { 0 };
        script.must("resuming a thread", SCRIPT_RESUME, [thread.record, flags, 0, 0, 0, 0]);
    }

    async fn clone_threads(
        &self,
        hall: &Hall,
        threads: &[ThreadImage],
    ) -> Result<Vec<u32>, Refusal> {
        let mut script = Script::new();
        let calls: Vec<usize> = (2_u64..)
            .zip(threads)
            .map(|(number, thread)| {
                let top = ARRIVAL_STACKS + number * ARRIVAL_STACK_BYTES;
                let args = [u64::from(thread.tid.get()), 0, top, 0, 0, 0];
                script.must("making a thread", SCRIPT_CLONE, args)
            })
            .collect();
        let Some(outcome) = self.run(hall, FIRST, &script).await? else { return Ok(Vec::new()) };
        let made = calls.iter().map(|&call| {
            outcome
                .value(call)
                .ok()
                .and_then(|tid| u32::try_from(tid).ok())
                .ok_or(Refusal::Protocol)
        });
        let made: Vec<u32> = made.collect::<Result<_, _>>()?;
        loop {
            let parked = hall.parked();
            let is_there = |(tid, thread): (&u32, &ThreadImage)| {
                parked.get(tid).is_some_and(|parked: &Parked| parked.tid == thread.tid.get())
            };
            if made.iter().zip(threads).all(is_there) {
                return Ok(made);
            }
            if hall.has_ended() {
                return Err(Refusal::Ended);
            }
            hall.changed.notified().await;
        }
    }
}
