//! Calls that take a path: `/proc/self/exe` and the processes below `/proc`.

use super::{Answer, blocking, descriptor, ipc, proc_text, status, terminal};
use crate::arch::frame::Context;
use crate::doorbell::ring;
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::process::{EXE_PATH, has_daemon, has_process_files};
use crate::thread::Thread;
use dunix_guest_abi::doorbell::{OP_EXE_PATH, OP_TO_HOST, PATH_BYTES, PROCESS_FILES};
use dunix_shim_core::proc_path::{self, ProcPath};
use dunix_shim_core::{Errno, nr};

const O_NOFOLLOW: u64 = 0o400_000;
const AT_SYMLINK_NOFOLLOW: u64 = 0x100;

/// A path of the shim's, zero-terminated.
pub(crate) struct Path {
    bytes: [u8; PATH_BYTES],
    len: usize,
}

impl Path {
    fn join(parts: &[&[u8]]) -> Result<Path, Errno> {
        let mut path = Path { bytes: [0; PATH_BYTES], len: 0 };
        for part in parts {
            let end = path.len + part.len();
            if end >= PATH_BYTES {
                return Err(Errno::ENAMETOOLONG);
            }
            path.bytes[path.len..end].copy_from_slice(part);
            path.len = end;
        }
        Ok(path)
    }

    /// The path with its zero.
    pub(crate) fn with_zero(&self) -> &[u8] {
        &self.bytes[..=self.len]
    }

    fn address(&self) -> u64 {
        self.bytes.as_ptr() as u64
    }
}

/// What the path means to the host.
enum Meaning {
    /// What it says.
    Plain,
    /// Another path.
    Other(Path),
    /// `exe` of the caller, as a link.
    OwnExe,
    /// `exe` of another process, as a link to this.
    Exe(Path),
    /// `/proc/self` as a link.
    SelfLink { of_thread: bool },
}

/// Which argument is the path, and whether a final link is followed.
fn path_argument(number: u64, args: [u64; 6]) -> Option<(usize, bool)> {
    Some(match number {
        nr::OPEN | nr::CREAT => (0, args[1] & O_NOFOLLOW == 0 || number == nr::CREAT),
        nr::STAT | nr::ACCESS | nr::CHDIR | nr::TRUNCATE => (0, true),
        nr::LSTAT | nr::READLINK => (0, false),
        nr::OPENAT => (1, args[2] & O_NOFOLLOW == 0),
        nr::OPENAT2 => (1, true),
        nr::NEWFSTATAT => (1, args[3] & AT_SYMLINK_NOFOLLOW == 0),
        nr::STATX => (1, args[2] & AT_SYMLINK_NOFOLLOW == 0),
        nr::READLINKAT => (1, false),
        nr::FACCESSAT => (1, true),
        nr::FACCESSAT2 => (1, args[3] & AT_SYMLINK_NOFOLLOW == 0),
        _ => return None,
    })
}

/// Handles a call if it takes a path that needs care.
pub(crate) fn try_handle(
    thread: &Thread,
    context: &Context,
    number: u64,
    args: [u64; 6],
) -> Option<Answer> {
    let (at, is_followed) = path_argument(number, args)?;
    // Most paths are neither below /proc nor the terminal: a look at the first bytes tells.
    match guest::read::<[u8; 6]>(GuestAddr(args[at])) {
        Ok(start) if start == *b"/proc/" => {}
        Ok(start) if start.starts_with(b"/dev/") && has_daemon() => {}
        _ => return None,
    }
    handle_special(thread, context, number, args, at, is_followed)
}

/// The same for a path at `args[at]` that is below `/proc` or a device.
#[inline(never)] // Its paths would be on the stack of every call.
fn handle_special(
    thread: &Thread,
    context: &Context,
    number: u64,
    args: [u64; 6],
    at: usize,
    is_followed: bool,
) -> Option<Answer> {
    let mut buffer = [0u8; 64];
    let path = guest::read_str(GuestAddr(args[at]), &mut buffer).ok()?;
    if path == b"/dev/tty" && matches!(number, nr::OPEN | nr::OPENAT) {
        return Some(terminal::open_controlling(thread, args[at + 1]).into());
    }
    if has_daemon()
        && !thread.process().remote.is_empty()
        && let Some(answer) = with_remote(thread, context, number, path, args, at)
    {
        return Some(answer);
    }
    if has_daemon()
        && matches!(number, nr::OPEN | nr::OPENAT)
        && let Some(answer) = open_text(thread, path, args[at + 1])
    {
        return Some(answer);
    }
    let (result, args) = match meaning(thread, path, is_followed) {
        Err(error) => return Some(Answer::from(Err(error))),
        Ok(Meaning::Plain) => return None,
        Ok(Meaning::OwnExe) if is_readlink(number) => (EXE_PATH.get(), args),
        Ok(Meaning::OwnExe) => return None,
        Ok(Meaning::Exe(exe)) if is_readlink(number) => {
            return Some(give_text(&exe.bytes[..exe.len], args, at).into());
        }
        Ok(Meaning::Exe(_)) => return None,
        Ok(Meaning::SelfLink { of_thread }) if is_readlink(number) => {
            return Some(self_link(thread, of_thread, args, at));
        }
        Ok(Meaning::SelfLink { .. }) => return None,
        Ok(Meaning::Other(other)) => {
            let mut args = args;
            args[at] = other.address();
            if descriptor::is_open(number) {
                return Some(descriptor::opened(thread, context, number, args));
            }
            // SAFETY: the guest's own call with a path in the shim's memory.
            return Some(unsafe { blocking(context, number, args) });
        }
    };
    Some(Answer::from(give_text(result, args, at)))
}

