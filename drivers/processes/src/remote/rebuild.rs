//! Descriptors of an arriving process: what is made here, what is opened in the tree, what only
//! gets a number.

use super::late::Late;
use super::pump::{Drains, Relay};
use super::{Homes, Mirrors, RemoteFd, RemoteTable, restore};
use crate::node::Node;
use dunix_ids::{NodeId, ObjectId};
use dunix_keeper::protocol::OpenSpec;
use dunix_linux::Errno;
use dunix_wire::processes::DescriptorImage;
use dunix_wire::processes::image::{DESCRIPTORS_MAX, DescriptorKind, EpollMember, RemoteKind};
use dunix_wire::processes::relay::Direction;
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::{Gid, Uid};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Size of a pipe whose other end is elsewhere: so much flows for each time that somebody waits.
const PIPE_BYTES: usize = 256 << 10;

/// What an arriving process is given.
#[derive(Default)]
pub(crate) struct Rebuilt {
    /// Descriptors of this daemon, with the numbers that they get.
    pub(crate) descriptors: Vec<OwnedFd>,
    pub(crate) numbers: Vec<Vec<i32>>,
    /// What the child opens by itself.
    pub(crate) opens: Vec<OpenSpec>,
    pub(crate) table: RemoteTable,
    /// Relays to start once the process lives here.
    pub(crate) relays: Vec<PendingRelay>,
    /// What the process does by itself, in this order, once it has all descriptors.
    pub(crate) late: Vec<Late>,
}

/// A relay whose local end the process has already.
pub(crate) struct PendingRelay {
    pub(crate) object: ObjectId,
    pub(crate) direction: Direction,
    pub(crate) fd: OwnedFd,
    pub(crate) relay: Arc<Relay>,
    pub(crate) drains: Drains,
}

/// Whom the pipes made here belong to, as this daemon counts: whoever made them there could open
/// them again by `/dev/fd/N`, which asks for the permissions of the pipe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Where descriptors are made.
struct Here<'a> {
    homes: &'a Homes,
    mirrors: &'a Mirrors,
    own: NodeId,
    owner: Owner,
}

/// Where an image's descriptor went, so that its twins can follow.
enum Place {
    Descriptor(usize),
    Open(usize),
}

impl Node {
    /// Makes what the images describe; [`Errno::PROTO`] if they make no sense.
    pub(crate) fn rebuild(
        &self,
        owner: Owner,
        images: &[DescriptorImage],
    ) -> Result<Rebuilt, Errno> {
        let here = Here { homes: &self.homes, mirrors: &self.mirrors, own: self.id, owner };
        let rebuilt = Rebuilt::of(&here, images)?;
        for (object, mirror) in rebuilt.table.mirrors() {
            self.watch(object, mirror);
        }
        Ok(rebuilt)
    }
}

impl Rebuilt {
    /// Makes what the images describe; [`Errno::PROTO`] if they make no sense.
    fn of(here: &Here<'_>, images: &[DescriptorImage]) -> Result<Rebuilt, Errno> {
        if images.len() > DESCRIPTORS_MAX {
            return Err(Errno::PROTO);
        }
        let mut rebuilt = Rebuilt::default();
        let mut close_on_exec = Vec::new();
        let mut places: Vec<(Place, Option<RemoteFd>)> = Vec::new();
        for image in images {
            if !(0..1 << 20).contains(&image.fd) {
                return Err(Errno::PROTO);
            }
            let (place, remote) = match image.same_as {
                None => rebuilt.make(here, &image.kind)?,
                Some(twin) => match places.get(twin as usize).ok_or(Errno::PROTO)? {
                    (Place::Descriptor(at), remote) => (Place::Descriptor(*at), *remote),
                    (Place::Open(at), remote) => (Place::Open(*at), *remote),
                },
            };
            match place {
                Place::Descriptor(at) => rebuilt.numbers[at].push(image.fd),
                Place::Open(at) => rebuilt.opens[at].numbers.push(image.fd),
            }
            if let Some(remote) = remote {
                rebuilt.table.insert(image.fd, remote);
            }
            if image.cloexec {
                close_on_exec.push(Late::CloseOnExec { fd: image.fd });
            }
            match &image.kind {
                DescriptorKind::Epoll { members, .. } if image.same_as.is_none() => {
                    let epoll = image.fd;
                    let watch = |member: &EpollMember| Late::Watch { epoll, member: *member };
                    rebuilt.late.extend(members.iter().map(watch));
                }
                DescriptorKind::Timer { timer, .. } if image.same_as.is_none() => {
                    rebuilt.late.extend(Late::set_timer(image.fd, timer));
                }
                _ => {}
            }
            places.push((place, remote));
        }
        rebuilt.late.extend(close_on_exec);
        Ok(rebuilt)
    }

