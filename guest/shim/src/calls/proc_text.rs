//! open(2) of `/proc/<pid>/stat` and `status`: a copy of the host's text with the fabric's numbers.
//!
//! The copy is of the moment of opening: who reads it again later through the same descriptor sees the same.

use crate::doorbell::ring;
use crate::host;
use dunix_guest_abi::doorbell::{OP_GETPGID, OP_GETPPID, OP_GETSID};
use dunix_shim_core::proc_text::{Names, stat, status};
use dunix_shim_core::{Errno, nr};

/// Longest text; `status` has about 1.5 KiB.
const TEXT_BYTES: usize = 4096;
/// Room for longer numbers.
const GROWTH_BYTES: usize = 128;
const MFD_CLOEXEC: u64 = 1;

/// Whether a file of a process, by its name below the process's folder, is such a text.
pub(crate) fn is_text(rest: &[u8]) -> bool {
    rest == b"/stat" || rest == b"/status"
}

/// Opens the text of process `pid`, which the host has at `path` (zero-terminated).
///
/// # Errors
/// What opening or reading reports; `ESRCH` if the process is gone.
pub(crate) fn open(pid: u32, path: &[u8], rest: &[u8], flags: u64) -> Result<u64, Errno> {
    let file = host::openat(host::AT_FDCWD, path, host::O_CLOEXEC)?;
    let mut text = [0u8; TEXT_BYTES];
    let got = host::pread(file, &mut text, 0);
    host::close(file);
    let text = &text[..got?];
    let ask = |op| ring(op, [u64::from(pid), 0, 0, 0]).map_or(0, host::uint_arg);
    let names =
        Names { pid, parent: ask(OP_GETPPID), group: ask(OP_GETPGID), session: ask(OP_GETSID) };
    let mut out = [0u8; TEXT_BYTES + GROWTH_BYTES];
    let used = if rest == b"/stat" {
        stat(text, &names, &mut out)
    } else {
        status(text, &names, &mut out)
    };
    memory_file(&out[..used.ok_or(Errno::ESRCH)?], flags)
}

fn memory_file(text: &[u8], flags: u64) -> Result<u64, Errno> {
    let flags = if flags & host::O_CLOEXEC == 0 { 0 } else { MFD_CLOEXEC };
    // SAFETY: reads the name only.
    let fd = unsafe { host::call(nr::MEMFD_CREATE, [c"proc".as_ptr() as u64, flags, 0, 0, 0, 0]) }?;
    host::write_all(host::int_arg(fd), text);
    // SAFETY: the shim's own descriptor until it is returned.
    unsafe { host::call(nr::LSEEK, [fd, 0, 0, 0, 0, 0]) }?;
    Ok(fd)
}
