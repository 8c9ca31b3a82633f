//! The threads by which pages travel between nodes.
//!
//! Invariant: nothing here waits for anything of a guest but its memory. A guest that waits for a page
//! may hold a lock of the kernel meanwhile (a pipe's, when it reads into the page), and the driver's
//! other threads may wait for that very lock (when they close the pipe's other end).

use dunix_linux::{Errno, Result};
use tokio::runtime::{Builder, EnterGuard, Runtime};

/// One may read a window while the other takes what comes.
const THREADS: usize = 2;

/// Ends with the value, and what runs there with it.
#[derive(Debug)]
pub(crate) struct PageThreads(Option<Runtime>);

impl PageThreads {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`Errno::AGAIN`]: there are too many.
    pub(crate) fn start() -> Result<PageThreads> {
        let threads = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("pages")
            .enable_all()
            .build();
        threads
            .map(|threads| PageThreads(Some(threads)))
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))
    }

    /// Has the calling thread spawn there while the guard lives.
    pub(crate) fn enter(&self) -> Option<EnterGuard<'_>> {
        self.0.as_ref().map(Runtime::enter)
    }
}

impl Drop for PageThreads {
    fn drop(&mut self) {
        if let Some(threads) = self.0.take() {
            // Does not wait: this may be a thread of some runtime.
            threads.shutdown_background();
        }
    }
}
