//! What a lab is asked to be.

use crate::error::LabError;
use crate::state::group_name;
use std::ffi::OsString;
use std::fmt;
use std::time::Duration;

pub use dunix_admin_api::{NodeConfig, Root};

/// How long a node waits for those on other machines.
const MEMBERS_WITHIN: Duration = Duration::from_secs(600);
/// Most nodes of a lab: a node costs some 20 MiB and a dozen descriptors of the owner.
pub const NODES_MAX: u32 = 64;
/// Longest name of a lab; it is part of socket paths (108 bytes) and group names.
pub(crate) const NAME_BYTES_MAX: usize = 32;
/// The first host id of node 0's range; node `k` has `ID_BASE + k * ID_COUNT ..`.
pub(crate) const ID_BASE: u32 = 0x1000_0000;
/// Ids of a node: 65,536 of its own, then 65,536 of its guests.
pub(crate) const ID_COUNT: u32 = 131_072;
/// The node's id that the guests' root has.
pub(crate) const GUEST_ID_FIRST: u32 = 65_536;
/// Ids that guests have.
pub(crate) const GUEST_IDS: u32 = ID_COUNT - GUEST_ID_FIRST;

/// One node of a fabric whose other nodes are on other machines.
#[derive(Clone)]
pub struct Member {
    /// The node as its fabric knows it, with its keys; [`NodeConfig::interface`] is filled in.
    pub node: NodeConfig,
    /// This machine's interface on the link to the others. It stays the machine's: the node gets
    /// an address of its own beside it (macvlan).
    pub interface: String,
}

impl fmt::Debug for Member {
    /// Leaves the keys out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} at {}", self.node.node, self.node.fabric, self.interface)
    }
}

/// What a lab is asked to be.
#[derive(Clone, Debug)]
pub struct LabConfig {
    /// The lab's name, which is also its fabric's.
    pub name: String,
    /// How many nodes, `1..=NODES_MAX`.
    pub nodes: u32,
    /// Processors' worth of time that each node's guests get; all there are if `None`.
    pub cpus_per_node: Option<f64>,
    /// Places every exec round robin.
    pub spread: bool,
    /// Where the tree comes from.
    pub root: Root,
    /// The arguments with which process 1 of a node is started; the program is the caller's own.
    pub node_arguments: Vec<OsString>,
    /// How long the nodes may take until all are ready.
    pub ready_within: Duration,
    /// Only this node is made here; then `name` and `nodes` are its fabric's.
    pub member: Option<Member>,
}

impl LabConfig {
    /// A lab of this many nodes with everything else as usual.
    #[must_use]
    pub fn new(name: impl Into<String>, nodes: u32) -> Self {
        Self {
            name: name.into(),
            nodes,
            cpus_per_node: None,
            spread: false,
            root: Root::Cow,
            node_arguments: vec!["node".into(), "--keeper".into()],
            ready_within: Duration::from_secs(60),
            member: None,
        }
    }

    /// A node of a fabric whose other nodes are on other machines.
    #[must_use]
    pub fn of_member(member: Member) -> Self {
        let NodeConfig { fabric, nodes, spread, root, .. } = &member.node;
        let (spread, root) = (*spread, *root);
        let ready_within = MEMBERS_WITHIN;
        let config = Self { spread, root, ready_within, ..Self::new(fabric, *nodes) };
        Self { member: Some(member), ..config }
    }

    /// The name of the cgroups. A member's is its own: machines may share a kernel.
    pub(crate) fn group(&self) -> String {
        let lab = group_name(&self.name);
        match &self.member {
            None => lab,
            Some(Member { node, .. }) => format!("{lab}-{}", node.name),
        }
    }

    /// Checks what the caller gave.
    ///
    /// # Errors
    /// [`LabError::Config`] says what is wrong.
    pub(crate) fn check(&self) -> Result<(), LabError> {
        let wrong = |what: String| Err(LabError::Config(what));
        if !name_fits(&self.name) {
            return wrong(format!(
                "the name {:?} is not 1 to {NAME_BYTES_MAX} of a-z, A-Z, 0-9, - and _",
                self.name
            ));
        }
        if !(1..=NODES_MAX).contains(&self.nodes) {
            return wrong(format!("{} nodes: a lab has 1 to {NODES_MAX}", self.nodes));
        }
        if self.cpus_per_node.is_some_and(|cpus| !(0.1..=1024.0).contains(&cpus)) {
            return wrong("processors per node: 0.1 to 1024".into());
        }
        if let Some(Member { node, .. }) = &self.member
            && (!(1..=self.nodes).contains(&node.node.0) || !name_fits(&node.name))
        {
            let (node, name) = (node.node, &node.name);
            return wrong(format!("node {node} ({name:?}) of a fabric of {}", self.nodes));
        }
        if self.root == Root::Host && self.nodes != 1 {
            let nodes = self.nodes;
            return wrong(format!("--root host serves one node (--nodes 1), not {nodes}"));
        }
        Ok(())
    }
}

/// Tells whether a name can be that of a lab (and be part of a path).
pub(crate) fn name_fits(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_state_directory_are_refused() {
        for bad in ["", ".", "..", "a/b", "a b", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(LabConfig::new(bad, 1).check().is_err(), "{bad}");
        }
        assert!(LabConfig::new("demo-1_x", 1).check().is_ok());
    }

    #[test]
    fn numbers_have_ranges() {
        assert!(LabConfig::new("a", 0).check().is_err());
        assert!(LabConfig::new("a", NODES_MAX + 1).check().is_err());
        let mut config = LabConfig::new("a", 3);
        config.cpus_per_node = Some(f64::NAN);
        assert!(config.check().is_err());
        config.cpus_per_node = Some(0.5);
        assert!(config.check().is_ok());
    }
}
