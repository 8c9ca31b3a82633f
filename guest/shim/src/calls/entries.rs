//! getdents64(2) on `/proc` and on a process's `task`: the numbers are the fabric's.

use super::{Answer, other};
use crate::doorbell::ring;
use crate::guest::{self, GuestAddr};
use crate::host;
use dunix_guest_abi::doorbell::OP_PROCESSES;
use dunix_shim_core::entries::{
    PROCESS_BYTES, process_entry, rename_processes, room_for_rewriting,
};
use dunix_shim_core::proc_path::write_number;
use dunix_shim_core::{Errno, nr};

/// `f_type` of procfs.
const PROC_SUPER_MAGIC: u64 = 0x9fa0;
/// Inode of procfs's root.
const PROC_ROOT_INO: u64 = 1;
/// Type and mode of procfs's other folders that list threads.
const TASK_MODE: u64 = 0o040_555;
/// Most bytes of one answer; callers ask again for the rest.
const ANSWER_BYTES: usize = 8192;

/// The position at which the fabric's processes begin: beyond the host's greatest, and with any PID below 2^31,
/// where procfs ends.
const PROCESSES_AT: u64 = 1 << 30;
/// No process has a greater number.
const LAST: u64 = (1 << 30) - 1;
const SEEK_SET: u64 = 0;
const SEEK_CUR: u64 = 1;

/// Lists processes or threads, if that is what the descriptor's folder has.
pub(crate) fn getdents64(args: [u64; 6]) -> Answer {
    match folder(args[0]) {
        Some(Folder::Root) => list(args).into(),
        Some(Folder::Other) if is_named_task(args[0]) => list_threads(args).into(),
        _ => Answer::PassOn,
    }
}

/// Whether a descriptor is `/proc` itself, or a folder of the threads of a process.
pub(crate) fn lists_numbers(fd: u64) -> bool {
    match folder(fd) {
        Some(Folder::Root) => true,
        Some(Folder::Other) => is_named_task(fd),
        None => false,
    }
}

/// A folder of procfs that may list processes or threads.
enum Folder {
    Root,
    Other,
}

fn folder(fd: u64) -> Option<Folder> {
    let mut stat = [0u64; 18];
    // SAFETY: writes the structure only.
    unsafe { host::call(nr::FSTAT, [fd, stat.as_mut_ptr() as u64, 0, 0, 0, 0]) }.ok()?;
    let is_root = stat[1] == PROC_ROOT_INO;
    if !is_root && stat[3] & 0xffff_ffff != TASK_MODE {
        return None;
    }
    let mut statfs = [0u64; 15];
    // SAFETY: as above.
    unsafe { host::call(nr::FSTATFS, [fd, statfs.as_mut_ptr() as u64, 0, 0, 0, 0]) }.ok()?;
    let folder = if is_root { Folder::Root } else { Folder::Other };
    (statfs[0] == PROC_SUPER_MAGIC).then_some(folder)
}

/// Whether a folder of procfs is called as those of threads are.
fn is_named_task(fd: u64) -> bool {
    let mut link = [0u8; 32];
    link[..14].copy_from_slice(b"/proc/self/fd/");
    let used = write_number(fd & 0x7fff_ffff, &mut link[14..31]).unwrap_or(0);
    let mut name = [0u8; 64];
    host::readlink(&link[..=14 + used], &mut name).is_ok_and(|name| name.ends_with(b"/task"))
}

/// Entries of the host first, without its processes; then those of the fabric. Where the latter go on
/// is the descriptor's position, beyond any of the host's.
#[inline(never)] // Its buffer would be on the stack of every call.
fn list(args: [u64; 6]) -> Result<u64, Errno> {
    let room = host::to_usize(u64::from(host::uint_arg(args[2]))).min(ANSWER_BYTES);
    let mut answer = [0u8; ANSWER_BYTES];
    let at = seek(args[0], 0, SEEK_CUR)?;
    if at < PROCESSES_AT {
        let used = list_others(args[0], &mut answer[..room])?;
        if used > 0 {
            guest::write_bytes(GuestAddr(args[1]), &answer[..used])?;
            return Ok(used as u64);
        }
    }
    let after = at.max(PROCESSES_AT) - PROCESSES_AT;
    let (used, next) = list_processes(after, &mut answer[..room])?;
    guest::write_bytes(GuestAddr(args[1]), &answer[..used])?;
    seek(args[0], PROCESSES_AT + next, SEEK_SET)?;
    Ok(used as u64)
}

/// Everything but processes; 0 at the end.
fn list_others(fd: u64, answer: &mut [u8]) -> Result<usize, Errno> {
    let mut buffer = [0u8; ANSWER_BYTES];
    loop {
        let call = [fd, buffer.as_mut_ptr() as u64, answer.len() as u64, 0, 0, 0];
        // SAFETY: writes the buffer only, which is no shorter.
        let got = host::to_usize(unsafe { host::call(nr::GETDENTS64, call) }?);
        let used = rename_processes(&buffer[..got], answer, |_| None).ok_or(Errno::EINVAL)?;
        // All left out is not yet the end.
        if used > 0 || got == 0 {
            return Ok(used);
        }
    }
}

/// Processes with numbers above `after`, and the number after which to go on.
fn list_processes(after: u64, answer: &mut [u8]) -> Result<(usize, u64), Errno> {
    if after >= LAST {
        return Ok((0, LAST));
    }
    let mut pids = [0u32; ANSWER_BYTES / PROCESS_BYTES];
    let wanted = answer.len() / PROCESS_BYTES;
    if wanted == 0 {
        return Err(Errno::EINVAL);
    }
    let asked = [after, pids.as_mut_ptr() as u64, wanted as u64, 0];
    let count = host::to_usize(ring(OP_PROCESSES, asked)?).min(wanted);
    let mut used = 0;
    for &pid in &pids[..count] {
        let next = PROCESSES_AT + u64::from(pid);
        used += process_entry(pid, next, &mut answer[used..]).ok_or(Errno::EINVAL)?;
    }
    let is_end = count < wanted;
    Ok((used, if is_end { LAST } else { u64::from(pids[count - 1]) }))
}

fn seek(fd: u64, to: u64, from: u64) -> Result<u64, Errno> {
    // SAFETY: moves the position only.
    unsafe { host::call(nr::LSEEK, [fd, to, from, 0, 0, 0]) }
}

/// Threads of a process of this node, as the host lists them.
#[inline(never)] // Its buffers would be on the stack of every call.
fn list_threads(args: [u64; 6]) -> Result<u64, Errno> {
    let room = host::to_usize(u64::from(host::uint_arg(args[2]))).min(ANSWER_BYTES);
    let mut buffer = [0u8; ANSWER_BYTES];
    let mut answer = [0u8; ANSWER_BYTES];
    loop {
        let bytes = room_for_rewriting(room) as u64;
        let call = [args[0], buffer.as_mut_ptr() as u64, bytes, 0, 0, 0];
        // SAFETY: writes the buffer only.
        let got = host::to_usize(unsafe { host::call(nr::GETDENTS64, call) }?);
        let of_fabric = |host| Some(other::from_host(host)).filter(|pid| *pid != 0);
        let used = rename_processes(&buffer[..got], &mut answer[..room], of_fabric);
        let used = used.ok_or(Errno::EINVAL)?;
        // All left out is not yet the end.
        if used > 0 || got == 0 {
            guest::write_bytes(GuestAddr(args[1]), &answer[..used])?;
            return Ok(used as u64);
        }
    }
}
