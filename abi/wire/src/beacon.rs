//! Beacons: the datagrams by which nodes find each other on a link.
//!
//! Owns: the beacon's fields, their limits, the group and port. Refuses: trust. A beacon is not
//! authenticated: it says where someone claims to be reached, and only the TLS handshake that
//! follows decides who that is.

use crate::frame::{NAME_BYTES_MAX, PROTOCOL_VERSION};
use alloc::{string::String, vec::Vec};
use core::net::Ipv6Addr;
use dunix_ids::NodeId;
use serde::{Deserialize, Serialize};

/// The link-local multicast group of beacons (RFC 4291, 2.7: transient, link scope).
pub const BEACON_GROUP: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0xd0, 0x111);
/// The UDP port of beacons.
pub const BEACON_PORT: u16 = 4747;
/// Greatest bytes of an encoded beacon.
pub const BEACON_BYTES_MAX: usize = 160;

const MAGIC: [u8; 4] = *b"dunX";

/// Says that a node claims to be reached at the sender's address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Beacon {
    magic: [u8; 4],
    version: u16,
    pub fabric: String,
    pub node: NodeId,
    /// Different after each start of the node.
    pub instance: u64,
    /// The TCP port that the node listens on.
    pub port: u16,
    /// Asks for a beacon in return: the speaker has just started.
    pub asks: bool,
}

impl Beacon {
    #[must_use]
    pub fn new(fabric: &str, node: NodeId, instance: u64, port: u16, asks: bool) -> Beacon {
        let fabric = String::from(fabric);
        Beacon { magic: MAGIC, version: PROTOCOL_VERSION, fabric, node, instance, port, asks }
    }

    /// Returns the beacon's bytes, or none if a field breaks a limit.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let bytes = postcard::to_allocvec(self).ok()?;
        (bytes.len() <= BEACON_BYTES_MAX).then_some(bytes)
    }

    /// Decodes a stranger's datagram, or none if it is no beacon of this version.
    #[must_use]
    pub fn try_decode(bytes: &[u8]) -> Option<Beacon> {
        if bytes.len() > BEACON_BYTES_MAX || !bytes.starts_with(&MAGIC) {
            return None;
        }
        let beacon: Beacon = postcard::from_bytes(bytes).ok()?;
        let valid = beacon.version == PROTOCOL_VERSION
            && beacon.fabric.len() <= NAME_BYTES_MAX
            && beacon.port != 0;
        valid.then_some(beacon)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(node: u32, instance: u64, port in 1u16.., asks: bool,
                                      fabric in "[a-z]{1,64}") {
            let beacon = Beacon::new(&fabric, NodeId(node), instance, port, asks);
            let bytes = beacon.encode().expect("within the limits");
            prop_assert_eq!(Beacon::try_decode(&bytes), Some(beacon));
        }

        #[test]
        fn noise_is_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for (byte, magic) in bytes.iter_mut().zip(MAGIC) {
                *byte = magic;
            }
            if let Some(beacon) = Beacon::try_decode(&bytes) {
                prop_assert!(beacon.fabric.len() <= NAME_BYTES_MAX && beacon.port != 0);
            }
        }
    }
}
