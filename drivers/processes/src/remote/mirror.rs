//! Holder: placeholders that are as ready as the objects at their homes, so that poll(2), select(2)
//! and epoll(7) of the host work on them, together with descriptors of this node.
//!
//! ```text
//!  home's word ---> Mirror --bytes, ends--> peer =====pair===== placeholder <--- guest's poll
//! ```
//! The placeholder is one end of a pair whose other end this daemon has. A byte in it makes it
//! readable, a full buffer keeps it from being writable, a closed end is the end. Guests never move
//! bytes through it: their calls go to the home. Processes of one node that have the same object
//! have the same placeholder.

use crate::node::{Node, lock};
use dunix_ids::{NodeId, ObjectId};
use dunix_linux::{Errno, Result};
use dunix_wire::processes::image::RemoteKind;
use dunix_wire::processes::{ProcessesMessage, Readiness};
use rustix::fs::{Mode, OFlags, Stat, fstat};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair, sockopt,
};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, Weak};

const IN: u16 = 0x1;
const OUT: u16 = 0x4;
const ERR: u16 = 0x8;
const HUP: u16 = 0x10;
const RDHUP: u16 = 0x2000;

/// The smallest pipe and socket buffers that there are: what fills them.
const BUFFER_BYTES: usize = 4096;
/// Most writes that fill the smallest buffers.
const WRITES_MAX: usize = 64;

/// The placeholders of a node, by what they stand for; each lives as long as a table names it.
#[derive(Debug, Default)]
pub(crate) struct Mirrors(Mutex<BTreeMap<ObjectId, Weak<Mirror>>>);

/// What stands for one object.
#[derive(Debug)]
pub(crate) struct Mirror {
    shape: Shape,
    /// A duplicate of the guests' descriptor.
    placeholder: OwnedFd,
    shown: Mutex<Shown>,
}

#[derive(Debug)]
struct Shown {
    /// The other end; `None` while it is closed.
    peer: Option<OwnedFd>,
    events: u16,
    is_readable: bool,
    is_writable: bool,
    /// Of the home's last word.
    serial: u64,
}

/// What a placeholder is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shape {
    /// Either direction: sockets, terminals, FIFOs open both ways, eventfd and the like.
    Socket,
    PipeReader,
    PipeWriter,
}

impl Shape {
    fn of(what: RemoteKind, flags: u32) -> Option<Shape> {
        let access = OFlags::from_bits_retain(flags) & OFlags::RWMODE;
        match what {
            RemoteKind::File | RemoteKind::Directory => None,
            RemoteKind::Pipe if access == OFlags::RDONLY => Some(Shape::PipeReader),
            RemoteKind::Pipe if access == OFlags::WRONLY => Some(Shape::PipeWriter),
            _ => Some(Shape::Socket),
        }
    }
}

impl Mirrors {
    /// What stands here for an object with these flags, of which its home last told `ready`; `None`
    /// for what is always ready.
    pub(super) fn of(
        &self,
        object: ObjectId,
        what: RemoteKind,
        flags: u32,
        ready: u16,
    ) -> Result<Option<Arc<Mirror>>> {
        let Some(shape) = Shape::of(what, flags) else { return Ok(None) };
        let mut mirrors = lock(&self.0);
        if let Some(mirror) = mirrors.get(&object).and_then(Weak::upgrade) {
            return Ok(Some(mirror));
        }
        let mirror = Arc::new(Mirror::new(shape)?);
        mirror.show(&mut lock(&mirror.shown), ready, false)?;
        mirrors.retain(|_, mirror| mirror.strong_count() > 0);
        mirrors.insert(object, Arc::downgrade(&mirror));
        Ok(Some(mirror))
    }

    /// Whether a descriptor is a placeholder, of whichever object.
    pub(super) fn have(&self, fd: &OwnedFd) -> Result<bool> {
        let file = |stat: Stat| (stat.st_dev, stat.st_ino);
        let wanted = file(fstat(fd)?);
        let mirrors: Vec<_> = lock(&self.0).values().filter_map(Weak::upgrade).collect();
        Ok(mirrors.iter().any(|mirror| fstat(&mirror.placeholder).map(file) == Ok(wanted)))
    }

    /// The home says what is ready; `is_news`: something has just become so.
    pub(crate) fn set(&self, home: NodeId, readiness: Readiness, is_news: bool) {
        let object = ObjectId { home, serial: readiness.object };
        let mirror = lock(&self.0).get(&object).and_then(Weak::upgrade);
        let Some(mirror) = mirror else { return };
        let mut shown = lock(&mirror.shown);
        if readiness.serial <= shown.serial {
            return;
        }
        shown.serial = readiness.serial;
        if let Err(error) = mirror.show(&mut shown, readiness.events, is_news) {
            tracing::warn!(?object, %error, "a placeholder does not show what is ready");
        }
    }

