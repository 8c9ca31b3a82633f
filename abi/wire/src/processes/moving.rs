//! Moving a running process: what its source and its target say to each other.
//!
//! Owns: the control messages of the hand-over (the rules are in `machines/migration`) and the report.
//! Why a move is refused is [`Refusal`]. Refuses: memory, which flows on a stream, and the content of
//! the image, which is between the two drivers.

use super::{ProcessRecord, Refusal};
use alloc::{boxed::Box, vec::Vec};
use core::fmt;
use dunix_ids::{NodeId, Pid};
use serde::{Deserialize, Serialize};

/// Most bytes of an image without its pages; a process whose image is longer stays.
pub const IMAGE_BYTES_MAX: usize = 1 << 20;
/// Most threads besides the first of a process that moves.
pub const THREADS_MAX: usize = 4096;

/// Names one move. The source counts; a node never comes back under its number, so no two moves
/// have the same name and what is left of an older one is recognized.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct MoveId {
    pub source: NodeId,
    pub epoch: u64,
}

impl fmt::Display for MoveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.source, self.epoch)
    }
}

/// What the two nodes of a move say to each other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MoveMessage {
    /// Source to target: make everything ready, but let nothing run.
    Prepare(Box<Package>),
    /// Target to source: all is ready. Repeated until it is answered, as are the further words of the
    /// target: what the source knows nothing of (any more) it answers by [`MoveMessage::Closed`].
    Prepared { id: MoveId },
    /// Target to source: the process never ran here and never will by this move.
    Refused { id: MoveId, refusal: Refusal },
    /// Source to target: run it. Repeated until it is answered.
    Commit { id: MoveId },
    /// Target to source: it lives here; so many bytes of pages have arrived.
    Committed { id: MoveId, bytes: u64 },
    /// Target to source: no page is wanted any more; so many bytes came since
    /// [`MoveMessage::Committed`]. `is_lost`: pages did not come, and it was killed.
    Complete { id: MoveId, bytes: u64, is_lost: bool },
    /// Source to target: there is no such move any more; what was prepared is void.
    Closed { id: MoveId },
    /// Source to target: pages that have not arrived will never come.
    DonorLost { id: MoveId },
}

impl MoveMessage {
    /// The move that it is about.
    #[must_use]
    pub fn id(&self) -> MoveId {
        match self {
            MoveMessage::Prepare(package) => package.id,
            MoveMessage::Prepared { id }
            | MoveMessage::Refused { id, .. }
            | MoveMessage::Commit { id }
            | MoveMessage::Committed { id, .. }
            | MoveMessage::Complete { id, .. }
            | MoveMessage::Closed { id }
            | MoveMessage::DonorLost { id } => *id,
        }
    }
}

/// All that the target needs before the pages.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Package {
    pub id: MoveId,
    /// Counts the source's packages in the order in which they are sent.
    pub order: u64,
    /// How long it stands still already, in microseconds.
    pub frozen_micros: u64,
    pub record: ProcessRecord,
    /// The driver's description of the process, encoded; at most [`IMAGE_BYTES_MAX`].
    pub image: Vec<u8>,
}

/// How a process is to be moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MoveWish {
    /// All pages go before the process runs again: the death of its old node cannot hurt it.
    pub safe: bool,
    /// Answer when it runs at the target; pages may still be on their way.
    pub no_wait: bool,
}

/// How a move went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MoveReport {
    pub source: NodeId,
    pub target: NodeId,
    /// From the first thread asked to park to the target's word that it runs, in microseconds.
    pub frozen_micros: u64,
    /// Bytes of pages that went before it ran again.
    pub bytes_before: u64,
    /// Bytes of pages that went afterwards; `None` if the answer did not wait for them.
    pub bytes_after: Option<u64>,
}

/// Asks the node of a process to move it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MoveRequest {
    pub pid: Pid,
    pub to: NodeId,
    pub wish: MoveWish,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decode, encode};
    use proptest::prelude::*;

    proptest! {
        /// A peer's bytes are refused, or are what they would be encoded as.
        #[test]
        fn noise_is_refused_or_means_itself(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(message) = decode::<MoveMessage>(&bytes) {
                let again = encode(&message);
                prop_assert_eq!(decode::<MoveMessage>(&again), Ok(message));
            }
        }

        #[test]
        fn a_cut_message_is_refused(epoch in any::<u64>(), source in any::<u32>(), bytes in any::<u64>()) {
            let id = MoveId { source: NodeId(source), epoch };
            let whole = encode(&MoveMessage::Complete { id, bytes, is_lost: false });
            for length in 0..whole.len() {
                prop_assert!(decode::<MoveMessage>(&whole[..length]).is_err());
            }
        }
    }
}
