//! From the kernel's entry to the guest's first instruction.
//!
//! ```text
//! OP_START: 0 -> a daemon, filter inherited        EOPNOTSUPP -> solo, filter inherited
//!           ENOSYS -> no filter yet: socket at BOOT_FD ? install, hand over the listener, ask again
//!                                                      : install, solo
//! ```
//! With `START_ARRIVAL` nothing is loaded: [`arrive`] takes over. With `START_EXECUTE` another shim is
//! executed, which has what the program gives.
//! Solo: `shim PROGRAM ARGS...` executes PROGRAM as the guest would; an image after exec finds
//! `[MARK, descriptor of the program, pad, path for AT_EXECFN]` before its arguments.

use crate::arch::frame::{self, Context, Frame, Registers, Resumable};
use crate::arch::switch;
use crate::process::{
    EXE_PATH, EXEC_FN, PROCESS, PathRoom, SHIM_PATH, set_has_daemon, set_has_process_files,
};
use crate::stack::InitialStack;
use crate::thread::Thread;
use crate::{arrive, calls, doorbell, filter, host, load, report, rewrite, signal, stack};
use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::sync::atomic::Ordering;
use dunix_guest_abi::arena::ARENA_BYTES;
use dunix_guest_abi::doorbell::{
    OP_START, PATH_BYTES, REMOTE_FD_WORDS, START_ARRIVAL, START_EXECUTE, START_PROCESS_FILES,
    START_REWRITE, START_SIGNALS, StartInfo,
};
use dunix_guest_abi::{ABI_VERSION, layout};
use dunix_shim_core::Errno;
use dunix_shim_core::bpf::Bell;
use dunix_shim_core::proc_path;
use dunix_shim_core::signal::{SHIM_MASK, SigSet};

/// First argument of an image that a solo shim executed.
pub(crate) const MARK: &[u8] = b"\x7fdunix-solo\0";
/// In the environment of a solo shim: system-call sites stay as they are.
const NO_REWRITE_VARIABLE: &[u8] = b"DUNIX_REWRITE=0";
/// Arguments before the guest's own after a solo exec.
pub(crate) const SOLO_ARGUMENTS: usize = 4;
/// Exit status if the program cannot be started, as shells have it.
const STATUS_NOT_FOUND: i32 = 127;

/// Takes the first slot; returns the top of its stack.
pub(crate) extern "C" fn first_stack() -> u64 {
    match Thread::allocate(&PROCESS) {
        Ok(thread) => {
            let stack = thread.shim_stack();
            stack.start + stack.bytes
        }
        Err(error) => {
            report::fatal("no memory for the first thread", "errno", u64::from(error.get()))
        }
    }
}

/// Runs on the first slot's stack; `stack_pointer` is the kernel's initial one.
pub(crate) extern "C" fn boot(stack_pointer: *mut u64) -> ! {
    let mask = host::set_mask(SHIM_MASK);
    let thread = Thread::current();
    let _ = host::set_altstack(&thread.shim_stack());
    thread.install_gs();
    // SAFETY: the kernel's block, untouched so far.
    let mut initial = unsafe { InitialStack::read(stack_pointer) };
    if initial.has_variable(report::VERBOSE_VARIABLE) {
        report::want_hints();
    }
    let started = start();
    let is_rewriting = match started {
        Some(info) => info.flags & START_REWRITE != 0,
        None => !initial.has_variable(NO_REWRITE_VARIABLE),
    };
    if started.is_some_and(|info| info.flags & START_PROCESS_FILES != 0) {
        set_has_process_files();
    }
    let exe_fd = match started {
        Some(info) if info.flags & START_ARRIVAL != 0 => {
            map_arena(info);
            widen();
            arrive::begin(info)
        }
        Some(info) if info.flags & START_EXECUTE != 0 => execute(info, mask, &initial),
        // Nobody has said what may run with what this image was given.
        None if initial.is_secure() => report::fatal("no daemon, but privileges", "", 0),
        Some(info) => start_with_daemon(thread, info),
        None => start_solo(thread, mask, &mut initial),
    };
    thread.note_slot();
    if is_rewriting {
        rewrite::start();
    }
    let ignored = started.filter(|info| info.flags & START_SIGNALS != 0);
    signal::action::inherit(&PROCESS, ignored.map(|info| SigSet(info.signals_ignored)));
    if let Err(error) = signal::install() {
        report::fatal("signal handlers", "errno", u64::from(error.get()));
    }
    let program = match load::program(exe_fd) {
        Ok(program) => program,
        Err(error) => report::fatal("cannot load the program", "errno", u64::from(error.get())),
    };
    host::close(exe_fd);
    let stack_pointer = initial.finish(&program, EXEC_FN.get());
    stack::name_process(EXEC_FN.get());
    enter(thread, &program, stack_pointer, mask)
}

