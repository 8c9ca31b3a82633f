//! Headers of byte streams: of those that carry the descriptors of a process that runs elsewhere,
//! and of those that carry its pages.

use super::PagesHeader;
use dunix_ids::Pid;
use serde::{Deserialize, Serialize};

/// First bytes of a stream on [`Topic::Processes`](crate::Topic): what it carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum StreamOpening {
    /// A descriptor.
    Descriptor(StreamHeader),
    /// The pages of a process that moves, opened by its target.
    Pages(PagesHeader),
}

/// A descriptor's stream, opened by the node that adopted the process towards the object's home.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StreamHeader {
    /// The home's number for the object (see [`DescriptorKind`](super::image::DescriptorKind)).
    pub object: u64,
    /// The process for which it was opened.
    pub pid: Pid,
    pub direction: Direction,
}

/// Which way bytes flow, seen from the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Direction {
    /// It reads what the home has.
    Read,
    /// It writes to the home.
    Write,
    /// Both, each with its own end (a socket).
    Both,
}