/// Whether a call's path is neither below `/proc` nor a device: [`try_handle`] would pass it on.
pub(crate) fn is_plain(number: u64, args: [u64; 6]) -> bool {
    let Some((at, _)) = path_argument(number, args) else { return false };
    match guest::read::<[u8; 6]>(GuestAddr(args[at])) {
        Ok(start) => start != *b"/proc/" && !start.starts_with(b"/dev/"),
        Err(_) => false,
    }
}

/// Opens a text that holds numbers: of the objects of System V IPC, of the caller; of others too, if the
/// nodes do not compose theirs.
fn open_text(thread: &Thread, path: &[u8], flags: u64) -> Option<Answer> {
    if let Some(columns) = proc_path::ipc_list(path) {
        let place = Path::join(&[path]);
        let opened = place.and_then(|path| ipc::open_list(path.with_zero(), columns, flags));
        return Some(opened.into());
    }
    let own = thread.process().pid();
    let ProcPath::Process { pid, rest } = proc_path::parse(path, own)? else { return None };
    if pid == own && proc_text::is_mounts(rest) {
        return Some(proc_text::open_mounts(flags).into());
    }
    if !proc_text::is_text(rest) || pid != own && has_process_files() {
        return None;
    }
    let place = if pid == own { Path::join(&[b"/proc/self", rest]) } else { on_host(pid, rest) };
    let opened = place.and_then(|path| proc_text::open(pid, path.with_zero(), rest, flags));
    Some(opened.into())
}

/// Where a file of a process is: in the host's `/proc` if that has it right, else among the files that
/// the nodes compose for each other.
fn place_of(own: u32, pid: u32, rest: &[u8]) -> Result<Path, Errno> {
    let is_own = pid == own;
    let is_composed = proc_path::is_composed(rest) && has_process_files();
    // What of itself the caller may write to.
    let is_hosts = |file: &[u8]| is_own && !file.is_empty() && !proc_text::is_text(file);
    match proc_path::thread_of(rest) {
        Some((tid, file)) if !is_composed || is_hosts(file) => thread_on_host(pid, tid, file),
        _ if is_composed && (!is_own || rest.starts_with(b"/task")) => composed(pid, rest),
        _ if is_own => Path::join(&[b"/proc/self", rest]),
        _ => match on_host(pid, rest) {
            Err(_) if has_process_files() => composed(pid, rest),
            place => place,
        },
    }
}

/// The path that the nodes compose.
fn composed(pid: u32, rest: &[u8]) -> Result<Path, Errno> {
    let mut digits = [0u8; 12];
    let used = proc_path::write_number(u64::from(pid), &mut digits).unwrap_or(0);
    Path::join(&[PROCESS_FILES.as_bytes(), b"/", &digits[..used], rest])
}

/// The path that the host has for a file of a process of this node.
fn on_host(pid: u32, rest: &[u8]) -> Result<Path, Errno> {
    named(b"/proc/", to_host(pid)?, rest)
}

/// The same for a file of a thread.
fn thread_on_host(pid: u32, tid: u32, rest: &[u8]) -> Result<Path, Errno> {
    let (mut process, mut thread) = ([0u8; 12], [0u8; 12]);
    let process_len = proc_path::write_number(to_host(pid)?, &mut process).unwrap_or(0);
    let thread_len = proc_path::write_number(to_host(tid)?, &mut thread).unwrap_or(0);
    Path::join(&[b"/proc/", &process[..process_len], b"/task/", &thread[..thread_len], rest])
}

fn to_host(id: u32) -> Result<u64, Errno> {
    // A process elsewhere is not in this node's /proc.
    ring(OP_TO_HOST, [u64::from(id), 0, 0, 0]).map_err(|_| Errno::ENOENT)
}

fn named(folder: &[u8], number: u64, rest: &[u8]) -> Result<Path, Errno> {
    let mut digits = [0u8; 12];
    let used = proc_path::write_number(number, &mut digits).unwrap_or(0);
    Path::join(&[folder, &digits[..used], rest])
}

