//! `OP_REMOTE*`: a process here calls on what it has elsewhere.
//!
//! ```text
//! new call (ticket 0) -> in flight --answer from the home--> done -> taken by the next OP_REMOTE
//!                           `--OP_REMOTE_CANCEL--> cancelled at the home, its answer follows
//! ```
//! Whoever rings with a ticket in flight gets `EAGAIN` and waits on his slot. A call whose outcome
//! is given has its ticket set to 0, so that an `EAGAIN` of the object itself is told apart.

use super::arguments::{
    self, FCNTL, LSEEK, OPENAT, OWN_OFFSET, PREADV2, PWRITEV2, READ, READV, WRITE, WRITEV,
};
use super::execute::{BIND, failed};
use super::flock::FLOCK;
use super::inside;
use super::{Mirror, Passed, RemoteFd};
use crate::call::{Caller, DoorbellCall};
use crate::host;
use crate::node::{Node, State};
use crate::terminal::Deaf;
use dunix_guest_abi::doorbell::{
    CONNECT_NAMED, OPENED_REMOTE, REMOTE_FD_WORDS, REMOTE_NOT, RemoteCall,
};
use dunix_ids::{NodeId, ObjectId, Pid};
use dunix_linux::guest_memory::GuestMemory;
use dunix_linux::{Errno, Result};
use dunix_wire::Topic;
use dunix_wire::processes::image::{CALL_BYTES_MAX, RemoteKind};
use dunix_wire::processes::{
    CallArguments, CallExtra, CallOutcome, CallerJob, Place, ProcessesAnswer, ProcessesCall,
    ProcessesMessage, RemoteCallRequest,
};
use rustix::fs::OFlags;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// Most calls of one node in flight; at the limit a new one answers `ENOMEM`.
const IN_FLIGHT_MAX: usize = 65536;
/// First number that no remote descriptor may have.
const REMOTE_FDS: i32 = 1024;
const _: () = assert!(REMOTE_FD_WORDS == 1024 / 64);
/// How long the home of a terminal may take to open it; then it answers `ENXIO`.
const HOME_WAIT: Duration = Duration::from_secs(5);
/// A call on a terminal may wait for its user for ever.
pub(super) const FOREVER: Duration = Duration::from_secs(365 * 86400);

/// A call of a process here.
#[derive(Debug)]
pub(crate) struct InFlight {
    pid: Pid,
    home: NodeId,
    outcome: Option<CallOutcome>,
    /// Descriptors that came with it.
    passed: Vec<Passed>,
}

/// What a ring comes to.
enum Turn {
    /// With the descriptors that it sends.
    Begin(RemoteFd, CallerJob, CallArguments, Vec<i32>),
    Done(NodeId, CallOutcome, Vec<Passed>),
    NotYet,
    /// It opens the FIFO that its descriptor is a handle on, with these flags.
    Open(i32, u64),
    /// It connects its socket to what has this address.
    Connect(Vec<u8>),
    /// The host's own descriptor does it.
    Local,
}

impl Node {
    pub(crate) fn handle_remote(self: &Arc<Node>, call: DoorbellCall) {
        let result = self.remote_call(&call);
        call.conclude(result);
    }

    fn remote_call(self: &Arc<Node>, call: &DoorbellCall) -> Result<i64> {
        let (pid, memory, at) = (call.caller()?.pid, call.memory(), call.arg(1));
        let asked: RemoteCall = memory.read_plain(at)?;
        match self.turn(call.caller()?, &memory, &asked)? {
            Turn::NotYet => Err(Errno::AGAIN),
            Turn::Local => Ok(REMOTE_NOT),
            Turn::Done(home, outcome, passed) => self.give(call, &asked, home, outcome, passed),
            Turn::Open(number, flags) => {
                let caller = call.caller()?;
                let ticket = self.begin_open((caller.pid, caller.host_pid), number, flags)?;
                memory.write(at, &ticket.to_ne_bytes())?;
                Err(Errno::AGAIN)
            }
            Turn::Connect(address) => {
                let caller = call.caller()?;
                let ticket = self.begin_connect((caller.pid, caller.host_pid), &asked, &address)?;
                memory.write(at, &ticket.to_ne_bytes())?;
                Err(Errno::AGAIN)
            }
            Turn::Begin(fd, job, arguments, sent) => {
                let host_pid = call.caller()?.host_pid;
                let ticket = self.begin(pid, fd, job, arguments, (host_pid, sent))?;
                memory.write(at, &ticket.to_ne_bytes())?;
                Err(Errno::AGAIN)
            }
        }
    }

