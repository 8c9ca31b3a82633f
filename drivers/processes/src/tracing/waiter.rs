//! One thread that waits for one tracee: a wait for several could not be told to stop.

use super::Message;
use dunix_linux::ptrace::{self, Found};
use dunix_linux::{Errno, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;

/// Stack of a waiter, which calls the kernel and nothing else.
const STACK_BYTES: usize = 128 * 1024;
/// How often an idle waiter is woken before it is left to the end of its tracee.
const WAKES_MAX: u32 = 1000;
/// Between two of them.
const WAKE_AGAIN: Duration = Duration::from_micros(200);

/// The thread that waits for a tracee.
#[derive(Debug)]
pub(super) struct Waiter {
    shared: Arc<Shared>,
    handle: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    tid: AtomicU32,
    is_over: AtomicBool,
}

impl Waiter {
    /// Begins to wait for a host thread.
    pub(super) fn start(host: u32, to: Sender<Message>) -> Result<Waiter> {
        let shared = Arc::new(Shared::default());
        let own = shared.clone();
        let handle = std::thread::Builder::new()
            .name("tracee".into())
            .stack_size(STACK_BYTES)
            .spawn(move || wait(host, &own, &to))
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        Ok(Waiter { shared, handle: Some(handle) })
    }
}

impl Drop for Waiter {
    /// Takes the thread out of a wait whose tracee is none any more.
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        let Some(handle) = self.handle.take() else { return };
        for _ in 0..WAKES_MAX {
            if handle.is_finished() {
                let _ = handle.join();
                return;
            }
            match self.shared.tid.load(Ordering::Acquire) {
                0 => {}
                tid => drop(ptrace::wake_waiter(tid)),
            }
            std::thread::sleep(WAKE_AGAIN);
        }
        tracing::warn!("a waiter for a tracee does not end");
    }
}

fn wait(host: u32, shared: &Shared, to: &Sender<Message>) {
    shared.tid.store(ptrace::own_tid(), Ordering::Release);
    while !shared.is_over.load(Ordering::Acquire) {
        let (found, is_last) = match ptrace::wait(host) {
            Err(Errno::INTR) => continue,
            Err(_) => (None, true),
            Ok(found @ Found::Stopped(_)) => (Some(found), false),
            Ok(found) => (Some(found), true),
        };
        if to.send(Message::Changed(host, found)).is_err() || is_last {
            return;
        }
    }
}
