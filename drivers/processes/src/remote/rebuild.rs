//! Descriptors of an arriving process: what is made here, what is opened in the tree, what only
//! gets a number.

use super::pump::{Drains, Relay};
use super::{Homes, RemoteFd, RemoteTable};
use dunix_ids::{NodeId, ObjectId};
use dunix_keeper::protocol::OpenSpec;
use dunix_linux::Errno;
use dunix_wire::processes::DescriptorImage;
use dunix_wire::processes::image::{DESCRIPTORS_MAX, DescriptorKind, RemoteKind};
use dunix_wire::processes::relay::Direction;
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Gid, Uid};
use std::os::fd::OwnedFd;
use std::sync::Arc;

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

/// Where an image's descriptor went, so that its twins can follow.
enum Place {
    Descriptor(usize),
    Open(usize),
}

impl Rebuilt {
    /// Makes what the images describe; [`Errno::PROTO`] if they make no sense.
    pub(crate) fn of(
        homes: &Homes,
        own: NodeId,
        owner: Owner,
        images: &[DescriptorImage],
    ) -> Result<Rebuilt, Errno> {
        if images.len() > DESCRIPTORS_MAX {
            return Err(Errno::PROTO);
        }
        let mut rebuilt = Rebuilt::default();
        let mut places: Vec<(Place, Option<RemoteFd>)> = Vec::new();
        for image in images {
            if !(0..1 << 20).contains(&image.fd) {
                return Err(Errno::PROTO);
            }
            let (place, remote) = match image.same_as {
                None => rebuilt.make(homes, own, owner, &image.kind)?,
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
            places.push((place, remote));
        }
        Ok(rebuilt)
    }

    fn make(
        &mut self,
        homes: &Homes,
        own: NodeId,
        owner: Owner,
        kind: &DescriptorKind,
    ) -> Result<(Place, Option<RemoteFd>), Errno> {
        match kind {
            DescriptorKind::File { path, flags, offset } => {
                Ok((self.open(path, *flags, Some(*offset)), None))
            }
            DescriptorKind::Device { path, flags } => Ok((self.open(path, *flags, None), None)),
            DescriptorKind::SharedFile { home, object, .. }
            | DescriptorKind::Remote { home, object, .. }
                if *home == own =>
            {
                // It comes home: the description itself is here.
                let object = homes.get(*object).ok_or(Errno::PROTO)?;
                Ok((self.hand_over(object.duplicate()?), None))
            }
            DescriptorKind::SharedFile { path, flags, home, object } => {
                let object = ObjectId { home: *home, serial: *object };
                let what = RemoteKind::File;
                let place = self.open(path, *flags, None);
                Ok((place, Some(RemoteFd { object, what, is_open_here: true })))
            }
            DescriptorKind::Remote { home, object, what, .. } => {
                let object = ObjectId { home: *home, serial: *object };
                let place = self.open(b"/dev/null", OFlags::RDWR.bits(), None);
                Ok((place, Some(RemoteFd { object, what: *what, is_open_here: false })))
            }
            DescriptorKind::PipeWrite { flags, home, object } => {
                let (read, write) = pipe_of(owner)?;
                set_flags(&write, *flags)?;
                set_flags(&read, OFlags::NONBLOCK.bits())?;
                self.relay(*home, *object, Direction::Write, read);
                Ok((self.hand_over(write), None))
            }
            DescriptorKind::PipeRead { flags, home, object } => {
                let (read, write) = pipe_of(owner)?;
                set_flags(&read, *flags)?;
                set_flags(&write, OFlags::NONBLOCK.bits())?;
                self.relay(*home, *object, Direction::Read, write);
                Ok((self.hand_over(read), None))
            }
            DescriptorKind::Stream { flags, home, object } => {
                let kind = SocketType::STREAM;
                let (ours, theirs) =
                    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
                set_flags(&theirs, *flags)?;
                self.relay(*home, *object, Direction::Both, ours);
                Ok((self.hand_over(theirs), None))
            }
        }
    }

    fn open(&mut self, path: &[u8], flags: u32, offset: Option<u64>) -> Place {
        let is_path = OFlags::from_bits_retain(flags).contains(OFlags::PATH);
        let is_directory = OFlags::from_bits_retain(flags).contains(OFlags::DIRECTORY);
        let offset = offset.filter(|&offset| offset != 0 && !is_path && !is_directory);
        let (path, numbers) = (path.to_vec(), Vec::new());
        self.opens.push(OpenSpec { path, flags: flags.cast_signed(), offset, numbers });
        Place::Open(self.opens.len() - 1)
    }

    fn hand_over(&mut self, fd: OwnedFd) -> Place {
        self.descriptors.push(fd);
        self.numbers.push(Vec::new());
        Place::Descriptor(self.descriptors.len() - 1)
    }

    fn relay(&mut self, home: NodeId, object: u64, direction: Direction, fd: OwnedFd) {
        let (relay, drains) = Relay::new();
        let relay = Arc::new(relay);
        if direction != Direction::Read {
            self.table.add_relay(relay.clone());
        }
        let object = ObjectId { home, serial: object };
        self.relays.push(PendingRelay { object, direction, fd, relay, drains });
    }
}

fn pipe_of(owner: Owner) -> Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
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

    fn image(fd: i32, same_as: Option<u32>) -> DescriptorImage {
        let kind = DescriptorKind::PipeWrite { flags: 1, home: NodeId(2), object: 7 };
        DescriptorImage { fd, cloexec: false, same_as, kind }
    }

    #[test]
    fn twins_share_one_pipe() {
        let images = [image(1, None), image(2, Some(0))];
        let rebuilt = Rebuilt::of(&Homes::new(), NodeId(1), own(), &images).unwrap();
        assert_eq!(rebuilt.numbers, [vec![1, 2]]);
        assert_eq!(rebuilt.relays.len(), 1);
        assert_eq!(rebuilt.table.outgoing().len(), 1);
    }

    /// Else a program could not open its own `/dev/fd/N`, which `>(...)` of a shell makes it do.
    #[test]
    fn a_pipe_belongs_to_its_process() {
        if !rustix::process::geteuid().is_root() {
            return; // Only root gives files away.
        }
        let owner = Owner { uid: 70_000, gid: 70_001 };
        let rebuilt = Rebuilt::of(&Homes::new(), NodeId(1), owner, &[image(1, None)]).unwrap();
        let stat = rustix::fs::fstat(&rebuilt.descriptors[0]).unwrap();
        assert_eq!((stat.st_uid, stat.st_gid), (owner.uid, owner.gid));
    }

    #[test]
    fn nonsense_is_refused() {
        for images in [vec![image(1, Some(0))], vec![image(-1, None)], vec![image(0, Some(9))]] {
            let rebuilt = Rebuilt::of(&Homes::new(), NodeId(1), own(), &images);
            assert_eq!(rebuilt.err(), Some(Errno::PROTO));
        }
    }
}
