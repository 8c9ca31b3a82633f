//! Who belongs to a fabric: each node's configuration with its keys.

use crate::config::{LabConfig, Member, NodeConfig, Root};
use crate::error::LabError;
use crate::switch::NODE_INTERFACE;
use dunix_ids::NodeId;
use dunix_transport::{MeshError, keys};

/// The node that serves the tree, leases PID blocks and holds the table of ports.
pub(crate) const AUTHORITY: u32 = 1;

/// The configurations of the nodes that are made here.
pub(crate) fn node_configs(config: &LabConfig) -> Result<Vec<NodeConfig>, LabError> {
    if let Some(Member { node, .. }) = &config.member {
        let interface = NODE_INTERFACE.to_owned();
        return Ok(vec![NodeConfig { interface, cpus: all_cpus(), ..node.clone() }]);
    }
    let mut nodes = make_members(&config.name, config.nodes)?;
    for node in &mut nodes {
        NODE_INTERFACE.clone_into(&mut node.interface);
        node.root = config.root;
        node.spread = config.spread;
        node.cpus = config.cpus_per_node.unwrap_or(all_cpus());
    }
    Ok(nodes)
}

/// Makes the keys of a fabric: what each of its nodes must know. The authority's own key is
/// forgotten: no further node can join.
///
/// # Errors
/// The host has no randomness.
pub fn make_members(fabric: &str, nodes: u32) -> Result<Vec<NodeConfig>, LabError> {
    let ca = keys::make_ca(fabric).map_err(no_keys)?;
    let member = |node| {
        let keys = keys::make_node(&ca, NodeId(node)).map_err(no_keys)?;
        Ok(NodeConfig {
            fabric: fabric.to_owned(),
            node: NodeId(node),
            name: format!("n{node}"),
            nodes,
            interface: String::new(),
            ca_pem: ca.cert_pem.clone(),
            cert_pem: keys.cert_pem,
            key_pem: keys.key_pem,
            authority: NodeId(AUTHORITY),
            root: Root::Cow,
            spread: false,
            cpus: all_cpus(),
            clock_zero_s: None,
        })
    };
    (1..=nodes).map(member).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a machine has few processors")]
fn all_cpus() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64)
}

fn no_keys(error: MeshError) -> LabError {
    LabError::Role { who: "the fabric's keys".into(), what: error.to_string() }
}