/// The program of a process of this node.
fn exe_of(pid: u32) -> Result<Path, Errno> {
    let mut path = Path { bytes: [0; PATH_BYTES], len: 0 };
    let args = [u64::from(pid), path.bytes.as_mut_ptr() as u64, PATH_BYTES as u64 - 1, 0];
    path.len = host::to_usize(ring(OP_EXE_PATH, args).map_err(|_| Errno::ENOENT)?);
    Ok(path)
}

/// Paths that stand for descriptors of another node: opened as duplicates, read as links.
fn with_remote(
    thread: &Thread,
    context: &Context,
    number: u64,
    path: &[u8],
    args: [u64; 6],
    at: usize,
) -> Option<Answer> {
    match number {
        nr::OPEN | nr::OPENAT => {
            let fd = match proc_path::pseudo_terminal(path) {
                Some(terminal) => status::terminal_named(thread, context, terminal)?,
                None => remote_descriptor(thread, path)?,
            };
            Some(descriptor::reopen(thread, fd, args[at + 1]))
        }
        nr::READLINK | nr::READLINKAT => {
            let fd = remote_descriptor(thread, path)?;
            let terminal = status::terminal_number(thread, context, fd)?;
            let mut digits = [0u8; 12];
            let used = proc_path::write_number(u64::from(terminal), &mut digits)?;
            let name = Path::join(&[b"/dev/pts/", &digits[..used]]);
            Some(name.and_then(|name| give_text(&name.bytes[..name.len], args, at)).into())
        }
        _ => None,
    }
}

/// The descriptor that a path stands for, if its object lives at another node: the local
/// placeholder cannot be opened in its stead.
fn remote_descriptor(thread: &Thread, path: &[u8]) -> Option<i32> {
    let fd = i32::try_from(proc_path::own_descriptor(path)?).ok()?;
    thread.process().remote.has(fd).then_some(fd)
}

fn is_readlink(number: u64) -> bool {
    number == nr::READLINK || number == nr::READLINKAT
}

/// Copies a link's text to the buffer that follows the path argument, as readlink(2) does.
fn give_text(text: &[u8], args: [u64; 6], at: usize) -> Result<u64, Errno> {
    let room = host::int_arg(args[at + 2]);
    if room <= 0 {
        return Err(Errno::EINVAL);
    }
    let text = &text[..text.len().min(room.unsigned_abs() as usize)];
    guest::write_bytes(GuestAddr(args[at + 1]), text)?;
    Ok(text.len() as u64)
}

fn self_link(thread: &Thread, of_thread: bool, args: [u64; 6], at: usize) -> Answer {
    let mut digits = [0u8; 12];
    let pid = u64::from(thread.process().pid());
    let used = proc_path::write_number(pid, &mut digits).unwrap_or(0);
    let text = if of_thread {
        let mut tid_digits = [0u8; 12];
        let tid = u64::from(thread.tid.get());
        let tid_used = proc_path::write_number(tid, &mut tid_digits).unwrap_or(0);
        Path::join(&[&digits[..used], b"/task/", &tid_digits[..tid_used]])
    } else {
        Path::join(&[&digits[..used]])
    };
    Answer::from(text.and_then(|text| give_text(&text.bytes[..text.len], args, at)))
}

fn meaning(thread: &Thread, path: &[u8], is_followed: bool) -> Result<Meaning, Errno> {
    match proc_path::parse(path, thread.process().pid()) {
        None => Ok(Meaning::Plain),
        Some(ProcPath::OwnExe) if is_followed => Path::join(&[EXE_PATH.get()]).map(Meaning::Other),
        Some(ProcPath::OwnExe) => Ok(Meaning::OwnExe),
        Some(ProcPath::SelfLink { of_thread }) => Ok(Meaning::SelfLink { of_thread }),
        Some(ProcPath::Process { .. }) if !has_daemon() => Ok(Meaning::Plain),
        Some(ProcPath::Process { pid, rest: b"/exe" }) if !has_process_files() => {
            let exe = exe_of(pid)?;
            Ok(if is_followed { Meaning::Other(exe) } else { Meaning::Exe(exe) })
        }
        Some(ProcPath::Process { pid, rest }) => {
            place_of(thread.process().pid(), pid, rest).map(Meaning::Other)
        }
    }
}

/// Reads a path for execve: `/proc/self/exe` becomes the program's own path.
///
/// # Errors
/// `EFAULT`, `ENAMETOOLONG`.
pub(crate) fn for_exec(thread: &Thread, address: GuestAddr) -> Result<Path, Errno> {
    let mut path = Path { bytes: [0; PATH_BYTES], len: 0 };
    path.len = guest::read_str(address, &mut path.bytes)?.len();
    path.bytes[path.len..].fill(0);
    match meaning(thread, &path.bytes[..path.len], true)? {
        Meaning::Other(other) => Ok(other),
        _ => Ok(path),
    }
}
