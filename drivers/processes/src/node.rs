//! The state of a node's process driver, and the one way to change it.
//!
//! Everything that decides is in [`State`] behind one mutex. [`Node::with`] runs a closure on it
//! and then, with the mutex released, carries out the table's effects in the order in which they
//! were decided: whoever finds another thread at that leaves his effects to it.

use crate::balance::Settled;
use crate::call::{Caller, DoorbellCall};
use crate::children::Nursery;
use crate::config::{Extension, PlaceWish, Policy};
use crate::counts::Counts;
use crate::inspect::{EVENTS_KEPT, ProcessEvent};
use crate::launch::Launching;
use crate::list::Stories;
use crate::moving::pager::{Offers, PageThreads, Paging};
use crate::moving::{Halls, Moves, Shell, Spawning};
use crate::ops::{FilePrivileges, Pidfds, PrivilegedShim};
use crate::procfs::ProcFacts;
use crate::remote::{Bearings, Binding, Homes, InFlight, Mirrors, Names, Passing, RemoteTable};
use crate::slots::{SlotArena, SlotIndex, SlotPool};
use crate::terminal::TerminalState;
use crate::tracing::Tracing;
use dunix_ids::{NodeId, ObjectId, Pid};
use dunix_keeper::protocol::ChildChange;
use dunix_proc_table::{Effect, HostTarget, KillTarget, ProcTable, Token};
use dunix_transport::Mesh;
use dunix_wire::processes::{Answer, Credentials, Errno, ExitStatus, Rusage};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Notify, broadcast};

/// Ends of host processes that nobody has claimed yet; beyond it the oldest are forgotten.
const EARLY_ENDS_MAX: usize = 1024;
/// The same for stops.
const EARLY_STOPS_MAX: usize = 1024;
/// How long such an end or stop may still be claimed. Shorter than the host takes to give the number to
/// another process: most unclaimed ends are those of processes that left for another node.
const EARLY_END_LIFETIME: Duration = Duration::from_secs(2);

/// One node's process driver.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    /// Knows who keeps what has a name.
    pub(crate) founder: NodeId,
    pub(crate) mesh: Option<Mesh>,
    pub(crate) keeper: OwnedFd,
    pub(crate) shim: OwnedFd,
    /// What the shim's file has, once it was copied.
    pub(crate) shim_image: OnceLock<Vec<u8>>,
    pub(crate) privileges: Option<FilePrivileges>,
    pub(crate) namespaces: Vec<OwnedFd>,
    pub(crate) root: Vec<u8>,
    pub(crate) tree_device: Option<u32>,
    pub(crate) ids_base: u32,
    pub(crate) policy: Arc<dyn Policy>,
    pub(crate) nursery: Nursery,
    pub(crate) extension: Arc<dyn Extension>,
    pub(crate) arena: SlotArena,
    pub(crate) homes: Homes,
    pub(crate) mirrors: Mirrors,
    pub(crate) names: Names,
    /// Names of sockets that are about to be bound.
    pub(crate) binding: Binding,
    /// Descriptors in messages.
    pub(crate) passing: Passing,
    /// Descriptors in messages of relayed sockets.
    pub(crate) bearings: Bearings,
    /// Pages of processes that leave.
    pub(crate) offers: Offers,
    pub(crate) page_threads: PageThreads,
    pub(crate) runtime: Handle,
    pub(crate) events: broadcast::Sender<ProcessEvent>,
    pub(crate) counts: Counts,
    /// Tells the doorbell's thread that [`Node::arrivals`] or a deadline has changed.
    pub(crate) bell: OwnedFd,
    /// Guests that trace guests.
    pub(crate) tracing: Tracing,
    /// A process that moved here, or was just made, may move on.
    pub(crate) arrived: Notify,
    /// There are new numbers for processes and threads.
    pub(crate) numbers: Notify,
    /// Held while one spawn is being asked of the keeper.
    pub(crate) asking: Mutex<()>,
    /// Processes that are frozen, arrive, or have given themselves away.
    pub(crate) halls: Halls,
    /// Host processes that are being made for arrivals, by token.
    pub(crate) spawning: Mutex<BTreeMap<u64, Spawning>>,
    /// Those that wait for the next arrival.
    pub(crate) shells: Mutex<Vec<Shell>>,
    /// Names this node's build of the shim.
    pub(crate) shim_name: OnceLock<u64>,
    /// What files about processes tell of this node.
    pub(crate) proc_facts: OnceLock<ProcFacts>,
    /// Boot sockets that the doorbell's thread has not seen yet.
    pub(crate) arrivals: Mutex<Vec<(u64, OwnedFd)>>,
    started: Instant,
    state: Mutex<State>,
    effects: Mutex<VecDeque<Effect>>,
    /// Held by the thread that carries out effects.
    carrying_out: Mutex<()>,
}

