//! The admin socket: how the command line talks to a node on the same machine.
//!
//! ```text
//! discovery  which fabrics run here, where their sockets are
//! client     one request, its answers
//! server     takes connections, answers from an [`AdminBackend`]
//! session    one `dunix run` on the server's side
//! http       the counts, for who speaks HTTP instead of frames
//! frames     frames over an asynchronous byte stream
//! ```

mod backend;
pub mod client;
pub mod discovery;
mod frames;
mod http;
pub mod server;
mod session;

pub use backend::{AdminBackend, RunControl, Running};