/// What the daemon says at the start. Not on the stack: its paths would touch pages for nothing.
struct Room(UnsafeCell<StartInfo>);

// SAFETY: used by the only thread, at the start.
unsafe impl Sync for Room {}

#[unsafe(link_section = ".bss.cold.0")]
static STARTED: Room = Room(UnsafeCell::new(StartInfo {
    version: 0,
    pid: 0,
    slot: 0,
    flags: 0,
    exe_fd: 0,
    arena_fd: 0,
    remote_fds: [0; REMOTE_FD_WORDS],
    signals_ignored: 0,
    paths: [0; 2 * PATH_BYTES],
}));

/// Finds the daemon or decides that there is none (`None`).
#[inline(never)]
fn start() -> Option<&'static StartInfo> {
    // SAFETY: called once, by the only thread.
    let info = unsafe { &mut *STARTED.0.get() };
    info.version = ABI_VERSION;
    (info.exe_fd, info.arena_fd) = (-1, -1);
    let bytes = size_of::<StartInfo>() as u64;
    let mut answer = doorbell::ring(OP_START, [&raw mut *info as u64, bytes, 0, 0]);
    if answer == Err(Errno::ENOSYS) {
        let has_daemon = filter::has_boot_socket();
        let bell = if has_daemon { Bell::Notify } else { Bell::Solo };
        match filter::install(bell) {
            Err(error) => {
                report::fatal("cannot install the filter", "errno", u64::from(error.get()))
            }
            Ok(_) if !has_daemon => return None,
            Ok(listener) => {
                if let Err(error) = filter::send_listener(listener) {
                    report::fatal("cannot reach the daemon", "errno", u64::from(error.get()));
                }
            }
        }
        answer = doorbell::ring(OP_START, [&raw mut *info as u64, bytes, 0, 0]);
    }
    match answer {
        Ok(fd) => {
            if info.flags & START_EXECUTE == 0 {
                info.arena_fd = host::int_arg(fd);
            }
            Some(info)
        }
        Err(Errno::EOPNOTSUPP) => None,
        Err(error) => {
            report::fatal("the daemon refuses the start", "errno", u64::from(error.get()))
        }
    }
}

fn start_with_daemon(thread: &Thread, info: &'static StartInfo) -> i32 {
    set_has_daemon();
    PROCESS.pid.store(info.pid, Ordering::Relaxed);
    PROCESS.slot.store(info.slot, Ordering::Relaxed);
    PROCESS.remote.set_words(&info.remote_fds);
    thread.tid.set(info.pid);
    let path = CStr::from_bytes_until_nul(&info.paths).unwrap_or_default();
    let behind = info.paths.get(path.count_bytes() + 1..).unwrap_or_default();
    EXE_PATH.set(path);
    EXEC_FN.set(CStr::from_bytes_until_nul(behind).unwrap_or_default());
    map_arena(info);
    if PROCESS.remote.is_empty() {
        filter::find_wide();
    } else {
        widen();
    }
    give_back();
    info.exe_fd
}

/// Executes the shim that has what the program gives.
#[inline(never)]
fn execute(info: &StartInfo, mask: SigSet, initial: &InitialStack) -> ! {
    set_has_daemon();
    if !info.remote_fds.iter().all(|word| *word == 0) {
        widen();
    }
    give_back();
    host::close(info.arena_fd);
    let (argv, envp) = (initial.argument_list(0), initial.environment_list());
    let result = calls::exec::execute_shim(mask, info.exe_fd, argv, envp);
    report::fatal("cannot execute the shim", "errno", result.unsigned_abs())
}

