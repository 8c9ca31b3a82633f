//! `OP_REMOTE*`: a process here calls on what it has elsewhere.
//!
//! ```text
//! new call (ticket 0) -> in flight --answer from the home--> done -> taken by the next OP_REMOTE
//!                           `--OP_REMOTE_CANCEL--> cancelled at the home, its answer follows
//! ```
//! Whoever rings with a ticket in flight gets `EAGAIN` and waits on his slot. A call whose outcome
//! is given has its ticket set to 0, so that an `EAGAIN` of the object itself is told apart.

use super::RemoteFd;
use crate::call::DoorbellCall;
use crate::node::{Node, State};
use crate::terminal::Deaf;
use dunix_guest_abi::doorbell::RemoteCall;
use dunix_ids::Pid;
use dunix_linux::guest_memory::GuestMemory;
use dunix_linux::{Errno, Result, terminal_calls};
use dunix_wire::Topic;
use dunix_wire::processes::image::CALL_BYTES_MAX;
use dunix_wire::processes::{
    CallArguments, CallOutcome, CallerJob, ProcessesAnswer, ProcessesCall, ProcessesMessage,
    RemoteCallRequest,
};
use std::sync::Arc;
use std::time::Duration;

/// Most calls of one node in flight; at the limit a new one answers `ENOMEM`.
const IN_FLIGHT_MAX: usize = 65536;
/// Most pieces of a scattered call (`UIO_MAXIOV`).
const PIECES_MAX: u64 = 1024;
/// A call on a terminal may wait for its user for ever.
const FOREVER: Duration = Duration::from_secs(365 * 86400);

const READ: u32 = 0;
const WRITE: u32 = 1;
const FSTAT: u32 = 5;
const POLL: u32 = 7;
const LSEEK: u32 = 8;
const IOCTL: u32 = 16;
const READV: u32 = 19;
const WRITEV: u32 = 20;

/// A call of a process here.
#[derive(Debug)]
pub(crate) struct InFlight {
    pid: Pid,
    home: dunix_ids::NodeId,
    outcome: Option<CallOutcome>,
}

