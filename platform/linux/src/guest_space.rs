//! The namespaces that a node's guests share: a user namespace inside the node's and a mount
//! namespace whose root is the fabric's tree.
//!
//! ```text
//! creator (one thread)                    set-up child
//!   opens /dev/fuse, makes the mount,
//!   attached nowhere yet
//!   forks into user + mount namespaces ->
//!                                      <-  `clocks`, in a time namespace of its own (if asked for)
//!   sets the clocks
//!   writes the id maps, then `m`       ->  becomes root, attaches the mount at the tree
//!                                      <-  `a`
//!   ... a server answers on /dev/fuse ...
//!   `finish`: `g`                      ->  mounts proc, dev, sys over the tree, makes it the root
//!                                      <-  done, exits
//! ```
//!
//! Only then does anybody look into the tree, so that nobody waits for a server that does not run
//! yet. The mount is attached in the guests' mount namespace alone, but belongs to the creator's
//! user namespace: the kernel lets only members of that namespace and those below it ask for the
//! attributes of a file, and the creator looks at files that guests have open. So the server sees
//! ids as the creator's namespace numbers them: the guests' root is [`GuestSpaceConfig::id_first`].
//!
//! One more mount is the creator's: an empty file system in memory, below the guests' /proc, where no
//! path leads. Set-user-ID files made there by its descriptor have their effect for guests, because
//! the mount is in their namespace (execve(2)).

use crate::clone::{Forked, Namespaces, Parent, become_root, fork_into, unshare};
use crate::mounts::restrict_recursively;
use crate::{child, clock, scm};
use rustix::fs::{self, AtFlags, CWD, Gid, Mode, OFlags, StatxFlags, Uid};
use rustix::io::{self, Errno};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount,
    fsopen, mount, mount_change, move_mount, open_tree, unmount,
};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::process::{
    Pid, Signal, WaitOptions, chdir, fchdir, pivot_root, set_parent_process_death_signal, waitpid,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Greatest bytes of the set-up child's messages.
const MESSAGE_BYTES_MAX: usize = 512;

/// Where guests live.
#[derive(Clone, Debug)]
pub struct GuestSpaceConfig {
    /// The directory of the node's private root where the tree is mounted.
    pub tree: String,
    /// Who serves the tree.
    pub source: TreeSource,
    /// The id of the node's user namespace that the guests' id 0 is.
    pub id_first: u32,
    /// Ids that guests have.
    pub ids: u32,
    /// Greatest bytes that the guests' `/dev/shm` holds.
    pub shm_bytes_max: u64,
    /// When the guests' clocks of elapsed time began, in seconds since 1970; `None`: the kernel's.
    pub clock_zero_s: Option<u64>,
    /// Where guests see the files about processes, below their root, if the host has FUSE; `None`: nowhere.
    pub processes: Option<String>,
}

impl Default for GuestSpaceConfig {
    fn default() -> Self {
        Self {
            tree: "/tree".into(),
            source: TreeSource::Server,
            id_first: 65536,
            ids: 65536,
            shm_bytes_max: 4 << 30,
            clock_zero_s: None,
            processes: None,
        }
    }
}

/// Who serves the guests' tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TreeSource {
    /// A server behind /dev/fuse.
    Server,
    /// The kernel: changes to one directory are kept in another (overlayfs), and both are of this node
    /// only.
    Overlay {
        /// What is changed. Shown with the ids that it has.
        lower: String,
        /// An empty directory for changes that can be written to.
        upper: String,
        /// Directories of the tree that guests see empty, if they are there.
        hidden: Vec<String>,
    },
}

