//! Moving a running process: taking it down at its node and setting it up at another.
//!
//! ```text
//! source                                       target
//! Node::freeze -> Frozen                       Arrival::prepare(image)
//!   | image   --- Package, by the hand-over -->   | a shell of the keeper's becomes the process;
//!   |                                             | pages <- stream <- Frozen
//!   | thaw: it goes on here                       | discard: it never was here
//!   | donate -> Donor, until the last page        | bind, release -> Arriving, until the last page
//! ```
//!
//! Owns: freezing, description, pages and restoration of one process. Refuses: the decision where it
//! lives, which is the hand-over's; until its word both sides hold a process that does not run.
//! Everything waits for a bounded time, and nothing is left behind when either side gives up.

mod arrive;
mod calls;
mod clocks;
mod come;
mod donor;
mod freeze;
mod hall;
mod handover;
mod image;
mod late;
mod leave;
mod mappings;
pub(crate) mod pager;
mod pages;
mod pending;
mod rehearse;
mod request;
mod restore;
mod script;
mod shell;
mod smaps;
mod timers;

pub(crate) use arrive::{Arrival, Arriving};
pub(crate) use donor::Donor;
pub(crate) use freeze::Frozen;
pub(crate) use hall::Halls;
pub(crate) use handover::Moves;
pub(crate) use shell::{Shell, Spawning};
