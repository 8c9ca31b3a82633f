//! The child's side of a spawn: from the fork to the shim.
//!
//! Runs in a process of its own, once; what fails is said on the boot socket. Order matters:
//! namespaces give the rights for what follows, files are opened before rights are dropped (the
//! guest held them already), the working directory is entered and the program found with the
//! guest's own rights, and limits come last because descriptors may lie above them.

use crate::program;
use crate::protocol::{
    EXE_FD, OpenSpec, RESOLVED, Resolved, SET_UP_FAILED, SetUpFailure, SetUpStep, SpawnSpec,
};
use dunix_guest_abi::doorbell::BOOT_FD;
use dunix_guest_abi::signal::MOVE_SIGNAL;
use dunix_linux::{Errno, child, identity, signal};
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec};
use rustix::process::{self, Gid, Uid};
use rustix::thread::{self, CapabilitySet, CapabilitySets};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The move signal in a set.
const MOVE_BIT: u64 = 1 << (MOVE_SIGNAL - 1);

/// The descriptors of a spawn, in their places.
pub(crate) struct GuestFds {
    pub(crate) shim: OwnedFd,
    pub(crate) boot: OwnedFd,
    pub(crate) namespaces: Vec<OwnedFd>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// Becomes the guest; never returns.
pub(crate) fn become_guest(
    spec: &SpawnSpec,
    fds: GuestFds,
    group: Option<u32>,
    doors: &[OwnedFd],
) -> ! {
    let boot = fds.boot.try_clone();
    let entered = enter_control_groups(doors);
    let failure = match entered.and_then(|()| set_up_and_exec(spec, fds, group)) {
        Ok(never) => match never {},
        Err((step, errno)) => SetUpFailure { step, errno: errno.raw_os_error() },
    };
    if let (Ok(boot), Ok(body)) = (boot, postcard::to_allocvec(&failure)) {
        let body = [&[SET_UP_FAILED][..], &body].concat();
        let _ = dunix_linux::scm::send(boot.as_fd(), &body, &[]);
    }
    child::exit_child(126)
}

enum Never {}

pub(crate) type Step<T> = Result<T, (SetUpStep, Errno)>;

fn set_up_and_exec(spec: &SpawnSpec, fds: GuestFds, group: Option<u32>) -> Step<Never> {
    let at = |step| move |errno| (step, errno);
    join_group(group);
    enter(spec, &fds)?;
    let own = place_descriptors(spec, fds).map_err(at(SetUpStep::Descriptors))?;
    for file in &spec.opens {
        open_in_tree(file).map_err(at(SetUpStep::Opens))?;
    }
    set_credentials(spec).map_err(at(SetUpStep::Credentials))?;
    process::chdir(spec.cwd.as_slice()).map_err(at(SetUpStep::WorkingDirectory))?;
    let argv = if spec.is_arrival {
        vec![c"arrival".to_owned()]
    } else {
        open_program(spec, own.boot.as_fd()).map_err(at(SetUpStep::Program))?
    };
    let envp = c_strings(&spec.envp).map_err(at(SetUpStep::Exec))?;
    set_limits(spec).map_err(at(SetUpStep::Limits))?;
    signal::reset_dispositions(spec.signals_ignored);
    // The move signal waits until the shim has its handlers, which takes it out of the mask again.
    signal::set_mask(spec.signals_blocked | MOVE_BIT).map_err(at(SetUpStep::Exec))?;
    signal::raise(spec.signals_pending);
    Err((SetUpStep::Exec, child::exec_fd(own.shim.as_fd(), &argv, &envp)))
}

/// Enters control groups through their open `cgroup.procs` files.
pub(crate) fn enter_control_groups(doors: &[OwnedFd]) -> Step<()> {
    for door in doors {
        rustix::io::write(door, b"0").map_err(|errno| (SetUpStep::ControlGroups, errno))?;
    }
    Ok(())
}

fn enter(spec: &SpawnSpec, fds: &GuestFds) -> Step<()> {
    for namespace in &fds.namespaces {
        thread::move_into_link_name_space(namespace.as_fd(), None)
            .map_err(|errno| (SetUpStep::Namespaces, errno))?;
    }
    let into_root = || {
        if !spec.root.is_empty() {
            process::chroot(spec.root.as_slice())?;
        }
        process::chdir("/")
    };
    into_root().map_err(|errno| (SetUpStep::Root, errno))
}

/// Opens the program at its number, tells the daemon which it is, and returns its arguments.
fn open_program(spec: &SpawnSpec, boot: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let found = program::find(&spec.program, &spec.argv)?;
    let file = fcntl_dupfd_cloexec(&found.file, EXE_FD + 1)?;
    drop(found.file);
    place(file.as_fd(), &[EXE_FD])?;
    let resolved = Resolved { exe_path: found.path, exec_fn: found.exec_fn };
    let body = postcard::to_allocvec(&resolved).map_err(|_| Errno::INVAL)?;
    dunix_linux::scm::send(boot, &[&[RESOLVED][..], &body].concat(), &[])?;
    c_strings(&found.argv)
}

/// Guests share one host group, apart from the keeper's: a group whose parent is outside of it, in
/// the same session, is not orphaned, so the host's default stops work.
fn join_group(group: Option<u32>) {
    let group = group.and_then(|g| process::Pid::from_raw(g.cast_signed()));
    if process::setpgid(None, group).is_err() {
        let _ = process::setpgid(None, None);
    }
}

/// What the child itself still needs, out of the guest's way and `O_CLOEXEC`.
struct OwnFds {
    shim: OwnedFd,
    boot: OwnedFd,
}

/// Moves all descriptors out of the way, then to their numbers; returns those that end
/// with the exec.
fn place_descriptors(spec: &SpawnSpec, fds: GuestFds) -> Result<OwnFds, Errno> {
    if spec.descriptors.len() != fds.descriptors.len() {
        return Err(Errno::INVAL);
    }
    let numbers = spec.descriptors.iter().chain(spec.opens.iter().map(|o| &o.numbers)).flatten();
    let above = numbers.copied().max().unwrap_or(0).max(EXE_FD).checked_add(1);
    let above = above.ok_or(Errno::MFILE)?;
    let shim = fcntl_dupfd_cloexec(&fds.shim, above)?;
    let boot = fcntl_dupfd_cloexec(&fds.boot, above)?;
    let mut moved = Vec::with_capacity(fds.descriptors.len());
    for fd in &fds.descriptors {
        moved.push(fcntl_dupfd_cloexec(fd, above)?);
    }
    drop(fds);
    // The keeper's own: a program that was started without one of them has none.
    for own in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        match rustix::io::fcntl_setfd(own, FdFlags::CLOEXEC) {
            Ok(()) | Err(Errno::BADF) => {}
            Err(errno) => return Err(errno),
        }
    }
    for (fd, numbers) in moved.iter().zip(&spec.descriptors) {
        place(fd.as_fd(), numbers)?;
    }
    place(boot.as_fd(), &[BOOT_FD])?;
    Ok(OwnFds { shim, boot })
}