    fn turn(&self, caller: Caller, memory: &GuestMemory, asked: &RemoteCall) -> Result<Turn> {
        let Caller { pid, host_pid, .. } = caller;
        if asked.ticket != 0 {
            return self.with(|state, _| state.outcome(pid, asked.ticket));
        }
        if asked.nr == CONNECT_NAMED {
            return Ok(Turn::Connect(arguments::address(memory, asked.args[0], asked.args[1])?));
        }
        if asked.nr == OPENAT {
            return Ok(Turn::Open(asked.fd, asked.args[0]));
        }
        let fd = self.look(|state| state.locals.get(&pid)?.remote.get(asked.fd));
        // A move has just brought it to its object's home, or the shim's word is old.
        let Some(fd) = fd else { return Ok(Turn::Local) };
        if fd.is_open_here && !is_about_offset(asked) {
            return Ok(Turn::Local);
        }
        let job = self.look(|state| state.job_of(pid)).ok_or(Errno::SRCH)?.deaf(asked.marks);
        let sent = arguments::descriptors(memory, asked)?;
        let mut arguments = arguments::read(memory, asked)?;
        if fd.what == RemoteKind::Socket && names_file(&arguments) {
            let place = self.place_of(host_pid)?;
            arguments = CallArguments::At { place, call: Box::new(arguments) };
        }
        Ok(Turn::Begin(fd, job, arguments, sent))
    }

    fn begin(
        self: &Arc<Node>,
        pid: Pid,
        fd: RemoteFd,
        job: CallerJob,
        call: CallArguments,
        (host_pid, sent): (u32, Vec<i32>),
    ) -> Result<u64> {
        let home = fd.object.home;
        let ticket = self.with(|state, _| state.begin_call(pid, home))?;
        let request = RemoteCallRequest { ticket, object: fd.object.serial, pid, job, call };
        let node = self.clone();
        if !sent.is_empty() {
            self.runtime.spawn(async move {
                let outcome = node.send_descriptors(home, request, host_pid, sent).await;
                node.conclude_call(pid, home, ticket, outcome).await;
            });
            return Ok(ticket);
        }
        // The calls of one process go out in the order in which it makes them.
        let answer = self.mesh.as_ref().map(|mesh| {
            let body = dunix_wire::encode(&ProcessesCall::Remote(request));
            mesh.call(home, Topic::Processes, body, FOREVER)
        });
        self.runtime.spawn(async move {
            let outcome = match answer {
                Some(answer) => outcome_of(answer.await.ok().as_deref()),
                None => outcome_of(None),
            };
            node.conclude_call(pid, home, ticket, outcome).await;
        });
        Ok(ticket)
    }

    /// Sends a message with descriptors of a process here.
    async fn send_descriptors(
        self: &Arc<Node>,
        home: NodeId,
        mut request: RemoteCallRequest,
        host_pid: u32,
        sent: Vec<i32>,
    ) -> CallOutcome {
        let mut offer = match self.describe_sent(home, request.pid, host_pid, sent).await {
            Ok(offer) => offer,
            Err(errno) => return failed(errno),
        };
        let call = match &mut request.call {
            CallArguments::At { call, .. } => call,
            call => call,
        };
        if let CallArguments::Send { descriptors, .. } = call {
            *descriptors = std::mem::take(&mut offer.descriptors);
        }
        let Some(mesh) = &self.mesh else { return outcome_of(None) };
        let body = dunix_wire::encode(&ProcessesCall::Remote(request));
        let answer = mesh.call(home, Topic::Processes, body, FOREVER).await;
        let outcome = outcome_of(answer.ok().as_deref());
        if outcome.extra == CallExtra::Taken {
            offer.was_taken();
        }
        outcome
    }

