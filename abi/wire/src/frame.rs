//! Frames: how messages, calls and stream bytes are cut up on a connection between two nodes.
//!
//! Owns: the header's layout, the kinds of frame, their size limits and the protocol's version.
//! Refuses: connections, credit arithmetic (`machines/streams`), what the bodies mean.
//! Invariant: [`Header::decode`] accepts exactly the headers that [`Header::encode`] can make, so a
//! length that was accepted may be allocated.
//!
//! ```text
//! byte  0      1      2..4   4..8      8..16    16..16+length
//!      kind   topic   0      length    id       body            (little endian)
//! ```

use crate::{MESSAGE_BYTES_MAX, Topic};
use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};

/// The version of the protocol between nodes; nodes with different versions refuse each other.
pub const PROTOCOL_VERSION: u16 = 2;
/// Bytes of an encoded [`Header`].
pub const HEADER_BYTES: usize = 16;
/// Greatest bytes of stream data in one frame.
pub const STREAM_CHUNK_BYTES_MAX: usize = 64 << 10;
/// Greatest bytes of the header that opens a stream.
pub const STREAM_HEADER_BYTES_MAX: usize = 64 << 10;
/// Bytes that may be under way to a reader that has consumed nothing yet.
pub const STREAM_WINDOW_BYTES: u64 = 1 << 20;
/// Greatest bytes of an encoded [`Hello`].
pub const HELLO_BYTES_MAX: usize = 512;
/// Greatest bytes of the name of a fabric or node.
pub const NAME_BYTES_MAX: usize = 64;

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Who is calling and for what; the first frame each way, body [`Hello`].
    Hello = 1,
    /// Nothing: proof of life. The id is echoed by [`Kind::Pong`].
    Ping = 2,
    /// The answer to [`Kind::Ping`], with its id.
    Pong = 3,
    /// A one-way message.
    Message = 4,
    /// A call; the id names it in the answer.
    Call = 5,
    /// A call's answer.
    Reply = 6,
    /// The callee has nobody to answer the call with this id; no body.
    Unanswered = 7,
    /// Opens stream `id`; the body is its header.
    StreamOpen = 8,
    /// Bytes of stream `id`.
    StreamData = 9,
    /// All bytes up to an offset (body: u64) are consumed.
    StreamConsumed = 10,
    /// The sender waits until all it has sent is consumed; no body.
    StreamSync = 11,
    /// No more bytes follow: end of file; no body.
    StreamFinish = 12,
    /// No more bytes follow: the sender broke off; no body.
    StreamAbort = 13,
    /// The reader is gone, further bytes are dropped; no body.
    StreamStop = 14,
    /// The sender has found another node silent; no body.
    Alarm = 15,
}

impl Kind {
    /// Greatest bytes of a body of this kind.
    #[must_use]
    pub const fn body_bytes_max(self) -> usize {
        match self {
            Kind::Hello => HELLO_BYTES_MAX,
            Kind::Message | Kind::Call | Kind::Reply => MESSAGE_BYTES_MAX,
            Kind::StreamOpen => STREAM_HEADER_BYTES_MAX,
            Kind::StreamData => STREAM_CHUNK_BYTES_MAX,
            Kind::StreamConsumed => 8,
            Kind::Ping
            | Kind::Pong
            | Kind::Unanswered
            | Kind::StreamSync
            | Kind::StreamFinish
            | Kind::StreamAbort
            | Kind::StreamStop
            | Kind::Alarm => 0,
        }
    }

    const fn body_bytes_min(self) -> usize {
        match self {
            Kind::Hello | Kind::StreamData => 1,
            Kind::StreamConsumed => 8,
            _ => 0,
        }
    }

    const fn of_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Hello,
            2 => Kind::Ping,
            3 => Kind::Pong,
            4 => Kind::Message,
            5 => Kind::Call,
            6 => Kind::Reply,
            7 => Kind::Unanswered,
            8 => Kind::StreamOpen,
            9 => Kind::StreamData,
            10 => Kind::StreamConsumed,
            11 => Kind::StreamSync,
            12 => Kind::StreamFinish,
            13 => Kind::StreamAbort,
            14 => Kind::StreamStop,
            15 => Kind::Alarm,
            _ => return None,
        })
    }

    /// Whether frames of this kind belong to a topic.
    #[must_use]
    pub const fn has_topic(self) -> bool {
        matches!(
            self,
            Kind::Message | Kind::Call | Kind::Reply | Kind::Unanswered | Kind::StreamOpen
        )
    }
}

/// What precedes every body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub kind: Kind,
    /// Present exactly where [`Kind::has_topic`] says so.
    pub topic: Option<Topic>,
    /// Bytes of the body.
    pub length: u32,
    /// Names the call or stream; the sender's own choice in a ping; else 0.
    pub id: u64,
}

/// Why bytes are no frame header; the peer is at fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    #[error("unknown frame kind {0}")]
    Kind(u8),
    #[error("unknown or misplaced topic {0}")]
    Topic(u8),
    #[error("reserved bytes are not zero")]
    Reserved,
    #[error("a {kind:?} frame of {length} bytes")]
    Length { kind: Kind, length: u32 },
}