/// Gives back what the keeper has lent for the filters.
fn give_back() {
    if let Err(error) = filter::give_back() {
        report::fatal("cannot give up a capability", "errno", u64::from(error.get()));
    }
}

/// Traps all calls on descriptors that may live at another node.
fn widen() {
    if let Err(error) = filter::widen() {
        report::fatal("cannot install the filter", "errno", u64::from(error.get()));
    }
}

fn map_arena(info: &StartInfo) {
    // SAFETY: the arena's place in the reserved range is free in a new image.
    let mapped = unsafe {
        host::mmap(
            layout::ARENA_START,
            ARENA_BYTES as u64,
            host::PROT_READ,
            host::MAP_SHARED | host::MAP_FIXED,
            info.arena_fd,
            0,
        )
    };
    if let Err(error) = mapped {
        report::fatal("cannot map the arena", "errno", u64::from(error.get()));
    }
    host::close(info.arena_fd);
}

/// Paths of an image without a daemon.
#[unsafe(link_section = ".bss.cold.1")]
static SOLO_PATHS: [PathRoom; 3] = [const { PathRoom::new() }; 3];

#[inline(never)] // Its buffers would be on the stack of every start.
fn start_solo(thread: &Thread, mask: SigSet, initial: &mut InitialStack) -> i32 {
    let [shim_path, exe_path, exec_fn] = &SOLO_PATHS;
    let pid = host::getpid();
    PROCESS.pid.store(pid, Ordering::Relaxed);
    thread.tid.set(pid);
    let mut buffer = [0u8; PATH_BYTES];
    let found = host::readlink(b"/proc/self/exe\0", &mut buffer).unwrap_or(b"");
    SHIM_PATH.set(shim_path.keep(found));
    let is_after_exec = initial.argument(0) == Some(&MARK[..MARK.len() - 1]);
    if !is_after_exec {
        let Some(path) = initial.argument_address(1) else {
            host::write_all(2, b"usage: dunix-shim PROGRAM [ARGUMENTS...]\n");
            host::exit_group(STATUS_NOT_FOUND);
        };
        let (argv, envp) = (initial.argument_list(1), initial.environment_list());
        let error = calls::exec::start_solo(thread, mask, path, argv, envp);
        report::line("cannot execute the program", "errno", u64::from(error.get()));
        host::exit_group(STATUS_NOT_FOUND);
    }
    let fd = initial.argument(1).and_then(proc_path::number).and_then(|n| i32::try_from(n).ok());
    let Some(fd) = fd else { report::fatal("arguments of a solo image", "", 0) };
    EXEC_FN.set(exec_fn.keep(initial.argument(3).unwrap_or(b"")));
    let mut link = [0u8; 32];
    link[..14].copy_from_slice(b"/proc/self/fd/");
    let end =
        14 + proc_path::write_number(u64::from(fd.unsigned_abs()), &mut link[14..31]).unwrap_or(0);
    link[end] = 0;
    EXE_PATH.set(exe_path.keep(host::readlink(&link[..=end], &mut buffer).unwrap_or(b"")));
    initial.drop_arguments(SOLO_ARGUMENTS);
    fd
}

/// Enters the program by rt_sigreturn, so that registers, mask and stack change at one instant.
fn enter(thread: &Thread, program: &load::Program, stack_pointer: u64, mask: SigSet) -> ! {
    // SAFETY: plain integers.
    let mut regs: Registers = unsafe { core::mem::zeroed() };
    regs.rip = program.start;
    regs.rsp = stack_pointer;
    regs.eflags = switch::EFLAGS_INITIAL;
    regs.selectors = switch::SELECTORS_INITIAL;
    let context =
        Context { flags: 6, link: 0, stack: thread.shim_stack(), regs, mask: mask.for_kernel() };
    let info = frame::SigInfo { signal: 0, errno: 0, code: 0, pad: 0, fields: [0; 14] };
    let resumable: *mut Resumable = thread.resumable.get();
    // SAFETY: the first thread's own area; no extended state: the kernel starts a fresh one.
    unsafe {
        let kept: *mut Frame = &raw mut (*resumable).frame;
        kept.write(Frame { restorer: 0, context, info });
        switch::resume(kept)
    }
}
