//! Processes in new namespaces.
//!
//! A forked child of a process with several threads may only make system calls: another thread may
//! have held the allocator's lock at the fork. [`fork_into`] therefore refuses such a caller, and
//! its child may then do whatever it likes.

use rustix::{io, process::Pid};

/// The namespaces that a new process gets for itself, as `CLONE_NEW*` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespaces(u64);

impl Namespaces {
    /// None: a plain fork.
    pub const NONE: Namespaces = Namespaces(0);
    /// User ids and capabilities.
    pub const USER: Namespaces = Namespaces(libc::CLONE_NEWUSER as u64);
    /// Mounts.
    pub const MOUNT: Namespaces = Namespaces(libc::CLONE_NEWNS as u64);
    /// PIDs: the child is process 1 of its own.
    pub const PID: Namespaces = Namespaces(libc::CLONE_NEWPID as u64);
    /// Network.
    pub const NET: Namespaces = Namespaces(libc::CLONE_NEWNET as u64);
    /// System V IPC and POSIX message queues.
    pub const IPC: Namespaces = Namespaces(libc::CLONE_NEWIPC as u64);
    /// Host name.
    pub const UTS: Namespaces = Namespaces(libc::CLONE_NEWUTS as u64);
    /// Clocks of elapsed time; only for [`unshare`], which changes the children to come.
    pub const TIME: Namespaces = Namespaces(0x80);
    /// The root of the visible cgroups.
    pub const CGROUP: Namespaces = Namespaces(libc::CLONE_NEWCGROUP as u64);

    /// Returns both sets together.
    #[must_use]
    pub const fn and(self, other: Namespaces) -> Namespaces {
        Namespaces(self.0 | other.0)
    }
}

/// Whose child the new process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// The caller's.
    Caller,
    /// The caller's parent's (`CLONE_PARENT`), which also reaps it and gets its death signal sent.
    CallersParent,
}

/// Which side of the fork this is.
#[derive(Debug)]
pub enum Forked {
    /// The caller; holds the child's number as the caller sees it.
    Parent(Pid),
    /// The new process.
    Child,
}

/// Forks into new namespaces. `SIGCHLD` reports the child's end.
///
/// # Errors
/// `EBUSY` if the caller has more than one thread; else what clone3(2) reports.
pub fn fork_into(namespaces: Namespaces, parent: Parent) -> io::Result<Forked> {
    if std::fs::read_dir("/proc/self/task").map_err(as_errno)?.count() != 1 {
        return Err(io::Errno::BUSY);
    }
    let parent_flag = match parent {
        Parent::Caller => 0,
        Parent::CallersParent => libc::CLONE_PARENT as u64,
    };
    // SAFETY: clone_args is plain data, for which zero is a valid value of every field.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces.0 | parent_flag;
    // With CLONE_PARENT the kernel takes the exit signal of the caller, and insists on 0 here.
    args.exit_signal = if parent_flag == 0 { libc::SIGCHLD as u64 } else { 0 };
    // SAFETY: without CLONE_VM this is a fork: the child runs on its own copy of this stack. The
    // process has one thread (checked above), so no lock can be held by a thread that the child lacks.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(as_errno(std::io::Error::last_os_error())),
        0 => Ok(Forked::Child),
        pid => i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .map(Forked::Parent)
            .ok_or(io::Errno::RANGE),
    }
}

/// Moves the caller, a process of one thread, into new namespaces of the given kinds.
///
/// # Errors
/// `EBUSY` if the caller has more than one thread; else what unshare(2) reports.
pub fn unshare(namespaces: Namespaces) -> io::Result<()> {
    if std::fs::read_dir("/proc/self/task").map_err(as_errno)?.count() != 1 {
        return Err(io::Errno::BUSY);
    }
    #[expect(clippy::cast_possible_truncation, reason = "all CLONE_NEW* bits are below 2^31")]
    // SAFETY: no flag of `Namespaces` unshares the descriptor table, so no borrowed descriptor of
    // this program becomes invalid.
    let result = unsafe { libc::unshare(namespaces.0 as libc::c_int) };
    if result == 0 { Ok(()) } else { Err(as_errno(std::io::Error::last_os_error())) }
}

/// Makes the caller, a process of one thread, user and group 0 of its user namespace, with no
/// further groups.
///
/// # Errors
/// `EINVAL` if the namespace maps no 0, `EPERM` without the privilege.
pub fn become_root() -> io::Result<()> {
    use rustix::process::{Gid, Uid};
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    set_thread_groups(&[])?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
}

pub(crate) fn as_errno(error: std::io::Error) -> io::Errno {
    io::Errno::from_io_error(&error).unwrap_or(io::Errno::IO)
}
