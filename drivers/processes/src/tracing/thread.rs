//! The thread that is the tracer to the host.

use super::waiter::Waiter;
use super::{Message, Report};
use crate::node::Node;
use dunix_guest_abi::signal::encode;
use dunix_ids::Pid;
use dunix_linux::ptrace::{self, Found, Resume};
use dunix_linux::signal::{Payload, queue_to_process};
use dunix_linux::{Errno, Result};
use dunix_tracing::{Act, How, Kind, Shown, Tracee};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Weak};

const CLD_EXITED: i32 = 1;
const CLD_KILLED: i32 = 2;
const CLD_DUMPED: i32 = 3;
const CLD_TRAPPED: i32 = 4;
const SIGCHLD: i32 = 17;

/// The thread's state.
pub(super) struct Tracer {
    pub(super) node: Arc<Node>,
    sender: Sender<Message>,
    pub(super) tracees: BTreeMap<u32, Record>,
    pub(super) points: Option<super::stops::Points>,
}

/// A tracee, by its number at the host.
pub(super) struct Record {
    pub(super) tracer: Pid,
    /// Its thread and process, once the table knows them.
    pub(super) name: Option<(Pid, Pid)>,
    /// What is to be shown as soon as they are known.
    unnamed: Option<Shown>,
    /// It is the tracer's own child, whose end is the table's to tell.
    is_child: bool,
    pub(super) view: Tracee,
    /// The call that it was last seen to make.
    pub(super) number: u64,
    /// The child that it made last.
    pub(super) born: u32,
    /// Its tracer does not want it: it is let go at its first stop.
    pub(super) is_unwanted: bool,
    /// A signal that the kernel was told to drop, and gets again.
    pub(super) kept: Option<[u8; ptrace::SIGINFO_BYTES]>,
    waiter: Option<Waiter>,
}

/// Begins.
pub(super) fn start(
    node: Weak<Node>,
    sender: Sender<Message>,
    messages: Receiver<Message>,
) -> Result<()> {
    ptrace::prepare_waiters()?;
    let run = move || run(&node, &sender, &messages);
    let spawned = std::thread::Builder::new().name("tracing".into()).spawn(run);
    spawned.map(drop).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))
}

fn run(node: &Weak<Node>, sender: &Sender<Message>, messages: &Receiver<Message>) {
    let (mut tracees, mut points) = (BTreeMap::new(), None);
    while let Ok(message) = messages.recv() {
        // The node does not outlive its other threads because of this one.
        let Some(node) = node.upgrade() else { return };
        let mut tracer = Tracer { node, sender: sender.clone(), tracees, points };
        match message {
            Message::Request(call) => tracer.request(call),
            Message::Changed(host, found) => tracer.changed(host, found),
            Message::TracerGone(pid) => tracer.tracer_gone(pid),
            Message::Named => tracer.named(),
        }
        Tracer { tracees, points, .. } = tracer;
    }
}

impl Tracer {
    /// Takes a host thread under its wing; the kernel traces it already.
    pub(super) fn adopt(&mut self, host: u32, tracer: Pid, view: Tracee) -> Result<()> {
        let name = self.name_of(host);
        self.node.tracing.insert(host, tracer, name)?;
        let waiter = match Waiter::start(host, self.sender.clone()) {
            Ok(waiter) => Some(waiter),
            Err(errno) => {
                self.node.tracing.remove(host);
                return Err(errno);
            }
        };
        let record = Record {
            tracer,
            name,
            unnamed: None,
            is_child: self.is_child(name, tracer),
            view,
            number: 0,
            born: 0,
            is_unwanted: false,
            kept: None,
            waiter,
        };
        self.tracees.insert(host, record);
        Ok(())
    }

    /// Thread and process of a host thread, if the table knows them yet.
    fn name_of(&self, host: u32) -> Option<(Pid, Pid)> {
        let caller = self.node.look(|state| state.caller(host))?;
        Some((caller.tid, caller.pid))
    }

    /// The thread and process of a tracee, looked up until the table knows them.
    pub(super) fn name(&mut self, host: u32) -> Option<(Pid, Pid)> {
        if let Some(name) = self.tracees.get(&host)?.name {
            return Some(name);
        }
        let name = self.name_of(host)?;
        self.node.tracing.set_name(host, name);
        let is_child = self.is_child(Some(name), self.tracees.get(&host)?.tracer);
        let record = self.tracees.get_mut(&host)?;
        (record.name, record.is_child) = (Some(name), is_child);
        Some(name)
    }

    fn is_child(&self, name: Option<(Pid, Pid)>, tracer: Pid) -> bool {
        name.is_some_and(|(tid, process)| {
            tid == process && self.node.look(|state| state.table.parent(process)) == Some(tracer)
        })
    }

