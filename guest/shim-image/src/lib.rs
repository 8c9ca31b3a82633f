//! The shim's executable, embedded: the daemon writes it to a file and starts guests with it.
//!
//! Owns: the bytes. Refuses: everything else. The build script compiles `guest/shim`.

/// A static executable for x86-64 Linux, linked at the reserved range of `dunix-guest-abi`.
pub const SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dunix-shim"));
