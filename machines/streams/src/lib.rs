//! The rules of one end of a byte stream between two nodes: credit, half-close, break-off.
//!
//! Owns: what may be sent, what the peer must be told, when a stream is over. Refuses: the bytes
//! themselves (only their counts pass through here), connections, time.
//!
//! A stream has two directions; an end sends in one ([`Sending`]) and receives in the other
//! ([`Receiving`]), and the two are independent:
//!
//! ```text
//! Sending:    Open -> Finished            all was said; or
//!             Open -> Aborted             broken off by this end; or
//!             Open, Finished -> ReaderGone the far reader left
//! Receiving:  Open -> Finished            end of file
//!             Open -> Aborted             the far sender broke off
//!             Open -> Stopped             this reader left
//!             (Finished, Aborted -> Stopped as well: the reader may always leave)
//! ```
//!
//! Invariants: `consumed <= sent <= consumed + window` at a sender; `consumed <= received` at a
//! receiver; offsets only grow; nothing is emitted in a direction after its last frame.
#![no_std]
#![forbid(unsafe_code)]

mod receiving;
mod sending;

pub use receiving::{Ended, Receiving};
pub use sending::{Refusal, Sending};

/// What an end tells the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tell {
    /// This many bytes follow (sender).
    Data(u64),
    /// Please say when all up to here is consumed (sender).
    Sync,
    /// End of file (sender).
    Finish,
    /// Broken off (sender).
    Abort,
    /// All up to this offset is consumed (receiver).
    Consumed(u64),
    /// The reader is gone (receiver).
    Stop,
}

/// How a peer broke the rules; the connection is at fault, not the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    #[error("{excess} bytes beyond the stream's window")]
    Window { excess: u64 },
    #[error("bytes or an end after the stream's end")]
    AfterEnd,
    #[error("offset {offset} is consumed, but only {sent} bytes were sent")]
    Offset { offset: u64, sent: u64 },
}

#[cfg(test)]
mod tests;
