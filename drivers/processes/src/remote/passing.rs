//! Descriptors in messages (unix(7), `SCM_RIGHTS`) between processes of different nodes.
//!
//! ```text
//!  sender elsewhere --images--> admit --descriptors, tokens--> queue of the socket, at its home
//!  sender here -- OP_PASS: a token for what lives elsewhere -->   |
//!  receiver here <-- OP_RECEIVED: what the token stands for ------+
//!  receiver elsewhere <--images-- describe -----------------------'
//! ```
//! A *token* is an end of a socket pair that goes through the host's queues in the place of a
//! descriptor whose object lives at another node. This daemon watches the other end: when no copy of
//! the token is left, exchanged or discarded with its message, the object is let go.

use super::capture::{Capture, Unmovable};
use super::hands::{Hands, InHand};
use super::offer::Offer;
use super::rebuild::{Owner, Rebuilt};
use super::{Mirror, RemoteFd, RemoteTable};
use crate::call::DoorbellCall;
use crate::node::{Node, lock};
use dunix_guest_abi::doorbell::REMOTE_FD_WORDS;
use dunix_ids::{NodeId, ObjectId, Pid};
use dunix_linux::messages::DESCRIPTORS_MAX;
use dunix_linux::{Errno, Result};
use dunix_wire::processes::DescriptorImage;
use dunix_wire::processes::image::DescriptorKind;
use rustix::fs::{Mode, OFlags, SeekFrom, fstat, open};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, Weak};
use tokio::io::Interest;

/// Most tokens of a node; at the limit descriptors are not sent (`ETOOMANYREFS`).
const TOKENS_MAX: usize = 4096;
/// First number that no remote descriptor may have.
const REMOTE_FDS: i32 = 64 * 16;
const _: () = assert!(REMOTE_FD_WORDS == 16);

/// What messages of this node hold of other nodes' objects.
#[derive(Debug, Default)]
pub(crate) struct Passing {
    underway: Mutex<Underway>,
    hands: Arc<Hands>,
}

#[derive(Debug, Default)]
struct Underway {
    /// By the inode of the socket that is the token.
    tokens: BTreeMap<u64, Token>,
    held: BTreeMap<ObjectId, usize>,
}

/// What a token stands for.
#[derive(Debug)]
struct Token {
    /// What a receiver here gets for it.
    fd: OwnedFd,
    held: Held,
}

/// A descriptor that came in a message.
#[derive(Debug)]
pub(crate) struct Passed {
    fd: OwnedFd,
    held: Option<Held>,
    /// Until somebody else has it.
    _in_hand: Arc<InHand>,
}

