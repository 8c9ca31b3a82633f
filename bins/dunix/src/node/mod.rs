//! The node's daemon: wiring only. Starts the drivers, in the order in which they need each other.
//!
//! ```text
//! guest namespaces (one thread yet) -> mesh -> tree -> guests' mounts -> processes -> admin socket
//! ```

mod backend;
mod extension;
mod local;
mod locks;
mod metrics;
mod moving;
mod overview;
mod place;
mod ports;
mod serve;
mod terminals;
mod tree;

pub use serve::run_daemon;
