//! What a process that leaves has open, described for the node that it goes to.
//!
//! The process waits in its exec meanwhile, or is frozen for a move. What cannot be described
//! keeps the process here: [`Unmovable`] says what it was. An exec relays pipes and sockets; what
//! it describes otherwise is here, what a move describes otherwise in [`super::moving`].

use super::alone::Others;
use super::fdinfo::{self, Descriptor};
use super::homes::{Object, Purpose};
use super::offer::{Offer, is_named};
use super::timer;
use super::watch::ready_now;
use super::{RemoteFd, RemoteTable};
use crate::host;
use crate::node::Node;
use dunix_guest_abi::doorbell::REMOTE_FD_WORDS;
use dunix_ids::{NodeId, ObjectId};
use dunix_linux::{Errno, kcmp};
use dunix_wire::processes::DescriptorImage;
use dunix_wire::processes::image::{DESCRIPTORS_MAX, DescriptorKind, RemoteKind};
use rustix::fs::{FileType, OFlags, SeekFrom, Stat, fcntl_getfl, fstat, fstatfs, major, minor};
use rustix::net::sockopt::{socket_acceptconn, socket_type};
use rustix::net::{AddressFamily, SocketAddrAny, SocketType, getpeername, getsockname};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Why a process cannot be described.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unmovable {
    #[error("descriptor {fd} is {what}")]
    Descriptor { fd: i32, what: &'static str },
    /// Who started it may have named it a semaphore or memory that other nodes do not have.
    #[error("it shares memory of {SHARED_MEMORY}")]
    SharesMemory,
    #[error("it has more than {DESCRIPTORS_MAX} descriptors, or one above {NUMBERS_END}")]
    TooMany,
    #[error("it has capabilities or secure bits of its own")]
    Capabilities,
    #[error("the host says: {0}")]
    Host(#[from] Errno),
}

/// File systems whose files are not the tree's (`statfs` magic numbers): proc, sysfs, devpts,
/// cgroup, cgroup2, tmpfs, and the kernel's internal ones.
const NOT_THE_TREE: [u64; 8] =
    [0x9fa0, 0x6265_6572, 0x1cd1, 0x0027_e0eb, 0x6367_7270, 0x0102_1994, 0x0904_1934, 0x5346_4846];

/// Where named shared memory and semaphores live (shm_overview(7), sem_overview(7)).
const SHARED_MEMORY: &str = "/dev/shm";

/// First number that no descriptor of a process that goes elsewhere may have: what the shim keeps
/// of descriptors, and the numbers at which a process finds its start, begin there.
const NUMBERS_END: i32 = dunix_guest_abi::doorbell::BOOT_FD;

/// How often a pipe is looked at again while another process still has its read end in passing: a
/// shell closes its own copies just after it forked.
const ALONE_TRIES: u32 = 4;
const ALONE_PAUSE: Duration = Duration::from_millis(3);

/// Why a process is described.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reason {
    /// A fresh image starts elsewhere: descriptors with `O_CLOEXEC` end. One that may also start
    /// here stays with what it would otherwise have to reach over the network.
    Exec { must: bool },
    /// It goes on elsewhere with all that it has.
    Move,
    /// It sends them in a message and keeps them.
    Message,
}

/// One descriptor while its process is described.
struct Held {
    fd: OwnedFd,
    stat: Stat,
    /// Index of its image.
    index: u32,
}

/// Describes descriptors for a node.
pub(crate) struct Capture {
    reason: Reason,
    pub(super) host_pid: u32,
    remote: RemoteTable,
    /// Descriptors whose offset nobody else has, a bit each.
    private: [u64; REMOTE_FD_WORDS],
    /// All of its descriptors.
    all: Vec<Descriptor>,
    /// Who else on this node has what, looked up once.
    others: Option<Others>,
    held: Vec<Held>,
    pub(super) offer: Offer,
}

/// Blocks on the tree: for threads that may.
impl Capture {
    pub(crate) fn new(
        node: Arc<Node>,
        to: NodeId,
        host_pid: u32,
        remote: RemoteTable,
        private: [u64; REMOTE_FD_WORDS],
    ) -> Capture {
        let offer = Offer::new(node, to);
        let (reason, held, all) = (Reason::Exec { must: false }, Vec::new(), Vec::new());
        Capture { reason, host_pid, remote, private, all, others: None, held, offer }
    }

    /// Leaves here whatever cannot go, if the program must not stay for it.
    pub(crate) fn must_go(self, must: bool) -> Capture {
        Capture { reason: Reason::Exec { must }, ..self }
    }

    /// Prepares to describe a frozen process for a move. `remote` is a copy of its table
    /// ([`RemoteTable::for_child`]).
    pub(crate) fn for_move(
        node: Arc<Node>,
        to: NodeId,
        host_pid: u32,
        remote: RemoteTable,
    ) -> Capture {
        let capture = Capture::new(node, to, host_pid, remote, [0; REMOTE_FD_WORDS]);
        Capture { reason: Reason::Move, ..capture }
    }

    /// Prepares to describe descriptors that a process sends to another node.
    pub(super) fn for_message(
        node: Arc<Node>,
        to: NodeId,
        host_pid: u32,
        remote: RemoteTable,
    ) -> Capture {
        let offer = Offer::of_message(node.clone(), to);
        let capture = Capture::new(node, to, host_pid, remote, [0; REMOTE_FD_WORDS]);
        Capture { reason: Reason::Message, offer, ..capture }
    }

    /// Describes descriptors of a message, each under its number in the process.
    pub(super) fn run_on_message(
        mut self,
        descriptors: Vec<(OwnedFd, i32)>,
    ) -> Result<Offer, Unmovable> {
        for (fd, number) in descriptors {
            self.add(number, false, fd)?;
        }
        Ok(self.offer)
    }

    /// Describes all descriptors that the process takes along. Whose image is sent is to be
    /// [announced](Offer::announce), and its paths [seen from](Offer::see_from) the process's root.
    pub(crate) fn run(mut self) -> Result<Offer, Unmovable> {
        if self.reason != Reason::Move && host::maps_file_of(self.host_pid, SHARED_MEMORY) {
            return Err(Unmovable::SharesMemory);
        }
        self.all = fdinfo::descriptors(self.host_pid, DESCRIPTORS_MAX)?;
        for Descriptor { number, flags } in self.all.clone() {
            let cloexec = flags & OFlags::CLOEXEC.bits() != 0;
            if cloexec && self.reason != Reason::Move {
                continue;
            }
            let fd = host::take_fd(self.host_pid, number)?;
            self.add(number, cloexec, fd)?;
        }
        timer::look_again(self.host_pid, &mut self.offer.descriptors);
        Ok(self.offer)
    }

    /// Describes descriptors that this daemon itself has, for a root that starts elsewhere.
    pub(crate) fn run_on(
        mut self,
        descriptors: Vec<(OwnedFd, Vec<i32>)>,
    ) -> Result<Offer, Unmovable> {
        for (fd, numbers) in descriptors {
            for number in numbers {
                let copy = rustix::io::fcntl_dupfd_cloexec(&fd, 0)?;
                self.add(number, false, copy)?;
            }
        }
        Ok(self.offer)
    }

    fn add(&mut self, number: i32, cloexec: bool, fd: OwnedFd) -> Result<(), Unmovable> {
        let is_too_high = number >= NUMBERS_END && self.reason != Reason::Message;
        if self.offer.descriptors.len() >= DESCRIPTORS_MAX || is_too_high {
            return Err(Unmovable::TooMany);
        }
        let stat = fstat(&fd)?;
        let index = u32::try_from(self.offer.descriptors.len()).map_err(|_| Unmovable::TooMany)?;
        let twin = self.twin(&fd, &stat);
        let kind = match (twin, self.remote.get(number), self.reason) {
            (Some(twin), ..) => self.offer.descriptors[twin as usize].kind.clone(),
            (None, Some(remote), _) => self.pass_on(&fd, remote)?,
            (None, None, Reason::Exec { must }) => match self.describe(number, &fd, &stat) {
                Err(Unmovable::Descriptor { .. }) if must => self.leave(number, &fd, &stat)?,
                other => other?,
            },
            (None, None, Reason::Move | Reason::Message) => {
                self.describe_for_move(number, &fd, &stat)?
            }
        };
        let image = DescriptorImage { fd: number, cloexec, same_as: twin, kind };
        self.offer.descriptors.push(image);
        if twin.is_none() {
            self.held.push(Held { fd, stat, index });
        }
        Ok(())
    }

    /// An earlier descriptor of the same description; at an exec, for pipes, one of the same pipe
    /// and direction, so that the bytes of both keep their order.
    fn twin(&self, fd: &OwnedFd, stat: &Stat) -> Option<u32> {
        let same_file =
            |held: &&Held| (held.stat.st_dev, held.stat.st_ino) == (stat.st_dev, stat.st_ino);
        let is_pipe = FileType::from_raw_mode(stat.st_mode) == FileType::Fifo;
        let twin = self.held.iter().filter(same_file).find(|held| {
            kcmp::same_description(held.fd.as_fd(), fd.as_fd()).unwrap_or(false)
                || (is_pipe
                    && matches!(self.reason, Reason::Exec { .. })
                    && access(held.fd.as_fd()) == access(fd.as_fd()))
        })?;
        Some(twin.index)
    }

    /// What an exec would rather stay for, described as for a move.
    fn leave(
        &mut self,
        number: i32,
        fd: &OwnedFd,
        stat: &Stat,
    ) -> Result<DescriptorKind, Unmovable> {
        match self.describe_for_move(number, fd, stat)? {
            // A fresh image could not fill it.
            DescriptorKind::Epoll { .. } => {
                Err(Unmovable::Descriptor { fd: number, what: "an epoll set" })
            }
            kind => Ok(kind),
        }
    }

    /// Whether the descriptors go in a message, and the process stays.
    pub(super) fn is_message(&self) -> bool {
        self.reason == Reason::Message
    }

    /// Whether nobody else has the description of the process's descriptor `number`.
    pub(super) fn is_alone_with(&mut self, number: i32, fd: &OwnedFd) -> bool {
        if self.reason == Reason::Message {
            return false;
        }
        let (node, own) = (&self.offer.node, (self.host_pid, number));
        let others = self.others.get_or_insert_with(|| Others::of(node, own.0, &self.all));
        others.is_alone(node, own, fd.as_fd())
    }

    /// A descriptor whose object lives elsewhere already goes along as it is.
    fn pass_on(&mut self, fd: &OwnedFd, remote: RemoteFd) -> Result<DescriptorKind, Unmovable> {
        let RemoteFd { object, what, is_open_here, drains } = remote;
        self.offer.pass_on(object);
        let flags = fcntl_getfl(fd)?.bits();
        let ObjectId { home, serial: object } = object;
        if is_open_here {
            let (path, inode) = (path_of(fd.as_fd())?, rustix::fs::fstat(fd)?.st_ino);
            if is_named(&self.offer.node, self.host_pid, &path, inode) {
                return Ok(DescriptorKind::SharedFile { path, inode, flags, home, object });
            }
        }
        // The placeholder's own ends show what the home has told.
        let ready = ready_now(fd);
        Ok(DescriptorKind::Remote { flags, home, object, what, drains, ready })
    }

    fn describe(
        &mut self,
        number: i32,
        fd: &OwnedFd,
        stat: &Stat,
    ) -> Result<DescriptorKind, Unmovable> {
        let unmovable = |what| Unmovable::Descriptor { fd: number, what };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice => {
                self.describe_device(fd, stat)?.ok_or_else(|| unmovable("a device of this node"))
            }
            FileType::Fifo if is_handle(fd) => self.describe_file(fd, stat, true),
            FileType::Fifo if !is_anonymous(fd) => self.leave_for_calls(fd, stat, RemoteKind::Pipe),
            FileType::Fifo => self.describe_pipe(fd, stat),
            FileType::Socket if self.is_pidfd(stat) => {
                self.leave_for_calls(fd, stat, RemoteKind::Socket)
            }
            FileType::Socket => self.describe_socket(number, fd, stat),
            FileType::RegularFile | FileType::Directory => {
                if is_of_this_node(fd)? {
                    return Err(unmovable("a file of this node alone"));
                }
                let is_locked = self.is_locked(number)?;
                let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                if is_locked && (is_directory || self.has_locked(number)?) {
                    return Err(unmovable(LOCKED));
                }
                // A lock of the description (flock(2)) is not had by one that is opened again.
                let is_private = self.is_private(number) && !is_locked;
                self.describe_file(fd, stat, is_private)
            }
            FileType::BlockDevice => Err(unmovable("a block device")),
            FileType::Symlink => Err(unmovable("a symbolic link")),
            FileType::Unknown => Err(unmovable("a kernel object of this node")),
        }
    }

    /// Whether it stands for a process: its home knows for which.
    fn is_pidfd(&self, stat: &Stat) -> bool {
        self.offer.node.look(|state| state.pidfds.find(stat).is_some())
    }

    /// A device that every node has, or a terminal.
    pub(super) fn describe_device(
        &mut self,
        fd: &OwnedFd,
        stat: &Stat,
    ) -> Result<Option<DescriptorKind>, Unmovable> {
        let flags = fcntl_getfl(fd)?.bits();
        let what = (major(stat.st_rdev), minor(stat.st_rdev));
        let path: &[u8] = match what {
            (1, 3) => b"/dev/null",
            (1, 5) => b"/dev/zero",
            (1, 7) => b"/dev/full",
            (1, 8) => b"/dev/random",
            (1, 9) => b"/dev/urandom",
            (136..=143, pts) => {
                let pts = (what.0 - 136) * 256 + pts;
                return self.leave_for_calls(fd, stat, RemoteKind::Terminal { pts }).map(Some);
            }
            _ => return Ok(None),
        };
        Ok(Some(DescriptorKind::Device { path: path.to_vec(), flags }))
    }

    fn describe_pipe(&mut self, fd: &OwnedFd, stat: &Stat) -> Result<DescriptorKind, Unmovable> {
        let (flags, home) = (fcntl_getfl(fd)?.bits(), self.offer.node.id);
        match access(fd.as_fd()) {
            OFlags::WRONLY => {
                let own = super::homes::reopen(fd.as_fd(), OFlags::WRONLY)?;
                let (object, drains) = self.leave_for_relay(own, stat)?;
                Ok(DescriptorKind::PipeWrite { flags, home, object, drains })
            }
            OFlags::RDONLY if self.is_alone(stat) => {
                let own = super::homes::reopen(fd.as_fd(), OFlags::RDONLY)?;
                let (object, _) = self.leave_for_relay(own, stat)?;
                Ok(DescriptorKind::PipeRead { flags, home, object })
            }
            _ => self.leave_for_calls(fd, stat, RemoteKind::Pipe),
        }
    }

    /// Whether nobody else on this node reads the pipe.
    fn is_alone(&self, stat: &Stat) -> bool {
        for attempt in 0..ALONE_TRIES {
            if attempt > 0 {
                std::thread::sleep(ALONE_PAUSE);
            }
            if self.offer.node.homes.has_same_file(stat.st_dev, stat.st_ino) {
                return false;
            }
            if self.offer.node.passing.hands().have_any() {
                continue;
            }
            match other_readers(self.host_pid, stat.st_ino) {
                Readers::None => return true,
                Readers::Passing => {}
                Readers::Staying => return false,
            }
        }
        false
    }

    fn describe_socket(
        &mut self,
        number: i32,
        fd: &OwnedFd,
        stat: &Stat,
    ) -> Result<DescriptorKind, Unmovable> {
        let unmovable = |what| Unmovable::Descriptor { fd: number, what };
        if socket_type(fd)? != SocketType::STREAM {
            return Err(unmovable("a datagram socket"));
        }
        if socket_acceptconn(fd).unwrap_or(false) {
            return Err(unmovable("a listening socket"));
        }
        if getpeername(fd).is_err() {
            return Err(unmovable("a socket that is not connected"));
        }
        // Names bring credentials with them; who calls from elsewhere already may read, too.
        if has_unix_name(fd) || self.offer.node.homes.has_description(fd.as_fd()) {
            return self.leave_for_calls(fd, stat, RemoteKind::Socket);
        }
        let flags = fcntl_getfl(fd)?.bits();
        let own = rustix::io::fcntl_dupfd_cloexec(fd, 0)?;
        let (object, drains) = self.leave_for_relay(own, stat)?;
        Ok(DescriptorKind::Stream { flags, home: self.offer.node.id, object, drains })
    }

    /// A file or directory of the tree; one without a name stays here.
    pub(super) fn describe_file(
        &mut self,
        fd: &OwnedFd,
        stat: &Stat,
        is_private: bool,
    ) -> Result<DescriptorKind, Unmovable> {
        let flags = fcntl_getfl(fd)?;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let what = if is_directory { RemoteKind::Directory } else { RemoteKind::File };
        if stat.st_nlink == 0 {
            return self.leave_for_calls(fd, stat, what);
        }
        let (path, inode) = (path_of(fd.as_fd())?, stat.st_ino);
        if !is_named(&self.offer.node, self.host_pid, &path, inode) {
            return self.leave_for_calls(fd, stat, what);
        }
        if flags.contains(OFlags::PATH) || is_directory || is_private {
            let offset = match flags.contains(OFlags::PATH) {
                true => 0,
                false => rustix::fs::seek(fd, SeekFrom::Current(0))?,
            };
            let (flags, inode) = (flags.bits(), Some(inode));
            return Ok(DescriptorKind::File { path, flags, offset, inode });
        }
        let copy = rustix::io::fcntl_dupfd_cloexec(fd, 0)?;
        let purpose = Purpose::Calls(RemoteKind::File);
        let object = self.offer.keep(Object::new(copy, purpose, Vec::new()))?;
        let home = self.offer.node.id;
        Ok(DescriptorKind::SharedFile { path, inode, flags: flags.bits(), home, object })
    }

    fn is_private(&self, number: i32) -> bool {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        let word = self.private.get(number / 64).copied().unwrap_or(0);
        word >> (number % 64) & 1 == 1
    }

    /// Keeps the description here; calls on it come from the other node.
    pub(super) fn leave_for_calls(
        &mut self,
        fd: &OwnedFd,
        stat: &Stat,
        what: RemoteKind,
    ) -> Result<DescriptorKind, Unmovable> {
        let flags = fcntl_getfl(fd)?.bits();
        let original = rustix::io::fcntl_dupfd_cloexec(fd, 0)?;
        let relays = self.remote.relays_of(stat);
        let drains = !relays.is_empty();
        let ready = ready_now(&original);
        let object = self.offer.keep(Object::new(original, Purpose::Calls(what), relays))?;
        let home = self.offer.node.id;
        Ok(DescriptorKind::Remote { flags, home, object, what, drains, ready })
    }

    fn leave_for_relay(
        &mut self,
        original: OwnedFd,
        stat: &Stat,
    ) -> Result<(u64, bool), Unmovable> {
        let relays = self.remote.relays_of(stat);
        let drains = !relays.is_empty();
        let object = Object::new(original, Purpose::Relay, relays);
        Ok((self.offer.keep(object)?, drains))
    }
}

