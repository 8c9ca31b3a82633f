//! Messages between the command line and the node on the same machine.
#![no_std]
extern crate alloc;
