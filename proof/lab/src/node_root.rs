//! A node's private root: a file system in memory with copies of the programs, devices, mount points.
//!
//! ```text
//! /dunix               a copy, with its libraries, so that no two nodes map one inode
//! /dev /dev/pts        the usual devices, fuse and userfaultfd for all, terminals of the node's own
//! /proc /sys           of the node's namespaces; /sys read-only
//! /run /tmp            empty
//! /tree                where the guests' root is mounted
//! /host /upper         at the tree's authority only: the host's tree, read-only; where changes go
//! /hosts               there, too: the host's /etc/hosts and the fabric's own name, shown in its place
//! /set-ids             there, too: the host's set-id programs and whose they are
//! ```
//!
//! `/host` lacks the host's /proc, /sys and /dev; what belongs to labs and fabrics is hidden by empty
//! mounts.

use crate::config::GUEST_ID_FIRST;
use crate::error::LabError;
use crate::install::Plan;
use crate::set_ids::{self, SetIdProgram};
use crate::state::{RUN_DIRECTORY, STORE_DIRECTORY};
use dunix_linux::mounts::{make_private_recursively, map_ids_recursively, restrict_recursively};
use rustix::fs::{AtFlags, OFlags, fchmod, open};
use rustix::fs::{CWD, Dev, FileType, Gid, Mode, Uid, chmodat, chownat, makedev, mknodat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_change, move_mount, open_tree, unmount,
};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The node's program, in its private root.
pub(crate) const PROGRAM: &str = "/dunix";
/// The group of terminals, among the guests' ids.
const TTY_GROUP: u32 = 5;
/// Devices that every guest may use: name, major, minor.
const DEVICES: [(&str, u32, u32); 7] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
    ("fuse", 10, 229),
];
const LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];
/// Mounts of the host's kernel that a node has no business with.
const UNMOUNTED: [&str; 3] = ["/proc", "/sys", "/dev"];
/// What else of the host's tree no guest sees.
const HIDDEN: [&str; 2] = [RUN_DIRECTORY, STORE_DIRECTORY];
/// What the node's root may write in.
const OWNED: [&str; 4] = ["", "/run", "/tmp", "/tree"];

/// Where the fabric's own name leads.
const LOOPBACK: &str = "127.0.0.1";

/// Where a node's root is mounted, in the node's mount namespace, until it becomes `/`. A place
/// that everybody may pass: the node's root is nobody to the host.
pub(crate) const MOUNT_POINT: &str = "/run";

/// Opens the files that this process runs from: the program first, then its libraries.
///
/// The kernel's list of mappings is exact, whatever way the program was linked.
pub(crate) fn own_files() -> io::Result<Vec<(PathBuf, File)>> {
    let program = fs::read_link("/proc/self/exe")?;
    let mut files = vec![(PathBuf::from(PROGRAM), File::open("/proc/self/exe")?)];
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mapped: BTreeSet<&str> = maps.lines().filter_map(mapped_path).collect();
    for path in mapped.into_iter().map(Path::new).filter(|path| **path != *program) {
        files.push((path.to_owned(), File::open(path)?));
    }
    if let Some(loader) = loader_link(&files) {
        files.push(loader);
    }
    Ok(files)
}

fn mapped_path(line: &str) -> Option<&str> {
    let path = line.find('/').map(|at| &line[at..])?;
    (!path.ends_with(" (deleted)")).then_some(path)
}

/// The loader is named in the program by a path that is usually a link to what is mapped.
fn loader_link(files: &[(PathBuf, File)]) -> Option<(PathBuf, File)> {
    let named = Path::new("/lib64/ld-linux-x86-64.so.2");
    let real = fs::canonicalize(named).ok()?;
    let is_mapped = files.iter().any(|(path, _)| fs::canonicalize(path).is_ok_and(|p| p == real));
    (is_mapped && !files.iter().any(|(path, _)| path == named))
        .then(|| File::open(named).ok().map(|file| (named.to_owned(), file)))?
}

