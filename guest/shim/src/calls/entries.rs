//! getdents64(2) on `/proc`: the processes that it lists are the fabric's (those on this node).

use super::{Answer, other};
use crate::guest::{self, GuestAddr};
use crate::host;
use dunix_shim_core::entries::{rename_processes, room_for_rewriting};
use dunix_shim_core::{Errno, nr};

/// `f_type` of procfs.
const PROC_SUPER_MAGIC: u64 = 0x9fa0;
/// Inode of procfs's root.
const PROC_ROOT_INO: u64 = 1;
/// Most bytes of one answer; callers ask again for the rest.
const ANSWER_BYTES: usize = 8192;

/// Lists processes, if the descriptor is `/proc` itself.
pub(crate) fn getdents64(args: [u64; 6]) -> Answer {
    if is_proc_root(args[0]) { list(args).into() } else { Answer::PassOn }
}

/// Whether a descriptor is `/proc` itself.
pub(crate) fn is_proc_root(fd: u64) -> bool {
    let mut stat = [0u64; 18];
    // SAFETY: writes the structure only.
    let known = unsafe { host::call(nr::FSTAT, [fd, stat.as_mut_ptr() as u64, 0, 0, 0, 0]) };
    if known.is_err() || stat[1] != PROC_ROOT_INO {
        return false;
    }
    let mut statfs = [0u64; 15];
    // SAFETY: as above.
    let known = unsafe { host::call(nr::FSTATFS, [fd, statfs.as_mut_ptr() as u64, 0, 0, 0, 0]) };
    known.is_ok() && statfs[0] == PROC_SUPER_MAGIC
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
