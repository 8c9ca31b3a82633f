//! What a tracer sees of a thread whose calls the shim serves: ptrace(2) without the shim.
//!
//! The kernel traces the host thread and reports every stop to this machine, which either shows it to
//! the guest that traces or lets the thread go on. One [`Tracee`] stands for one thread.
//!
//! ```text
//! kernel's stops of one trapped call          the tracer sees
//!   entry, at the guest's instruction          entry
//!   exit (the filter trapped), SIGSYS          -
//!   entries and exits of the shim's calls      -
//!   exit of the shim's rt_sigreturn            [fork, exec ...] exit      (arrival)
//! ```
//! At an *arrival* the thread is back in guest code with its registers complete, and everything that
//! is owed is shown on that one stop of the kernel, one after the other.
//!
//! Refuses: registers, memory, numbers of processes, who may trace whom.
//! Invariants: [`Tracee::check_invariants`].
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod shown;
mod tracee;

pub use shown::{Event, Kind, Shown, View};
pub use tracee::{Act, How, Mode, Nature, Place, Stop, Tracee};

/// Options of ptrace(2) that a guest may set.
pub mod options {
    /// `PTRACE_O_TRACESYSGOOD`.
    pub const SYSGOOD: u64 = 1;
    /// `PTRACE_O_TRACEFORK`.
    pub const FORK: u64 = 1 << 1;
    /// `PTRACE_O_TRACEVFORK`.
    pub const VFORK: u64 = 1 << 2;
    /// `PTRACE_O_TRACECLONE`.
    pub const CLONE: u64 = 1 << 3;
    /// `PTRACE_O_TRACEEXEC`.
    pub const EXEC: u64 = 1 << 4;
    /// `PTRACE_O_TRACEVFORKDONE`.
    pub const VFORK_DONE: u64 = 1 << 5;
    /// `PTRACE_O_TRACEEXIT`.
    pub const EXIT: u64 = 1 << 6;
    /// `PTRACE_O_EXITKILL`.
    pub const EXITKILL: u64 = 1 << 20;
    /// All of these. `PTRACE_O_TRACESECCOMP` and `PTRACE_O_SUSPEND_SECCOMP` would show or unseat the
    /// shim's own filter.
    pub const KNOWN: u64 = 0x7f | EXITKILL;
}