/// What is decided upon.
pub(crate) struct State {
    pub(crate) table: ProcTable,
    pub(crate) moves: Moves,
    pub(crate) locals: BTreeMap<Pid, Local>,
    /// The controlling terminals whose home is this node.
    pub(crate) terminals: BTreeMap<ObjectId, TerminalState>,
    pub(crate) slots: SlotPool,
    /// Host PIDs that a forking parent has named for its child, until the child rings.
    pub(crate) claims: BTreeMap<u32, Pid>,
    pub(crate) launches: BTreeMap<u64, Launching>,
    pub(crate) roots: BTreeMap<Pid, tokio::sync::oneshot::Sender<RootEnd>>,
    pub(crate) stories: Stories,
    /// What guests have that stands for processes.
    pub(crate) pidfds: Pidfds,
    /// Calls on remote descriptors, by ticket.
    pub(crate) in_flight: BTreeMap<u64, InFlight>,
    /// How often a process has come here with an object of another node, until the last lets go.
    pub(crate) arrivals: BTreeMap<ObjectId, u32>,
    pub(crate) is_shutting_down: bool,
    early_ends: VecDeque<(Instant, u32, ExitStatus, Rusage)>,
    /// Stops and continuations of host processes that nobody has claimed yet.
    early_stops: VecDeque<(Instant, u32, ChildChange)>,
    pending: BTreeMap<u64, Pending>,
    next_token: u64,
}

/// How a root ended.
#[derive(Clone, Copy, Debug)]
pub struct RootEnd {
    pub status: ExitStatus,
    pub rusage: Rusage,
}

/// A process of this node, beside what the table knows.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) slot: SlotIndex,
    /// What remains of it here keeps the slot (see [`Donor`](crate::moving::Donor)).
    pub(crate) slot_is_lent: bool,
    /// The parent that prepared the fork, until the child is bound.
    pub(crate) forked_by: Option<Pid>,
    /// Where a child that does not ring has its fork word.
    pub(crate) fork_word: Option<u64>,
    pub(crate) ticket: Option<Ticket>,
    pub(crate) exe_path: Arc<[u8]>,
    /// What the environment of its program asked for.
    pub(crate) wish: PlaceWish,
    /// It was made here by fork(2), has executed nothing since and been asked nowhere.
    pub(crate) is_young: bool,
    /// Since when it runs here, and how firmly.
    pub(crate) settled: Settled,
    /// Why it runs here, for people.
    pub(crate) placed: Arc<str>,
    /// Why it is about to move, unless somebody has just said so.
    pub(crate) leaves_for: Option<Arc<str>>,
    pub(crate) remote: RemoteTable,
    /// Pages that it, or whom it was forked from, has not got yet from its last node.
    pub(crate) paging: Option<Paging>,
    /// It executes at another node, or tries to.
    pub(crate) is_executing_away: bool,
    /// Another process has taken descriptors of it, which the shim does not know: none of them counts as private.
    pub(crate) was_taken_from: bool,
    /// Its host process has ended; the end is told when its relays have drained.
    pub(crate) is_ending: bool,
}

/// The right to start one image.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) exe: TicketExe,
    /// The shim that starts it, if the program gives privileges.
    pub(crate) shim: Option<PrivilegedShim>,
    pub(crate) exe_path: Vec<u8>,
    pub(crate) exec_fn: Vec<u8>,
    pub(crate) wish: PlaceWish,
    /// The signals that the new image ignores, if the old one has said so.
    pub(crate) ignored: Option<u64>,
}

