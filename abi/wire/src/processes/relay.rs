//! Headers of byte streams: of those that carry the descriptors of a process that runs elsewhere,
//! and of those that carry its pages.

use super::{DescriptorImage, PagesHeader};
use alloc::vec::Vec;
use dunix_ids::{ObjectId, Pid};
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

/// A message with descriptors between two relayed sockets (unix(7), `SCM_RIGHTS`). The numbers of the
/// descriptors mean nothing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BorneMessage {
    /// The object at the home, whose stream the sockets have.
    pub relay: ObjectId,
    /// At most [`CALL_BYTES_MAX`](super::image::CALL_BYTES_MAX).
    pub bytes: Vec<u8>,
    pub descriptors: Vec<DescriptorImage>,
}
