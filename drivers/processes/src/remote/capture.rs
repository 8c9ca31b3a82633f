//! What a process that leaves has open, described for the node that it goes to.
//!
//! The process waits in its exec meanwhile. What cannot be described (epoll sets, listening
//! sockets, ...) keeps the process here: [`Unmovable`] says what it was.

use super::homes::{Object, Purpose};
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
use rustix::net::{SocketType, getpeername};
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
    #[error("it has more than {DESCRIPTORS_MAX} descriptors")]
    TooMany,
    #[error("the host says: {0}")]
    Host(#[from] Errno),
}

/// File systems whose files are not the tree's (`statfs` magic numbers): proc, sysfs, devpts,
/// cgroup, cgroup2, tmpfs, and the kernel's internal ones.
const NOT_THE_TREE: [u64; 8] =
    [0x9fa0, 0x6265_6572, 0x1cd1, 0x0027_e0eb, 0x6367_7270, 0x0102_1994, 0x0904_1934, 0x5346_4846];

/// Where named shared memory and semaphores live (shm_overview(7), sem_overview(7)).
const SHARED_MEMORY: &str = "/dev/shm";

/// How often a pipe is looked at again while another process still has its read end in passing: a
/// shell closes its own copies just after it forked.
const ALONE_TRIES: u32 = 4;
const ALONE_PAUSE: Duration = Duration::from_millis(3);

/// Descriptions under way, given up on drop unless the other node has taken them.
pub(crate) struct Offer {
    node: Arc<Node>,
    to: NodeId,
    kept: Vec<u64>,
    pub(crate) descriptors: Vec<DescriptorImage>,
    /// Objects of third nodes that go along.
    pub(crate) passed_on: Vec<ObjectId>,
}

impl Offer {
    /// The other node holds the objects now.
    pub(crate) fn was_taken(mut self) {
        self.kept.clear();
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        for serial in &self.kept {
            self.node.homes.release(*serial, self.to);
        }
    }
}

/// One descriptor while its process is described.
struct Held {
    number: i32,
    fd: OwnedFd,
    stat: Stat,
    /// Index of its image.
    index: u32,
}

