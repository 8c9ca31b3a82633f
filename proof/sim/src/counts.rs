//! How much happened, by kind and by node.

use crate::network::Payload;
use dunix_ids::NodeId;
use dunix_wire::frame::HEADER_BYTES;
use std::collections::BTreeMap;

/// What one kind of message came to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Traffic {
    pub messages: u64,
    /// With their frames' headers, as they are encoded; 0 where what is sent is the drivers' own.
    pub bytes: u64,
}

/// What one node received and sent.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PerNode {
    /// Beacons, proofs of life, ends of links.
    pub of_membership: u64,
    /// Everything else.
    pub of_processes: u64,
    pub sent: u64,
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) events: u64,
    pub(crate) forks: u64,
    pub(crate) exits: u64,
    pub(crate) waits: u64,
    pub(crate) execs: u64,
    pub(crate) moves: u64,
    pub(crate) refusals: u64,
    pub(crate) fenced: u64,
    /// Dropped for want of a link.
    pub(crate) unsendable: u64,
    pub(crate) kinds: BTreeMap<String, Traffic>,
    pub(crate) nodes: BTreeMap<NodeId, PerNode>,
}

impl Counts {
    fn kind(&mut self, name: &str) -> &mut Traffic {
        if !self.kinds.contains_key(name) {
            self.kinds.insert(name.to_owned(), Traffic::default());
        }
        self.kinds.get_mut(name).expect("it was put in")
    }

    pub(crate) fn said_beacon(&mut self, node: NodeId) {
        self.nodes.entry(node).or_default().sent += 1;
    }

    pub(crate) fn heard_beacon(&mut self, node: NodeId) {
        self.kind("Beacon").messages += 1;
        self.nodes.entry(node).or_default().of_membership += 1;
    }

    pub(crate) fn sent(&mut self, node: NodeId, _payload: &Payload) {
        self.nodes.entry(node).or_default().sent += 1;
    }

    /// Counts what has arrived; `words` is how the trace has it.
    pub(crate) fn received(&mut self, node: NodeId, payload: &Payload, words: &str) {
        let traffic = self.kind(kind_in(words));
        traffic.messages += 1;
        if let Payload::Table(message) = payload {
            let size = postcard::experimental::serialized_size(message).unwrap_or(0);
            traffic.bytes += (size + HEADER_BYTES) as u64;
        }
        let node = self.nodes.entry(node).or_default();
        match payload {
            Payload::Ping | Payload::Pong | Payload::Alarm | Payload::End => {
                node.of_membership += 1
            }
            _ => node.of_processes += 1,
        }
    }
}

/// The kind of a message in what the trace says: `(n1, n2, Table(Located { ...` is `Located`.
fn kind_in(words: &str) -> &str {
    let payload = words.splitn(3, ", ").nth(2).unwrap_or(words);
    let inner = ["Table(", "Move("].iter().find_map(|outer| payload.strip_prefix(outer));
    let word = inner.unwrap_or(payload);
    let end = word.find(|c: char| !c.is_alphanumeric()).unwrap_or(word.len());
    &word[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_the_variants_names() {
        assert_eq!(kind_in("(n1, n2, Table(Located { pid: 7 }))"), "Located");
        assert_eq!(kind_in("(n1, n2, Move(Commit { id: m1 }))"), "Commit");
        assert_eq!(kind_in("(n1, n2, Ping)"), "Ping");
        assert_eq!(kind_in("(n1, n2, Exec(ProcessRecord { pid: 7 }))"), "Exec");
    }
}
