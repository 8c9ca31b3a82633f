//! Notices the end of any process of a lab, and ends the lab then.

use crate::error::LabError;
use crate::owner::Shared;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Why a lab ended by itself.
#[derive(Clone, Debug)]
pub struct LabEnd {
    /// The node that ended it, 0 if it was one of the lab's own processes.
    pub node: u32,
    /// What happened, for people.
    pub reason: String,
    /// The last lines of that node's log.
    pub log: String,
}

/// A thread that waits for the first death.
#[derive(Debug)]
pub(crate) struct Watch {
    stop: OwnedFd,
    ended: Arc<Ended>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Ended {
    signal: OwnedFd,
    end: Mutex<Option<LabEnd>>,
}

impl Watch {
    /// Watches processes, each with its node's number, its name and its pidfd.
    pub(crate) fn start(
        watched: Vec<(u32, String, OwnedFd)>,
        shared: Arc<Shared>,
    ) -> Result<Watch, LabError> {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let step = |error: rustix::io::Errno| LabError::step("watch the lab")(error.into());
        let stop = event().map_err(step)?;
        let stopped = stop.try_clone().map_err(LabError::step("watch the lab"))?;
        let ended = Arc::new(Ended { signal: event().map_err(step)?, end: Mutex::new(None) });
        let theirs = Arc::clone(&ended);
        let thread = std::thread::Builder::new()
            .name("lab-watch".into())
            .spawn(move || run(&watched, &stopped, &shared, &theirs))
            .map_err(LabError::step("watch the lab"))?;
        Ok(Watch { stop, ended, thread: Some(thread) })
    }

    pub(crate) fn ended(&self) -> Option<LabEnd> {
        self.ended.end.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn end_descriptor(&self) -> BorrowedFd<'_> {
        self.ended.signal.as_fd()
    }

    /// Waits so long, or less if the lab ends.
    pub(crate) fn wait(&self, limit: Duration) {
        let limit = Timespec::try_from(limit).ok();
        // An interrupted or failed wait is a short one: the caller looks again anyway.
        let _ = poll(&mut [PollFd::new(&self.ended.signal, PollFlags::IN)], limit.as_ref());
    }

    pub(crate) fn stop(&mut self) {
        raise(&self.stop);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; ending goes on without it.
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop();
    }
}

fn raise(event: &OwnedFd) {
    // An eventfd that cannot take another 1 is readable, which is all that matters.
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}

fn run(watched: &[(u32, String, OwnedFd)], stop: &OwnedFd, shared: &Shared, ended: &Ended) {
    let Some((node, name)) = first_dead(watched, stop) else { return };
    let reason = format!("{name} died");
    let log = if node == 0 { String::new() } else { shared.log_tail(node) };
    shared.end();
    let end = LabEnd { node, reason, log };
    *ended.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
    raise(&ended.signal);
}

/// Waits for the first watched process to end; `None` if told to stop first.
fn first_dead(watched: &[(u32, String, OwnedFd)], stop: &OwnedFd) -> Option<(u32, String)> {
    let mut polled: Vec<PollFd<'_>> =
        watched.iter().map(|(_, _, pidfd)| PollFd::new(pidfd, PollFlags::IN)).collect();
    polled.push(PollFd::new(stop, PollFlags::IN));
    loop {
        match poll(&mut polled, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            // Only a lack of memory; a lab that nobody watches must end.
            Err(error) => return Some((0, format!("the watch ({error})"))),
        }
        let (stopped, processes) = polled.split_last()?;
        if !stopped.revents().is_empty() {
            return None;
        }
        let dead = processes.iter().position(|process| !process.revents().is_empty());
        if let Some((node, name, _)) = dead.and_then(|at| watched.get(at)) {
            return Some((*node, name.clone()));
        }
    }
}
