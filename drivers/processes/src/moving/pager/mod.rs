//! Pages that follow a process to its new node while it runs there already.
//!
//! ```text
//! source                                          target
//! Offers::offer(PageSource) -> Serving            Incoming::open
//!   |  pages that it needs to run  --------------->  stage
//!   |                                                page_in -> Paging: its thread
//!   |  <------------ Running, Want -----------------   | faults, forks, unmaps, remaps
//!   |  windows of 64 KiB: asked for first, then all ->  | placed in every space that lacks them
//!   `- finish: the donor may go                        `- done: as if it had always been here
//! ```
//!
//! Owns: the frozen process's pages from the offer to the last, userfaultfd and its events, the pages
//! of children that are forked meanwhile. Refuses: what the process is besides its memory; files and
//! shared memory, whose pages userfaultfd does not miss: they are among those that it needs to run.
//!
//! Invariants: a page is placed in a space before that space is let go, or its processes are killed;
//! the pager's thread neither touches guest memory nor waits for the mesh; no page is sent twice.

mod frames;
mod incoming;
mod offers;
mod pending;
mod shared;
mod source;
mod space;
#[cfg(test)]
mod tests;
mod thread;
mod threads;

pub(crate) use incoming::{Content, Incoming, StageError};
pub(crate) use offers::{Offers, Serving};
pub(crate) use shared::{Paging, PagingEnd};
pub(crate) use source::{PageSource, ServeError};
pub(crate) use threads::PageThreads;

/// Most address spaces (a process and its children by fork) that wait for the pages of one move.
/// Beyond it all of them are killed: a fork cannot be refused once the kernel has done it.
pub(crate) const SPACES_MAX: usize = 1024;

/// Why pages will not come. Who waits for them has been killed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Lost {
    /// The connection ended before the last page.
    #[error("its pages were on node {0}, which died")]
    SourceDied(dunix_ids::NodeId),
    /// The source broke off: the frozen process is gone, or it does not keep to the protocol.
    #[error("node {0} did not send all of its pages")]
    SourceFailed(dunix_ids::NodeId),
    /// More than [`SPACES_MAX`].
    #[error("it forked too often while pages were on their way")]
    TooManySpaces,
    /// The kernel refused a page.
    #[error("a page could not be placed: {0}")]
    Host(dunix_linux::Errno),
    /// The kernel said [`Errno::AGAIN`](dunix_linux::Errno) for too long.
    #[error("its memory did not come to rest")]
    Restless,
}
