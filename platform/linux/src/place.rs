//! Where a thread looks up names: a root, a directory and a user of its own.

use crate::{Errno, Result, check};
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

/// Makes the calling thread look up and make names as somebody else does: in this mount namespace,
/// below `root`, from the directory `cwd` there, as this user and group. For good: the thread is to
/// end soon.
///
/// # Errors
/// What unshare(2), setns(2), chroot(2) and chdir(2) report, `EPERM` if the user cannot be taken.
pub fn enter(
    mounts: BorrowedFd<'_>,
    root: &Path,
    cwd: &Path,
    (uid, gid): (u32, u32),
) -> Result<()> {
    let path = |path: &Path| {
        let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
        CString::new(bytes).map_err(|_| Errno::INVAL)
    };
    let (root, cwd) = (path(root)?, path(cwd)?);
    // SAFETY: no borrowed descriptor becomes invalid: directory, root, umask and mounts of this thread
    // alone are changed, and the paths are strings that end.
    unsafe {
        check(libc::unshare(libc::CLONE_FS).into())?;
        check(libc::setns(mounts.as_raw_fd(), libc::CLONE_NEWNS).into())?;
        check(libc::chroot(root.as_ptr()).into())?;
        check(libc::chdir(cwd.as_ptr()).into())?;
    }
    // What these return is the id before; the second call tells whether the first had an effect.
    // SAFETY: numbers only; they change the calling thread alone.
    let is_taken = unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
        let (gid_now, uid_now) = (libc::setfsgid(gid), libc::setfsuid(uid));
        (uid_now.cast_unsigned(), gid_now.cast_unsigned()) == (uid, gid)
    };
    if is_taken { Ok(()) } else { Err(Errno::PERM) }
}

/// Makes the calling thread this user and group, as the peers of its sockets see it (unix(7),
/// `SO_PEERCRED`); it may still use files as before. For good: the thread is to end soon.
///
/// # Errors
/// What setresgid(2) and setresuid(2) report.
pub fn become_user((uid, gid): (u32, u32)) -> Result<()> {
    const SAME: libc::c_long = -1;
    // SAFETY: numbers only; the plain calls, unlike the C library's, change the calling thread alone.
    unsafe {
        check(libc::syscall(libc::SYS_setresgid, SAME, libc::c_long::from(gid), SAME))?;
        check(libc::syscall(libc::SYS_setresuid, SAME, libc::c_long::from(uid), SAME))?;
        // Its real user is as before, which is what allows this.
        libc::setfsuid(libc::getuid());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn only_the_thread_is_elsewhere() {
        if !rustix::process::geteuid().is_root() {
            return; // Only root changes its root.
        }
        let before = std::env::current_dir().unwrap();
        let there = std::thread::spawn(|| {
            let mounts = std::fs::File::open("/proc/self/ns/mnt").unwrap();
            let there = (Path::new("/proc"), Path::new("/self"));
            enter(mounts.as_fd(), there.0, there.1, (0, 0)).unwrap();
            (std::env::current_dir().unwrap(), Path::new("/1").exists())
        });
        let (cwd, is_proc) = there.join().unwrap();
        assert!(cwd.starts_with("/") && cwd != before && is_proc);
        assert_eq!(std::env::current_dir().unwrap(), before);
    }
}