/// Describes descriptors for a node.
pub(crate) struct Capture {
    host_pid: u32,
    remote: RemoteTable,
    /// Descriptors whose offset nobody else has, a bit each.
    private: [u64; REMOTE_FD_WORDS],
    held: Vec<Held>,
    offer: Offer,
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
        let (kept, descriptors, passed_on) = (Vec::new(), Vec::new(), Vec::new());
        let offer = Offer { node, to, kept, descriptors, passed_on };
        Capture { host_pid, remote, private, held: Vec::new(), offer }
    }

    /// Describes all descriptors that an exec keeps.
    pub(crate) fn run(mut self) -> Result<Offer, Unmovable> {
        if host::maps_file_of(self.host_pid, SHARED_MEMORY) {
            return Err(Unmovable::SharesMemory);
        }
        for number in kept_descriptors(self.host_pid)? {
            let fd = host::take_fd(self.host_pid, number)?;
            self.add(number, fd)?;
        }
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
                self.add(number, copy)?;
            }
        }
        Ok(self.offer)
    }

    fn add(&mut self, number: i32, fd: OwnedFd) -> Result<(), Unmovable> {
        if self.offer.descriptors.len() >= DESCRIPTORS_MAX {
            return Err(Unmovable::TooMany);
        }
        let stat = fstat(&fd)?;
        let index = u32::try_from(self.offer.descriptors.len()).map_err(|_| Unmovable::TooMany)?;
        let twin = self.twin(&fd, &stat);
        let kind = match (twin, self.remote.get(number)) {
            (Some(twin), _) => self.offer.descriptors[twin as usize].kind.clone(),
            (None, Some(remote)) => self.pass_on(&fd, remote)?,
            (None, None) => self.describe(number, &fd, &stat)?,
        };
        let image = DescriptorImage { fd: number, cloexec: false, same_as: twin, kind };
        self.offer.descriptors.push(image);
        if twin.is_none() {
            self.held.push(Held { number, fd, stat, index });
        }
        Ok(())
    }

    /// An earlier descriptor of the same description; for pipes one of the same pipe and direction,
    /// so that the bytes of both keep their order.
    fn twin(&self, fd: &OwnedFd, stat: &Stat) -> Option<u32> {
        let same_file =
            |held: &&Held| (held.stat.st_dev, held.stat.st_ino) == (stat.st_dev, stat.st_ino);
        let is_pipe = FileType::from_raw_mode(stat.st_mode) == FileType::Fifo;
        let twin = self.held.iter().filter(same_file).find(|held| {
            kcmp::same_description(held.fd.as_fd(), fd.as_fd()).unwrap_or(false)
                || (is_pipe && access(held.fd.as_fd()) == access(fd.as_fd()))
        })?;
        debug_assert!(twin.number >= 0);
        Some(twin.index)
    }

    /// A descriptor whose object lives elsewhere already goes along as it is.
    fn pass_on(&mut self, fd: &OwnedFd, remote: RemoteFd) -> Result<DescriptorKind, Unmovable> {
        let ObjectId { home, serial: object } = remote.object;
        if home != self.offer.to {
            self.offer.passed_on.push(remote.object);
        }
        let flags = fcntl_getfl(fd)?.bits();
        if remote.is_open_here {
            let path = path_of(fd.as_fd())?;
            return Ok(DescriptorKind::SharedFile { path, flags, home, object });
        }
        Ok(DescriptorKind::Remote { flags, home, object, what: remote.what })
    }

    fn describe(
        &mut self,
        number: i32,
        fd: &OwnedFd,
        stat: &Stat,
    ) -> Result<DescriptorKind, Unmovable> {
        let unmovable = |what| Unmovable::Descriptor { fd: number, what };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice => self.describe_device(number, fd, stat),
            FileType::Fifo => self.describe_pipe(fd, stat),
            FileType::Socket => self.describe_socket(number, fd),
            FileType::RegularFile | FileType::Directory => self.describe_file(number, fd, stat),
            FileType::BlockDevice => Err(unmovable("a block device")),
            FileType::Symlink => Err(unmovable("a symbolic link")),
            FileType::Unknown => Err(unmovable("a kernel object of this node")),
        }
    }

    fn describe_device(
        &mut self,
        number: i32,
        fd: &OwnedFd,
        stat: &Stat,
    ) -> Result<DescriptorKind, Unmovable> {
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
                return self.leave_for_calls(fd, flags, RemoteKind::Terminal { pts });
            }
            _ => return Err(Unmovable::Descriptor { fd: number, what: "a device of this node" }),
        };
        Ok(DescriptorKind::Device { path: path.to_vec(), flags })
    }

    fn describe_pipe(&mut self, fd: &OwnedFd, stat: &Stat) -> Result<DescriptorKind, Unmovable> {
        let (flags, home) = (fcntl_getfl(fd)?.bits(), self.offer.node.id);
        match access(fd.as_fd()) {
            OFlags::WRONLY => {
                let object =
                    self.leave_for_relay(super::homes::reopen(fd.as_fd(), OFlags::WRONLY)?)?;
                Ok(DescriptorKind::PipeWrite { flags, home, object })
            }
            OFlags::RDONLY if self.is_alone(stat) => {
                let object =
                    self.leave_for_relay(super::homes::reopen(fd.as_fd(), OFlags::RDONLY)?)?;
                Ok(DescriptorKind::PipeRead { flags, home, object })
            }
            _ => self.leave_for_calls(fd, flags, RemoteKind::Pipe),
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
            match other_readers(self.host_pid, stat.st_ino) {
                Readers::None => return true,
                Readers::Passing => {}
                Readers::Staying => return false,
            }
        }
        false
    }

    fn describe_socket(&mut self, number: i32, fd: &OwnedFd) -> Result<DescriptorKind, Unmovable> {
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
        let flags = fcntl_getfl(fd)?.bits();
        let object = self.leave_for_relay(rustix::io::fcntl_dupfd_cloexec(fd, 0)?)?;
        Ok(DescriptorKind::Stream { flags, home: self.offer.node.id, object })
    }

    fn describe_file(
        &mut self,
        number: i32,
        fd: &OwnedFd,
        stat: &Stat,
    ) -> Result<DescriptorKind, Unmovable> {
        let magic = u64::try_from(fstatfs(fd)?.f_type).unwrap_or(0);
        if NOT_THE_TREE.contains(&magic) {
            return Err(Unmovable::Descriptor { fd: number, what: "a file of this node alone" });
        }
        let flags = fcntl_getfl(fd)?;
        if stat.st_nlink == 0 {
            return self.leave_for_calls(fd, flags.bits(), RemoteKind::File);
        }
        let path = path_of(fd.as_fd())?;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if flags.contains(OFlags::PATH) || is_directory {
            return Ok(DescriptorKind::File { path, flags: flags.bits(), offset: 0 });
        }
        if self.is_private(number) {
            let offset = rustix::fs::seek(fd, SeekFrom::Current(0))?;
            return Ok(DescriptorKind::File { path, flags: flags.bits(), offset });
        }
        let copy = rustix::io::fcntl_dupfd_cloexec(fd, 0)?;
        let object = self.keep(copy, Purpose::Calls(RemoteKind::File))?;
        Ok(DescriptorKind::SharedFile {
            path,
            flags: flags.bits(),
            home: self.offer.node.id,
            object,
        })
    }

    fn is_private(&self, number: i32) -> bool {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        let word = self.private.get(number / 64).copied().unwrap_or(0);
        word >> (number % 64) & 1 == 1
    }

    fn leave_for_calls(
        &mut self,
        fd: &OwnedFd,
        flags: u32,
        what: RemoteKind,
    ) -> Result<DescriptorKind, Unmovable> {
        let copy = rustix::io::fcntl_dupfd_cloexec(fd, 0)?;
        let object = self.keep(copy, Purpose::Calls(what))?;
        Ok(DescriptorKind::Remote { flags, home: self.offer.node.id, object, what })
    }

    fn leave_for_relay(&mut self, fd: OwnedFd) -> Result<u64, Unmovable> {
        self.keep(fd, Purpose::Relay)
    }

    fn keep(&mut self, original: OwnedFd, purpose: Purpose) -> Result<u64, Unmovable> {
        let object = self.offer.node.homes.keep(Object { original, purpose }, self.offer.to)?;
        self.offer.kept.push(object);
        Ok(object)
    }
}