/// Whether either end of a connected socket has a name of unix(7).
fn has_unix_name(fd: &OwnedFd) -> bool {
    let ends = [getsockname(fd).ok(), getpeername(fd).ok().flatten()];
    ends.into_iter().flatten().any(|name| is_unix_name(&name))
}

/// Whether an address is more than a family: the name of a socket of unix(7).
pub(super) fn is_unix_name(name: &SocketAddrAny) -> bool {
    const FAMILY_BYTES: u32 = 2;
    name.address_family() == AddressFamily::UNIX && name.addr_len() > FAMILY_BYTES
}

pub(super) fn access(fd: BorrowedFd<'_>) -> OFlags {
    fcntl_getfl(fd).map_or(OFlags::RDWR, |flags| flags & OFlags::RWMODE)
}

/// Whether a descriptor only stands for a file (`O_PATH`).
pub(super) fn is_handle(fd: &OwnedFd) -> bool {
    fcntl_getfl(fd).is_ok_and(|flags| flags.contains(OFlags::PATH))
}

/// Whether a pipe has no name. Who opens a FIFO that has one may come and go: no relay knows whether its
/// end is one for good.
fn is_anonymous(fd: &OwnedFd) -> bool {
    path_of(fd.as_fd()).is_ok_and(|path| path.starts_with(b"pipe:["))
}