    /// Keeps what a call came to until its caller asks.
    pub(super) async fn conclude_call(
        self: &Arc<Node>,
        pid: Pid,
        home: NodeId,
        ticket: u64,
        mut outcome: CallOutcome,
    ) {
        for readiness in &outcome.ready {
            self.mirrors.set(home, *readiness, false);
        }
        let mut passed = Vec::new();
        if let CallExtra::Message { descriptors, flags, .. } = &mut outcome.extra
            && !descriptors.is_empty()
        {
            match self.admit(std::mem::take(descriptors)).await {
                Ok(admitted) => passed = admitted,
                Err(error) => {
                    self.note(pid, format!("lost descriptors of a message: {error}"));
                    *flags |= arguments::CONTROL_TRUNCATED;
                }
            }
        }
        self.settle_call(pid, home, ticket, outcome, passed);
    }

    /// The same with what came with the outcome.
    pub(super) fn settle_call(
        &self,
        pid: Pid,
        home: NodeId,
        ticket: u64,
        outcome: CallOutcome,
        passed: Vec<Passed>,
    ) {
        let made = match outcome.extra {
            CallExtra::Accepted { object, .. } | CallExtra::Opened { object, .. } => Some(object),
            _ => None,
        };
        let is_awaited = self.with(|state, _| {
            let Some(call) = state.in_flight.get_mut(&ticket) else { return false };
            call.home = home;
            call.outcome = Some(outcome);
            call.passed = passed;
            true
        });
        if let Some(object) = made.filter(|_| !is_awaited) {
            // Its caller has ended meanwhile.
            self.tell(home, &ProcessesMessage::RemoteClosed { object, pid, times: 1 });
        }
        self.wake(pid);
    }

    pub(crate) fn handle_remote_cancel(self: &Arc<Node>, call: DoorbellCall) {
        let result = self.remote_cancel(&call);
        call.conclude(result);
    }

    /// Gives a call up. If it took effect after all its result is the answer; while the home's word
    /// is outstanding the answer is `EAGAIN`, and the shim asks again.
    fn remote_cancel(&self, call: &DoorbellCall) -> Result<i64> {
        let (pid, memory, at) = (call.caller()?.pid, call.memory(), call.arg(1));
        let asked: RemoteCall = memory.read_plain(at)?;
        match self.with(|state, _| state.outcome(pid, asked.ticket))? {
            Turn::Done(home, outcome, passed) => self.give(call, &asked, home, outcome, passed),
            _ => {
                let home = self.look(|state| state.in_flight.get(&asked.ticket).map(|c| c.home));
                let message = ProcessesMessage::CancelRemoteCall { ticket: asked.ticket };
                self.tell(home.ok_or(Errno::INTR)?, &message);
                Err(Errno::AGAIN)
            }
        }
    }

    /// Gives the guest the outcome: its data where the call wanted it, then the ticket's end.
    fn give(
        &self,
        call: &DoorbellCall,
        asked: &RemoteCall,
        home: NodeId,
        mut outcome: CallOutcome,
        passed: Vec<Passed>,
    ) -> Result<i64> {
        let memory = call.memory();
        memory.write(call.arg(1), &0_u64.to_ne_bytes())?;
        if outcome.value < 0 {
            return Ok(outcome.value);
        }
        if asked.nr == CONNECT_NAMED {
            return self.give_connected(call, asked.fd, home, &outcome.extra, &passed);
        }
        if !passed.is_empty() {
            let room = arguments::descriptors_room(&memory, asked, &outcome.extra)?;
            let count = passed.len();
            let numbers = self.give_passed(call, passed, room);
            if let CallExtra::Message { control, flags, .. } = &mut outcome.extra {
                arguments::add_descriptors(control, &numbers);
                *flags |= if numbers.len() < count { arguments::CONTROL_TRUNCATED } else { 0 };
            }
        }
        if let (OPENAT, CallExtra::Opened { object, ready, .. }) = (asked.nr, &outcome.extra) {
            let object = (ObjectId { home, serial: *object }, RemoteKind::Pipe);
            return self.exchange_object(call, asked.fd, object, asked.args[0], *ready);
        }
        arguments::write(&memory, asked, &outcome.data, &outcome.extra)?;
        match outcome.extra {
            CallExtra::Accepted { object, ready, .. } => {
                let object = ObjectId { home, serial: object };
                self.give_object(call, object, RemoteKind::Socket, ready)
            }
            _ => Ok(outcome.value),
        }
    }

