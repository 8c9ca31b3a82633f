//! Guests that trace guests: ptrace(2) by the host's own, held by one thread of the daemon.
//!
//! ```text
//! tracer --OP_PTRACE--> doorbell --request--> tracing thread --ptrace--> tracee
//!        <--OP_WAIT---- reports <---shown---- (machines/tracing) <-stop- waiter of the tracee
//! ```
//! To the host, this thread is the tracer: only that lets it serve at once the stops that the guest is
//! not to see, whatever the guest that traces is doing. It exists from the first use on.
//!
//! Refuses: tracees of other nodes (`EPERM`), a tracee of somebody else (`EPERM`).

mod requests;
mod stops;
mod thread;
mod view;
mod waiter;

use crate::call::DoorbellCall;
use crate::node::{Node, Pending, State, lock};
use dunix_ids::Pid;
use dunix_linux::ptrace::Found;
use dunix_linux::{Errno, Result};
use dunix_proc_table::{HostTarget, WaitFor};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};

/// Most threads of this node that are traced at a time; one more fails with `EAGAIN`.
pub(crate) const TRACEES_MAX: usize = 1024;

/// What the tracing thread hears.
pub(super) enum Message {
    /// A guest's ptrace(2).
    Request(DoorbellCall),
    /// A tracee stopped or ended; `None`: it is none any more.
    Changed(u32, Option<Found>),
    /// A process that traces has ended.
    TracerGone(Pid),
    /// A child or thread has got its number.
    Named,
}

/// What others may ask of the tracing thread.
#[derive(Default)]
pub(crate) struct Tracing {
    sender: OnceLock<Sender<Message>>,
    shared: Mutex<Shared>,
}

/// What a tracer's wait finds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    /// The thread.
    pub(crate) tid: Pid,
    /// Its process.
    pub(crate) process: Pid,
    /// `CLD_*`.
    pub(crate) code: i32,
    /// The signal and event of a stop, or how it ended.
    pub(crate) status: i32,
}

/// A thread that is traced.
#[derive(Clone, Copy, Debug)]
struct Traced {
    tracer: Pid,
    /// Thread and process, once the table knows them.
    name: Option<(Pid, Pid)>,
}

#[derive(Default)]
struct Shared {
    /// By the host's number.
    traced: BTreeMap<u32, Traced>,
    /// Those that trace or have traced: what they fork stays here, too.
    tracers: BTreeSet<Pid>,
    /// What each tracer's next waits find; one for each tracee, and those that ended.
    reports: BTreeMap<Pid, VecDeque<Report>>,
}

impl State {
    /// Process and thread, at the host, of a number of the fabric; also of a child that its parent has
    /// named and that has not run yet.
    fn host_of(&self, tid: Pid) -> Option<(u32, u32)> {
        match self.table.to_host(tid) {
            Some(HostTarget::Process(host)) => Some((host, host)),
            Some(HostTarget::Thread { process, thread }) => Some((process, thread)),
            None => {
                let claimed = self.claims.iter().find(|(_, pid)| **pid == tid);
                claimed.map(|(host, _)| (*host, *host))
            }
        }
    }
}

impl Tracing {
    /// Hands a guest's request over to the tracing thread, which begins with the first.
    pub(crate) fn request(&self, node: &Arc<Node>, call: DoorbellCall) {
        let sender = match self.started(node) {
            Ok(sender) => sender,
            Err(errno) => return call.refuse(errno),
        };
        if let Some(pid) = requests::attached(&call)
            && node.look(|state| state.host_of(pid)).is_none()
        {
            // Wherever it is, it is not here.
            return node.with(|state, now| {
                let token = state.expect_reply(Pending::Location(call));
                state.table.locate(now, token, pid);
            });
        }
        // Whoever is gone drops the call, which then answers.
        let _ = sender.send(Message::Request(call));
    }

    fn started(&self, node: &Arc<Node>) -> Result<&Sender<Message>> {
        if let Some(sender) = self.sender.get() {
            return Ok(sender);
        }
        let (sender, receiver) = channel();
        thread::start(Arc::downgrade(node), sender.clone(), receiver)?;
        // Only the doorbell's thread comes here.
        Ok(self.sender.get_or_init(|| sender))
    }

    /// A host thread has got its number in the fabric.
    pub(crate) fn named(&self) {
        let Some(sender) = self.sender.get() else { return };
        if lock(&self.shared).traced.values().any(|traced| traced.name.is_none()) {
            let _ = sender.send(Message::Named);
        }
    }