/// Why the guests' namespaces could not be made.
#[derive(Debug, thiserror::Error)]
pub enum GuestSpaceError {
    /// A step of the creator failed.
    #[error("guest namespaces: {0}: {1}")]
    Host(&'static str, #[source] Errno),
    /// A step of the set-up child failed; says which, and why.
    #[error("guest namespaces: {0}")]
    Child(String),
}

/// The guests' namespaces.
#[derive(Debug)]
pub struct GuestNamespaces {
    /// The user namespace.
    pub user: OwnedFd,
    /// The mount namespace.
    pub mount: OwnedFd,
    /// The time namespace, if the guests' clocks are not the kernel's.
    pub time: Option<OwnedFd>,
    /// The tree's mount, as statx(2) numbers it (`STATX_MNT_ID`).
    pub tree_mount: u64,
    /// The number of the tree's file system (`st_dev`) if a server serves it: another node's is another one.
    pub tree_device: Option<u32>,
    /// Where files that give privileges are made, by this descriptor only: the creator's directory.
    pub vault: OwnedFd,
}

/// Most bytes that the files in [`GuestNamespaces::vault`] take together.
const VAULT_BYTES_MAX: u64 = 64 << 20;

/// Guest namespaces whose tree is mounted but not served yet.
#[derive(Debug)]
pub struct UnservedGuestNamespaces {
    namespaces: GuestNamespaces,
    child: SetupChild,
    processes: Option<OwnedFd>,
}

impl UnservedGuestNamespaces {
    /// Makes the namespaces and mounts the tree. If a server is to serve it, returns the FUSE descriptor
    /// too: whoever has it must serve it before [`Self::finish`].
    ///
    /// # Errors
    /// `EBUSY` if the caller has more than one thread; else the step that failed.
    pub fn create(config: &GuestSpaceConfig) -> Result<(Self, Option<OwnedFd>), GuestSpaceError> {
        let open = || fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let (tree, fuse) = match &config.source {
            TreeSource::Server => {
                let fuse = open().map_err(host("open /dev/fuse"))?;
                (make_served(config, fuse.as_fd()), Some(fuse))
            }
            TreeSource::Overlay { lower, upper, .. } => (make_overlay(config, lower, upper), None),
        };
        let tree = tree.map_err(host("make the tree's mount"))?;
        let (tree_mount, device) =
            look_at(tree.as_fd()).map_err(host("look at the tree's mount"))?;
        let vault = make_vault().map_err(host("make a mount in memory"))?;
        let processes = match (&config.processes, open()) {
            (Some(_), Ok(fuse)) => Some(fuse),
            // Guests see those of their own node, as the kernel has them.
            (None, _)
            | (Some(_), Err(Errno::NOENT | Errno::NODEV | Errno::PERM | Errno::ACCESS)) => None,
            (Some(_), Err(error)) => return Err(host("open /dev/fuse")(error)),
        };
        let mount = processes.as_ref().map(|fuse| make_served(config, fuse.as_fd()));
        let mount = mount.transpose().map_err(host("make the mount of processes' files"))?;
        let (ours, theirs) = scm::packet_pair().map_err(host("socket pair"))?;
        let pid = match fork_into(Namespaces::USER.and(Namespaces::MOUNT), Parent::Caller) {
            Err(error) => return Err(host("clone3")(error)),
            Ok(Forked::Parent(pid)) => pid,
            Ok(Forked::Child) => {
                // The server alone may hold it: when it dies, so does the tree.
                drop((ours, fuse, processes));
                run_setup(config, &theirs, Mounts { tree, vault, processes: mount });
            }
        };
        drop((theirs, tree, mount));
        let child = SetupChild { pid, socket: ours };
        let namespaces = GuestNamespaces {
            user: open_namespace(pid, "user").map_err(host("open user namespace"))?,
            mount: open_namespace(pid, "mnt").map_err(host("open mount namespace"))?,
            time: config.clock_zero_s.map(|zero| child.set_clocks(zero)).transpose()?,
            tree_mount,
            tree_device: fuse.is_some().then_some(device),
            vault,
        };
        child.write_maps(config).map_err(host("write id maps"))?;
        child.say(b"m")?;
        child.expect(b"attached")?;
        Ok((Self { namespaces, child, processes }, fuse))
    }

