//! Messages between nodes, one module per topic. A peer's message is an allegation until decoded
//! and checked; every message has a greatest size.
//!
//! Each topic has its own request, reply and one-way types; [`Topic`] says which decoder applies.
#![no_std]
extern crate alloc;

pub mod names;

use serde::{Deserialize, Serialize};

/// The topics that nodes talk about; each has one handler in a daemon.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[repr(u8)]
pub enum Topic {
    /// Processes: signals, exits, groups, remote exec, relayed descriptors.
    Processes = 1,
    /// The tree: file requests to the authority, invalidations from it.
    Files = 2,
    /// Loopback ports and other names of the fabric.
    Names = 3,
    /// Load and membership.
    Load = 4,
    /// PID blocks, epochs.
    Coordination = 5,
}

/// Greatest bytes of one encoded message.
pub const MESSAGE_BYTES_MAX: usize = 2 << 20;
