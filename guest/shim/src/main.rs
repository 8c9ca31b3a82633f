//! The shim: the first and lowest code of every guest process.
//!
//! Owns: loading programs, the guest's signal handlers, and every system call that the filter
//! traps. Refuses: a C library, threads and descriptors of its own, memory outside the reserved
//! range.
//!
//! ```text
//! _start -> boot -> (solo | daemon) -> filter -> load -> guest code
//! guest call, trapped -> SIGSYS -> signal::entry -> calls::dispatch -> answered, or passed on
//! the same, rewritten -> arch::fast -> fast -> answered, passed on, or trapped after all
//! guest signal        ----------^ -> signal::deliver -> guest's handler -> rt_sigreturn (trapped)
//! ```
//! Invariants: shim code runs on the thread's own stack with all signals blocked but the
//! synchronous ones; guest signals are accepted only inside [`arch::gadget`] and guest code; guest
//! memory is touched only through [`guest`].
#![no_std]
#![no_main]

mod arch;
mod arrive;
mod boot;
mod calls;
mod children;
mod doorbell;
mod fast;
mod filter;
mod guest;
mod host;
mod interval;
mod load;
mod park;
mod process;
mod report;
mod restart;
mod rewrite;
mod script;
mod signal;
mod stack;
mod thread;

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let line = info.location().map_or(0, core::panic::Location::line);
    let file = info.location().map_or("", core::panic::Location::file);
    report::fatal("panic", file, u64::from(line));
}
