//! System V IPC (svipc(7)): what the node's kernel says of who used an object is said in the fabric's numbers.

use super::Answer;
use super::other::from_host;
use super::proc_text::{self, memory_file};
use crate::guest::{self, GuestAddr};
use crate::host;
use dunix_guest_abi::proc_text::{IPC_LINE_BYTES, ipc_line};
use dunix_shim_core::{Errno, nr};

/// Commands that all three kinds of objects have.
const IPC_64: u64 = 0x100;
const IPC_STAT: u64 = 2;
/// semctl(2): who changed a semaphore last.
const GETPID: u64 = 11;
/// shmctl(2): objects by index.
const SHM_STAT: u64 = 13;
const SHM_STAT_ANY: u64 = 15;
/// msgctl(2): the same.
const MSG_STAT: u64 = 11;
const MSG_STAT_ANY: u64 = 13;

/// Words of 32 bits of `struct shmid64_ds`, and where `shm_cpid` and `shm_lpid` are.
const SEGMENT_WORDS: usize = 28;
const SEGMENT_PIDS: [usize; 2] = [20, 21];
/// The same of `struct msqid64_ds`: `msg_lspid` and `msg_lrpid`.
const QUEUE_WORDS: usize = 30;
const QUEUE_PIDS: [usize; 2] = [24, 25];

/// Handles a call whose answer names processes.
pub(crate) fn try_handle(number: u64, args: [u64; 6]) -> Option<Answer> {
    let answer = match (number, args[1] & !IPC_64, args[2] & !IPC_64) {
        (nr::SEMCTL, _, GETPID) => last_changer(args),
        (nr::SHMCTL, IPC_STAT | SHM_STAT | SHM_STAT_ANY, _) => {
            status::<SEGMENT_WORDS>(number, args, SEGMENT_PIDS)
        }
        (nr::MSGCTL, IPC_STAT | MSG_STAT | MSG_STAT_ANY, _) => {
            status::<QUEUE_WORDS>(number, args, QUEUE_PIDS)
        }
        _ => return None,
    };
    Some(answer.into())
}

fn last_changer(args: [u64; 6]) -> Result<u64, Errno> {
    // SAFETY: the guest's own call, which touches no memory.
    let host = unsafe { host::call(nr::SEMCTL, args) }?;
    Ok(u64::from(from_host(host::uint_arg(host))))
}

/// Asks for the object's structure, and writes it with the fabric's numbers.
fn status<const WORDS: usize>(number: u64, args: [u64; 6], pids: [usize; 2]) -> Result<u64, Errno> {
    let mut object = [0u32; WORDS];
    let [id, command, to, ..] = args;
    // SAFETY: writes the structure only, whose size is the kernel's.
    let result = unsafe { host::call(number, [id, command, object.as_mut_ptr() as u64, 0, 0, 0]) }?;
    // What the kernel wrote is not the compiler's to guess.
    let mut object = core::hint::black_box(object);
    for at in pids {
        object[at] = from_host(object[at]);
    }
    guest::write(GuestAddr(to), &object)?;
    Ok(result)
}

/// Opens `/proc/sysvipc/shm` or `msg` (zero-terminated) as a copy with the fabric's numbers.
///
/// # Errors
/// What opening or reading reports; `EIO` if a line is longer than the kernel's are.
pub(crate) fn open_list(path: &[u8], columns: [usize; 2], flags: u64) -> Result<u64, Errno> {
    let file = host::openat(host::AT_FDCWD, path, host::O_CLOEXEC)?;
    let copy = memory_file(&[], flags)?;
    let copied = copy_lines(file, host::int_arg(copy), columns);
    host::close(file);
    match copied.and_then(|()| proc_text::rewind(copy)) {
        Ok(()) => Ok(copy),
        Err(error) => {
            host::close(host::int_arg(copy));
            Err(error)
        }
    }
}

fn copy_lines(from: i32, to: i32, columns: [usize; 2]) -> Result<(), Errno> {
    let mut text = [0u8; 4 * IPC_LINE_BYTES];
    let (mut used, mut offset) = (0, 0);
    loop {
        let got = host::pread(from, &mut text[used..], offset)?;
        offset += got as u64;
        used += got;
        let whole = text[..used].iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        for line in text[..whole].split_inclusive(|&b| b == b'\n') {
            let mut out = [0u8; IPC_LINE_BYTES];
            let bytes = ipc_line(line, columns, from_host, &mut out).ok_or(Errno::EIO)?;
            host::write_all(to, &out[..bytes]);
        }
        if got == 0 {
            return Ok(());
        }
        if whole == 0 && used == text.len() {
            return Err(Errno::EIO);
        }
        text.copy_within(whole..used, 0);
        used -= whole;
    }
}
