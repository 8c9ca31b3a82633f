//! Messages between nodes, one module per topic. A peer's message is an allegation until decoded
//! and checked; every message has a greatest size.
//!
//! Each topic has its own request, reply and one-way types; [`Topic`] says which decoder applies.
#![no_std]
extern crate alloc;

pub mod beacon;
pub mod files;
pub mod frame;
pub mod load;
pub mod locks;
pub mod names;
pub mod processes;

use alloc::vec::Vec;
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
    /// Lists, explanations and events for the command line.
    Administration = 6,
    /// Locks of parts of files.
    Locks = 7,
}

impl Topic {
    /// How many topics there are; their numbers are `1..=COUNT`.
    pub const COUNT: usize = 7;

    /// Returns the topic of this number.
    #[must_use]
    pub const fn of_byte(byte: u8) -> Option<Topic> {
        Some(match byte {
            1 => Topic::Processes,
            2 => Topic::Files,
            3 => Topic::Names,
            4 => Topic::Load,
            5 => Topic::Coordination,
            6 => Topic::Administration,
            7 => Topic::Locks,
            _ => return None,
        })
    }
}

/// Greatest bytes of one encoded message.
pub const MESSAGE_BYTES_MAX: usize = 2 << 20;

/// A peer's bytes that are no message of the expected type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed message")]
pub struct Malformed;

/// Encodes a message.
#[must_use]
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    // Our messages are plain structs, enums, strings and sequences of known length: the encoder
    // fails only for types that cannot be encoded at all, which no type of this crate is.
    postcard::to_allocvec(message).unwrap_or_default()
}

/// Decodes a peer's message; every byte must belong to it.
///
/// # Errors
/// [`Malformed`] if the bytes are of another shape or anything is left over.
pub fn decode<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Malformed> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        _ => Err(Malformed),
    }
}
