//! What nodes tell each other about their load.
//!
//! Once a second each node sends one peer a window of the freshest entries that it knows, its own
//! first; the cost does not grow with the fabric. An entry that decides something is asked for
//! afresh, with a reservation.

use alloc::vec::Vec;
use dunix_ids::NodeId;
use serde::{Deserialize, Serialize};

/// Greatest number of entries in a window.
pub const WINDOW_ENTRIES_MAX: usize = 32;
/// How long a reservation holds a place for a process that has not come yet, milliseconds.
pub const RESERVATION_MS: u32 = 1000;

/// How busy a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LoadEntry {
    pub node: NodeId,
    /// Guests that run or wait for a CPU, and places reserved for more; hundredths.
    pub runnable_centi: u32,
    /// CPUs that the node may use; hundredths.
    pub cpus_centi: u32,
    /// Share of the last seconds in which some guest waited for a CPU; hundredths of a per cent.
    pub pressure: u16,
    /// Memory that could be used without paging, MiB.
    pub memory_free_mib: u32,
    /// How long ago this was true, milliseconds, when it was sent.
    pub age_ms: u32,
}

/// A one-way message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LoadMessage {
    /// What the sender knows.
    Window(Vec<LoadEntry>),
    /// The place reserved under this number is not needed.
    Release(u64),
    /// Please send a window soon: the sender has no room and is about to look for some.
    Ask,
}

/// A call: how busy are you? The callee holds a place for the caller for [`RESERVATION_MS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Probe;

/// The answer to [`Probe`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Probed {
    /// Before the reservation.
    pub load: LoadEntry,
    /// Names the reservation, for [`LoadMessage::Release`].
    pub reservation: u64,
}

impl LoadMessage {
    /// Returns the message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// Decodes and checks a peer's message; `None` if it is none or breaks a limit.
    #[must_use]
    pub fn try_decode(bytes: &[u8]) -> Option<LoadMessage> {
        let message: LoadMessage = postcard::from_bytes(bytes).ok()?;
        match &message {
            LoadMessage::Window(entries) if entries.len() > WINDOW_ENTRIES_MAX => None,
            _ => Some(message),
        }
    }
}

impl Probe {
    /// Returns the call's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(&(PROBE_TAG, self)).unwrap_or_default()
    }

    /// Decodes a peer's call.
    #[must_use]
    pub fn try_decode(bytes: &[u8]) -> Option<Probe> {
        let (tag, probe): (u8, Probe) = postcard::from_bytes(bytes).ok()?;
        (tag == PROBE_TAG).then_some(probe)
    }
}

/// Calls of other kinds may come; each begins with its own number.
const PROBE_TAG: u8 = 1;

impl Probed {
    /// Returns the answer's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// Decodes a peer's answer.
    #[must_use]
    pub fn try_decode(bytes: &[u8]) -> Option<Probed> {
        postcard::from_bytes(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    const ENTRY: LoadEntry = LoadEntry {
        node: NodeId(3),
        runnable_centi: 150,
        cpus_centi: 200,
        pressure: 42,
        memory_free_mib: 1024,
        age_ms: 9,
    };

    #[test]
    fn what_is_encoded_is_decoded() {
        let window = LoadMessage::Window(vec![ENTRY; WINDOW_ENTRIES_MAX]);
        assert_eq!(LoadMessage::try_decode(&window.encode()), Some(window));
        assert_eq!(Probe::try_decode(&Probe.encode()), Some(Probe));
        let probed = Probed { load: ENTRY, reservation: 7 };
        assert_eq!(Probed::try_decode(&probed.encode()), Some(probed));
    }

    #[test]
    fn a_window_that_is_too_long_is_refused() {
        let window = LoadMessage::Window(vec![ENTRY; WINDOW_ENTRIES_MAX + 1]);
        assert_eq!(LoadMessage::try_decode(&window.encode()), None);
    }

    proptest! {
        #[test]
        fn noise_is_refused_or_within_limits(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(LoadMessage::Window(entries)) = LoadMessage::try_decode(&bytes) {
                prop_assert!(entries.len() <= WINDOW_ENTRIES_MAX);
            }
        }
    }
}
