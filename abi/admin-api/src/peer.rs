//! What nodes ask each other to answer a client, on the mesh's topic for administration.

use crate::{Explanation, NodeInfo, ProcessInfo};
use alloc::{boxed::Box, string::String, vec::Vec};
use dunix_ids::Pid;
use serde::{Deserialize, Serialize};

/// A question of one node to another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PeerCall {
    /// What the asked node says of itself.
    Node,
    /// Its processes with PIDs above this one, in ascending order,
    /// [`LIST_ITEMS_MAX`](crate::LIST_ITEMS_MAX) at most.
    Processes { after: u32 },
    /// All it knows of a process that runs on it.
    Explain(Pid),
    /// Its counts.
    Metrics,
}

/// The answer to a [`PeerCall`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PeerReply {
    Node(Box<NodeInfo>),
    Processes(Vec<ProcessInfo>),
    /// `None`: no such process here.
    Explained(Option<Box<Explanation>>),
    /// Prometheus' text form (OpenMetrics 1.0).
    Metrics(String),
}

/// Header of a stream on which the asked node sends its events, each an encoded
/// [`Event`](crate::Event) behind its length as `u32`, little endian.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SubscribeEvents;
