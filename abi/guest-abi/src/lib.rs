//! What the shim (in every guest process) and the daemon agree on.
//!
//! Owns: the reserved address range, the doorbell's operations and their structures, the layout of
//! the node's read-only arena, the private signal codes. Refuses: behaviour, and any dependency.
//!
//! A value that comes from a guest is an allegation: the daemon validates each one.
#![no_std]

pub mod arena;
pub mod doorbell;
pub mod layout;
pub mod moving;
pub mod proc_text;
pub mod signal;

/// The version of everything in this crate; shim and daemon refuse each other if it differs.
pub const ABI_VERSION: u32 = 5;
