//! What a node is given when it starts: descriptors at agreed numbers, and on one of them its
//! configuration (JSON).
//!
//! Whoever makes a node's namespaces gives them to process 1, the keeper, which passes the first two
//! on to its daemon at the same numbers.

use alloc::string::String;
use dunix_ids::NodeId;
use serde::{Deserialize, Serialize};

/// The listening admin socket.
pub const DESCRIPTOR_ADMIN: i32 = 3;
/// A pipe with the node's configuration, then its end.
pub const DESCRIPTOR_CONFIG: i32 = 4;
/// A pipe that closes when whoever made the node dies. Nothing comes on it.
pub const DESCRIPTOR_LIFELINE: i32 = 5;
/// The first of the open `cgroup.procs` files by which a process enters the guests' group: it
/// writes `0` to each. Their number is in the environment variable [`GUEST_DOORS_VARIABLE`].
pub const DESCRIPTOR_GUEST_DOORS: i32 = 6;
/// See [`DESCRIPTOR_GUEST_DOORS`].
pub const GUEST_DOORS_VARIABLE: &str = "DUNIX_GUEST_DOORS";

/// A node's configuration.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// The fabric's name.
    pub fabric: String,
    /// This node's number, bound to its key by its certificate.
    pub node: NodeId,
    /// This node's name, for people.
    pub name: String,
    /// Nodes that the fabric starts with; ready means that all of them answer.
    pub nodes: u32,
    /// The network interface on the fabric's link.
    pub interface: String,
    /// The fabric's certificate authority, this node's certificate and its key, each PEM.
    pub ca_pem: String,
    pub cert_pem: String,
    pub key_pem: String,
    /// The node that serves the tree, leases PID blocks and holds the table of ports.
    pub authority: NodeId,
    /// Where the tree comes from.
    pub root: Root,
    /// Place every exec round robin over the nodes.
    pub spread: bool,
    /// Processors that the node's guests may use.
    pub cpus: f64,
    /// When the guests' clocks of elapsed time began, in seconds since 1970: the same on all nodes,
    /// whose kernels count from their own starts. `None`: the nodes share a kernel.
    #[serde(default)]
    pub clock_zero_s: Option<u64>,
}

/// Where the tree comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// The authority serves a copy-on-write view of its host's root through FUSE.
    Cow,
    /// The host's root, copy-on-write, without FUSE: for one node only.
    Host,
}