    /// An object that a home has made for the caller becomes its descriptor, `O_CLOEXEC`.
    fn give_object(
        &self,
        call: &DoorbellCall,
        object: ObjectId,
        what: RemoteKind,
        ready: u16,
    ) -> Result<i64> {
        let given = self.mirrors.of(object, what, OFlags::RDWR.bits(), ready);
        let placed = given.and_then(|mirror| {
            let mirror = mirror.ok_or(Errno::PROTO)?;
            Ok((call.add_fd(mirror.duplicate()?.as_fd())?, mirror))
        });
        self.note_object(call, object, what, placed)
    }

    /// Gives the caller a connected socket in the place of its own: 1 if it is of this node, else 0.
    fn give_connected(
        &self,
        call: &DoorbellCall,
        number: i32,
        home: NodeId,
        extra: &CallExtra,
        passed: &[Passed],
    ) -> Result<i64> {
        let pid = call.caller()?.pid;
        match (extra, passed) {
            (CallExtra::Accepted { object, ready, .. }, _) => {
                let object = (ObjectId { home, serial: *object }, RemoteKind::Socket);
                let flags = u64::from(OFlags::RDWR.bits());
                self.exchange_object(call, number, object, flags, *ready)?;
                Ok(0)
            }
            (_, [socket]) => {
                call.set_fd(socket.fd(), number)?;
                self.close_remote(pid, number);
                Ok(1)
            }
            _ => Err(Errno::PROTO),
        }
    }

    /// The same, opened with these flags, in the place of the caller's descriptor `number`, without
    /// `O_CLOEXEC`.
    fn exchange_object(
        &self,
        call: &DoorbellCall,
        number: i32,
        (object, what): (ObjectId, RemoteKind),
        flags: u64,
        ready: u16,
    ) -> Result<i64> {
        let access = u32::try_from(flags & u64::from(OFlags::RWMODE.bits())).unwrap_or(0);
        let given = self.mirrors.of(object, what, access, ready);
        let placed = given.and_then(|mirror| {
            let mirror = mirror.ok_or(Errno::PROTO)?;
            if number < REMOTE_FDS {
                call.set_fd(mirror.duplicate()?.as_fd(), number)?;
            }
            Ok((number, mirror))
        });
        if placed.is_ok() {
            self.close_remote(call.caller()?.pid, number);
        }
        self.note_object(call, object, what, placed)
    }

    /// Notes a descriptor that the caller was given for an object.
    fn note_object(
        &self,
        call: &DoorbellCall,
        object: ObjectId,
        what: RemoteKind,
        placed: Result<(i32, Arc<Mirror>)>,
    ) -> Result<i64> {
        let pid = call.caller()?.pid;
        let (number, mirror) = match placed {
            Ok((number, mirror)) if number < REMOTE_FDS => (number, mirror),
            failed => {
                let closed =
                    ProcessesMessage::RemoteClosed { object: object.serial, pid, times: 1 };
                self.tell(object.home, &closed);
                return failed.and(Err(Errno::MFILE));
            }
        };
        self.watch(object, &mirror);
        let fd = RemoteFd { object, what, is_open_here: false, drains: false };
        self.with(|state, _| {
            *state.arrivals.entry(object).or_default() += 1;
            if let Some(local) = state.locals.get_mut(&pid) {
                local.remote.insert(number, fd);
                local.remote.keep_mirror(object, mirror);
            }
        });
        Ok(i64::from(number))
    }

    /// Handles `OP_OPEN_TERMINAL`: here, or at the terminal's home.
    pub(crate) fn handle_open_terminal(self: &Arc<Node>, call: DoorbellCall) {
        let elsewhere = call.caller().ok().and_then(|caller| {
            let job = self.look(|state| state.job_of(caller.pid))?;
            let home = job.terminal?.home;
            (home != self.id).then_some((caller.pid, job, home))
        });
        let (Some((pid, job, home)), Some(mesh)) = (elsewhere, &self.mesh) else {
            return self.extension.handle_call(call);
        };
        let flags = call.int_arg(1).cast_unsigned();
        let body = dunix_wire::encode(&ProcessesCall::OpenTerminal { pid, job, flags });
        let answer = mesh.call(home, Topic::Processes, body, HOME_WAIT);
        let node = self.clone();
        self.runtime.spawn(async move {
            let outcome = outcome_of(answer.await.ok().as_deref());
            let CallExtra::Opened { object, pts, ready } = outcome.extra else {
                // As it is for who has no controlling terminal (tty(4)).
                return call.refuse(Errno::NXIO);
            };
            let (object, what) = (ObjectId { home, serial: object }, RemoteKind::Terminal { pts });
            let given = node.give_object(&call, object, what, ready);
            call.conclude(given.map(|number| number | OPENED_REMOTE.cast_signed()));
        });
    }

