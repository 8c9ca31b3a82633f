//! x86-64: entry, system calls, the gadgets, signal frames.

pub(crate) mod copy;
pub(crate) mod fast;
pub(crate) mod frame;
pub(crate) mod gadget;
mod mem;
pub(crate) mod start;
pub(crate) mod switch;
mod syscall;

pub(crate) use syscall::syscall;
