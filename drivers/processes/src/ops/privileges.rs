//! What files give to who executes them: set-user-ID, set-group-ID, file capabilities (execve(2),
//! capabilities(7)).
//!
//! The kernel changes credentials at an exec, nobody else: a program that gives privileges is started by
//! a copy of the shim that has its owner, group, mode and capabilities, so that `no_new_privs`, shared
//! working directories, bounding sets and securebits count as they do natively. Each copy is made for one
//! exec and belongs to its ticket.
//!
//! Invariants: what counts is read from the very file that is run, by this daemon, through the tree's
//! mount. An image starts only if it is the shim that its ticket names ([`Node::check_shim`]): a copy
//! that a guest has kept or passed on starts nothing.

use crate::call::Caller;
use crate::node::{Local, Node, Ticket};
use dunix_linux::{Errno, Result};
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Statx, StatxFlags, Uid, XattrFlags, fchmod, fchown, fgetxattr,
    fsetxattr, fstat, openat, stat, statx,
};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const SET_IDS: u32 = 0o6000;
const EXECUTE: u32 = 0o111;
const READ: u32 = 0o444;
/// `struct vfs_ns_cap_data` of `VFS_CAP_REVISION_2` and `_3`.
const CAPABILITY_BYTES: [usize; 2] = [20, 24];
const CAPABILITY: &str = "security.capability";
/// POSIX access lists, which a copy cannot have.
const ACCESS_LIST: &str = "system.posix_acl_access";

/// Where programs that give privileges come from.
#[derive(Debug)]
pub struct FilePrivileges {
    /// The tree's mount, as statx(2) numbers it: no other file gives privileges.
    pub tree_mount: u64,
    /// A directory of a mount that is in the guests' mount namespace, without `nosuid`.
    pub vault: OwnedFd,
}

/// A copy of the shim for one exec.
#[derive(Clone, Debug)]
pub(crate) struct PrivilegedShim(Arc<OwnedFd>);

impl PrivilegedShim {
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Local {
    /// Whether it is about to start a program that gives privileges.
    pub(crate) fn is_getting_privileges(&self) -> bool {
        self.ticket.as_ref().is_some_and(|ticket| ticket.shim.is_some())
    }
}

/// The kernel's own answer about a file, or what it knows already.
fn look(file: BorrowedFd<'_>, flags: AtFlags) -> Result<Statx> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    statx(file, c"", flags | AtFlags::EMPTY_PATH, wanted)
}

impl Node {
    /// Whether a program may give privileges, by what the kernel and this daemon know without asking:
    /// whoever executes has just looked at it.
    pub(crate) fn may_give_privileges(&self, exe: BorrowedFd<'_>) -> bool {
        let Some(privileges) = &self.privileges else { return false };
        let has_capabilities = |ino| {
            let known = self.extension.may_have_attributes(ino);
            known.unwrap_or_else(|| attribute(exe, CAPABILITY) != Ok(None))
        };
        look(exe, AtFlags::STATX_DONT_SYNC).is_ok_and(|found| {
            found.stx_mnt_id == privileges.tree_mount
                && (u32::from(found.stx_mode) & SET_IDS != 0 || has_capabilities(found.stx_ino))
        })
    }

    /// The shim by which a program has its effect; `None` if it gives nothing. Blocks on the tree.
    ///
    /// # Errors
    /// The tree's; `ENOMEM` with too many at a time.
    pub(crate) fn privileged_shim(
        &self,
        caller: Caller,
        exe: BorrowedFd<'_>,
    ) -> Result<Option<PrivilegedShim>> {
        let Some(privileges) = &self.privileges else { return Ok(None) };
        // Not what the kernel believes for a while.
        let found = look(exe, AtFlags::STATX_FORCE_SYNC)?;
        let mode = u32::from(found.stx_mode);
        let capabilities = attribute(exe, CAPABILITY)?;
        let capabilities = capabilities.filter(|value| CAPABILITY_BYTES.contains(&value.len()));
        if found.stx_mnt_id != privileges.tree_mount
            || (mode & SET_IDS == 0 && capabilities.is_none())
            || attribute(exe, ACCESS_LIST)?.is_some()
            || self.is_watched(caller)
        {
            return Ok(None);
        }
        let made = self.copy_shim(privileges, &found, capabilities.as_deref())?;
        Ok(Some(PrivilegedShim(Arc::new(made))))
    }