/// Where the program of a ticket is.
#[derive(Debug)]
pub(crate) enum TicketExe {
    /// With the daemon.
    Held(OwnedFd),
    /// With the daemon, and open in the guest at this number.
    Kept(OwnedFd, i32),
    /// Already open in the guest at [`dunix_keeper::protocol::EXE_FD`].
    AtGuest,
}

impl TicketExe {
    /// The program, if the daemon has it.
    pub(crate) fn held(&self) -> Option<BorrowedFd<'_>> {
        match self {
            TicketExe::Held(exe) | TicketExe::Kept(exe, _) => Some(exe.as_fd()),
            TicketExe::AtGuest => None,
        }
    }
}

/// Who waits for a token.
pub(crate) enum Pending {
    /// A guest; its answer is the table's.
    Call(DoorbellCall),
    /// A guest that asked for a process's host number: wherever it is, it is not here.
    Location(DoorbellCall),
    /// A guest that wants a descriptor for a process of another node; the process and its flags.
    Pidfd(DoorbellCall, Pid, u64),
    /// A descriptor for a process, by its inode.
    End(u64),
    /// The daemon itself.
    Daemon(tokio::sync::oneshot::Sender<Result<Answer, Errno>>),
}

impl Local {
    /// Whether it has been made and runs no image yet.
    pub(crate) fn is_starting(&self) -> bool {
        self.forked_by.is_some() || self.ticket.is_some()
    }
}

impl Node {
    /// Says why a process is about to move.
    pub(crate) fn explain_move(&self, pid: Pid, to: NodeId, story: &str, why: &str) {
        self.note(pid, format!("{story} {to}: {why}"));
        self.with(|state, _| {
            if let Some(local) = state.locals.get_mut(&pid) {
                local.leaves_for = Some(why.into());
            }
        });
    }

    pub(crate) fn new(
        config: crate::config::ProcessesConfig,
        table: ProcTable,
        arena: SlotArena,
        bell: OwnedFd,
        homes: Homes,
        page_threads: PageThreads,
        runtime: Handle,
    ) -> Node {
        Node {
            id: config.node,
            founder: config.founder,
            mesh: config.mesh,
            keeper: config.keeper,
            shim: config.shim,
            shim_image: OnceLock::new(),
            privileges: config.privileges,
            namespaces: config.namespaces,
            root: config.root,
            tree_device: config.tree_device,
            ids_base: config.ids_base,
            policy: config.policy,
            nursery: Nursery::default(),
            extension: config.extension,
            arena,
            homes,
            mirrors: Mirrors::default(),
            names: Names::default(),
            binding: Binding::default(),
            passing: Passing::default(),
            bearings: Bearings::default(),
            offers: Offers::default(),
            page_threads,
            runtime,
            events: broadcast::Sender::new(EVENTS_KEPT),
            counts: Counts::default(),
            bell,
            tracing: Tracing::default(),
            arrived: Notify::new(),
            numbers: Notify::new(),
            asking: Mutex::default(),
            halls: Halls::default(),
            spawning: Mutex::default(),
            shells: Mutex::default(),
            shim_name: OnceLock::new(),
            proc_facts: OnceLock::new(),
            arrivals: Mutex::default(),
            started: Instant::now(),
            state: Mutex::new(State::new(table, Moves::new(config.node))),
            effects: Mutex::default(),
            carrying_out: Mutex::default(),
        }
    }

    /// The table's clock.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Runs `decide` on the state, then carries out what the table wants done.
    pub(crate) fn with<R>(&self, decide: impl FnOnce(&mut State, Duration) -> R) -> R {
        let result = {
            let mut state = lock(&self.state);
            let result = decide(&mut state, self.now());
            let mut effects = lock(&self.effects);
            while let Some(effect) = state.table.poll_effect() {
                if let Effect::Wake { pid } = effect
                    && let Some(local) = state.locals.get(&pid)
                {
                    // Before anybody can hear of the change in another way and ask.
                    self.arena.note(local.slot);
                }
                effects.push_back(effect);
            }
            result
        };
        self.carry_out_effects();
        result
    }