/// Makes the root of a node, by the host's root in the node's mount namespace.
pub(crate) fn prepare(
    plan: &Plan,
    programs: &[(PathBuf, File)],
    host: Option<HostMounts>,
) -> Result<(), LabError> {
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    step("make mounts private", mount_change("/", private))?;
    let root = MOUNT_POINT;
    mount_memory(root, "mode=755", MountFlags::NOSUID)?;
    for directory in ["dev", "dev/pts", "dev/shm", "proc", "sys", "run", "tmp", "tree"] {
        let path = format!("{root}/{directory}");
        fs::create_dir(&path).map_err(LabError::state(path))?;
    }
    for directory in OWNED {
        let path = format!("{root}{directory}");
        step("own directories", own(&path, plan.id_first))?;
    }
    make_devices(plan, root)?;
    for (path, file) in programs {
        copy_program(&inside(root, path), file)?;
    }
    let Some(host) = host else { return Ok(()) };
    attach_host(root, &host)?;
    name_fabric(root, &plan.lab)
}

fn step<T>(name: &str, result: rustix::io::Result<T>) -> Result<T, LabError> {
    result.map_err(io::Error::from).map_err(LabError::step(name))
}

fn inside(root: &str, path: &Path) -> PathBuf {
    Path::new(root).join(path.strip_prefix("/").unwrap_or(path))
}

fn mount_memory(path: &str, options: &str, flags: MountFlags) -> Result<(), LabError> {
    let options = CString::new(options).unwrap_or_default();
    let mounted = mount("dunix", path, "tmpfs", flags, options.as_c_str());
    step(&format!("mount tmpfs at {path}"), mounted)
}

fn make_devices(plan: &Plan, root: &str) -> Result<(), LabError> {
    let guest_root = plan.id_first + GUEST_ID_FIRST;
    for (name, major, minor) in DEVICES {
        make_device(root, name, makedev(major, minor), guest_root)?;
    }
    if let Some(device) = userfaultfd_device() {
        make_device(root, "userfaultfd", device, guest_root)?;
    }
    for (name, target) in LINKS {
        let link = format!("{root}/dev/{name}");
        std::os::unix::fs::symlink(target, &link).map_err(LabError::state(&link))?;
        step("own links", own(&link, guest_root))?;
    }
    let dev = format!("{root}/dev");
    step("own /dev", own(&dev, guest_root))?;
    let options = format!("newinstance,ptmxmode=0666,mode=0620,gid={}", guest_root + TTY_GROUP);
    let options = CString::new(options).unwrap_or_default();
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    let mounted = mount("devpts", format!("{dev}/pts"), "devpts", flags, options.as_c_str());
    step("mount devpts", mounted)
}

fn make_device(root: &str, name: &str, device: Dev, owner: u32) -> Result<(), LabError> {
    let path = format!("{root}/dev/{name}");
    let mode = Mode::from(0o666);
    let made = mknodat(CWD, &path, FileType::CharacterDevice, mode, device)
        .and_then(|()| chmodat(CWD, &path, mode, AtFlags::empty()))
        .and_then(|()| own(&path, owner));
    step(&format!("make /dev/{name}"), made)
}

fn own(path: &str, owner: u32) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
    chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// The number of /dev/userfaultfd (Linux 6.1), which is given out at boot.
fn userfaultfd_device() -> Option<Dev> {
    let list = fs::read_to_string("/proc/misc").ok()?;
    let minor = list.lines().find_map(|line| {
        let (minor, name) = line.trim().split_once(' ')?;
        (name == "userfaultfd").then(|| minor.parse().ok())?
    })?;
    Some(makedev(10, minor))
}

fn copy_program(path: &Path, file: &File) -> Result<(), LabError> {
    let copy = || -> io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut target = File::create(path)?;
        io::copy(&mut &*file, &mut target)?;
        Ok(fchmod(&target, Mode::from(0o755))?)
    };
    copy().map_err(LabError::state(path))
}

/// Copies of the host's mounts that are attached nowhere yet.
pub(crate) struct HostMounts {
    tree: OwnedFd,
    upper: OwnedFd,
    /// An overlay shows them by itself.
    set_ids: Vec<SetIdProgram>,
}

