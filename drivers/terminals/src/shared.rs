//! The state behind [`Terminals`](crate::Terminals): the machine, the anchors, the effects under
//! way; and the loop of the thread that reads the anchors' reports.

use crate::Fabric;
use crate::anchors::{Anchor, AnchorProgram};
use crate::line::{Devpts, Side};
use dunix_ids::Pid;
use dunix_job_control::{Access, Caller, Effect, JobControl, Request, TerminalId, Verdict, View};
use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The line's hang-up signal, as an anchor that ended stands for.
const SIGHUP: u8 = dunix_job_control::signal::SIGHUP;
/// Marks the eventfd in the epoll set; terminals have 32 bits.
const WAKE: u64 = u64::MAX;
/// Anchors that one turn of the reports thread looks at.
const EVENTS_MAX: usize = 64;

pub(crate) struct Shared {
    pub(crate) devpts: Devpts,
    pub(crate) fabric: Arc<dyn Fabric>,
    program: AnchorProgram,
    readable: OwnedFd,
    wake: OwnedFd,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    control: JobControl,
    anchors: BTreeMap<TerminalId, Anchor>,
    /// Ready, so that a TIOCSCTTY need not wait for a program to start.
    spare: Option<Anchor>,
    /// Decided, not yet handed to the fabric. Bounded by what the fabric's own calls cause.
    outbox: VecDeque<Effect>,
    /// Somebody is handing effects over; new ones are his to deliver.
    delivering: bool,
    stopping: bool,
}

