//! A call that waits, on a thread of its own, and can be given up.

use crate::{Errno, Result, check, signal};
use std::sync::{Arc, Mutex, PoisonError};

/// Interrupts the thread. Nobody else sends it, and what it does unhandled is nothing.
const SIGNAL: i32 = libc::SIGURG;

/// A call under way.
#[derive(Debug)]
pub struct WaitingCall {
    /// The thread, while it is in the call or about to be.
    thread: Arc<Mutex<Option<u32>>>,
}

impl WaitingCall {
    /// Makes a call on a new thread, which then calls `done`. What the call changes of the thread is gone
    /// with it.
    ///
    /// # Errors
    /// What the host says of the signal; `EAGAIN` if there is no thread to be had.
    pub fn start<T>(
        call: impl FnOnce() -> Result<T> + Send + 'static,
        done: impl FnOnce(Result<T>) + Send + 'static,
    ) -> Result<WaitingCall> {
        handle_signal()?;
        let thread = Arc::new(Mutex::new(None));
        let inside = thread.clone();
        let run = move || {
            let set = |tid| *inside.lock().unwrap_or_else(PoisonError::into_inner) = tid;
            set(Some(rustix::thread::gettid().as_raw_pid().cast_unsigned()));
            let result = signal::set_mask(0).and_then(|()| call());
            set(None);
            done(result);
        };
        let builder = std::thread::Builder::new().name("waits".to_owned());
        builder.spawn(run).map_err(|_| Errno::AGAIN)?;
        Ok(WaitingCall { thread })
    }

    /// Ends the call with `EINTR` if it waits just now; one that is about to is to be interrupted again.
    pub fn interrupt(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tid) = *thread {
            // The thread is there: it takes itself out before it ends.
            let _ = signal::send_to_thread(std::process::id(), tid, SIGNAL);
        }
    }
}

/// Has the signal interrupt calls and do nothing else.
fn handle_signal() -> Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: all zeros are a valid sigaction; the handler does nothing, which is safe at any instant.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        check(libc::sigaction(SIGNAL, &raw const action, core::ptr::null_mut()).into())?;
    }
    Ok(())
}