impl HostMounts {
    /// Copies all mounts, and the one that `upper` lies on. In the host's mount namespace: copies
    /// made in the node's could not be taken apart.
    ///
    /// With `users`, whose ids the files are to have, only the root's mount: it is what an overlay shows.
    pub(crate) fn take(
        upper: &Path,
        users: Option<BorrowedFd<'_>>,
    ) -> Result<HostMounts, LabError> {
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let all = if users.is_some() { clone } else { clone | OpenTreeFlags::AT_RECURSIVE };
        let tree = step("copy the host's mounts", open_tree(CWD, "/", all))?;
        step("restrict the host's mounts", restrict_recursively(tree.as_fd()))?;
        if let Some(users) = users {
            let mapped = map_ids_recursively(tree.as_fd(), users);
            step("show the host's root with the guests' ids (idmapped mount)", mapped)?;
        }
        let upper = step("copy the store's mount", open_tree(CWD, upper, clone))?;
        step("detach the store's mount", make_private_recursively(upper.as_fd()))?;
        let set_ids = if users.is_some() { Vec::new() } else { set_ids::find() };
        Ok(HostMounts { tree, upper, set_ids })
    }
}

fn attach_host(root: &str, host: &HostMounts) -> Result<(), LabError> {
    set_ids::write(root, &host.set_ids)?;
    for (what, name) in [(&host.tree, "host"), (&host.upper, "upper")] {
        let path = format!("{root}/{name}");
        fs::create_dir(&path).map_err(LabError::state(&path))?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        step(&format!("attach /{name}"), move_mount(what, "", CWD, &path, flags))?;
    }
    for path in UNMOUNTED.map(|name| format!("{root}/host{name}")) {
        // Mounts may lie on one another; the kernel says EINVAL when there is none left.
        while step_unmount(&path)? {}
    }
    for path in HIDDEN.map(|name| format!("{root}/host{name}")) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if open(&path, flags, Mode::empty()).is_ok() {
            let read_only = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
            mount_memory(&path, "mode=755,size=4k", read_only)?;
        }
    }
    Ok(())
}

/// Shows an `/etc/hosts` in which the fabric's own name, which every node has for its host name, is on
/// loopback: that is the same from all nodes. A host without this file looks names up elsewhere.
fn name_fabric(root: &str, name: &str) -> Result<(), LabError> {
    let shown = format!("{root}/host/etc/hosts");
    let is_file = fs::symlink_metadata(&shown).is_ok_and(|file| file.is_file());
    let Some(known) = is_file.then(|| fs::read_to_string(&shown).ok()).flatten() else {
        return Ok(());
    };
    let path = format!("{root}/hosts");
    let text = hosts_with(&known, name);
    fs::write(&path, text).map_err(LabError::state(&path))?;
    fs::set_permissions(&path, Permissions::from_mode(0o644)).map_err(LabError::state(&path))?;
    let tree = step("copy /hosts", open_tree(CWD, &path, OpenTreeFlags::OPEN_TREE_CLONE))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    step("show /etc/hosts", move_mount(&tree, "", CWD, &shown, flags))
}

/// The fabric's name comes first: the host may have the same.
fn hosts_with(known: &str, name: &str) -> String {
    format!("{LOOPBACK}\tlocalhost\n{LOOPBACK}\t{name}\n{known}")
}

fn step_unmount(path: &str) -> Result<bool, LabError> {
    use rustix::io::Errno;
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOENT) => Ok(false),
        Err(error) => step(&format!("unmount {path}"), Err(error)),
    }
}

/// Mounts the node's own views of processes and of the kernel, by process 1 of the node while the
/// host's views are still there: without them the kernel refuses new ones.
pub(crate) fn mount_kernel_views() -> Result<(), LabError> {
    let root = MOUNT_POINT;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    step("mount proc", mount("proc", format!("{root}/proc"), "proc", flags, None))?;
    let read_only = flags | MountFlags::RDONLY;
    if let Err(error) = mount("sysfs", format!("{root}/sys"), "sysfs", read_only, None) {
        eprintln!("no /sys: {error}");
    }
    Ok(())
}