    /// A tracer who may not trace everybody keeps privileges away (execve(2)).
    fn is_watched(&self, caller: Caller) -> bool {
        let Some(tracer) = self.tracing.tracer_of(caller.pid) else { return false };
        let host = self.look(|state| state.host_pid(tracer));
        let status = host.and_then(|host| crate::host::Status::of(host, self.ids_base).ok());
        status.is_none_or(|status| status.capabilities & crate::host::TRACE_ANY == 0)
    }

    fn copy_shim(
        &self,
        privileges: &FilePrivileges,
        like: &Statx,
        capabilities: Option<&[u8]>,
    ) -> Result<OwnedFd> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let mut copy = File::from(openat(&privileges.vault, c".", flags, Mode::RUSR)?);
        copy.write_all(self.shim_bytes()?).map_err(|_| Errno::NOMEM)?;
        // In this order: a change of the owner takes the rest away.
        fchown(&copy, Some(Uid::from_raw(like.stx_uid)), Some(Gid::from_raw(like.stx_gid)))?;
        let mode = u32::from(like.stx_mode) & (SET_IDS | EXECUTE) | READ;
        fchmod(&copy, Mode::from_raw_mode(mode))?;
        if let Some(value) = capabilities {
            fsetxattr(&copy, CAPABILITY, value, XattrFlags::CREATE)?;
        }
        // What is open for writing is not executed (`ETXTBSY`).
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }

    fn shim_bytes(&self) -> Result<&[u8]> {
        if let Some(bytes) = self.shim_image.get() {
            return Ok(bytes);
        }
        let file = File::from(self.shim.try_clone().map_err(|e| errno_of_io(&e))?);
        let bytes = file.metadata().map_err(|e| errno_of_io(&e))?.len();
        let mut image = vec![0; usize::try_from(bytes).map_err(|_| Errno::FBIG)?];
        file.read_exact_at(&mut image, 0).map_err(|e| errno_of_io(&e))?;
        Ok(self.shim_image.get_or_init(|| image))
    }

    /// Whether a new image is the shim that its ticket is for, and nobody who began to trace it
    /// meanwhile has privileges in his hands.
    ///
    /// # Errors
    /// `EPERM`: it is to end.
    pub(crate) fn check_shim(&self, caller: Caller, ticket: &Ticket) -> Result<()> {
        if ticket.shim.is_none() && self.shim_image.get().is_none() {
            // No other shim was ever made here.
            return Ok(());
        }
        let wanted = match &ticket.shim {
            Some(shim) => fstat(shim.as_fd())?,
            None => fstat(&self.shim)?,
        };
        let runs = stat(format!("/proc/{}/exe", caller.host_pid))?;
        let is_it = (runs.st_dev, runs.st_ino) == (wanted.st_dev, wanted.st_ino);
        let is_free = ticket.shim.is_none() || !self.is_watched(caller);
        if is_it && is_free { Ok(()) } else { Err(Errno::PERM) }
    }
}

/// An extended attribute; `None` if the file has none of this name, or one that no kernel would take.
fn attribute(file: BorrowedFd<'_>, name: &str) -> Result<Option<Vec<u8>>> {
    let mut value = [0; 64];
    match fgetxattr(file, name, &mut value[..]) {
        Ok(bytes) => Ok(Some(value[..bytes].to_vec())),
        // Longer ones: an access list is one all the same, capabilities are none.
        Err(Errno::RANGE) => Ok(Some(Vec::new())),
        // `EOVERFLOW`: capabilities for other users than the guests'.
        Err(Errno::NODATA | Errno::NOTSUP | Errno::OVERFLOW) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn errno_of_io(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