fn place(fd: BorrowedFd<'_>, numbers: &[i32]) -> Result<(), Errno> {
    for &number in numbers {
        dunix_linux::child::dup_onto(fd, number)?;
    }
    Ok(())
}

fn open_in_tree(file: &OpenSpec) -> Result<(), Errno> {
    let refused = OFlags::CREATE | OFlags::EXCL | OFlags::TRUNC;
    let flags = OFlags::from_bits_retain(file.flags.cast_unsigned()) - refused;
    let flags = flags | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(file.path.as_slice(), flags, Mode::empty())?;
    if file.inode.is_some_and(|inode| rustix::fs::fstat(&fd).map(|stat| stat.st_ino) != Ok(inode)) {
        return Err(Errno::STALE);
    }
    if let Some(offset) = file.offset {
        rustix::fs::seek(&fd, SeekFrom::Start(offset))?;
    }
    // Its own number may be one of the wanted ones.
    let above = file.numbers.iter().copied().max().unwrap_or(0).max(EXE_FD) + 1;
    let moved = fcntl_dupfd_cloexec(&fd, above)?;
    drop(fd);
    place(moved.as_fd(), &file.numbers)
}

fn set_limits(spec: &SpawnSpec) -> Result<(), Errno> {
    process::umask(Mode::from_bits_truncate(spec.umask & 0o777));
    let now = process::getpriority_process(None)?;
    if now != spec.nice {
        // Raising priority needs a right that a small host may withhold: keep the lower one then.
        let _ = process::setpriority_process(None, spec.nice);
    }
    for &(resource, soft, hard) in &spec.limits {
        match identity::set_limit(resource, (soft, hard)) {
            // Beyond what this node may give: its own hard limit stays.
            Err(Errno::PERM) => {}
            other => other?,
        }
    }
    Ok(())
}

fn set_credentials(spec: &SpawnSpec) -> Result<(), Errno> {
    if let Some(groups) = &spec.groups {
        let groups: Vec<Gid> = groups.iter().map(|&g| Gid::from_raw(g)).collect();
        thread::set_thread_groups(&groups)?;
    }
    let [real, effective, saved] = spec.gids.map(Gid::from_raw);
    thread::set_thread_res_gid(real, effective, saved)?;
    let ids = spec.uids;
    let [real, effective, saved] = ids.map(Uid::from_raw);
    // Root needs nothing lent.
    let lends = !ids.contains(&ROOT);
    if lends {
        let full = thread::capabilities(None)?;
        thread::set_capabilities(None, CapabilitySets { inheritable: LENT, ..full })?;
        thread::set_keep_capabilities(true)?;
    }
    lower_bounding_set(spec.forbidden)?;
    thread::set_thread_res_uid(real, effective, saved)?;
    if lends {
        // Not effective yet: what follows is done with the guest's own rights.
        let effective = CapabilitySet::empty();
        let sets = CapabilitySets { effective, permitted: LENT, inheritable: LENT };
        thread::set_capabilities(None, sets)?;
        thread::configure_capability_in_ambient_set(LENT, true)?;
    }
    if spec.no_new_privs {
        thread::set_no_new_privs(true)?;
    }
    Ok(())
}

/// User 0 of the guests.
const ROOT: u32 = 0;

/// Lets the shim, and nothing before it, install its filters without `no_new_privs`, which would keep
/// set-user-ID programs from having their effect for good. The shim gives it back before the guest's
/// first instruction; the kernel takes it away if real and effective ids differ.
const LENT: CapabilitySet = CapabilitySet::SYS_ADMIN;

/// Takes from the bounding set what the guest lacked where it comes from.
fn lower_bounding_set(forbidden: u64) -> Result<(), Errno> {
    for bit in (0..u64::BITS).map(|bit| forbidden & 1 << bit).filter(|bit| *bit != 0) {
        match thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(bit)) {
            // This kernel has no such capability.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn c_strings(strings: &[Vec<u8>]) -> Result<Vec<CString>, Errno> {
    strings.iter().map(|s| CString::new(s.as_slice()).map_err(|_| Errno::INVAL)).collect()
}
