//! What an anchor and its daemon say to each other over a SEQPACKET socket, a few bytes a message.
//!
//! ```text
//! daemon -> anchor   ATTACH + slave descriptor    SYNC
//! anchor -> daemon   ATTACHED errno               SYNCED     SIGNAL number
//! ```
//! Before any answer the anchor reports the signals that it had by then: so an answer to `SYNC`
//! tells that nothing older is under way. An end of file ends the anchor.

/// Take the passed descriptor for controlling terminal.
pub(crate) const ATTACH: u8 = b'A';
/// Answer with [`SYNCED`].
pub(crate) const SYNC: u8 = b'S';
/// Second byte: the errno, or 0.
pub(crate) const ATTACHED: u8 = b'a';
/// All signals from before the question are reported.
pub(crate) const SYNCED: u8 = b's';
/// Second byte: the signal.
pub(crate) const SIGNAL: u8 = b'x';
/// Greatest bytes of a message.
pub(crate) const MESSAGE_BYTES: usize = 2;