    /// Takes the FUSE descriptor of the files about processes, if the guests have them: whoever has it
    /// must serve it before a guest looks.
    pub fn take_processes(&mut self) -> Option<OwnedFd> {
        self.processes.take()
    }

    /// Completes the guests' view once the tree is served. Blocks while the tree is looked at.
    ///
    /// # Errors
    /// The step of the set-up child that failed.
    pub fn finish(self) -> Result<GuestNamespaces, GuestSpaceError> {
        self.child.say(b"g")?;
        self.child.expect(b"done")?;
        Ok(self.namespaces)
    }
}

impl GuestNamespaces {
    /// Moves the calling process, which has one thread, into the namespaces, as their root, at `/`.
    ///
    /// # Errors
    /// What setns(2) reports.
    pub fn enter(&self) -> io::Result<()> {
        move_into_link_name_space(self.user.as_fd(), Some(LinkNameSpaceType::User))?;
        if let Some(time) = &self.time {
            move_into_link_name_space(time.as_fd(), None)?;
        }
        move_into_link_name_space(self.mount.as_fd(), Some(LinkNameSpaceType::Mount))?;
        become_root()?;
        chdir("/")
    }
}

/// The creator's view of the set-up child; killed and reaped on drop.
#[derive(Debug)]
struct SetupChild {
    pid: Pid,
    socket: OwnedFd,
}

impl SetupChild {
    fn write_maps(&self, config: &GuestSpaceConfig) -> io::Result<()> {
        let map = format!("0 {} {}", config.id_first, config.ids);
        for file in ["uid_map", "gid_map"] {
            let path = format!("/proc/{}/{file}", self.pid.as_raw_nonzero());
            std::fs::write(path, &map).map_err(crate::clone::as_errno)?;
        }
        Ok(())
    }

    /// Sets the clocks of the child's time namespace, in which nobody is yet.
    fn set_clocks(&self, zero_s: u64) -> Result<OwnedFd, GuestSpaceError> {
        self.expect(b"clocks")?;
        let path = format!("/proc/{}/timens_offsets", self.pid.as_raw_nonzero());
        let offsets = clock::offsets(zero_s).map_err(host("read the clocks"))?;
        let written = std::fs::write(path, offsets).map_err(crate::clone::as_errno);
        written.map_err(host("set the clocks"))?;
        open_namespace(self.pid, "time_for_children").map_err(host("open time namespace"))
    }

    fn say(&self, word: &[u8]) -> Result<(), GuestSpaceError> {
        match send(&self.socket, word, SendFlags::NOSIGNAL) {
            Ok(_) => Ok(()),
            // The child said why before it went.
            Err(_) => self.expect(word),
        }
    }

