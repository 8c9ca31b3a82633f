//! Keys of a fabric: its certificate authority and one certificate for each node.
//!
//! Owns: how a node's number is written into its certificate (`node-<number>`, as common name and
//! as subject alternative name) and read out of it. Refuses: storage; the keys are PEM text.

use crate::MeshError;
use dunix_ids::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// A certificate authority: whoever it signs is of the fabric.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    /// The authority's own certificate, PEM; every node needs it.
    pub cert_pem: String,
    /// The authority's key, PEM; no node needs it.
    pub key_pem: String,
}

/// What a node proves its number with.
#[derive(Clone)]
pub struct NodeKeys {
    pub cert_pem: String,
    pub key_pem: String,
}

/// Makes a fabric's certificate authority.
///
/// # Errors
/// The host has no randomness, or the name cannot stand in a certificate.
pub fn make_ca(fabric: &str) -> Result<Ca, MeshError> {
    let mut params = CertificateParams::new(Vec::new()).map_err(host)?;
    params.distinguished_name.push(DnType::CommonName, format!("fabric {fabric}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(host)?;
    let cert = params.self_signed(&key).map_err(host)?;
    let (cert_pem, key_pem) = (cert.pem(), key.serialize_pem());
    Ok(Ca { issuer: Issuer::new(params, key), cert_pem, key_pem })
}

/// Makes a node's key and has the authority vouch for its number.
///
/// # Errors
/// The host has no randomness.
pub fn make_node(ca: &Ca, node: NodeId) -> Result<NodeKeys, MeshError> {
    let name = subject(node);
    let mut params = CertificateParams::new(vec![name.clone()]).map_err(host)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().map_err(host)?;
    let cert = params.signed_by(&key, &ca.issuer).map_err(host)?;
    Ok(NodeKeys { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
}

/// Returns the name that stands for a node in certificates.
pub(crate) fn subject(node: NodeId) -> String {
    format!("node-{}", node.0)
}

/// Reads a node's number out of a name made by [`subject`]; no other spelling is taken.
pub(crate) fn node_of(name: &str) -> Option<NodeId> {
    let node = NodeId(name.strip_prefix("node-")?.parse().ok()?);
    (subject(node) == name).then_some(node)
}

fn host(error: rcgen::Error) -> MeshError {
    MeshError::Host(format!("making a certificate: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_spelling_names_a_node() {
        assert_eq!(node_of("node-7"), Some(NodeId(7)));
        for wrong in ["node-07", "node-+7", "node-", "node-4294967296", "Node-7", "node-7x", "7"] {
            assert_eq!(node_of(wrong), None, "{wrong}");
        }
    }
}
