//! getdents64(2) on `/proc` and on a process's `task`: the numbers are the fabric's (those on this node).

use super::{Answer, other};
use crate::guest::{self, GuestAddr};
use crate::host;
use dunix_shim_core::entries::{rename_processes, room_for_rewriting};
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

/// Lists processes or threads, if that is what the descriptor's folder has.
pub(crate) fn getdents64(args: [u64; 6]) -> Answer {
    if lists_numbers(args[0]) { list(args).into() } else { Answer::PassOn }
}

/// Whether a descriptor is `/proc` itself.
pub(crate) fn is_proc_root(fd: u64) -> bool {
    matches!(folder(fd), Some(Folder::Root))
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

fn list(args: [u64; 6]) -> Result<u64, Errno> {
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
