//! What the pager's thread, its tasks and the rest of the daemon share.
//!
//! Bounds: the inbox holds what the stream's window lets through, the wants one entry for each window
//! of the moved memory.

use super::Lost;
use super::frames::Item;
use dunix_linux::{Errno, Result};
use dunix_transport::StreamEnd;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How the pages of a move ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum PagingEnd {
    /// Every page that anybody still has mapped is here.
    Complete,
    /// They will not come; who lacks one has been killed.
    Lost(Lost),
}

/// What one move's paging did so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct PagingFigures {
    /// Bytes of pages that came after the process ran.
    pub(crate) bytes: u64,
    /// Faults on pages that had to come from the source.
    pub(crate) faults: u64,
    /// Faults on pages that the source does not have.
    pub(crate) zero_faults: u64,
    /// Address spaces that were forked meanwhile.
    pub(crate) forks: u64,
    /// From the start of the process here to the last page.
    pub(crate) last_page: Option<Duration>,
}

/// A process whose pages are on their way; its children by fork have a clone.
#[derive(Clone, Debug)]
pub(crate) struct Paging(pub(super) Arc<Shared>);

impl Paging {
    /// Tells the source that the process runs: the rest may come.
    pub(crate) fn set_running(&self) {
        self.0.lock().is_running = true;
        self.0.to_source.notify_one();
    }

    /// The process will not run: its pages need not come.
    pub(crate) fn give_up(&self) {
        self.0.deliver(Vec::new(), Some(StreamEnd::Aborted));
    }

    /// How it ended, if it has.
    pub(crate) fn end(&self) -> Option<PagingEnd> {
        self.0.end.borrow().clone()
    }

    /// Waits for the end.
    pub(crate) async fn ended(&self) -> PagingEnd {
        let mut end = self.0.end.subscribe();
        loop {
            let seen = end.borrow_and_update().clone();
            if let Some(seen) = seen {
                return seen;
            }
            if end.changed().await.is_err() {
                // Cannot be: `self` holds the sender.
                return PagingEnd::Lost(Lost::Host(Errno::IO));
            }
        }
    }

    /// What it did so far.
    pub(crate) fn figures(&self) -> PagingFigures {
        self.0.lock().figures
    }

    /// Whether the process may fork before its last page is here.
    pub(crate) fn allows_forks(&self) -> bool {
        self.0.hears_forks
    }

    /// Whether both are of the same move.
    pub(crate) fn is_same(&self, other: &Paging) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Between threads.
#[derive(Debug)]
pub(super) struct Shared {
    hears_forks: bool,
    inner: Mutex<Inner>,
    /// Wakes the pager's thread.
    bell: OwnedFd,
    /// Wakes the task that writes to the source.
    pub(super) to_source: Notify,
    /// Wakes the task that reads from the source.
    pub(super) placed: Notify,
    pub(super) end: watch::Sender<Option<PagingEnd>>,
}

#[derive(Default, Debug)]
pub(super) struct Inner {
    pub(super) inbox: VecDeque<Item>,
    /// The stream has ended; what came before is in the inbox.
    pub(super) source_end: Option<StreamEnd>,
    pub(super) wants: VecDeque<Range<u64>>,
    /// Bytes of pages that have come and are not dealt with.
    pub(super) unplaced_bytes: usize,
    /// Bytes dealt with since the stream's task was told.
    pub(super) untold_bytes: usize,
    pub(super) is_running: bool,
    pub(super) figures: PagingFigures,
}

impl Shared {
    pub(super) fn new(hears_forks: bool) -> Result<Shared> {
        Ok(Shared {
            hears_forks,
            inner: Mutex::default(),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            to_source: Notify::new(),
            placed: Notify::new(),
            end: watch::Sender::new(None),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over what came; wakes the pager's thread.
    pub(super) fn deliver(&self, items: Vec<Item>, end: Option<StreamEnd>) {
        let mut inner = self.lock();
        let pages = items.iter().map(|item| if let Item::Pages(_, b) = item { b.len() } else { 0 });
        inner.unplaced_bytes += pages.sum::<usize>();
        inner.inbox.extend(items);
        inner.source_end = inner.source_end.or(end);
        drop(inner);
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// Pager's thread: forgets that the bell rang.
    pub(super) fn quieten(&self) {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
    }

    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