fn access(fd: BorrowedFd<'_>) -> OFlags {
    fcntl_getfl(fd).map_or(OFlags::RDWR, |flags| flags & OFlags::RWMODE)
}

fn path_of(fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    Ok(rustix::fs::readlink(link, Vec::new())?.into_bytes())
}

/// The numbers of a process's descriptors without `O_CLOEXEC`, in order.
fn kept_descriptors(host_pid: u32) -> Result<Vec<i32>, Unmovable> {
    let gone = |_| Unmovable::Host(Errno::SRCH);
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{host_pid}/fdinfo")).map_err(gone)? {
        let entry = entry.map_err(gone)?;
        let Some(number) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let Ok(info) = std::fs::read_to_string(entry.path()) else { continue };
        let flags = info.lines().find_map(|l| l.strip_prefix("flags:"));
        let flags = flags.and_then(|f| u32::from_str_radix(f.trim(), 8).ok()).unwrap_or(0);
        if flags & OFlags::CLOEXEC.bits() == 0 {
            numbers.push(number);
        }
        if numbers.len() > DESCRIPTORS_MAX {
            return Err(Unmovable::TooMany);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
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
    let info = info.unwrap_or_default();
    let flags = info.lines().find_map(|l| l.strip_prefix("flags:"));
    let flags = flags.and_then(|f| u32::from_str_radix(f.trim(), 8).ok()).unwrap_or(0);
    flags & OFlags::RWMODE.bits() != OFlags::WRONLY.bits()
}