    /// Looks at the state without changing the table.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&lock(&self.state))
    }

    fn carry_out_effects(&self) {
        while !lock(&self.effects).is_empty() {
            // Another thread is at it: it looks again after it has let go.
            let Ok(_order) = self.carrying_out.try_lock() else { return };
            loop {
                let Some(effect) = lock(&self.effects).pop_front() else { break };
                self.carry_out(effect);
            }
        }
    }

    /// Waits until every effect decided so far has been carried out.
    pub(crate) fn settle_effects(&self) {
        self.carry_out_effects();
        drop(lock(&self.carrying_out));
    }

    /// Makes the doorbell's thread look at arrivals and deadlines.
    pub(crate) fn ring_bell(&self) {
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}

impl State {
    fn new(table: ProcTable, moves: Moves) -> State {
        State {
            table,
            moves,
            locals: BTreeMap::new(),
            terminals: BTreeMap::new(),
            slots: SlotPool::new(),
            claims: BTreeMap::new(),
            launches: BTreeMap::new(),
            roots: BTreeMap::new(),
            stories: Stories::default(),
            pidfds: Pidfds::default(),
            in_flight: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            is_shutting_down: false,
            early_ends: VecDeque::new(),
            early_stops: VecDeque::new(),
            pending: BTreeMap::new(),
            next_token: 0,
        }
    }