    /// A home died: calls on its objects fail at once, which is what readiness promises.
    pub(crate) fn lose(&self, home: NodeId) {
        let lost: Vec<Arc<Mirror>> = lock(&self.0)
            .iter()
            .filter(|(object, _)| object.home == home)
            .filter_map(|(_, mirror)| mirror.upgrade())
            .collect();
        for mirror in lost {
            let mut shown = lock(&mirror.shown);
            shown.serial = u64::MAX;
            let _ = mirror.show(&mut shown, IN | OUT | ERR | HUP | RDHUP, true);
        }
    }
}

impl Mirror {
    /// A pair that shows nothing as ready.
    fn new(shape: Shape) -> Result<Mirror> {
        let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
        let (placeholder, peer) = match shape {
            Shape::Socket => {
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                let kind = SocketType::STREAM;
                let (placeholder, peer) = socketpair(AddressFamily::UNIX, kind, flags, None)?;
                sockopt::set_socket_send_buffer_size(&placeholder, BUFFER_BYTES)?;
                (placeholder, peer)
            }
            Shape::PipeReader => pipe_with(flags)?,
            Shape::PipeWriter => {
                let (read, write) = pipe_with(flags)?;
                fcntl_setpipe_size(&write, BUFFER_BYTES)?;
                (write, read)
            }
        };
        let shown =
            Shown { peer: Some(peer), events: 0, is_readable: false, is_writable: true, serial: 0 };
        let mirror = Mirror { shape, placeholder, shown: Mutex::new(shown) };
        mirror.show(&mut lock(&mirror.shown), 0, false)?;
        Ok(mirror)
    }

    /// A descriptor for a guest.
    pub(super) fn duplicate(&self) -> Result<OwnedFd> {
        fcntl_dupfd_cloexec(&self.placeholder, 0)
    }

    /// What is shown now: `POLL*` bits.
    pub(super) fn events(&self) -> u16 {
        lock(&self.shown).events
    }

    /// Makes the placeholder look so. `is_news`: what was ready before is so again.
    fn show(&self, shown: &mut Shown, events: u16, is_news: bool) -> Result<()> {
        let before = std::mem::replace(&mut shown.events, events);
        match self.shape {
            Shape::Socket => {
                // What has failed is to be asked.
                self.set_readable(shown, events & (IN | ERR) != 0, is_news)?;
                self.set_writable(shown, events & OUT != 0)?;
                self.set_ends(shown, before, events)
            }
            Shape::PipeReader => {
                self.set_peer(shown, events & HUP == 0, OFlags::WRONLY)?;
                self.set_readable(shown, events & IN != 0, is_news)
            }
            Shape::PipeWriter => {
                self.set_peer(shown, events & ERR == 0, OFlags::RDONLY)?;
                self.set_writable(shown, events & OUT != 0)
            }
        }
    }

    /// The ends of a connection, which are for good.
    fn set_ends(&self, shown: &mut Shown, before: u16, events: u16) -> Result<()> {
        let Some(peer) = &shown.peer else { return Ok(()) };
        if events & !before & RDHUP != 0 {
            shutdown(peer, Shutdown::Write)?;
        }
        // A socket that was never connected hangs up too, but not for good.
        if events & HUP != 0 && events & (RDHUP | IN) != 0 {
            shown.peer = None;
        }
        Ok(())
    }

    /// Opens or closes the other end of a pipe.
    fn set_peer(&self, shown: &mut Shown, is_open: bool, access: OFlags) -> Result<()> {
        if !is_open {
            shown.peer = None;
        } else if shown.peer.is_none() {
            let link = format!("/proc/self/fd/{}", self.placeholder.as_raw_fd());
            let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC;
            shown.peer = Some(rustix::fs::open(link, flags, Mode::empty())?);
        }
        Ok(())
    }

    fn set_readable(&self, shown: &mut Shown, is_readable: bool, is_news: bool) -> Result<()> {
        if shown.is_readable == is_readable && !(is_readable && is_news) {
            return Ok(());
        }
        empty(&self.placeholder);
        shown.is_readable = false;
        if is_readable && let Some(peer) = &shown.peer {
            rustix::io::write(peer, &[0])?;
            shown.is_readable = true;
        }
        Ok(())
    }

    fn set_writable(&self, shown: &mut Shown, is_writable: bool) -> Result<()> {
        let Some(peer) = shown.peer.as_ref().filter(|_| shown.is_writable != is_writable) else {
            return Ok(());
        };
        if is_writable {
            empty(peer);
        } else {
            fill(&self.placeholder)?;
        }
        shown.is_writable = is_writable;
        Ok(())
    }
}