    fn make(
        &mut self,
        here: &Here<'_>,
        kind: &DescriptorKind,
    ) -> Result<(Place, Option<RemoteFd>), Errno> {
        match kind {
            DescriptorKind::File { path, flags, offset, inode } => {
                Ok((self.open(path, *flags, Some(*offset), *inode), None))
            }
            DescriptorKind::Device { path, flags } => {
                Ok((self.open(path, *flags, None, None), None))
            }
            DescriptorKind::SharedFile { home, object, .. }
            | DescriptorKind::Remote { home, object, .. }
                if *home == here.own =>
            {
                // It comes home: the description itself is here.
                let description = here.homes.get(*object).ok_or(Errno::PROTO)?;
                // Its end is told here from now on, and waits for what it writes.
                for relay in here.homes.relays(*object) {
                    self.table.add_relay(relay);
                }
                Ok((self.hand_over(description.duplicate()?), None))
            }
            DescriptorKind::SharedFile { path, inode, flags, home, object } => {
                let object = ObjectId { home: *home, serial: *object };
                let what = RemoteKind::File;
                let place = self.open(path, *flags, None, Some(*inode));
                Ok((place, Some(RemoteFd { object, what, is_open_here: true, drains: false })))
            }
            DescriptorKind::Remote { flags, home, object, what, drains, ready } => {
                let object = ObjectId { home: *home, serial: *object };
                let (what, drains) = (*what, *drains);
                let place = match here.mirrors.of(object, what, *flags, *ready)? {
                    Some(mirror) => {
                        let placeholder = mirror.duplicate()?;
                        self.table.keep_mirror(object, mirror);
                        self.hand_over(placeholder)
                    }
                    None => self.open(b"/dev/null", OFlags::RDWR.bits(), None, None),
                };
                Ok((place, Some(RemoteFd { object, what, is_open_here: false, drains })))
            }
            DescriptorKind::PipeWrite { flags, home, object, drains } => {
                let (read, write) = pipe_of(here.owner)?;
                set_flags(&write, *flags)?;
                set_flags(&read, OFlags::NONBLOCK.bits())?;
                let object = ObjectId { home: *home, serial: *object };
                self.relay(object, Direction::Write, read, &write, *drains)?;
                Ok((self.hand_over(write), None))
            }
            DescriptorKind::PipeRead { flags, home, object } => {
                let (read, write) = pipe_of(here.owner)?;
                set_flags(&read, *flags)?;
                set_flags(&write, OFlags::NONBLOCK.bits())?;
                let object = ObjectId { home: *home, serial: *object };
                self.relay(object, Direction::Read, write, &read, false)?;
                Ok((self.hand_over(read), None))
            }
            DescriptorKind::Stream { flags, home, object, drains } => {
                let kind = SocketType::STREAM;
                let (ours, theirs) =
                    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
                set_flags(&theirs, *flags)?;
                let object = ObjectId { home: *home, serial: *object };
                self.relay(object, Direction::Both, ours, &theirs, *drains)?;
                Ok((self.hand_over(theirs), None))
            }
            DescriptorKind::Event { flags, count, is_semaphore } => {
                let fd = restore::event(*flags, *count, *is_semaphore)?;
                Ok((self.hand_over(fd), None))
            }
            DescriptorKind::Timer { flags, timer } => {
                Ok((self.hand_over(restore::timer(*flags, timer.clock)?), None))
            }
            DescriptorKind::Signals { flags, mask } => {
                Ok((self.hand_over(restore::signals(*flags, *mask)?), None))
            }
            DescriptorKind::Epoll { flags, .. } => {
                Ok((self.hand_over(restore::epoll(*flags)?), None))
            }
        }
    }

