//! How a move describes descriptors: files of the tree open again, counters and timers begin anew
//! with their state, and everything else stays here for calls. Relays are never made: what is in a
//! pipe or socket stays where it is, so no byte can be lost or doubled by the move itself.

use super::capture::{Capture, LOCKED, Unmovable, is_handle, is_of_this_node, path_of};
use super::{fdinfo, timer};
use dunix_linux::Errno;
use dunix_wire::processes::image::{DescriptorKind, RemoteKind};
use rustix::fs::{FileType, OFlags, SeekFrom, Stat, fcntl_getfl, fstatfs, major, minor};
use std::os::fd::{AsFd, OwnedFd};

/// Kernel objects that are about this node or about memory, and so cannot be left behind.
const BOUND: [(&[u8], &str); 6] = [
    (b"anon_inode:[io_uring]", "an io_uring, which shares memory with the kernel"),
    (b"anon_inode:[userfaultfd]", "a userfaultfd of its memory"),
    (b"anon_inode:[perf_event]", "a performance counter of this node"),
    (b"anon_inode:[fanotify]", "a fanotify group, which hands out files of this node"),
    (b"anon_inode:seccomp notify", "a seccomp listener"),
    (b"anon_inode:bpf", "a BPF object of this node"),
];

impl Capture {
    /// Describes a descriptor that has no twin and whose object is on this node.
    pub(super) fn describe_for_move(
        &mut self,
        number: i32,
        fd: &OwnedFd,
        stat: &Stat,
    ) -> Result<DescriptorKind, Unmovable> {
        let unmovable = |what| Unmovable::Descriptor { fd: number, what };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::CharacterDevice => match self.describe_device(fd, stat)? {
                Some(kind) => Ok(kind),
                // A terminal's master.
                None if (major(stat.st_rdev), minor(stat.st_rdev)) == (5, 2) => {
                    self.leave_for_calls(fd, stat, RemoteKind::Queue)
                }
                None => Err(unmovable("a device of this node")),
            },
            FileType::Fifo if is_handle(fd) => self.describe_file(fd, stat, true),
            FileType::Fifo => self.leave_for_calls(fd, stat, RemoteKind::Pipe),
            FileType::Socket => self.leave_for_calls(fd, stat, RemoteKind::Socket),
            FileType::RegularFile | FileType::Directory
                if own_proc(fd, self.host_pid)?.is_some() && self.is_alone_with(number, fd) =>
            {
                let path = own_proc(fd, self.host_pid)?.unwrap_or_default();
                let offset = rustix::fs::seek(fd, SeekFrom::Current(0))?;
                let flags = fcntl_getfl(fd)?.bits();
                Ok(DescriptorKind::File { path, flags, offset, inode: None })
            }
            FileType::RegularFile if is_of_this_node(fd)? => {
                self.leave_for_calls(fd, stat, RemoteKind::File)
            }
            FileType::Directory if is_of_this_node(fd)? => {
                self.leave_for_calls(fd, stat, RemoteKind::Directory)
            }
            FileType::RegularFile if self.has_locked(number)? => Err(unmovable(LOCKED)),
            FileType::Directory if self.is_locked(number)? => Err(unmovable(LOCKED)),
            FileType::RegularFile => {
                // A lock of the description stays with it at its home.
                let is_private = self.is_alone_with(number, fd) && !self.is_locked(number)?;
                self.describe_file(fd, stat, is_private)
            }
            FileType::Directory => self.describe_file(fd, stat, true),
            FileType::Symlink => {
                let (path, flags) = (path_of(fd.as_fd())?, fcntl_getfl(fd)? | OFlags::NOFOLLOW);
                let inode = Some(stat.st_ino);
                Ok(DescriptorKind::File { path, flags: flags.bits(), offset: 0, inode })
            }
            FileType::BlockDevice => Err(unmovable("a block device")),
            FileType::Unknown => self.describe_kernel_object(number, fd, stat),
        }
    }

    /// Whether there is a lock of the description (flock(2), `F_OFD_SETLK`), or one of the process by this descriptor.
    pub(super) fn is_locked(&self, number: i32) -> Result<bool, Errno> {
        let info = fdinfo::of(self.host_pid, number)?;
        Ok(info.lines().any(|line| line.starts_with("lock:")))
    }

    /// Whether the process itself holds a lock of the file (fcntl(2)), which goes with it, over an exec too, or the
    /// description has one of a part of it, whose calls are made where they are called.
    pub(super) fn has_locked(&self, number: i32) -> Result<bool, Errno> {
        if self.is_message() {
            return Ok(false);
        }
        let info = fdinfo::of(self.host_pid, number)?;
        let is_of_part = |line: &str| line.contains(" POSIX ") || line.contains(" OFDLCK ");
        Ok(info.lines().any(|line| line.starts_with("lock:") && is_of_part(line)))
    }

    /// What has no file type: eventfd(2), timerfd_create(2), signalfd(2), epoll(7), ...
    fn describe_kernel_object(
        &mut self,
        number: i32,
        fd: &OwnedFd,
        stat: &Stat,
    ) -> Result<DescriptorKind, Unmovable> {
        let unmovable = |what| Unmovable::Descriptor { fd: number, what };
        let name = path_of(fd.as_fd())?;
        if let Some((_, what)) = BOUND.iter().find(|(bound, _)| name.starts_with(bound)) {
            return Err(unmovable(what));
        }
        let (flags, info) = (fcntl_getfl(fd)?.bits(), fdinfo::of(self.host_pid, number)?);
        let is_alone = self.is_alone_with(number, fd);
        match name.as_slice() {
            // It has no state but its mask: what is read is the reader's own.
            b"anon_inode:[signalfd]" => {
                let mask = fdinfo::hexadecimal(&info, "sigmask:").ok_or(Errno::PROTO)?;
                Ok(DescriptorKind::Signals { flags, mask })
            }
            b"anon_inode:[eventpoll]" if is_alone => self.describe_epoll(number, flags, &info),
            b"anon_inode:[eventpoll]" => Err(unmovable("an epoll set that other processes share")),
            b"anon_inode:[eventfd]" if is_alone => event(flags, &info)
                .map_or_else(|| self.leave_for_calls(fd, stat, RemoteKind::Queue), Ok),
            b"anon_inode:[timerfd]" if is_alone => match timer::look(self.host_pid, number, fd)? {
                Some(timer) => Ok(DescriptorKind::Timer { flags, timer }),
                None => self.leave_for_calls(fd, stat, RemoteKind::Queue),
            },
            _ => self.leave_for_calls(fd, stat, RemoteKind::Queue),
        }
    }

    fn describe_epoll(
        &self,
        number: i32,
        flags: u32,
        info: &str,
    ) -> Result<DescriptorKind, Unmovable> {
        let unmovable = |what| Unmovable::Descriptor { fd: number, what };
        let mut members = Vec::new();
        for (member, inode) in fdinfo::epoll_members(info).ok_or(Errno::PROTO)? {
            // A set goes on to watch what was closed under its number while a duplicate is open.
            let now = fdinfo::of(self.host_pid, member.fd).unwrap_or_default();
            if fdinfo::number(&now, "ino:") != Some(inode) {
                return Err(unmovable("an epoll set that watches what has lost its number"));
            }
            members.push(member);
        }
        Ok(DescriptorKind::Epoll { flags, members })
    }
}

/// What tells of the process itself, under the name by which it finds that at every node: `/proc/self/...`.
/// Threads have other numbers there.
fn own_proc(fd: &OwnedFd, host_pid: u32) -> Result<Option<Vec<u8>>, Errno> {
    const PROC: u64 = 0x9fa0;
    if u64::try_from(fstatfs(fd)?.f_type) != Ok(PROC) {
        return Ok(None);
    }
    let path = path_of(fd.as_fd())?;
    let rest = path.strip_prefix(format!("/proc/{host_pid}").as_bytes());
    let is_ours = |rest: &&[u8]| rest.is_empty() || rest[0] == b'/' && !rest.starts_with(b"/task/");
    Ok(rest.filter(is_ours).map(|rest| [b"/proc/self", rest].concat()))
}

/// An eventfd's state, if the kernel tells all of it (Linux 6.5 says whether it is a semaphore).
fn event(flags: u32, info: &str) -> Option<DescriptorKind> {
    let count = fdinfo::hexadecimal(info, "eventfd-count:")?;
    let is_semaphore = fdinfo::number(info, "eventfd-semaphore:")? != 0;
    Some(DescriptorKind::Event { flags, count, is_semaphore })
}