/// What a ring comes to.
enum Turn {
    Begin(RemoteFd, CallerJob, CallArguments),
    Done(CallOutcome),
    NotYet,
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
            Turn::Done(outcome) => conclude(&memory, at, &asked, outcome),
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
        let job = self.look(|state| state.caller_job(pid, asked)).ok_or(Errno::SRCH)?;
        Ok(Turn::Begin(fd.ok_or(Errno::BADF)?, job, arguments(memory, asked)?))
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
            Turn::Done(outcome) => conclude(&memory, at, &asked, outcome),
            _ => {
                let home = self.look(|state| state.in_flight.get(&asked.ticket).map(|c| c.home));
                let message = ProcessesMessage::CancelRemoteCall { ticket: asked.ticket };
                self.tell(home.ok_or(Errno::INTR)?, &message);
                Err(Errno::AGAIN)
            }
        }
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
    fn caller_job(&self, pid: Pid, asked: &RemoteCall) -> Option<CallerJob> {
        let is_marked = matches!(asked.nr, READ | READV | WRITE | WRITEV | IOCTL);
        let marks = if is_marked { asked.args[3] } else { 0 };
        Some(self.job_of(pid)?.deaf(marks))
    }

    fn outcome(&mut self, pid: Pid, ticket: u64) -> Result<Turn> {
        let call = self.in_flight.get_mut(&ticket).filter(|call| call.pid == pid);
        match call.ok_or(Errno::INVAL)?.outcome.take() {
            None => Ok(Turn::NotYet),
            Some(outcome) => {
                self.in_flight.remove(&ticket);
                Ok(Turn::Done(outcome))
            }
        }
    }

    /// A process has gone: nobody will ask for these outcomes.
    pub(crate) fn forget_calls(&mut self, pid: Pid) -> Vec<(dunix_ids::NodeId, u64)> {
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

pub(crate) fn outcome_of(answer: Option<&[u8]>) -> CallOutcome {
    let failed = || CallOutcome { value: -i64::from(Errno::IO.raw_os_error()), data: Vec::new() };
    match answer.map(dunix_wire::decode) {
        Some(Ok(ProcessesAnswer::Remote(outcome))) if outcome.data.len() <= CALL_BYTES_MAX => {
            outcome
        }
        // The home is gone, or mad.
        _ => failed(),
    }
}

/// Reads what a call is about from the guest.
fn arguments(memory: &GuestMemory, asked: &RemoteCall) -> Result<CallArguments> {
    let [first, second, ..] = asked.args;
    match asked.nr {
        READ => Ok(CallArguments::Read { bytes: bounded(second) }),
        READV => {
            let pieces = pieces(memory, first, second)?;
            let bytes = pieces.iter().map(|piece| piece[1]).fold(0, u64::saturating_add);
            Ok(CallArguments::Read { bytes: bounded(bytes) })
        }
        WRITE => gather(memory, &[[first, second]]),
        WRITEV => gather(memory, &pieces(memory, first, second)?),
        LSEEK => {
            let whence = u8::try_from(second & 0xffff_ffff).map_err(|_| Errno::INVAL)?;
            Ok(CallArguments::Seek { offset: first.cast_signed(), whence })
        }
        IOCTL => {
            let request = u32::try_from(first & 0xffff_ffff).map_err(|_| Errno::NOTTY)?;
            let bytes = terminal_calls::structure_bytes(request).ok_or(Errno::NOTTY)?;
            let mut argument = vec![0; bytes];
            memory.read(second, &mut argument)?;
            let answer_bytes = u32::try_from(bytes).map_err(|_| Errno::INVAL)?;
            Ok(CallArguments::Ioctl { request, value: second, argument, answer_bytes })
        }
        FSTAT => Ok(CallArguments::Status),
        POLL => {
            let events = u16::try_from(first & 0xffff).map_err(|_| Errno::INVAL)?;
            #[expect(clippy::cast_possible_truncation, reason = "an int of the guest")]
            let timeout_ms = second as i32;
            Ok(CallArguments::Poll { events, timeout_ms })
        }
        _ => Err(Errno::NOSYS),
    }
}

fn bounded(bytes: u64) -> u32 {
    u32::try_from(bytes.min(CALL_BYTES_MAX as u64)).unwrap_or(0)
}

fn pieces(memory: &GuestMemory, list: u64, count: u64) -> Result<Vec<[u64; 2]>> {
    if count > PIECES_MAX {
        return Err(Errno::INVAL);
    }
    (0..count).map(|i| memory.read_plain(list.wrapping_add(i * 16))).collect()
}

/// Takes the bytes of a write, at most [`CALL_BYTES_MAX`]: a longer write comes short.
fn gather(memory: &GuestMemory, pieces: &[[u64; 2]]) -> Result<CallArguments> {
    let mut data = Vec::new();
    for &[address, bytes] in pieces {
        let room = (CALL_BYTES_MAX - data.len()) as u64;
        let start = data.len();
        data.resize(start + usize::try_from(bytes.min(room)).unwrap_or(0), 0);
        memory.read(address, &mut data[start..])?;
    }
    Ok(CallArguments::Write { data })
}

/// Gives the guest the outcome: its data where the call wanted it, then the ticket's end.
fn conclude(
    memory: &GuestMemory,
    at: u64,
    asked: &RemoteCall,
    outcome: CallOutcome,
) -> Result<i64> {
    memory.write(at, &0_u64.to_ne_bytes())?;
    let data = outcome.data.as_slice();
    match asked.nr {
        READ => {
            let count = bounded(asked.args[1]) as usize;
            memory.write(asked.args[0], data.get(..count).unwrap_or(data))?;
        }
        READV => scatter(memory, &pieces(memory, asked.args[0], asked.args[1])?, data)?,
        FSTAT if outcome.value >= 0 => memory.write(asked.args[0], data)?,
        IOCTL if outcome.value >= 0 && !data.is_empty() => memory.write(asked.args[1], data)?,
        _ => {}
    }
    Ok(outcome.value)
}

fn scatter(memory: &GuestMemory, pieces: &[[u64; 2]], mut data: &[u8]) -> Result<()> {
    for &[address, bytes] in pieces {
        let count = usize::try_from(bytes).unwrap_or(usize::MAX).min(data.len());
        let (now, later) = data.split_at(count);
        memory.write(address, now)?;
        data = later;
    }
    Ok(())
}