/// Why a file with a lock stays: the kernel of the node has it.
pub(super) const LOCKED: &str = "a file that it has locked, of which only this node knows";

/// Whether a file is not the tree's.
pub(super) fn is_of_this_node(fd: &OwnedFd) -> Result<bool, Errno> {
    Ok(NOT_THE_TREE.contains(&u64::try_from(fstatfs(fd)?.f_type).unwrap_or(0)))
}

pub(super) fn path_of(fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    Ok(rustix::fs::readlink(link, Vec::new())?.into_bytes())
}

/// Who can read a pipe, beside the process that leaves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Readers {
    None,
    /// At another number than 0: perhaps about to be closed.
    Passing,
    /// As its standard input, which nobody closes after a fork.
    Staying,
}

/// Who other than this process and the daemon can read the pipe.
fn other_readers(host_pid: u32, inode: u64) -> Readers {
    let name = format!("pipe:[{inode}]");
    let own = std::process::id();
    let Ok(processes) = std::fs::read_dir("/proc") else { return Readers::Staying };
    let pids = processes.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let others = pids.filter(|&pid| pid != host_pid && pid != own);
    others.map(|pid| readers_in(pid, &name)).max().unwrap_or(Readers::None)
}

fn readers_in(pid: u32, pipe: &str) -> Readers {
    // A process that has just ended has nothing open.
    let Ok(fds) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return Readers::None };
    let reader = |entry: std::fs::DirEntry| {
        let is_it = std::fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == pipe);
        if !is_it || !can_read(pid, &entry.file_name().to_string_lossy()) {
            return Readers::None;
        }
        if entry.file_name() == "0" { Readers::Staying } else { Readers::Passing }
    };
    fds.flatten().map(reader).max().unwrap_or(Readers::None)
}

fn can_read(pid: u32, number: &str) -> bool {
    let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}"));
    let flags = fdinfo::flags(&info.unwrap_or_default());
    flags & OFlags::RWMODE.bits() != OFlags::WRONLY.bits()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SocketAddrUnix, SocketFlags, bind, socketpair};

    #[test]
    fn a_pair_has_no_name_until_it_is_bound() {
        let (kind, flags) = (SocketType::STREAM, SocketFlags::CLOEXEC);
        let (a, b) = socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
        assert!(!has_unix_name(&a) && !has_unix_name(&b));
        let name = format!("dunix-capture-{}", std::process::id());
        bind(&a, &SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap()).unwrap();
        assert!(has_unix_name(&a) && has_unix_name(&b));
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!has_unix_name(&tcp.into()));
    }
}
