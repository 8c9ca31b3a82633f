//! open(2) of the host's `/proc/<pid>/stat` and `status`: a copy of the host's text with what the fabric knows better.
//!
//! The copy is of the moment of opening: who reads it again later through the same descriptor sees the same.

use super::status;
use crate::doorbell::ring;
use crate::host;
use dunix_guest_abi::arena::TREE_DEVICE;
use dunix_guest_abi::doorbell::{OP_PROC_NAMES, PROC_NODE_AT, PROC_WORDS};
use dunix_guest_abi::proc_text::{
    MOUNT_GROWTH_BYTES, Names, mountinfo, stat, status as status_text,
};
use dunix_shim_core::{Errno, nr};

/// Longest text; `status` has about 1.5 KiB.
const TEXT_BYTES: usize = 4096;
/// Room for longer numbers and the node's name.
const GROWTH_BYTES: usize = 256;
const MFD_CLOEXEC: u64 = 1;

/// Whether a file of a process, by its name below the process's folder, is such a text.
pub(crate) fn is_text(rest: &[u8]) -> bool {
    rest == b"/stat" || rest == b"/status"
}

/// Opens the text of a process of this node, which the host has at `path` (zero-terminated).
///
/// # Errors
/// What opening or reading reports; `ESRCH` if it makes no sense.
pub(crate) fn open(pid: u32, path: &[u8], rest: &[u8], flags: u64) -> Result<u64, Errno> {
    let file = host::openat(host::AT_FDCWD, path, host::O_CLOEXEC)?;
    let mut text = [0u8; TEXT_BYTES];
    let got = host::pread(file, &mut text, 0);
    host::close(file);
    let text = &text[..got?];
    let mut words = [0u64; PROC_WORDS];
    ring(OP_PROC_NAMES, [words.as_mut_ptr() as u64, u64::from(pid), 0, 0])?;
    let mut node = [0u8; (PROC_WORDS - PROC_NODE_AT) * 8];
    for (bytes, word) in node.chunks_mut(8).zip(&words[PROC_NODE_AT..]) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    let names = Names {
        id: pid,
        pid,
        parent: host::uint_arg(words[0]),
        group: host::uint_arg(words[1]),
        session: host::uint_arg(words[2]),
        terminal: host::uint_arg(words[3]),
        foreground: host::int_arg(words[4]),
        start_ticks: words[5],
        used_ticks: [words[6], words[7], words[8], words[9]],
        ids_base: 0,
        node: &node[..node.iter().position(|&b| b == 0).unwrap_or(node.len())],
    };
    let mut out = [0u8; TEXT_BYTES + GROWTH_BYTES];
    let used = if rest == b"/stat" {
        stat(text, &names, &mut out)
    } else {
        status_text(text, &names, &mut out)
    };
    memory_file(&out[..used.ok_or(Errno::ESRCH)?], flags)
}

/// Whether a file of the caller, by its name below its folder, lists its mounts.
pub(crate) fn is_mounts(rest: &[u8]) -> bool {
    rest == b"/mountinfo" && status::is_translated()
}

/// Opens the list of the caller's mounts, in which the tree has the fabric's number.
///
/// # Errors
/// What opening or reading reports.
pub(crate) fn open_mounts(flags: u64) -> Result<u64, Errno> {
    /// No line is shorter.
    const LINE_BYTES: usize = 32;
    let file = host::openat(host::AT_FDCWD, b"/proc/self/mountinfo\0", host::O_CLOEXEC)?;
    let copy = memory_file(b"", flags)?;
    let mut text = [0u8; TEXT_BYTES];
    let mut out = [0u8; TEXT_BYTES + TEXT_BYTES / LINE_BYTES * MOUNT_GROWTH_BYTES];
    let mut at = 0;
    loop {
        let got = match host::pread(file, &mut text, at) {
            Ok(0) | Err(_) => break,
            Ok(got) => got,
        };
        // A part of a line is read again; one that is longer than all this is copied as it is.
        let lines = text[..got].iter().rposition(|&b| b == b'\n').map_or(got, |end| end + 1);
        let used = mountinfo(&text[..lines], status::tree_device(), TREE_DEVICE, &mut out);
        let shown = used.map_or(&text[..lines], |used| &out[..used]);
        host::write_all(host::int_arg(copy), shown);
        at += lines as u64;
    }
    host::close(file);
    rewind(copy).map(|()| copy)
}

/// A file in memory with this text, at its beginning.
pub(crate) fn memory_file(text: &[u8], flags: u64) -> Result<u64, Errno> {
    let flags = if flags & host::O_CLOEXEC == 0 { 0 } else { MFD_CLOEXEC };
    // SAFETY: reads the name only.
    let fd = unsafe { host::call(nr::MEMFD_CREATE, [c"proc".as_ptr() as u64, flags, 0, 0, 0, 0]) }?;
    host::write_all(host::int_arg(fd), text);
    rewind(fd)?;
    Ok(fd)
}

/// Goes to the beginning of a file of the shim's.
pub(crate) fn rewind(fd: u64) -> Result<(), Errno> {
    // SAFETY: the shim's own descriptor until it is the guest's.
    unsafe { host::call(nr::LSEEK, [fd, 0, 0, 0, 0, 0]) }.map(drop)
}
