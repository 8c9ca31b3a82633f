//! Messages between the command line and the node on the same machine.
//!
//! One connection carries one [`Request`] and what follows from it:
//!
//! ```text
//! client                          server
//!   Open { version, request } ->
//!                              <- Nodes* | Processes* | Explained | Moved | Metrics | Event*, then Done
//!                              <- Started, then frames both ways until Exited     (Request::Run)
//!                              <- Failed                                          (any request)
//! ```
//!
//! A frame is its length as `u32`, little endian, and that many bytes of postcard. Neither side
//! takes a frame longer than [`FRAME_BYTES_MAX`]. Bytes of standard streams flow under credit, each
//! stream apart, so that a blocked one holds up neither the others nor signals nor the exit.
//!
//! Refuses: I/O. What a frame says is an allegation until the receiver has checked it.
#![no_std]
extern crate alloc;

mod error;
mod event;
mod frame;
mod list;
mod moving;
mod node_config;
mod peer;
mod run;

pub use error::{AdminError, ErrorKind};
pub use event::{Event, EventKind};
pub use frame::{ClientFrame, FrameError, Request, ServerFrame, decode, encode};
pub use list::{
    DescriptorInfo, Explanation, NodeInfo, NodeState, ProcessInfo, ProcessState, Traffic,
};
pub use moving::{MoveOutcome, MoveRefused, MoveRequest, Moved};
pub use node_config::{
    DESCRIPTOR_ADMIN, DESCRIPTOR_CONFIG, DESCRIPTOR_GUEST_DOORS, DESCRIPTOR_LIFELINE,
    GUEST_DOORS_VARIABLE, NodeConfig, Root,
};
pub use peer::{PeerCall, PeerReply, SubscribeEvents};
pub use run::{ExitStatus, KillTarget, Placement, RunRequest, Stream, TerminalSize};

/// The version of everything in this crate; a server refuses another.
pub const VERSION: u32 = 2;
/// Greatest bytes of a frame, its length field apart.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Greatest bytes of one data frame's payload.
pub const DATA_BYTES_MAX: usize = 64 << 10;
/// Bytes of a stream that its sender may have under way before the receiver has given credit.
pub const WINDOW_BYTES: u32 = 256 << 10;
/// Most entries of a list in one frame; longer lists come in several frames.
pub const LIST_ITEMS_MAX: usize = 256;
/// Greatest bytes of argv and of envp together in a [`RunRequest`].
pub const EXEC_BYTES_MAX: usize = 768 << 10;
