//! kill(2) and its kin. A signal to oneself is queued here; others are the daemon's to find.

use super::Answer;
use crate::arch::frame::SigInfo as KernelInfo;
use crate::doorbell::ring;
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::thread::Thread;
use dunix_guest_abi::doorbell::{OP_KILL, OP_TGKILL, SigInfo};
use dunix_guest_abi::signal::encode;
use dunix_shim_core::signal::SIGNAL_MAX;
use dunix_shim_core::{Errno, nr};

const SI_USER: i32 = 0;
const SI_TKILL: i32 = -6;

/// Handles a call that sends a signal.
pub(crate) fn try_handle(thread: &Thread, number: u64, args: [u64; 6]) -> Option<Answer> {
    let result = match number {
        nr::KILL => kill(thread, host::int_arg(args[0]), args[1]),
        nr::TGKILL => tgkill(thread, args[0], args[1], args[2]),
        nr::TKILL => tgkill(thread, 0, args[0], args[1]),
        nr::RT_SIGQUEUEINFO => queue(OP_KILL, [args[0], args[1]], GuestAddr(args[2])),
        nr::RT_TGSIGQUEUEINFO => tgqueue(args[0], args[1], args[2], GuestAddr(args[3])),
        _ => return None,
    };
    Some(result.into())
}

/// Reads a signal's number.
pub(super) fn check_signal(signal: u64) -> Result<u32, Errno> {
    let signal = host::uint_arg(signal);
    if signal <= SIGNAL_MAX { Ok(signal) } else { Err(Errno::EINVAL) }
}

fn kill(thread: &Thread, pid: i32, signal: u64) -> Result<u64, Errno> {
    let signal = check_signal(signal)?;
    if pid > 0 && pid.unsigned_abs() == thread.process().pid() {
        return send_own(thread, signal, SI_USER);
    }
    ring(OP_KILL, [host::fd_arg(pid), u64::from(signal), 0, 0])
}

/// Sends a signal to the own process.
pub(super) fn kill_own(thread: &Thread, signal: u32) -> Result<u64, Errno> {
    send_own(thread, signal, SI_USER)
}

/// Sends a signal to a process by its number.
pub(super) fn kill_other(pid: u32, signal: u32, info: Option<&SigInfo>) -> Result<u64, Errno> {
    let info = info.map_or(0, |info| core::ptr::from_ref(info) as u64);
    ring(OP_KILL, [u64::from(pid), u64::from(signal), info, 0])
}

fn tgkill(thread: &Thread, tgid: u64, tid: u64, signal: u64) -> Result<u64, Errno> {
    let signal = check_signal(signal)?;
    let (group, id) = (host::uint_arg(tgid), host::uint_arg(tid));
    if id.cast_signed() <= 0 || group.cast_signed() < 0 {
        return Err(Errno::EINVAL);
    }
    if id == thread.tid.get() && (group == 0 || group == thread.process().pid()) {
        return send_own(thread, signal, SI_TKILL);
    }
    ring(OP_TGKILL, [u64::from(group), u64::from(id), u64::from(signal), 0])
}

/// Sends to the own process (`SI_USER`) or thread (`SI_TKILL`), under the fabric's name.
fn send_own(thread: &Thread, signal: u32, code: i32) -> Result<u64, Errno> {
    // SAFETY: no effect.
    let uid = unsafe { host::call(nr::GETUID, [0; 6]) }.unwrap_or(0);
    let mut fields = [0u64; 14];
    fields[0] = u64::from(thread.process().pid()) | uid << 32;
    let (pid, tid) = (u64::from(host::getpid()), u64::from(host::gettid()));
    // Only the first thread may queue to the process under a code of the kernel's.
    let shown = if code == SI_USER && pid != tid { encode(code) } else { code };
    let info = KernelInfo { signal: signal.cast_signed(), errno: 0, code: shown, pad: 0, fields };
    let at = &raw const info as u64;
    // SAFETY: reads the structure.
    unsafe {
        if code == SI_USER {
            host::call(nr::RT_SIGQUEUEINFO, [pid, u64::from(signal), at, 0, 0, 0])
        } else {
            host::call(nr::RT_TGSIGQUEUEINFO, [pid, tid, u64::from(signal), at, 0, 0])
        }
    }
}

/// What a signal carries, which must be this one.
pub(super) fn carried_with(signal: u32, at: GuestAddr) -> Result<SigInfo, Errno> {
    let info: KernelInfo = guest::read(at)?;
    if info.signal.unsigned_abs() != signal {
        return Err(Errno::EINVAL);
    }
    carried(at)
}

fn carried(at: GuestAddr) -> Result<SigInfo, Errno> {
    let info: KernelInfo = guest::read(at)?;
    if info.code >= 0 || info.code == SI_TKILL {
        return Err(Errno::EPERM);
    }
    Ok(SigInfo {
        code: info.code,
        pid: host::uint_arg(info.fields[0]),
        uid: host::uint_arg(info.fields[0] >> 32),
        reserved: 0,
        value: info.fields[1],
    })
}

fn queue(op: u64, [pid, signal]: [u64; 2], info: GuestAddr) -> Result<u64, Errno> {
    let signal = check_signal(signal)?;
    let info = carried(info)?;
    let pid = host::fd_arg(host::int_arg(pid));
    ring(op, [pid, u64::from(signal), &raw const info as u64, 0])
}

fn tgqueue(tgid: u64, tid: u64, signal: u64, info: GuestAddr) -> Result<u64, Errno> {
    let signal = check_signal(signal)?;
    let info = carried(info)?;
    let (tgid, tid) = (u64::from(host::uint_arg(tgid)), u64::from(host::uint_arg(tid)));
    ring(OP_TGKILL, [tgid, tid, u64::from(signal), &raw const info as u64])
}
