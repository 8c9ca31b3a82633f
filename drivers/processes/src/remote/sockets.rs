//! Home: socket calls of holders elsewhere (socket(7)).

use super::execute::{Done, value};
use super::hands::{Hands, InHand};
use super::homes::{Object, Purpose};
use super::waiting::Waiting;
use super::watch::ready_now;
use crate::node::Node;
use dunix_ids::{NodeId, Pid};
use dunix_linux::{Errno, Result, messages};
use dunix_wire::processes::image::{CALL_BYTES_MAX, RemoteKind};
use dunix_wire::processes::{CallExtra, CallOutcome, DescriptorImage};
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::Notify;

/// `MSG_*` of `sys/socket.h`.
const PEEK: i32 = 0x2;
const TRUNCATED_LENGTH: i32 = 0x20;
const DONT_WAIT: i32 = 0x40;
const WAIT_ALL: i32 = 0x100;
const CONTROL_TRUNCATED: i32 = 0x8;
const ERROR_QUEUE: i32 = 0x2000;
/// `SOCK_NONBLOCK` of accept4(2).
const NONBLOCKING: i32 = 0o4000;

fn is_stream(object: &Object) -> bool {
    sockopt::socket_type(&object.original) == Ok(SocketType::STREAM)
}

/// send(2) and kin: bytes, address and flags, with descriptors that go with the first bytes. A stream
/// takes all before it returns, unless it is cancelled.
pub(super) async fn send(
    object: &Arc<Object>,
    (data, address, flags): (&[u8], &[u8], i32),
    mut descriptors: &[BorrowedFd<'_>],
    cancelled: &Notify,
) -> Result<Done> {
    let mut waiting = Waiting::to_write(object, cancelled).for_socket();
    if flags & DONT_WAIT != 0 {
        waiting = waiting.at_once();
    }
    let socket = object.original.as_fd();
    let flags = flags | DONT_WAIT;
    let is_stream = is_stream(object);
    let mut sent = 0;
    loop {
        let rest = data.get(sent..).unwrap_or(&[]);
        let attempt = || messages::send_with(socket, rest, address, descriptors, flags);
        match waiting.until_done(attempt).await {
            Ok(count) => sent += count,
            Err(errno) if sent == 0 => return Err(errno),
            Err(_) => break,
        }
        descriptors = &[];
        if sent >= data.len() || !is_stream {
            break;
        }
    }
    Ok(value(sent))
}

impl Node {
    /// send(2) and kin with what a peer has described. From the descriptors on it is this node that
    /// lets them go.
    pub(super) async fn send(
        self: &Arc<Node>,
        object: &Arc<Object>,
        message: (&[u8], &[u8], i32),
        descriptors: Vec<DescriptorImage>,
        cancelled: &Notify,
    ) -> Result<Done> {
        if descriptors.is_empty() {
            return send(object, message, &[], cancelled).await;
        }
        let sent = self.send_with(object, message, descriptors, cancelled).await;
        let sent = sent.unwrap_or_else(super::execute::failed);
        Ok(CallOutcome { extra: CallExtra::Taken, ..sent })
    }

    async fn send_with(
        self: &Arc<Node>,
        object: &Arc<Object>,
        message: (&[u8], &[u8], i32),
        descriptors: Vec<DescriptorImage>,
        cancelled: &Notify,
    ) -> Result<Done> {
        let _in_hand = self.passing.hands().take();
        let descriptors = self.delivered(descriptors).await?;
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        send(object, message, &borrowed, cancelled).await
    }

    /// recv(2) and kin, with so many bytes and these flags.
    pub(super) async fn receive(
        self: &Arc<Node>,
        from: NodeId,
        object: &Arc<Object>,
        (bytes, flags): (u32, i32),
        cancelled: &Notify,
    ) -> Result<Done> {
        let hands = self.passing.hands();
        let (mut outcome, received, _in_hand) =
            receive(object, bytes, flags, (cancelled, hands)).await?;
        let CallExtra::Message { control, flags, descriptors, .. } = &mut outcome.extra else {
            return Ok(outcome);
        };
        for_credentials(control, |credentials| self.rename(credentials));
        if !received.is_empty() {
            match self.describe_received(from, received).await {
                Ok(mut offer) => {
                    *descriptors = std::mem::take(&mut offer.descriptors);
                    offer.was_taken();
                }
                Err(_) => *flags |= CONTROL_TRUNCATED,
            }
        }
        Ok(outcome)
    }

    /// Makes `struct ucred` of this node one of the fabric: who has no number there has 0.
    pub(super) fn rename(&self, credentials: &mut [u8; 12]) {
        /// Who has no number in a user namespace (`/proc/sys/kernel/overflowuid`).
        const NOBODY: u32 = 65534;
        let words = credentials.as_chunks_mut::<4>().0;
        let [pid, ids @ ..] = words else { return };
        let host = u32::from_ne_bytes(*pid);
        let named = self.look(|state| state.table.from_host(host));
        *pid = named.map_or(0, Pid::get).to_ne_bytes();
        for id in ids {
            let guest_id = u32::from_ne_bytes(*id).checked_sub(self.ids_base);
            *id = guest_id.unwrap_or(NOBODY).to_ne_bytes();
        }
    }
}

/// Calls `visit` for each `struct ucred` in control data (unix(7), `SCM_CREDENTIALS`).
fn for_credentials(control: &mut [u8], mut visit: impl FnMut(&mut [u8; 12])) {
    const HEADER_BYTES: usize = 16;
    /// `SOL_SOCKET`, `SCM_CREDENTIALS`.
    const KIND: [u8; 8] = [1, 0, 0, 0, 2, 0, 0, 0];
    let mut at = 0;
    while let Some(header) = control.get(at..at + HEADER_BYTES) {
        let length = header.first_chunk().map_or(0, |w| u32::from_ne_bytes(*w)) as usize;
        let is_it = header[8..] == KIND;
        let payload = control.get_mut(at + HEADER_BYTES..).and_then(<[u8]>::first_chunk_mut);
        if length < HEADER_BYTES {
            return;
        }
        if let Some(credentials) = payload.filter(|_| is_it) {
            visit(credentials);
        }
        at += length.next_multiple_of(8);
    }
}

/// recv(2) and kin, with the descriptors of the message, which are in hand.
async fn receive(
    object: &Arc<Object>,
    bytes: u32,
    flags: i32,
    (cancelled, hands): (&Notify, &Arc<Hands>),
) -> Result<(Done, Vec<OwnedFd>, Option<InHand>)> {
    let mut waiting = Waiting::to_read(object, cancelled).for_socket();
    if flags & (DONT_WAIT | ERROR_QUEUE) != 0 {
        waiting = waiting.at_once();
    }
    let wants_all = flags & WAIT_ALL != 0 && flags & PEEK == 0 && is_stream(object);
    let socket = object.original.as_fd();
    let flags = (flags & !WAIT_ALL) | DONT_WAIT;
    let mut data = vec![0; (bytes as usize).min(CALL_BYTES_MAX)];
    let mut filled = 0;
    loop {
        let attempt = || {
            let in_hand = hands.take();
            let message = messages::receive(socket, &mut data[filled..], flags)?;
            let in_hand = Some(in_hand).filter(|_| !message.descriptors.is_empty());
            Ok((message, in_hand))
        };
        let (message, in_hand) = match waiting.until_done(attempt).await {
            Ok(message) => message,
            Err(errno) if filled == 0 => return Err(errno),
            // What has come already is not lost.
            Err(_) => {
                let done = with_data(data, filled, filled, CallExtra::None);
                return Ok((done, Vec::new(), None));
            }
        };
        let got = message.bytes.min(data.len() - filled);
        filled += got;
        // What has control data ends a wait for all bytes.
        let is_plain = message.control.is_empty() && message.descriptors.is_empty();
        if wants_all && is_plain && got > 0 && filled < data.len() {
            continue;
        }
        let (address, control, flags_now) = (message.address, message.control, message.flags);
        let descriptors = Vec::new();
        let extra = CallExtra::Message { address, control, flags: flags_now, descriptors };
        let is_length = flags & TRUNCATED_LENGTH != 0 && filled == got;
        let result = if is_length { message.bytes } else { filled };
        return Ok((with_data(data, filled, result, extra), message.descriptors, in_hand));
    }
}

fn with_data(mut data: Vec<u8>, filled: usize, result: usize, extra: CallExtra) -> Done {
    data.truncate(filled);
    CallOutcome { data, extra, ..value(result) }
}

impl Node {
    /// accept4(2): the connection is an object of this node, for the caller's.
    pub(super) async fn accept(
        &self,
        object: &Arc<Object>,
        from: NodeId,
        flags: i32,
        cancelled: &Notify,
    ) -> Result<Done> {
        let waiting = Waiting::to_read(object, cancelled).for_socket();
        const READY: u16 = 0x1 | 0x8 | 0x10;
        let is_nonblocking = flags & NONBLOCKING != 0;
        // accept(2) has no flag not to wait.
        let attempt = || {
            object
                .in_turn(waiting.waits(), READY, |fd| messages::accept(fd.as_fd(), is_nonblocking))
        };
        let (connection, address) = waiting.until_done(attempt).await?;
        let ready = ready_now(&connection);
        let purpose = Purpose::Calls(RemoteKind::Socket);
        let serial = self.homes.keep(Object::new(connection, purpose, Vec::new()), from)?;
        let extra = CallExtra::Accepted { object: serial, address, ready };
        Ok(CallOutcome { extra, ..value(0) })
    }
}

/// connect(2). A call that is cancelled goes on; made anew, it waits for the same connection.
pub(super) async fn connect(
    object: &Arc<Object>,
    address: &[u8],
    cancelled: &Notify,
) -> Result<Done> {
    let waiting = Waiting::to_write(object, cancelled).for_socket();
    let socket = &object.original;
    if sockopt::socket_domain(socket)? == AddressFamily::UNIX {
        // Its peer is of this node, and takes it or does not at once.
        messages::connect(socket.as_fd(), address)?;
        return Ok(value(0));
    }
    let begun = begin_connect(object, waiting.waits(), address);
    match begun {
        Err(Errno::INPROGRESS | Errno::ALREADY) if waiting.waits() => {}
        Err(Errno::ISCONN) if object.is_connecting.swap(false, Ordering::AcqRel) => {
            return Ok(value(0));
        }
        other => return other.map(|()| value(0)),
    }
    object.is_connecting.store(true, Ordering::Release);
    const DECIDED: u16 = 0x4 | 0x8 | 0x10;
    let decided = || if ready_now(socket) & DECIDED == 0 { Err(Errno::AGAIN) } else { Ok(()) };
    waiting.until_done(decided).await?;
    object.is_connecting.store(false, Ordering::Release);
    // A further call takes the outcome, as the one that waits in the kernel would have.
    messages::connect(socket.as_fd(), address)?;
    Ok(value(0))
}

/// Starts to connect without waiting for the peer.
fn begin_connect(object: &Object, waits: bool, address: &[u8]) -> Result<()> {
    let socket = &object.original;
    let _turn = crate::node::lock(&object.turn);
    let flags = rustix::fs::fcntl_getfl(socket)?;
    if waits {
        rustix::fs::fcntl_setfl(socket, flags | OFlags::NONBLOCK)?;
    }
    let begun = messages::connect(socket.as_fd(), address);
    if waits {
        rustix::fs::fcntl_setfl(socket, flags)?;
    }
    begun
}