    /// A process has ended: whom it traced goes on untraced.
    pub(crate) fn process_gone(&self, pid: Pid) {
        let Some(sender) = self.sender.get() else { return };
        let mut shared = lock(&self.shared);
        shared.reports.remove(&pid);
        shared.tracers.remove(&pid);
        if shared.traced.values().any(|traced| traced.tracer == pid) {
            let _ = sender.send(Message::TracerGone(pid));
        }
    }

    /// Whether a process is traced, or traces: it stays on this node.
    pub(crate) fn concerns(&self, pid: Pid) -> bool {
        self.sender.get().is_some()
            && lock(&self.shared).traced.values().any(|traced| {
                traced.tracer == pid || traced.name.is_some_and(|(_, process)| process == pid)
            })
    }

    /// Who traces a process or one of its threads.
    pub(crate) fn tracer_of(&self, pid: Pid) -> Option<Pid> {
        self.sender.get()?;
        let shared = lock(&self.shared);
        let mut traced = shared.traced.values();
        let is_its = |traced: &&Traced| traced.name.is_some_and(|(_, process)| process == pid);
        traced.find(is_its).map(|traced| traced.tracer)
    }

    /// Whether a process traces, or has traced.
    pub(crate) fn is_tracer(&self, pid: Pid) -> bool {
        self.sender.get().is_some() && lock(&self.shared).tracers.contains(&pid)
    }

    /// Whether a host thread is traced.
    pub(crate) fn is_traced(&self, host: u32) -> bool {
        self.sender.get().is_some() && lock(&self.shared).traced.contains_key(&host)
    }

    /// What a wait of `tracer` finds, `accepts` decides for each; taken unless it is to be kept.
    pub(crate) fn find(
        &self,
        tracer: Pid,
        accepts: impl Fn(&Report) -> bool,
        keep: bool,
    ) -> Option<Report> {
        self.sender.get()?;
        let mut shared = lock(&self.shared);
        let reports = shared.reports.get_mut(&tracer)?;
        let at = reports.iter().position(accepts)?;
        if keep { reports.get(at).copied() } else { reports.remove(at) }
    }

    /// Whether a wait of `tracer` may find something later.
    pub(crate) fn expects(&self, tracer: Pid, which: WaitFor) -> bool {
        if self.sender.get().is_none() {
            return false;
        }
        lock(&self.shared).traced.values().any(|traced| {
            traced.tracer == tracer
                && match (which, traced.name) {
                    (WaitFor::Child(pid), Some((tid, _))) => tid == pid,
                    // It may be this one, whose number comes with its first stop.
                    (WaitFor::Child(_), None) => true,
                    _ => true,
                }
        })
    }

    fn tracees_of(&self, tracer: Pid) -> BTreeSet<u32> {
        let shared = lock(&self.shared);
        let of_tracer = shared.traced.iter().filter(|(_, traced)| traced.tracer == tracer);
        of_tracer.map(|(host, _)| *host).collect()
    }

    fn insert(&self, host: u32, tracer: Pid, name: Option<(Pid, Pid)>) -> Result<()> {
        let mut shared = lock(&self.shared);
        if shared.traced.len() >= TRACEES_MAX {
            return Err(Errno::AGAIN);
        }
        shared.tracers.insert(tracer);
        shared.traced.insert(host, Traced { tracer, name });
        Ok(())
    }

    fn set_name(&self, host: u32, name: (Pid, Pid)) {
        if let Some(traced) = lock(&self.shared).traced.get_mut(&host) {
            traced.name = Some(name);
        }
    }

    fn remove(&self, host: u32) {
        lock(&self.shared).traced.remove(&host);
    }

    /// Puts a tracee's stop or end before its tracer's waits; a stop that is over is forgotten.
    fn report(&self, tracer: Pid, report: Report) {
        let mut shared = lock(&self.shared);
        let reports = shared.reports.entry(tracer).or_default();
        reports.retain(|old| old.tid != report.tid);
        reports.push_back(report);
    }

    /// The tracee runs on: nobody is told of its last stop any more.
    fn withdraw(&self, tracer: Pid, tid: Pid) {
        if let Some(reports) = lock(&self.shared).reports.get_mut(&tracer) {
            reports.retain(|report| report.tid != tid);
        }
    }
}
