//! Installing the filter, and handing its listener to the daemon.

use crate::host;
use core::sync::atomic::{AtomicBool, Ordering};
use dunix_guest_abi::doorbell::BOOT_FD;
use dunix_shim_core::bpf::{Bell, GUEST_PROBE, Instruction, Program, STRICT, WIDE, WIDE_PROBE};
use dunix_shim_core::{Errno, nr};

const SET_MODE_FILTER: u64 = 1;
const FLAG_NEW_LISTENER: u64 = 1 << 3;
const FLAG_WAIT_KILLABLE_RECV: u64 = 1 << 5;
const PR_SET_NO_NEW_PRIVS: u64 = 38;

/// `struct sock_fprog`.
#[repr(C)]
struct Prog {
    len: u16,
    filter: *const Instruction,
}

/// Installs the filter; with [`Bell::Notify`] returns the listener's descriptor.
///
/// # Errors
/// What seccomp(2) reports.
pub(crate) fn install(bell: Bell) -> Result<i32, Errno> {
    let program = Program::filter(bell);
    let flags = if bell == Bell::Notify { FLAG_NEW_LISTENER | FLAG_WAIT_KILLABLE_RECV } else { 0 };
    install_code(program.instructions(), flags)
}

/// Whether calls of [`dunix_shim_core::table::WIDE`] are trapped.
static IS_WIDE: AtomicBool = AtomicBool::new(false);

/// Installs the second filter, unless it is there already.
///
/// # Errors
/// What seccomp(2) reports.
pub(crate) fn widen() -> Result<(), Errno> {
    find_wide();
    if !is_wide() {
        install_code(&WIDE, 0)?;
        note_wide();
    }
    Ok(())
}

/// Notes whether the second filter is there: filters outlive an exec, the note does not.
pub(crate) fn find_wide() {
    // SAFETY: a number that no kernel knows; the filter answers it.
    if unsafe { host::call(WIDE_PROBE, [0; 6]) } == Err(Errno::EALREADY) {
        note_wide();
    }
}

/// Leaves the calling thread of the guest the calls of strict mode.
///
/// # Errors
/// What seccomp(2) reports.
pub(crate) fn install_strict() -> Result<(), Errno> {
    install_code(&STRICT, 0).map(drop)
}

/// Whether a filter of the guest's own is there, from this program or one that it executed.
pub(crate) fn has_guests_filter() -> bool {
    // SAFETY: a number that no kernel knows; the filter answers it.
    unsafe { host::call(GUEST_PROBE, [0; 6]) == Err(Errno::EALREADY) }
}

/// The second filter is there: so it is in every process that came by a move.
pub(crate) fn note_wide() {
    IS_WIDE.store(true, Ordering::Relaxed);
}

/// Whether the second filter is there.
pub(crate) fn is_wide() -> bool {
    IS_WIDE.load(Ordering::Relaxed)
}

/// `CAP_SYS_ADMIN` (capabilities(7)).
const ADMIN: u32 = 21;

/// Gives up the right to install filters, if the keeper has lent it: as an ambient one, which no guest
/// begins with.
///
/// # Errors
/// What capget(2) and capset(2) report.
pub(crate) fn give_back() -> Result<(), Errno> {
    const PR_CAP_AMBIENT: u64 = 47;
    const IS_SET: u64 = 1;
    const VERSION: u32 = 0x2008_0522;
    // SAFETY: only asks.
    let is_lent =
        unsafe { host::call(nr::PRCTL, [PR_CAP_AMBIENT, IS_SET, u64::from(ADMIN), 0, 0, 0]) };
    if is_lent != Ok(1) {
        return Ok(());
    }
    let header = [VERSION, 0];
    // Two times effective, permitted, inheritable: the lower and the upper halves.
    let mut sets = [0u32; 6];
    let args = [header.as_ptr() as u64, sets.as_mut_ptr() as u64, 0, 0, 0, 0];
    // SAFETY: writes the sets only.
    unsafe { host::call(nr::CAPGET, args) }?;
    for set in &mut sets[..3] {
        *set &= !(1 << ADMIN);
    }
    // SAFETY: reads the sets; a right less.
    unsafe { host::call(nr::CAPSET, args) }.map(drop)
}

fn install_code(code: &[Instruction], flags: u64) -> Result<i32, Errno> {
    let prog = Prog { len: u16::try_from(code.len()).unwrap_or(0), filter: code.as_ptr() };
    let args = [SET_MODE_FILTER, flags, &raw const prog as u64, 0, 0, 0];
    // SAFETY: reads the program only.
    let mut result = unsafe { host::call(nr::SECCOMP, args) };
    if result == Err(Errno::EACCES) {
        // Without CAP_SYS_ADMIN in the user namespace: privileges can no longer be gained by exec.
        // SAFETY: a flag of the process.
        unsafe { host::call(nr::PRCTL, [PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0]) }?;
        // SAFETY: as above.
        result = unsafe { host::call(nr::SECCOMP, args) };
    }
    result.map(host::int_arg)
}

/// Whether the tree was started by a daemon: its socket waits at [`BOOT_FD`].
pub(crate) fn has_boot_socket() -> bool {
    const SOL_SOCKET: u64 = 1;
    const SO_TYPE: u64 = 3;
    const SOCK_SEQPACKET: u32 = 5;
    let (mut kind, mut bytes) = (0u32, 4u32);
    let args = [
        host::fd_arg(BOOT_FD),
        SOL_SOCKET,
        SO_TYPE,
        &raw mut kind as u64,
        &raw mut bytes as u64,
        0,
    ];
    // SAFETY: writes the two words only.
    let result = unsafe { host::call(nr::GETSOCKOPT, args) };
    result.is_ok() && kind == SOCK_SEQPACKET
}

/// `struct cmsghdr` with one descriptor.
#[repr(C)]
struct Rights {
    len: u64,
    level: i32,
    kind: i32,
    fd: i32,
    pad: i32,
}

/// `struct msghdr`.
#[repr(C)]
struct Message {
    name: u64,
    name_len: u64,
    parts: u64,
    parts_len: u64,
    control: u64,
    control_len: u64,
    flags: u64,
}

/// Sends the listener to the daemon and closes both descriptors.
///
/// # Errors
/// What sendmsg(2) reports.
pub(crate) fn send_listener(listener: i32) -> Result<(), Errno> {
    let byte = 0u8;
    let part = [&raw const byte as u64, 1];
    let rights = Rights { len: 20, level: 1, kind: 1, fd: listener, pad: 0 };
    let message = Message {
        name: 0,
        name_len: 0,
        parts: &raw const part as u64,
        parts_len: 1,
        control: &raw const rights as u64,
        control_len: size_of::<Rights>() as u64,
        flags: 0,
    };
    let args = [host::fd_arg(BOOT_FD), &raw const message as u64, 0, 0, 0, 0];
    // SAFETY: reads the message only.
    let sent = unsafe { host::call(nr::SENDMSG, args) };
    host::close(listener);
    host::close(BOOT_FD);
    sent.map(|_| ())
}
