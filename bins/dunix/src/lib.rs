//! The parts of the `dunix` binary: command line, admin socket, keeper, node daemon.
//!
//! A library only so that tests can put a client and a server together; nothing else depends on it.

pub mod admin;
pub mod cli;
pub mod commands;
pub mod keeper;
pub mod node;
