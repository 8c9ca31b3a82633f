//! The keeper: a node's first process, parent and reaper of all its guests.
//!
//! Owns: starting the daemon, starting guests at the daemon's request, telling it of every change
//! of a child, and the end of everything when the daemon or the lifeline is gone. Refuses: policy,
//! threads, memory of guests, and any state that the daemon would have to ask for.
//!
//! ```text
//! Serving --daemon's socket or lifeline closed, daemon ended, Shutdown--> Ending --no child left--> return
//! ```

mod daemon;
mod guest;
mod nursery;
mod program;
pub mod protocol;
mod serve;

pub use daemon::{DaemonCommand, KEEPER_FD, start_daemon};
pub use serve::{Ending, Keeper};