impl Shared {
    pub(crate) fn new(
        devpts: Devpts,
        program: AnchorProgram,
        fabric: Arc<dyn Fabric>,
    ) -> std::io::Result<Self> {
        let readable = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&readable, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let spare = Some(Anchor::start(&program)?);
        let state = Mutex::new(State { spare, ..State::default() });
        Ok(Self { devpts, fabric, program, readable, wake, state })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the state whole: each change is made by one machine call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries a request out, the host's part included.
    pub(crate) fn request(
        &self,
        caller: Caller,
        terminal: TerminalId,
        side: Side,
        fd: BorrowedFd<'_>,
        request: Request,
    ) -> Result<u32, Errno> {
        let mut state = self.lock();
        self.forget_if_hung_up(&mut state, caller, terminal);
        let mut effects = Vec::new();
        let answer = state
            .control
            .handle_request(caller, terminal, request, &mut effects)
            .map_err(|refusal| Errno::from_raw_os_error(refusal.errno()));
        let attached = self.carry_out(&mut state, effects, Some((side, fd)));
        self.deliver(state);
        attached.and(answer)
    }

    /// A number of the devpts is free for a new pair as soon as the old is closed, before its
    /// hang-up is reported: so whoever meets a stranger's session asks its anchor first.
    fn forget_if_hung_up(&self, state: &mut State, caller: Caller, terminal: TerminalId) {
        if state.control.session_of(terminal).is_none_or(|session| session == caller.session) {
            return;
        }
        let Some(anchor) = state.anchors.get(&terminal) else { return };
        let signals = anchor.sync().unwrap_or_else(|_| vec![SIGHUP]);
        self.handle_signals(state, terminal, &signals);
    }

    pub(crate) fn access(&self, caller: Caller, access: Access) -> Verdict {
        let mut state = self.lock();
        let Some(terminal) = state.control.terminal_of(caller) else { return Verdict::Proceed };
        let mut effects = Vec::new();
        let verdict = state.control.handle_access(caller, terminal, access, &mut effects);
        state.outbox.extend(effects);
        self.deliver(state);
        verdict
    }

    pub(crate) fn note_attributes(&self, terminal: TerminalId, tostop: bool) {
        self.step(|control, effects| control.handle_tostop(terminal, tostop, effects));
    }

    pub(crate) fn leader_exited(&self, session: Pid) {
        self.step(|control, effects| control.handle_leader_exit(session, effects));
    }

    pub(crate) fn forked(&self, session: Pid, parent: Pid, child: Pid) {
        self.step(|control, effects| control.handle_fork(session, parent, child, effects));
    }

    pub(crate) fn exited(&self, session: Pid, pid: Pid) {
        self.lock().control.handle_exit(session, pid);
    }

    pub(crate) fn view(&self, session: Pid) -> Option<View> {
        self.lock().control.view(session)
    }

    pub(crate) fn holds(&self, pid: Pid) -> bool {
        self.lock().control.holds(pid)
    }

    pub(crate) fn terminal_of(&self, caller: Caller) -> Option<TerminalId> {
        self.lock().control.terminal_of(caller)
    }

    fn step(&self, decide: impl FnOnce(&mut JobControl, &mut Vec<Effect>)) {
        let mut state = self.lock();
        let mut effects = Vec::new();
        decide(&mut state.control, &mut effects);
        // Without a request nothing attaches, so nothing can fail.
        let _ = self.carry_out(&mut state, effects, None);
        self.deliver(state);
    }

    /// Does the host's part of the effects and queues the fabric's.
    fn carry_out(
        &self,
        state: &mut State,
        effects: Vec<Effect>,
        descriptor: Option<(Side, BorrowedFd<'_>)>,
    ) -> Result<(), Errno> {
        let mut outcome = Ok(());
        for effect in effects {
            match effect {
                Effect::Attach(terminal) => {
                    if let Err(error) = self.attach(state, terminal, descriptor) {
                        tracing::warn!(terminal = terminal.0, %error, "no anchor at a terminal");
                        outcome = Err(Errno::IO);
                        break;
                    }
                }
                Effect::Detach(terminal) => drop(state.anchors.remove(&terminal)),
                other => state.outbox.push_back(other),
            }
        }
        outcome
    }

    /// On failure the machine forgets the claim; nobody has heard of it yet.
    fn attach(
        &self,
        state: &mut State,
        terminal: TerminalId,
        descriptor: Option<(Side, BorrowedFd<'_>)>,
    ) -> Result<(), Errno> {
        let attached = self.try_attach(state, terminal, descriptor);
        match attached {
            Ok(anchor) => {
                state.anchors.insert(terminal, anchor);
                self.wake();
                Ok(())
            }
            Err(error) => {
                state.control.handle_attach_failed(terminal, &mut Vec::new());
                Err(error)
            }
        }
    }

    fn try_attach(
        &self,
        state: &mut State,
        terminal: TerminalId,
        descriptor: Option<(Side, BorrowedFd<'_>)>,
    ) -> Result<Anchor, Errno> {
        let (side, fd) = descriptor.ok_or(Errno::BADF)?;
        let slave = self.devpts.slave_for_anchor(terminal, side, fd)?;
        let spare = state.spare.take().map(|spare| (spare.attach(slave.as_fd()), spare));
        let anchor = match spare {
            Some((attached, spare)) if !matches!(attached, Err(Errno::PIPE | Errno::CONNRESET)) => {
                attached.map(|()| spare)?
            }
            // None, or one that was killed meanwhile.
            _ => self.start_at(slave.as_fd())?,
        };
        let name = epoll::EventData::new_u64(terminal.0.into());
        epoll::add(&self.readable, &anchor, name, epoll::EventFlags::IN)?;
        Ok(anchor)
    }

    fn start_at(&self, slave: BorrowedFd<'_>) -> Result<Anchor, Errno> {
        let anchor = Anchor::start(&self.program)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        anchor.attach(slave)?;
        Ok(anchor)
    }

    /// Hands effects to the fabric in order, with the lock released. If another thread (or a
    /// caller further up this one) is at it, the effects are left to it.
    fn deliver<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        if state.delivering {
            return;
        }
        state.delivering = true;
        while let Some(effect) = state.outbox.pop_front() {
            drop(state);
            self.hand_over(effect);
            state = self.lock();
        }
        state.delivering = false;
    }

    fn hand_over(&self, effect: Effect) {
        match effect {
            Effect::SignalGroup { group, signal } => self.fabric.signal_group(group, signal),
            Effect::SignalProcess { pid, signal } => self.fabric.signal_process(pid, signal),
            Effect::Publish { session, view } => self.fabric.publish(session, view),
            Effect::Leave { session, pid } => self.fabric.leave(session, pid),
            // The host's, carried out before.
            Effect::Attach(_) | Effect::Detach(_) => {}
        }
    }

    fn handle_signals(&self, state: &mut State, terminal: TerminalId, signals: &[u8]) {
        let mut effects = Vec::new();
        for signal in signals {
            state.control.handle_line_signal(terminal, *signal, &mut effects);
        }
        // Line signals attach nothing.
        let _ = self.carry_out(state, effects, None);
    }

    /// The reports thread: ends when [`Shared::stop`] was called.
    pub(crate) fn read_reports(&self) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            events.clear();
            match epoll::wait(&self.readable, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "the terminals' reports cannot be read any more");
                    return;
                }
            }
            if self.lock().stopping {
                return;
            }
            for event in &events {
                match u32::try_from(event.data.u64()) {
                    Ok(number) => self.look_at(TerminalId(number)),
                    Err(_) => self.renew_spare(),
                }
            }
        }
    }

    fn look_at(&self, terminal: TerminalId) {
        let mut state = self.lock();
        let Some(anchor) = state.anchors.get(&terminal) else { return };
        let reports = anchor.reports();
        self.handle_signals(&mut state, terminal, &reports.signals);
        if reports.ended && state.anchors.contains_key(&terminal) {
            self.replace(&mut state, terminal);
        }
        self.deliver(state);
    }

    /// An anchor that somebody killed is replaced; if that fails the session has lost its
    /// terminal, which is a hang-up.
    fn replace(&self, state: &mut State, terminal: TerminalId) {
        drop(state.anchors.remove(&terminal));
        let replaced = self
            .devpts
            .open_slave(terminal, rustix::fs::OFlags::RDWR)
            .and_then(|slave| self.try_attach(state, terminal, Some((Side::Slave, slave.as_fd()))));
        match replaced {
            Ok(anchor) => {
                state.anchors.insert(terminal, anchor);
                self.wake();
            }
            Err(error) => {
                tracing::warn!(terminal = terminal.0, %error, "lost an anchor: hanging up");
                self.handle_signals(state, terminal, &[SIGHUP]);
            }
        }
    }

    fn renew_spare(&self) {
        // Starting a program takes milliseconds: not under the lock.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        if self.lock().spare.is_some() {
            return;
        }
        match Anchor::start(&self.program) {
            Ok(anchor) => self.lock().spare = Some(anchor),
            Err(error) => tracing::warn!(%error, "no spare anchor; the next TIOCSCTTY starts one"),
        }
    }

    fn wake(&self) {
        // Full means that it is awake.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Ends the reports thread and every anchor.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        state.spare = None;
        state.anchors.clear();
        self.wake();
    }
}