    /// A number that no other operation, launch or ticket of this node has.
    pub(crate) fn fresh_number(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// Keeps `who` until the table answers the token.
    pub(crate) fn expect_reply(&mut self, who: Pending) -> Token {
        let token = self.fresh_number();
        self.pending.insert(token, who);
        Token(token)
    }

    pub(crate) fn take_pending(&mut self, token: Token) -> Option<Pending> {
        self.pending.remove(&token.0)
    }

    /// The process that a host thread belongs to.
    pub(crate) fn caller(&self, host_tid: u32) -> Option<Caller> {
        let tid = self.table.from_host(host_tid)?;
        let pid = self.table.process_of(tid)?;
        match self.table.to_host(pid)? {
            HostTarget::Process(host_pid) => Some(Caller { pid, tid, host_pid }),
            HostTarget::Thread { .. } => None,
        }
    }

    /// The host PID of a process that runs here.
    pub(crate) fn host_pid(&self, pid: Pid) -> Option<u32> {
        match self.table.to_host(pid)? {
            HostTarget::Process(host_pid) => Some(host_pid),
            HostTarget::Thread { .. } => None,
        }
    }

    /// Remembers the end of a host process that no record names yet.
    pub(crate) fn remember_early_end(&mut self, host_pid: u32, end: (ExitStatus, Rusage)) {
        if self.early_ends.len() >= EARLY_ENDS_MAX {
            self.early_ends.pop_front();
        }
        self.early_ends.push_back((Instant::now(), host_pid, end.0, end.1));
        self.early_stops.retain(|&(_, stopped, _)| stopped != host_pid);
    }

    /// A host process has stopped, or goes on. A child may do so before its parent has named it.
    pub(crate) fn host_stopped(&mut self, now: Duration, host_pid: u32, change: ChildChange) {
        if let Some(pid) = self.table.from_host(host_pid) {
            return self.note_stop(now, pid, change);
        }
        let keeps = self.awaits_word();
        let is_old = |at: &Instant| at.elapsed() > EARLY_END_LIFETIME;
        while self.early_stops.len() >= EARLY_STOPS_MAX
            || !keeps && self.early_stops.front().is_some_and(|(at, ..)| is_old(at))
        {
            self.early_stops.pop_front();
        }
        self.early_stops.push_back((Instant::now(), host_pid, change));
    }

    /// Tells of a child that is just named what it has done before.
    pub(crate) fn note_early_stops(&mut self, now: Duration, pid: Pid, host_pid: u32) {
        let of_it = |&(_, stopped, _): &(Instant, u32, ChildChange)| stopped == host_pid;
        if !self.early_stops.iter().any(of_it) {
            return;
        }
        let (its, others) = std::mem::take(&mut self.early_stops).into_iter().partition(of_it);
        self.early_stops = others;
        let its: VecDeque<_> = its;
        for (_, _, change) in its {
            self.note_stop(now, pid, change);
        }
    }

    fn note_stop(&mut self, now: Duration, pid: Pid, change: ChildChange) {
        match change {
            ChildChange::Stopped(signal) => {
                self.table.stopped(now, pid, u8::try_from(signal).unwrap_or(0));
            }
            _ => self.table.continued(now, pid),
        }
    }

    /// Forgets and returns the end of a host process that came before its claim.
    pub(crate) fn take_early_end(&mut self, host_pid: u32) -> Option<(ExitStatus, Rusage)> {
        // One whose parent has not spoken yet may have ended long ago.
        let is_old =
            self.early_ends.front().is_some_and(|(at, ..)| at.elapsed() > EARLY_END_LIFETIME);
        let keeps = is_old && self.awaits_word();
        while !keeps
            && self.early_ends.front().is_some_and(|(at, ..)| at.elapsed() > EARLY_END_LIFETIME)
        {
            self.early_ends.pop_front();
        }
        let at = self.early_ends.iter().rposition(|&(_, pid, ..)| pid == host_pid)?;
        self.early_ends.remove(at).map(|(_, _, status, rusage)| (status, rusage))
    }

    /// Whether there is a child, perhaps, that does not ring and whose parent has not spoken yet.
    pub(crate) fn awaits_word(&self) -> bool {
        self.locals.values().any(|local| local.forked_by.is_some() && local.fork_word.is_some())
    }

    /// Forgets a process that never ran or runs no more; idempotent.
    pub(crate) fn forget(&mut self, pid: Pid) -> Option<Local> {
        let local = self.locals.remove(&pid)?;
        if !local.slot_is_lent {
            self.slots.give_back(local.slot);
        }
        self.claims.retain(|_, claimed| *claimed != pid);
        Some(local)
    }

    /// Refreshes what the permission checks go by; tells what that is, if the process runs here.
    pub(crate) fn refresh_credentials(&mut self, pid: Pid, base: u32) -> Option<Credentials> {
        let host_pid = self.host_pid(pid)?;
        let credentials = crate::host::Status::of(host_pid, base).ok()?.credentials();
        self.table.set_credentials(pid, credentials);
        Some(credentials)
    }

    /// The same for those of this node whom a signal is for: a process may have become somebody else
    /// since it executed.
    pub(crate) fn refresh_targets(&mut self, target: KillTarget, base: u32) {
        let process = |number: Pid| self.table.process_of(number).unwrap_or(number);
        let pids: Vec<Pid> = match target {
            KillTarget::Process(pid) => vec![process(pid)],
            KillTarget::Thread { process: Some(pid), .. } => vec![pid],
            KillTarget::Thread { process: None, thread } => vec![process(thread)],
            KillTarget::Group(group) => {
                let is_in = |pid: &&Pid| self.table.group(**pid) == Some(group);
                self.locals.keys().filter(is_in).copied().collect()
            }
            KillTarget::All => self.locals.keys().copied().collect(),
        };
        for pid in pids {
            self.refresh_credentials(pid, base);
        }
    }
}

/// Locks, whoever panicked: the state's invariants are the table's to check.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The table's words for a host process's end; `None` for a stop or continuation.
pub(crate) fn exit_status(change: ChildChange) -> Option<ExitStatus> {
    match change {
        ChildChange::Exited(status) => {
            Some(ExitStatus::Exited(u8::try_from(status & 0xff).unwrap_or(0)))
        }
        ChildChange::Killed { signal, core } => {
            let signal = u8::try_from(signal).unwrap_or(dunix_proc_table::SIGKILL);
            Some(ExitStatus::Killed { signal, dumped: core })
        }
        ChildChange::Stopped(_) | ChildChange::Continued => None,
    }
}

/// Root of the guests.
pub(crate) const ROOT: Credentials = Credentials { uid: 0, euid: 0, suid: 0 };

/// The end of a process whose host process is not what ended.
pub(crate) const KILLED: ExitStatus =
    ExitStatus::Killed { signal: dunix_proc_table::SIGKILL, dumped: false };