impl Passed {
    /// A descriptor of this node.
    pub(super) fn plain(node: &Node, fd: OwnedFd) -> Passed {
        let _in_hand = node.passing.hands.take().into();
        Passed { fd, held: None, _in_hand }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a descriptor that lives elsewhere stands for, and what shows whether it is ready.
pub(super) type Standing = (RemoteFd, Option<Arc<Mirror>>);

/// Keeps an object of another node while a message names it.
#[derive(Debug)]
struct Held {
    node: Weak<Node>,
    remote: RemoteFd,
    mirror: Option<Arc<Mirror>>,
}

impl Held {
    fn new(node: &Arc<Node>, remote: RemoteFd, mirror: Option<Arc<Mirror>>) -> Held {
        *lock(&node.passing.underway).held.entry(remote.object).or_default() += 1;
        Held { node: Arc::downgrade(node), remote, mirror }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(node) = self.node.upgrade() else { return };
        let object = self.remote.object;
        {
            let mut underway = lock(&node.passing.underway);
            if let Some(count) = underway.held.get_mut(&object) {
                *count -= 1;
                if *count == 0 {
                    underway.held.remove(&object);
                }
            }
        }
        // Later: whoever drops it may hold the node's state.
        let runtime = node.runtime.clone();
        runtime.spawn(async move { node.release_object(Pid::INIT, object) });
    }
}

impl Passing {
    /// Whether a message here holds the object.
    pub(super) fn holds(&self, object: ObjectId) -> bool {
        lock(&self.underway).held.contains_key(&object)
    }

    /// Descriptors that are nobody else's.
    pub(super) fn hands(&self) -> &Arc<Hands> {
        &self.hands
    }

    /// What a descriptor stands for, if it is a token.
    fn look_up(&self, fd: &OwnedFd) -> Option<(OwnedFd, RemoteFd, Option<Arc<Mirror>>)> {
        let inode = fstat(fd).ok()?.st_ino;
        let underway = lock(&self.underway);
        let token = underway.tokens.get(&inode)?;
        let fd = fcntl_dupfd_cloexec(&token.fd, 0).ok()?;
        Some((fd, token.held.remote, token.held.mirror.clone()))
    }
}

impl Node {
    /// The descriptor that goes through a queue of this host for one of a message.
    pub(super) fn underway(self: &Arc<Node>, passed: Passed) -> Result<OwnedFd> {
        let Passed { fd, held, _in_hand } = passed;
        let Some(held) = held else { return Ok(fd) };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (token, watched) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let inode = fstat(&token)?.st_ino;
        let watched = {
            let _runtime = self.runtime.enter();
            super::pump::watch(watched, Interest::READABLE).map_err(|_| Errno::NFILE)?
        };
        {
            let mut underway = lock(&self.passing.underway);
            if underway.tokens.len() >= TOKENS_MAX {
                return Err(Errno::TOOMANYREFS);
            }
            underway.tokens.insert(inode, Token { fd, held });
        }
        let node = Arc::downgrade(self);
        self.runtime.spawn(async move {
            while let Ok(mut ready) = watched.readable().await {
                match rustix::io::read(watched.get_ref(), &mut [0; 16]) {
                    Err(Errno::AGAIN) => ready.clear_ready(),
                    Ok(0) | Err(_) => break,
                    // Nobody has a reason to write to it.
                    Ok(_) => {}
                }
            }
            let Some(node) = node.upgrade() else { return };
            let token = lock(&node.passing.underway).tokens.remove(&inode);
            drop(token);
        });
        Ok(token)
    }

    /// Makes what a peer has described for a message.
    pub(super) async fn admit(
        self: &Arc<Node>,
        images: Vec<DescriptorImage>,
    ) -> Result<Vec<Passed>> {
        let node = self.clone();
        // Files are opened in the tree.
        let made = self.runtime.spawn_blocking(move || node.admit_now(images));
        made.await.unwrap_or(Err(Errno::IO))
    }

    fn admit_now(self: &Arc<Node>, mut images: Vec<DescriptorImage>) -> Result<Vec<Passed>> {
        let in_hand = Arc::new(self.passing.hands.take());
        let objects: BTreeSet<ObjectId> = images.iter().filter_map(object_of).collect();
        let (own, objects): (Vec<ObjectId>, Vec<ObjectId>) =
            objects.into_iter().partition(|object| object.home == self.id);
        self.with(|state, _| {
            for object in &objects {
                *state.arrivals.entry(*object).or_default() += 1;
            }
        });
        let what = dunix_wire::processes::image::RemoteKind::Queue;
        let held_meanwhile: Vec<Held> = objects
            .into_iter()
            .map(|object| RemoteFd { object, what, is_open_here: false, drains: false })
            .map(|remote| Held::new(self, remote, None))
            .collect();
        for (number, image) in (0..).zip(&mut images) {
            image.fd = number;
        }
        let owner = Owner { uid: self.ids_base, gid: self.ids_base };
        let is_sound = images.len() <= DESCRIPTORS_MAX && images.iter().all(may_be_sent);
        let made = if is_sound { self.rebuild(owner, &images) } else { Err(Errno::PROTO) };
        let passed = made.and_then(|made| self.passed(made, images.len(), &in_hand));
        drop(held_meanwhile);
        // They have come home (see `Offer::of_message`).
        for object in own {
            self.homes.release(object.serial, self.id, 1);
        }
        passed
    }

    /// In the order of their numbers, which are indices.
    fn passed(
        self: &Arc<Node>,
        made: Rebuilt,
        count: usize,
        in_hand: &Arc<InHand>,
    ) -> Result<Vec<Passed>> {
        let mut fds: BTreeMap<i32, (OwnedFd, bool)> = BTreeMap::new();
        for (fd, numbers) in made.descriptors.iter().zip(&made.numbers) {
            for number in numbers {
                fds.insert(*number, (fcntl_dupfd_cloexec(fd, 0)?, true));
            }
        }
        for spec in &made.opens {
            let is_shared = spec.numbers.iter().any(|n| made.table.get(*n).is_some());
            let (fd, is_open) = match self.open_in_tree(&spec.path, spec.flags.cast_unsigned()) {
                Ok(fd) => (fd, true),
                // Then it is used from afar only.
                Err(_) if is_shared => (nothing()?, false),
                Err(errno) => return Err(errno),
            };
            if let Some(offset) = spec.offset {
                rustix::fs::seek(&fd, SeekFrom::Start(offset))?;
            }
            for number in &spec.numbers {
                fds.insert(*number, (fcntl_dupfd_cloexec(&fd, 0)?, is_open));
            }
        }
        let passed: Vec<Passed> = fds
            .into_iter()
            .map(|(number, (fd, is_open))| {
                let held = made.table.get(number).map(|remote| {
                    let is_open_here = remote.is_open_here && is_open;
                    let mirror = made.table.mirror_of(remote.object);
                    Held::new(self, RemoteFd { is_open_here, ..remote }, mirror)
                });
                Passed { fd, held, _in_hand: in_hand.clone() }
            })
            .collect();
        if passed.len() == count { Ok(passed) } else { Err(Errno::PROTO) }
    }

    fn open_in_tree(&self, path: &[u8], flags: u32) -> Result<OwnedFd> {
        let flags = OFlags::from_bits_retain(flags) | OFlags::CLOEXEC | OFlags::NOCTTY;
        let path = path.to_vec();
        let open = move || open(path, flags, Mode::empty());
        // As root: who sent it had the right, and has given it away.
        let owner = (self.ids_base, self.ids_base);
        let root = [self.root.as_slice(), b"/"].concat();
        let opened = self.run_in_place(root, b"/".to_vec(), owner, open)?;
        opened.blocking_recv().unwrap_or(Err(Errno::IO))
    }

    /// Describes what a process here sends to a socket whose home is elsewhere.
    pub(super) async fn describe_sent(
        self: &Arc<Node>,
        to: NodeId,
        pid: Pid,
        host_pid: u32,
        numbers: Vec<i32>,
    ) -> Result<Offer> {
        let remote = self.look(|state| Some(state.locals.get(&pid)?.remote.for_child()));
        let (node, remote) = (self.clone(), remote.ok_or(Errno::SRCH)?);
        let described = self.runtime.spawn_blocking(move || {
            let mut descriptors = Vec::new();
            for number in numbers {
                descriptors.push((crate::host::take_fd(host_pid, number)?, number));
            }
            Capture::for_message(node, to, host_pid, remote).run_on_message(descriptors)
        });
        let described = described.await.unwrap_or(Err(Unmovable::Host(Errno::IO)));
        let mut offer = described.map_err(|error| self.not_sent(pid, &error))?;
        offer.see_from(b"/");
        offer.announce();
        Ok(offer)
    }

    fn not_sent(&self, pid: Pid, error: &Unmovable) -> Errno {
        self.note(pid, format!("sent no descriptors to another node: {error}"));
        match error {
            Unmovable::Host(errno) => *errno,
            Unmovable::TooMany => Errno::TOOMANYREFS,
            Unmovable::Descriptor { .. } | Unmovable::SharesMemory | Unmovable::Capabilities => {
                Errno::OPNOTSUPP
            }
        }
    }

    /// Describes what came in a message to a socket of this node, for a receiver elsewhere.
    pub(super) async fn describe_received(
        self: &Arc<Node>,
        to: NodeId,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Offer> {
        let node = self.clone();
        let described = self.runtime.spawn_blocking(move || {
            let mut remote = RemoteTable::default();
            let mut taken = Vec::new();
            for fd in &descriptors {
                let number = fd.as_raw_fd();
                if let Some((given, what, _)) = node.passing.look_up(fd) {
                    remote.insert(number, what);
                    taken.push((given, number));
                } else {
                    taken.push((fcntl_dupfd_cloexec(fd, 0)?, number));
                }
            }
            let capture = Capture::for_message(node.clone(), to, std::process::id(), remote);
            let mut offer = capture.run_on_message(taken).map_err(|error| {
                tracing::warn!(node = %node.id, %to, %error, "descriptors of a message are lost");
                Errno::OPNOTSUPP
            })?;
            offer.see_from(b"/");
            offer.announce();
            Ok(offer)
        });
        described.await.unwrap_or(Err(Errno::IO))
    }

    /// Gives the caller what came in a message, up to `room`; returns the numbers.
    pub(super) fn give_passed(
        &self,
        call: &DoorbellCall,
        passed: Vec<Passed>,
        room: usize,
    ) -> Vec<i32> {
        let mut numbers = Vec::new();
        for Passed { fd, held, .. } in passed.into_iter().take(room) {
            let Ok(number) = call.add_fd(fd.as_fd()) else { break };
            if let Some(held) = &held {
                self.keep_passed(call, number, held.remote, held.mirror.clone());
            }
            numbers.push(number);
        }
        numbers
    }

    fn keep_passed(
        &self,
        call: &DoorbellCall,
        number: i32,
        remote: RemoteFd,
        mirror: Option<Arc<Mirror>>,
    ) {
        let Ok(caller) = call.caller() else { return };
        self.with(|state, _| {
            let Some(local) = state.locals.get_mut(&caller.pid) else { return };
            local.remote.insert(number, remote);
            if let Some(mirror) = mirror {
                local.remote.keep_mirror(remote.object, mirror);
            }
        });
    }

    /// `OP_PASS`: the caller is about to send a remote descriptor over a socket of this node.
    pub(crate) fn handle_pass(self: &Arc<Node>, call: DoorbellCall) {
        match self.token_for(&call) {
            Ok(token) => call.answer_fd(token.as_fd()),
            Err(errno) => call.refuse(errno),
        }
    }

    fn token_for(self: &Arc<Node>, call: &DoorbellCall) -> Result<OwnedFd> {
        let (pid, number) = (call.caller()?.pid, call.int_arg(1));
        let standing = self.stands_for(pid, number).ok_or(Errno::BADF)?;
        let fd = call.take_fd(number)?;
        self.token_of(fd, standing)
    }

    /// What a process's descriptor stands for, if it lives elsewhere.
    pub(super) fn stands_for(&self, pid: Pid, number: i32) -> Option<Standing> {
        self.look(|state| {
            let table = &state.locals.get(&pid)?.remote;
            let remote = table.get(number)?;
            Some((remote, table.mirror_of(remote.object)))
        })
    }

    /// A token for a duplicate of a descriptor that lives elsewhere.
    pub(super) fn token_of(
        self: &Arc<Node>,
        fd: OwnedFd,
        (remote, mirror): Standing,
    ) -> Result<OwnedFd> {
        let (held, _in_hand) =
            (Some(Held::new(self, remote, mirror)), self.passing.hands.take().into());
        self.underway(Passed { fd, held, _in_hand })
    }

    /// `OP_RECEIVED`: the caller has received descriptors; tokens among them become what they stand
    /// for. Numbers of remote ones are inverted in the caller's list.
    pub(crate) fn handle_received(self: &Arc<Node>, call: DoorbellCall) {
        let result = self.received(&call);
        call.conclude(result.map(|()| 0));
    }

    fn received(&self, call: &DoorbellCall) -> Result<()> {
        let (pid, memory) = (call.caller()?.pid, call.memory());
        let count = usize::try_from(call.arg(2)).unwrap_or(usize::MAX);
        if count > DESCRIPTORS_MAX {
            return Err(Errno::INVAL);
        }
        for index in 0..count as u64 {
            let at = call.arg(1).wrapping_add(4 * index);
            let number = memory.read_plain::<u32>(at)?.cast_signed();
            let is_known = self.look(|state| state.locals.get(&pid)?.remote.get(number)).is_some();
            if is_known || self.exchange(call, number)? {
                memory.write(at, &(!number).to_ne_bytes())?;
            }
        }
        Ok(())
    }

    fn exchange(&self, call: &DoorbellCall, number: i32) -> Result<bool> {
        let received = call.take_fd(number)?;
        let Some((fd, remote, mirror)) = self.passing.look_up(&received) else {
            return Ok(false);
        };
        if number >= REMOTE_FDS {
            return Err(Errno::MFILE);
        }
        call.set_fd(fd.as_fd(), number)?;
        self.keep_passed(call, number, remote, mirror);
        Ok(true)
    }
}

fn nothing() -> Result<OwnedFd> {
    open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// Whether a descriptor's image makes sense in a message.
fn may_be_sent(image: &DescriptorImage) -> bool {
    !matches!(
        image.kind,
        DescriptorKind::PipeWrite { .. }
            | DescriptorKind::PipeRead { .. }
            | DescriptorKind::Stream { .. }
            | DescriptorKind::Epoll { .. }
    )
}

/// The object that an image leaves at its home.
fn object_of(image: &DescriptorImage) -> Option<ObjectId> {
    match image.kind {
        DescriptorKind::Remote { home, object, .. }
        | DescriptorKind::SharedFile { home, object, .. } => {
            Some(ObjectId { home, serial: object })
        }
        _ => None,
    }
}
