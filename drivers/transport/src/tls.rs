//! The TLS side of the mesh: configurations for both roles, and who the peer has proved to be.
//!
//! Invariant: nothing but TLS 1.3 with certificates of the fabric's authority on both sides.

use crate::{MeshConfig, MeshError, keys};
use dunix_ids::NodeId;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
};
use std::sync::Arc;

const ALPN: &[u8] = b"dunix/1";

/// What both roles need.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
}

impl Tls {
    /// Reads the keys of a node.
    pub(crate) fn new(config: &MeshConfig) -> Result<Tls, MeshError> {
        let provider = Arc::new(provider());
        let chain = certificates(&config.cert_pem)?;
        let own = chain.first().and_then(subject_of);
        if own != Some(config.node) {
            return Err(bad(format!("the certificate is for {own:?}, not for {}", config.node)));
        }
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&config.ca_pem)? {
            roots.add(certificate).map_err(bad)?;
        }
        let roots = Arc::new(roots);
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(bad)?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain.clone(), private_key(config)?)
            .map_err(bad)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(bad)?;
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(bad)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, private_key(config)?)
            .map_err(bad)?;
        Ok(Tls { client: finish_client(client), server: finish_server(server) })
    }
}

/// Returns the name that a dialled node must prove.
pub(crate) fn server_name(node: NodeId) -> Result<ServerName<'static>, MeshError> {
    ServerName::try_from(keys::subject(node)).map_err(bad)
}

/// Returns the number that a verified peer's certificate vouches for.
pub(crate) fn peer_of(certificates: Option<&[CertificateDer<'_>]>) -> Option<NodeId> {
    subject_of(certificates?.first()?)
}

fn subject_of(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let mut names = certificate.valid_dns_names();
    let node = keys::node_of(names.next()?)?;
    names.next().is_none().then_some(node)
}

/// AES-128 first: the CPUs that we run on have instructions for it.
fn provider() -> CryptoProvider {
    let mut provider = ring::default_provider();
    let first = rustls::CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != first);
    provider
}

fn finish_client(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

fn finish_server(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, MeshError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(bad)?;
    if found.is_empty() { Err(bad("no certificate in the PEM text")) } else { Ok(found) }
}

fn private_key(config: &MeshConfig) -> Result<PrivateKeyDer<'static>, MeshError> {
    PrivateKeyDer::from_pem_slice(config.key_pem.as_bytes()).map_err(bad)
}

fn bad(error: impl std::fmt::Display) -> MeshError {
    MeshError::Host(format!("the node's keys: {error}"))
}
