//! `OP_REMOTE*`: a process here calls on what it has elsewhere.
//!
//! ```text
//! new call (ticket 0) -> in flight --answer from the home--> done -> taken by the next OP_REMOTE
//!                           `--OP_REMOTE_CANCEL--> cancelled at the home, its answer follows
//! ```
//! Whoever rings with a ticket in flight gets `EAGAIN` and waits on his slot. A call whose outcome
//! is given has its ticket set to 0, so that an `EAGAIN` of the object itself is told apart.

use super::RemoteFd;
use super::arguments::{
    self, FCNTL, LSEEK, OWN_OFFSET, PREADV2, PWRITEV2, READ, READV, WRITE, WRITEV,
};
use crate::call::DoorbellCall;
use crate::node::{Node, State};
use crate::terminal::Deaf;
use dunix_guest_abi::doorbell::{OPENED_REMOTE, REMOTE_FD_WORDS, REMOTE_NOT, RemoteCall};
use dunix_ids::{NodeId, ObjectId, Pid};
use dunix_linux::guest_memory::GuestMemory;
use dunix_linux::{Errno, Result};
use dunix_wire::Topic;
use dunix_wire::processes::image::{CALL_BYTES_MAX, RemoteKind};
use dunix_wire::processes::{
    CallArguments, CallExtra, CallOutcome, CallerJob, ProcessesAnswer, ProcessesCall,
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
const FOREVER: Duration = Duration::from_secs(365 * 86400);

/// A call of a process here.
#[derive(Debug)]
pub(crate) struct InFlight {
    pid: Pid,
    home: NodeId,
    outcome: Option<CallOutcome>,
}

/// What a ring comes to.
enum Turn {
    Begin(RemoteFd, CallerJob, CallArguments),
    Done(NodeId, CallOutcome),
    NotYet,
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
        match self.turn(pid, &memory, &asked)? {
            Turn::NotYet => Err(Errno::AGAIN),
            Turn::Local => Ok(REMOTE_NOT),
            Turn::Done(home, outcome) => self.give(call, &asked, home, outcome),
            Turn::Begin(fd, job, arguments) => {
                let ticket = self.begin(pid, fd, job, arguments)?;
                memory.write(at, &ticket.to_ne_bytes())?;
                Err(Errno::AGAIN)
            }
        }
    }

    fn turn(&self, pid: Pid, memory: &GuestMemory, asked: &RemoteCall) -> Result<Turn> {
        if asked.ticket != 0 {
            return self.with(|state, _| state.outcome(pid, asked.ticket));
        }
        let fd = self.look(|state| state.locals.get(&pid)?.remote.get(asked.fd));
        // A move has just brought it to its object's home, or the shim's word is old.
        let Some(fd) = fd else { return Ok(Turn::Local) };
        if fd.is_open_here && !is_about_offset(asked) {
            return Ok(Turn::Local);
        }
        let job = self.look(|state| state.job_of(pid)).ok_or(Errno::SRCH)?.deaf(asked.marks);
        Ok(Turn::Begin(fd, job, arguments::read(memory, asked)?))
    }

    fn begin(
        self: &Arc<Node>,
        pid: Pid,
        fd: RemoteFd,
        job: CallerJob,
        call: CallArguments,
    ) -> Result<u64> {
        let home = fd.object.home;
        let ticket = self.with(|state, _| {
            if state.in_flight.len() >= IN_FLIGHT_MAX {
                return Err(Errno::NOMEM);
            }
            let ticket = state.fresh_number();
            state.in_flight.insert(ticket, InFlight { pid, home, outcome: None });
            Ok(ticket)
        })?;
        let request = RemoteCallRequest { ticket, object: fd.object.serial, pid, job, call };
        let node = self.clone();
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
            for readiness in &outcome.ready {
                node.mirrors.set(home, *readiness, false);
            }
            node.with(|state, _| {
                if let Some(call) = state.in_flight.get_mut(&ticket) {
                    call.outcome = Some(outcome);
                }
            });
            node.wake(pid);
        });
        Ok(ticket)
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
            Turn::Done(home, outcome) => self.give(call, &asked, home, outcome),
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
        outcome: CallOutcome,
    ) -> Result<i64> {
        let memory = call.memory();
        memory.write(call.arg(1), &0_u64.to_ne_bytes())?;
        if outcome.value < 0 {
            return Ok(outcome.value);
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
        let pid = call.caller()?.pid;
        let given = self.mirrors.of(object, what, OFlags::RDWR.bits(), ready);
        let placed = given.and_then(|mirror| {
            let mirror = mirror.ok_or(Errno::PROTO)?;
            Ok((call.add_fd(mirror.duplicate()?.as_fd())?, mirror))
        });
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
            self.close_remote(caller.pid, from);
            return call.answer(0);
        }
        if self.duplicate_remote(caller.pid, from, to) {
            call.answer(0);
        } else {
            call.refuse(Errno::BADF);
        }
    }
}

impl State {
    fn outcome(&mut self, pid: Pid, ticket: u64) -> Result<Turn> {
        let call = self.in_flight.get_mut(&ticket).filter(|call| call.pid == pid);
        let call = call.ok_or(Errno::INVAL)?;
        match call.outcome.take() {
            None => Ok(Turn::NotYet),
            Some(outcome) => {
                let home = call.home;
                self.in_flight.remove(&ticket);
                Ok(Turn::Done(home, outcome))
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

/// Whether a call on a file that is open here too is about what its holders share: the offset, and
/// the flags of the description.
fn is_about_offset(asked: &RemoteCall) -> bool {
    match asked.nr {
        READ | READV | WRITE | WRITEV | LSEEK | FCNTL => true,
        PREADV2 | PWRITEV2 => asked.args[2] == OWN_OFFSET,
        _ => false,
    }
}

pub(crate) fn outcome_of(answer: Option<&[u8]>) -> CallOutcome {
    let failed =
        || CallOutcome { value: -i64::from(Errno::IO.raw_os_error()), ..CallOutcome::default() };
    match answer.map(dunix_wire::decode) {
        Some(Ok(ProcessesAnswer::Remote(outcome))) if outcome.data.len() <= CALL_BYTES_MAX => {
            outcome
        }
        // The home is gone, or mad.
        _ => failed(),
    }
}