    fn open(&mut self, path: &[u8], flags: u32, offset: Option<u64>, inode: Option<u64>) -> Place {
        let is_path = OFlags::from_bits_retain(flags).contains(OFlags::PATH);
        let offset = offset.filter(|&offset| offset != 0 && !is_path);
        let (path, numbers) = (path.to_vec(), Vec::new());
        self.opens.push(OpenSpec { path, flags: flags.cast_signed(), offset, inode, numbers });
        Place::Open(self.opens.len() - 1)
    }

    fn hand_over(&mut self, fd: OwnedFd) -> Place {
        self.descriptors.push(fd);
        self.numbers.push(Vec::new());
        Place::Descriptor(self.descriptors.len() - 1)
    }

    /// A relay between `ours` and the object, for the process's end.
    fn relay(
        &mut self,
        object: ObjectId,
        direction: Direction,
        ours: OwnedFd,
        theirs: &OwnedFd,
        drains: bool,
    ) -> Result<(), Errno> {
        let stat = rustix::fs::fstat(theirs)?;
        let (relay, pump) = Relay::new((stat.st_dev, stat.st_ino), drains.then_some(object));
        let relay = Arc::new(relay);
        if direction != Direction::Read {
            self.table.add_relay(relay.clone());
        }
        self.relays.push(PendingRelay { object, direction, fd: ours, relay, drains: pump });
        Ok(())
    }
}

fn pipe_of(owner: Owner) -> Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    // A gain, no need: users may have used up their share of pages.
    let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    rustix::fs::fchown(&read, Some(uid), Some(gid))?;
    Ok((read, write))
}

/// Sets the status flags that a program can set (`O_NONBLOCK`, `O_APPEND`).
fn set_flags(fd: &OwnedFd, flags: u32) -> Result<(), Errno> {
    let settable = OFlags::NONBLOCK | OFlags::APPEND;
    rustix::fs::fcntl_setfl(fd, OFlags::from_bits_retain(flags) & settable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Owner {
        Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    fn rebuilt(owner: Owner, images: &[DescriptorImage]) -> Result<Rebuilt, Errno> {
        let (homes, mirrors) = (Homes::new().unwrap(), Mirrors::default());
        let here = Here { homes: &homes, mirrors: &mirrors, own: NodeId(1), owner };
        Rebuilt::of(&here, images)
    }

    fn image(fd: i32, same_as: Option<u32>) -> DescriptorImage {
        let kind =
            DescriptorKind::PipeWrite { flags: 1, home: NodeId(2), object: 7, drains: false };
        DescriptorImage { fd, cloexec: false, same_as, kind }
    }

    #[test]
    fn twins_share_one_pipe() {
        let images = [image(1, None), image(2, Some(0))];
        let rebuilt = rebuilt(own(), &images).unwrap();
        assert_eq!(rebuilt.numbers, [vec![1, 2]]);
        assert_eq!(rebuilt.relays.len(), 1);
        assert_eq!(rebuilt.table.written().relays.len(), 1);
    }

    /// Else a program could not open its own `/dev/fd/N`, which `>(...)` of a shell makes it do.
    #[test]
    fn a_pipe_belongs_to_its_process() {
        if !rustix::process::geteuid().is_root() {
            return; // Only root gives files away.
        }
        let owner = Owner { uid: 70_000, gid: 70_001 };
        let rebuilt = rebuilt(owner, &[image(1, None)]).unwrap();
        let stat = rustix::fs::fstat(&rebuilt.descriptors[0]).unwrap();
        assert_eq!((stat.st_uid, stat.st_gid), (owner.uid, owner.gid));
    }

    #[test]
    fn nonsense_is_refused() {
        for images in [vec![image(1, Some(0))], vec![image(-1, None)], vec![image(0, Some(9))]] {
            let rebuilt = rebuilt(own(), &images);
            assert_eq!(rebuilt.err(), Some(Errno::PROTO));
        }
    }
}