impl Header {
    /// Returns the header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = self.kind as u8;
        bytes[1] = self.topic.map_or(0, |topic| topic as u8);
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        bytes
    }

    /// Checks a peer's header.
    ///
    /// # Errors
    /// Says which field is impossible.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, FrameError> {
        let [kind, topic, zero_a, zero_b, l0, l1, l2, l3, id @ ..] = *bytes;
        let kind = Kind::of_byte(kind).ok_or(FrameError::Kind(kind))?;
        if zero_a != 0 || zero_b != 0 {
            return Err(FrameError::Reserved);
        }
        let found = Topic::of_byte(topic);
        if found.is_some() != kind.has_topic() || (found.is_none() && topic != 0) {
            return Err(FrameError::Topic(topic));
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let bytes = length as usize;
        if bytes > kind.body_bytes_max() || bytes < kind.body_bytes_min() {
            return Err(FrameError::Length { kind, length });
        }
        Ok(Header { kind, topic: found, length, id: u64::from_le_bytes(id) })
    }
}

/// Which of a pair's connections this is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Lane {
    /// Messages and calls of every topic but [`Topic::Files`].
    Control,
    /// Messages and calls of [`Topic::Files`].
    Files,
    /// Byte streams.
    Streams,
}

impl Lane {
    /// Every lane of a pair.
    pub const ALL: [Lane; 3] = [Lane::Control, Lane::Files, Lane::Streams];

    /// Returns the lane that a topic's messages and calls travel on.
    #[must_use]
    pub const fn of_topic(topic: Topic) -> Lane {
        match topic {
            Topic::Files => Lane::Files,
            _ => Lane::Control,
        }
    }
}

/// The first frame on a connection, each way. Who speaks is vouched for by the certificate, not by
/// this.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    pub version: u16,
    pub fabric: String,
    /// The speaker's name, for people.
    pub name: String,
    /// Different after each start of the speaker.
    pub instance: u64,
    /// The link that the connection is a lane of: the dialler's choice, repeated by the other.
    pub link: u64,
    pub lane: Lane,
}

impl Hello {
    /// Returns the greeting's bytes; empty (which no peer takes) if a name breaks its limit.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// Decodes and checks a peer's greeting; `None` if it is no greeting or breaks a limit.
    #[must_use]
    pub fn try_decode(bytes: &[u8]) -> Option<Hello> {
        let hello: Hello = postcard::from_bytes(bytes).ok()?;
        let fits = hello.fabric.len() <= NAME_BYTES_MAX && hello.name.len() <= NAME_BYTES_MAX;
        fits.then_some(hello)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_kind() -> impl Strategy<Value = Kind> {
        (1u8..=14).prop_map(|byte| Kind::of_byte(byte).expect("every number below 15 is a kind"))
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(kind in any_kind(), topic in 1u8..=5, id: u64, length: u32) {
            let span = kind.body_bytes_max() - kind.body_bytes_min() + 1;
            let length = kind.body_bytes_min() + length as usize % span;
            let header = Header {
                kind,
                topic: if kind.has_topic() { Topic::of_byte(topic) } else { None },
                length: u32::try_from(length).expect("limits fit"),
                id,
            };
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }

        /// Whatever a stranger sends is refused or means exactly itself.
        #[test]
        fn decoding_never_guesses(bytes: [u8; HEADER_BYTES]) {
            if let Ok(header) = Header::decode(&bytes) {
                prop_assert_eq!(header.encode(), bytes);
                prop_assert!(header.length as usize <= header.kind.body_bytes_max());
            }
        }

        /// As above, near the valid headers, where random bytes seldom get.
        #[test]
        fn decoding_never_guesses_nearby(kind in 0u8..20, topic in 0u8..8, length in 0u32..(3 << 20)) {
            let mut bytes = [0; HEADER_BYTES];
            bytes[0] = kind;
            bytes[1] = topic;
            bytes[4..8].copy_from_slice(&length.to_le_bytes());
            if let Ok(header) = Header::decode(&bytes) {
                prop_assert_eq!(header.encode(), bytes);
                prop_assert!(header.length as usize <= header.kind.body_bytes_max());
            }
        }

        #[test]
        fn a_greeting_is_checked(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Some(hello) = Hello::try_decode(&bytes) {
                prop_assert!(hello.name.len() <= NAME_BYTES_MAX);
            }
        }
    }

    #[test]
    fn limits_hold_at_the_edge() {
        let header = |length| Header { kind: Kind::StreamData, topic: None, length, id: 1 };
        let max = u32::try_from(STREAM_CHUNK_BYTES_MAX).expect("fits");
        assert!(Header::decode(&header(max).encode()).is_ok());
        let refused = Header::decode(&header(max + 1).encode());
        assert_eq!(refused, Err(FrameError::Length { kind: Kind::StreamData, length: max + 1 }));
        assert!(Header::decode(&header(0).encode()).is_err());
    }
}
