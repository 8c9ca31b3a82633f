//! The keys of a lab's fabric, made anew for each lab and never written to a disk.

use crate::error::LabError;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};

/// The authority that vouches for a lab's nodes.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A node's certificate and key, PEM.
pub(crate) struct NodeKeys {
    pub(crate) cert_pem: String,
    pub(crate) key_pem: String,
}

impl Authority {
    pub(crate) fn create(fabric: &str) -> Result<Authority, LabError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, fabric);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().map_err(refused)?;
        Ok(Authority(CertifiedIssuer::self_signed(params, key).map_err(refused)?))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certifies a new key for the node of this number: its common name is `node-<number>`.
    pub(crate) fn certify(&self, node: u32) -> Result<NodeKeys, LabError> {
        let name = format!("node-{node}");
        let mut params = CertificateParams::new(vec![name.clone()]).map_err(refused)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().map_err(refused)?;
        let certificate = params.signed_by(&key, &self.0).map_err(refused)?;
        Ok(NodeKeys { cert_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

fn refused(error: rcgen::Error) -> LabError {
    LabError::Role { who: "keys".into(), what: error.to_string() }
}