    fn expect(&self, word: &[u8]) -> Result<(), GuestSpaceError> {
        let mut bytes = [0; MESSAGE_BYTES_MAX];
        let (length, _) = recv(&self.socket, &mut bytes[..], RecvFlags::empty())
            .map_err(host("wait for the set-up child"))?;
        let said = bytes.get(..length).unwrap_or_default();
        if said == word { Ok(()) } else { Err(complaint(said)) }
    }
}

impl Drop for SetupChild {
    fn drop(&mut self) {
        // Both may find the child gone already, which is what is wanted.
        let _ = rustix::process::kill_process(self.pid, Signal::KILL);
        let _ = waitpid(Some(self.pid), WaitOptions::empty());
    }
}

fn complaint(bytes: &[u8]) -> GuestSpaceError {
    let text = String::from_utf8_lossy(bytes).into_owned();
    GuestSpaceError::Child(if text.is_empty() { "the set-up child died".into() } else { text })
}

fn host(step: &'static str) -> impl FnOnce(Errno) -> GuestSpaceError {
    move |error| GuestSpaceError::Host(step, error)
}

fn open_namespace(process: Pid, kind: &str) -> io::Result<OwnedFd> {
    let path = format!("/proc/{}/ns/{kind}", process.as_raw_nonzero());
    fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Makes a mount that a server behind `fuse` answers for, attached nowhere.
fn make_served(config: &GuestSpaceConfig, fuse: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let root = config.id_first.to_string();
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let options = [
        ("source", "dunix"),
        ("subtype", "dunix"),
        ("fd", &fuse.as_raw_fd().to_string()),
        ("rootmode", "40000"),
        ("user_id", &root),
        ("group_id", &root),
    ];
    for (key, value) in options {
        fsconfig_set_string(&context, key, value)?;
    }
    fsconfig_set_flag(&context, "allow_other")?;
    fsconfig_set_flag(&context, "default_permissions")?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// Makes the mount of a directory with its changes kept apart, attached nowhere.
fn make_overlay(config: &GuestSpaceConfig, lower: &str, upper: &str) -> io::Result<OwnedFd> {
    let (top, work) = (format!("{upper}/top"), format!("{upper}/work"));
    for directory in [&top, &work] {
        fs::mkdir(directory, Mode::from(0o755))?;
    }
    // It becomes the tree's root directory.
    let owner = (Uid::from_raw(config.id_first), Gid::from_raw(config.id_first));
    fs::chown(&top, Some(owner.0), Some(owner.1))?;
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let options =
        [("source", "dunix"), ("lowerdir", lower), ("upperdir", &top), ("workdir", &work)];
    for (key, value) in options {
        fsconfig_set_string(&context, key, value)?;
    }
    // Overlayfs's notes as attributes that a user namespace may write.
    fsconfig_set_flag(&context, "userxattr")?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// Makes the mount for files that give privileges, attached nowhere. The guests' ids are strangers to
/// it, but for the owners that the creator gives its files.
fn make_vault() -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let size = VAULT_BYTES_MAX.to_string();
    for (key, value) in [("source", "dunix"), ("mode", "0700"), ("size", &size)] {
        fsconfig_set_string(&context, key, value)?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
}

/// The kernel's number of a mount, and of its file system (`st_dev`), without a question to whoever serves it.
fn look_at(mount: BorrowedFd<'_>) -> io::Result<(u64, u32)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = fs::statx(mount, c"", flags, StatxFlags::MNT_ID)?;
    let device = fs::makedev(found.stx_dev_major, found.stx_dev_minor);
    Ok((found.stx_mnt_id, u32::try_from(device).unwrap_or(0)))
}

/// What the set-up child attaches.
struct Mounts {
    tree: OwnedFd,
    vault: OwnedFd,
    processes: Option<OwnedFd>,
}

/// The set-up child's whole life.
fn run_setup(config: &GuestSpaceConfig, socket: &OwnedFd, mounts: Mounts) -> ! {
    let done = match set_up(config, socket, mounts) {
        Ok(()) => "done".to_owned(),
        Err((step, error)) => format!("{step}: {error}"),
    };
    let told = send(socket, done.as_bytes(), SendFlags::NOSIGNAL);
    child::exit_child(i32::from(told.is_err()))
}

type Step<T> = Result<T, (String, Errno)>;

fn step<T>(name: impl Into<String>, result: io::Result<T>) -> Step<T> {
    result.map_err(|error| (name.into(), error))
}

fn set_up(config: &GuestSpaceConfig, socket: &OwnedFd, mounts: Mounts) -> Step<()> {
    let Mounts { tree, vault, processes } = mounts;
    step("death signal", set_parent_process_death_signal(Some(Signal::KILL)))?;
    if config.clock_zero_s.is_some() {
        step("time namespace", unshare(Namespaces::TIME))?;
        step("say so", send(socket, b"clocks", SendFlags::NOSIGNAL))?;
    }
    await_word(socket, b'm')?;
    step("become root", become_root())?;
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    step("private mounts", mount_change("/", private))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    step("attach the tree", move_mount(tree.as_fd(), "", CWD, &config.tree, flags))?;
    drop(tree);
    step("say so", send(socket, b"attached", SendFlags::NOSIGNAL))?;
    await_word(socket, b'g')?;
    let below = format!("{}/proc", config.tree);
    step(format!("mount point {below}"), ensure_directory(&below))?;
    step("attach the mount in memory", move_mount(vault.as_fd(), "", CWD, &below, flags))?;
    drop(vault);
    cover(config)?;
    hide(config)?;
    if let (Some(mount), Some(at)) = (processes, &config.processes) {
        let target = format!("{}{at}", config.tree);
        step(format!("mount point {target}"), ensure_directory(&target))?;
        let attached = move_mount(mount.as_fd(), "", CWD, &target, flags);
        step(format!("mount {target}"), attached)?;
    }
    step("make the tree the root", make_root(&config.tree))
}

fn await_word(socket: &OwnedFd, wanted: u8) -> Step<()> {
    let mut word = [0];
    let (length, _) =
        step("wait for the creator", recv(socket, &mut word[..], RecvFlags::empty()))?;
    if length == 1 && word[0] == wanted { Ok(()) } else { Err(("creator".into(), Errno::PIPE)) }
}

/// Mounts over the tree what is the node's: processes, devices, the kernel's settings.
fn cover(config: &GuestSpaceConfig) -> Step<()> {
    for (name, restricted) in [("proc", false), ("dev", false), ("sys", true)] {
        let (source, target) = (format!("/{name}"), format!("{}/{name}", config.tree));
        if fs::access(&source, fs::Access::EXISTS).is_ok() {
            step(format!("mount point {target}"), ensure_directory(&target))?;
            step(format!("mount {target}"), graft(&source, &target, restricted))?;
        }
    }
    let shm = format!("{}/dev/shm", config.tree);
    let options = CString::new(format!("mode=1777,size={}", config.shm_bytes_max))
        .map_err(|_| ("options".to_owned(), Errno::INVAL))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    step(format!("mount {shm}"), mount("shm", &shm, "tmpfs", flags, options.as_c_str()))
}

/// Mounts emptiness over what guests are not to see.
fn hide(config: &GuestSpaceConfig) -> Step<()> {
    let TreeSource::Overlay { hidden, .. } = &config.source else { return Ok(()) };
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    for path in hidden.iter().map(|path| format!("{}{path}", config.tree)) {
        if fs::access(&path, fs::Access::EXISTS).is_ok() {
            step(
                format!("hide {path}"),
                mount("empty", &path, "tmpfs", flags, c"mode=755,size=4k"),
            )?;
        }
    }
    Ok(())
}

fn ensure_directory(path: &str) -> io::Result<()> {
    match fs::mkdir(path, Mode::from(0o755)) {
        Err(Errno::EXIST) | Ok(()) => Ok(()),
        // A tree that cannot be written to may still have the directory.
        Err(error) => fs::stat(path).map(drop).map_err(|_| error),
    }
}

fn graft(source: &str, target: &str, restricted: bool) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, source, flags)?;
    if restricted {
        restrict_recursively(tree.as_fd())?;
    }
    move_mount(tree.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Makes `tree` the root of the mount namespace and forgets the old root.
///
/// # Errors
/// What pivot_root(2) and umount2(2) report.
pub fn make_root(tree: &str) -> io::Result<()> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old = fs::open("/", directory, Mode::empty())?;
    chdir(tree)?;
    // The old root ends up mounted on top of the new one; by its descriptor it can be removed.
    pivot_root(".", ".")?;
    fchdir(&old)?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")
}

/// Tells whether a path names the file or directory that a descriptor holds.
///
/// # Errors
/// What stat reports.
pub fn names_descriptor(path: &str, descriptor: BorrowedFd<'_>) -> io::Result<bool> {
    let (by_name, held) =
        (fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?, fs::fstat(descriptor)?);
    Ok((by_name.st_dev, by_name.st_ino) == (held.st_dev, held.st_ino))
}
