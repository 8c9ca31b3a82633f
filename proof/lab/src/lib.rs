//! Builds a throw-away fabric on one machine: each node with namespaces, root, link end, cgroup and
//! keeper of its own; or one node of a fabric that spans machines. Leaves nothing behind.
//!
//! ```text
//! lab's owner ─┬─ switch    a network namespace with a bridge; holds it, plugs, cuts and mends
//!              ├─ janitor   cleans the host when the owner dies
//!              └─ keeper    process 1 of a node, made by an installer that is gone by then
//! ```
//!
//! Owns: everything that a lab puts on the host, listed in its manifest before it is made. Refuses:
//! to know what runs in a node; the program that it starts there is the caller's.
//!
//! Invariants
//! - The end of any process of a lab ends the lab: the kernel kills keepers and switch with their
//!   parent, the owner watches all of them, the janitor watches the owner. If all of them are killed
//!   at once, the next lab cleans up ([`sweep`]).
//! - Nothing is shared between nodes, nor between a node and the owner: no descriptor, mount, file
//!   (a node runs a copy of the program) or namespace. What a node gets from its owner is a
//!   listening socket, a pipe with its configuration, the lifeline, doors to its own cgroup, its log.

mod config;
mod error;
mod install;
pub mod isolation;
mod janitor;
mod link;
mod members;
mod node_root;
mod owner;
mod packets;
mod preflight;
mod roles;
mod set_ids;
mod state;
mod switch;
pub mod traces;
mod watch;

pub use config::{LabConfig, Member, NODES_MAX, NodeConfig, Root};
pub use error::LabError;
pub use members::make_members;
pub use owner::{Lab, NodeHandle};
pub use preflight::{Finding, check_host};
pub use roles::run_role;
pub use set_ids::{SET_IDS_FILE, SetIdProgram};
pub use state::STORE_DIRECTORY;
pub use state::sweep;
pub use watch::LabEnd;
