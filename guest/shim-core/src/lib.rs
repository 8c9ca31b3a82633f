//! What the shim decides, apart from the machine code that carries it out.
//!
//! Owns: the class of every system call and why, the seccomp program and what verdicts of others mean, the reading of ELF and `#!`
//! headers, signal-set and wait-status arithmetic, the text of the vDSO image, the paths under
//! `/proc` that name processes. Refuses: memory of the guest, system calls, unsafe code: everything here runs
//! in a host test.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod bpf;
pub mod elf;
pub mod entries;
pub mod errno;
pub mod lock;
pub mod memory;
pub mod proc_path;
pub mod rewrite;
pub mod script;
pub mod signal;
pub mod table;
pub mod time;
pub mod vdso;
pub mod verdict;
pub mod wait;

pub use errno::Errno;
pub use table::nr;