    fn changed(&mut self, host: u32, found: Option<Found>) {
        if !matches!(found, Some(Found::Stopped(_))) {
            tracing::trace!(host, ?found, "a tracee is none any more");
        }
        match found {
            Some(Found::Stopped(status)) => self.stopped(host, status),
            Some(Found::Exited(status)) => self.ended(host, CLD_EXITED, status),
            Some(Found::Killed { signal, core: false }) => self.ended(host, CLD_KILLED, signal),
            Some(Found::Killed { signal, .. }) => self.ended(host, CLD_DUMPED, signal),
            None => drop(self.forget(host)),
        }
    }

    /// Carries out what the machine wants.
    pub(super) fn act(&mut self, host: u32, act: Act) {
        match act {
            Act::Show(shown) => self.show(host, shown),
            Act::Run(how, signal) => {
                let how = match how {
                    How::Continue => Resume::Continue,
                    How::ToCall => Resume::ToCall,
                    How::Step => Resume::Step,
                };
                if self.tracees.get(&host).is_some_and(|record| record.view.wants_interruption()) {
                    let _ = ptrace::interrupt(host);
                }
                // One that has been killed meanwhile goes on by itself, to its end.
                let _ = ptrace::resume(host, how, signal);
            }
        }
    }

    fn show(&mut self, host: u32, shown: Shown) {
        let Some((tid, process)) = self.name(host) else {
            // Whoever made it has not named it yet: it stands until then.
            if let Some(record) = self.tracees.get_mut(&host) {
                record.unnamed = Some(shown);
            }
            return;
        };
        let Some(record) = self.tracees.get(&host) else { return };
        let status = shown.status(record.view.is_seized, record.view.options);
        let report = Report { tid, process, code: CLD_TRAPPED, status: status.cast_signed() };
        self.tell(record.tracer, report);
    }

    /// Somebody has been named, perhaps one who is to be shown.
    fn named(&mut self) {
        let waiting = self.tracees.iter().filter(|(_, record)| record.unnamed.is_some());
        for host in waiting.map(|(host, _)| *host).collect::<Vec<u32>>() {
            let shown = self.tracees.get_mut(&host).and_then(|record| record.unnamed.take());
            if let Some(shown) = shown {
                self.show(host, shown);
            }
        }
    }

    /// Lets a tracer know.
    fn tell(&self, tracer: Pid, report: Report) {
        self.node.tracing.report(tracer, report);
        self.node.wake(tracer);
        let Some(host) = self.node.look(|state| state.host_pid(tracer)) else { return };
        let payload = Payload {
            code: encode(report.code),
            pid: report.tid.get(),
            uid: self.node.ids_base,
            value: u64::from(report.status.cast_unsigned()),
        };
        // One that has ended needs no word.
        let _ = queue_to_process(host, SIGCHLD, &payload);
    }

    fn ended(&mut self, host: u32, code: i32, status: i32) {
        let Some(record) = self.tracees.get(&host) else { return };
        let told = record.name.filter(|_| !record.is_child);
        let Some((tid, process)) = told else { return drop(self.forget(host)) };
        let tracer = record.tracer;
        // A wait in between finds either the tracee or its end.
        self.tell(tracer, Report { tid, process, code, status });
        self.tracees.remove(&host);
        self.node.tracing.remove(host);
        // One that had found the end by then waits for a tracee that is none any more.
        self.node.wake(tracer);
    }

    /// Traces it no more.
    pub(super) fn forget(&mut self, host: u32) -> Option<Record> {
        let record = self.tracees.remove(&host)?;
        self.node.tracing.remove(host);
        if let Some((tid, _)) = record.name {
            self.node.tracing.withdraw(record.tracer, tid);
        }
        // Who waits for it now learns that there is nothing to wait for.
        self.node.wake(record.tracer);
        Some(record)
    }

    /// After an exec by another than the first thread, whose number that one has now.
    pub(super) fn take_over(&mut self, host: u32, before: u32) {
        let Some(mut old) = self.tracees.remove(&before) else { return };
        self.node.tracing.remove(before);
        drop(old.waiter.take());
        if let Some(record) = self.tracees.get_mut(&host) {
            record.view = old.view;
            record.number = old.number;
        }
    }

    fn tracer_gone(&mut self, tracer: Pid) {
        for host in self.node.tracing.tracees_of(tracer) {
            let Some(record) = self.tracees.get_mut(&host) else { continue };
            if record.view.options & dunix_tracing::options::EXITKILL != 0 {
                crate::launch::kill(host);
                continue;
            }
            // One that is shown is let go now, another at its next stop.
            match record.view.shown() {
                Some(shown) => {
                    let signal = match shown.kind {
                        Kind::Signal { number } => number,
                        _ => 0,
                    };
                    let _ = ptrace::resume(host, Resume::Detach, signal);
                    drop(self.forget(host));
                }
                None => {
                    record.is_unwanted = true;
                    let _ = ptrace::interrupt(host);
                }
            }
        }
    }
}
