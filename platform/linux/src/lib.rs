//! The host kernel's calls that need `unsafe`, behind safe faces, one file a subject.
//!
//! Owns: the argument layouts of those calls and the checks that make them sound. Refuses: policy,
//! state and threads of its own. Everything that rustix offers safely is taken from rustix by the
//! callers themselves.

pub mod advise;
pub mod arena;
pub mod cgroup;
pub mod child;
pub mod clock;
pub mod clone;
pub mod datagrams;
pub mod descriptors;
pub mod guest_memory;
mod guest_plain;
pub mod guest_space;
pub mod identity;
pub mod kcmp;
pub mod messages;
pub mod mounts;
pub mod page_scan;
pub mod place;
pub mod plain_calls;
pub mod ptrace;
pub mod rtnetlink;
pub mod scm;
pub mod seccomp;
pub mod signal;
pub mod signalfd;
pub mod terminal;
pub mod terminal_calls;
pub mod userfault;
pub mod waiting_call;

/// An error of the host kernel.
pub use rustix::io::Errno;

/// The result of a call of the host kernel.
pub type Result<T> = core::result::Result<T, Errno>;

/// Turns the C convention (negative result, `errno`) into a [`Result`].
fn check(result: libc::c_long) -> Result<libc::c_long> {
    if result >= 0 {
        return Ok(result);
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

/// What the processor answers to a leaf of `cpuid`, its ecx 0: eax, ebx, ecx and edx.
#[must_use]
pub fn cpuid(leaf: u32) -> [u32; 4] {
    let answer = core::arch::x86_64::__cpuid_count(leaf, 0);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}