/// Takes all bytes out of a pair's end.
fn empty(end: &OwnedFd) {
    let mut bytes = [0; BUFFER_BYTES];
    for _ in 0..WRITES_MAX {
        if !rustix::io::read(end, &mut bytes).is_ok_and(|got| got > 0) {
            return;
        }
    }
}

/// Puts bytes into a pair's end until it takes no more.
fn fill(end: &OwnedFd) -> Result<()> {
    for _ in 0..WRITES_MAX {
        match rustix::io::write(end, &[0; BUFFER_BYTES / 4]) {
            Ok(_) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::NOBUFS)
}

impl Node {
    /// Asks the home of an object to say when what is not shown as ready becomes so.
    pub(super) fn watch(&self, object: ObjectId, mirror: &Mirror) {
        let (serial, events) = (object.serial, mirror.events());
        self.tell(object.home, &ProcessesMessage::RemoteWatch { object: serial, events });
    }
}

#[cfg(test)]
mod tests {
    use super::super::watch::ready_now;
    use super::*;

    fn mirror(what: RemoteKind, access: OFlags) -> (Mirrors, Arc<Mirror>) {
        let mirrors = Mirrors::default();
        let mirror = mirrors.of(OBJECT, what, access.bits(), 0).unwrap().unwrap();
        (mirrors, mirror)
    }

    const OBJECT: ObjectId = ObjectId { home: NodeId(1), serial: 7 };

    fn shows(mirrors: &Mirrors, mirror: &Mirror, serial: u64, events: u16) -> u16 {
        mirrors.set(NodeId(1), Readiness { object: 7, events, serial }, false);
        ready_now(&mirror.placeholder)
    }

    #[test]
    fn a_socket_looks_as_it_is_told() {
        let (mirrors, mirror) = mirror(RemoteKind::Socket, OFlags::RDWR);
        assert_eq!(ready_now(&mirror.placeholder), 0);
        let turns = [IN, IN | OUT, OUT, 0, OUT, IN, 0, IN | OUT | RDHUP, IN | OUT | RDHUP | HUP];
        for (serial, events) in (1..).zip(turns) {
            assert_eq!(shows(&mirrors, &mirror, serial, events), events, "{events:x}");
        }
    }

    #[test]
    fn a_socket_that_was_never_connected_hangs_up_not_for_good() {
        let (mirrors, mirror) = mirror(RemoteKind::Socket, OFlags::RDWR);
        assert_eq!(shows(&mirrors, &mirror, 1, OUT | HUP), OUT);
        assert_eq!(shows(&mirrors, &mirror, 2, OUT), OUT);
        assert_eq!(shows(&mirrors, &mirror, 3, 0), 0);
    }

    /// pipe(7): a FIFO may get another writer or reader after its last has left.
    #[test]
    fn pipes_look_as_they_are_told() {
        let (mirrors, reader) = mirror(RemoteKind::Pipe, OFlags::RDONLY);
        for (serial, events) in (1..).zip([IN, IN | HUP, HUP, 0, IN, 0]) {
            assert_eq!(shows(&mirrors, &reader, serial, events), events, "{events:x}");
        }
        let (mirrors, writer) = self::mirror(RemoteKind::Pipe, OFlags::WRONLY);
        for (serial, events) in (1..).zip([OUT, 0, OUT, OUT | ERR, OUT, 0]) {
            assert_eq!(shows(&mirrors, &writer, serial, events), events, "{events:x}");
        }
    }

    #[test]
    fn an_old_word_is_void_and_a_lost_home_is_told_by_every_call() {
        let (mirrors, mirror) = mirror(RemoteKind::Terminal { pts: 0 }, OFlags::RDWR);
        assert_eq!(shows(&mirrors, &mirror, 5, IN), IN);
        assert_eq!(shows(&mirrors, &mirror, 4, 0), IN);
        mirrors.lose(NodeId(2));
        assert_eq!(ready_now(&mirror.placeholder), IN);
        mirrors.lose(NodeId(1));
        let now = ready_now(&mirror.placeholder);
        assert_eq!(now & (IN | HUP), IN | HUP);
        assert_eq!(shows(&mirrors, &mirror, 9, 0), now);
    }

    #[test]
    fn a_node_has_one_placeholder_for_an_object_while_somebody_has_it() {
        let (mirrors, first) = mirror(RemoteKind::Socket, OFlags::RDWR);
        let second = mirrors.of(OBJECT, RemoteKind::Socket, 2, 0).unwrap().unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        drop((first, second));
        let third = mirrors.of(OBJECT, RemoteKind::Socket, 2, IN).unwrap().unwrap();
        assert_eq!(ready_now(&third.placeholder), IN);
        assert!(mirrors.of(OBJECT, RemoteKind::File, 2, 0).unwrap().is_none());
    }
}