    pub(crate) fn handle_remote_fd(self: &Arc<Node>, call: DoorbellCall) {
        let Ok(caller) = call.caller() else { return call.refuse(Errno::SRCH) };
        let (from, to) = (call.int_arg(1), call.int_arg(2));
        if to < 0 {
            match self.begin_close_remote(caller.pid, from) {
                None => call.answer(0),
                Some(closing) => drop(self.runtime.spawn(async move {
                    closing.await;
                    call.answer(0);
                })),
            }
            return;
        }
        if self.duplicate_remote(caller.pid, from, to) {
            call.answer(0);
        } else {
            call.refuse(Errno::BADF);
        }
    }
}

impl State {
    /// Notes a call of a process; its ticket.
    pub(super) fn begin_call(&mut self, pid: Pid, home: NodeId) -> Result<u64> {
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            return Err(Errno::NOMEM);
        }
        let ticket = self.fresh_number();
        let call = InFlight { pid, home, outcome: None, passed: Vec::new() };
        self.in_flight.insert(ticket, call);
        Ok(ticket)
    }

    fn outcome(&mut self, pid: Pid, ticket: u64) -> Result<Turn> {
        let call = self.in_flight.get_mut(&ticket).filter(|call| call.pid == pid);
        let call = call.ok_or(Errno::INVAL)?;
        match call.outcome.take() {
            None => Ok(Turn::NotYet),
            Some(outcome) => {
                let home = call.home;
                let passed = self.in_flight.remove(&ticket).map(|call| call.passed);
                Ok(Turn::Done(home, outcome, passed.unwrap_or_default()))
            }
        }
    }

    /// A process has gone: nobody will ask for these outcomes.
    pub(crate) fn forget_calls(&mut self, pid: Pid) -> Vec<(NodeId, u64)> {
        let mut abandoned = Vec::new();
        self.in_flight.retain(|ticket, call| {
            let is_its = call.pid == pid;
            if is_its && call.outcome.is_none() {
                abandoned.push((call.home, *ticket));
            }
            !is_its
        });
        abandoned
    }
}

impl Node {
    /// Where a process of this node looks up names.
    fn place_of(&self, host_pid: u32) -> Result<Place> {
        let root = self.below_root(host::link(host_pid, "root")?);
        let cwd = inside(&root, self.below_root(host::link(host_pid, "cwd")?));
        let status = host::Status::of(host_pid, self.ids_base)?;
        Ok(Place { root, cwd, uid: status.uids[1], gid: status.gids[1] })
    }
}

/// Whether a call names a file (unix(7)): the home must not look where its own daemon is.
fn names_file(call: &CallArguments) -> bool {
    const AF_UNIX: [u8; 2] = [1, 0];
    let address = match call {
        CallArguments::Connect { address } | CallArguments::Send { address, .. } => address,
        CallArguments::Plain { number: BIND, input, .. } => input,
        _ => return false,
    };
    address.starts_with(&AF_UNIX) && address.get(2).is_some_and(|first| *first != 0)
}

/// Whether a call on a file that is open here too is about what its holders share: the offset, and
/// the flags of the description.
fn is_about_offset(asked: &RemoteCall) -> bool {
    match asked.nr {
        READ | READV | WRITE | WRITEV | LSEEK | FCNTL | FLOCK => true,
        PREADV2 | PWRITEV2 => asked.args[2] == OWN_OFFSET,
        _ => false,
    }
}

pub(crate) fn outcome_of(answer: Option<&[u8]>) -> CallOutcome {
    match answer.map(dunix_wire::decode) {
        Some(Ok(ProcessesAnswer::Remote(outcome))) if outcome.data.len() <= CALL_BYTES_MAX => {
            outcome
        }
        // The home is gone, or mad.
        _ => failed(Errno::IO),
    }
}
