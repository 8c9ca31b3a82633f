//! The fabric's process table: one [`ProcTable`] per node, which together are one table.
//!
//! Owns: PIDs and TIDs, parenthood, process groups, sessions, the states that wait(2) reports, who
//! may signal whom, and what the death of a node means for all these. Refuses: host processes,
//! slots, terminals, descriptors and clocks, which are its driver's.
//!
//! The form: methods named by verbs take `now` (time since any fixed instant) and what happened,
//! and queue [`Effect`]s, which the driver takes with [`ProcTable::poll_effect`] after each call
//! and carries out in order. Operations that may have to ask another node take a [`Token`] and
//! answer by [`Effect::Reply`], at once if the answer is known here. Everything else is answered
//! directly.
//!
//! Invariants (checked by [`ProcTable::check_invariants`]):
//! - a process is in the table of exactly one node, or on its way between two;
//! - a zombie stays where it ended until its parent has waited; a PID goes back to its leaser's
//!   pool when process, group and session of that number have all gone, and rests there
//!   [`limits::QUARANTINE`] long;
//! - messages between one pair of nodes arrive in order; between pairs nothing is assumed.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod blocks;
mod effect;
mod exec;
mod exit;
mod fence;
mod fork;
mod group;
mod group_home;
mod invariants;
mod kill;
pub mod limits;
mod location;
mod moving;
mod node_death;
mod number;
mod operation;
mod process;
mod query;
mod request;
mod session;
mod table;
mod thread;
mod tombstone;
mod wait;

pub use effect::{Effect, HostTarget, Note, Token};
pub use request::{
    CLD_CONTINUED, CLD_DUMPED, CLD_EXITED, CLD_KILLED, CLD_STOPPED, KillTarget, Kind, RootSpec,
    TableConfig, WaitFor, WaitOptions, WaitOutcome, Waited, cld_of,
};
pub use table::ProcTable;

/// Signals that the table itself sends or knows (x86-64 and generic numbering).
pub const SIGHUP: u8 = 1;
/// Kill.
pub const SIGKILL: u8 = 9;
/// A child changed.
pub const SIGCHLD: u8 = 17;
/// Continue.
pub const SIGCONT: u8 = 18;
/// Stop, whatever the process wants.
pub const SIGSTOP: u8 = 19;
/// Greatest signal number.
pub const SIGNAL_MAX: u8 = 64;
