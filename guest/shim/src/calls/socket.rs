//! Sockets: ports and credentials are the fabric's.

use super::receive::{CONTROL_AT, CONTROL_BYTES_AT, PARTS_AT, VECTOR_AT};
use super::rest::Transfer;
use super::{Answer, receive, remote, signalfd, unix};
use crate::arch::frame::Context;
use crate::arch::gadget::{NOT_BEGUN, Request};
use crate::doorbell::{self, ring, ring_until_done};
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::process::has_daemon;
use crate::thread::Thread;
use dunix_guest_abi::doorbell::{
    OP_BIND, OP_BOUND, OP_CONNECT, OP_PASS, OP_RECEIVED, OP_SEND, REMOTE_FD_WORDS,
};
use dunix_shim_core::{Errno, nr};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Control messages that the shim looks through; a longer rest passes unchanged.
const CONTROL_BYTES_MAX: usize = 4096;
/// Most descriptors that one message carries (`SCM_MAX_FD`).
const DESCRIPTORS_MAX: usize = 253;
const SOL_SOCKET: u32 = 1;
const SO_PEERCRED: u32 = 17;
const SCM_RIGHTS: u32 = 1;
const SCM_CREDENTIALS: u32 = 2;
const CMSG_HEADER_BYTES: usize = 16;

/// Handles a call on sockets.
pub(crate) fn try_handle(
    thread: &Thread,
    context: &Context,
    number: u64,
    args: [u64; 6],
) -> Option<Answer> {
    match number {
        nr::BIND => bind(thread, context, args),
        nr::LISTEN => {
            // SAFETY: does not wait.
            let result = unsafe { host::call(number, args) };
            if result.is_ok() {
                let _ = ring(OP_BOUND, [args[0], 0, 0, 0]);
            }
            Some(result.into())
        }
        nr::CONNECT => connect(thread, context, args),
        nr::GETSOCKOPT => Some(peer_credentials(args).into()),
        nr::SENDTO | nr::SENDMMSG => prepare_send(thread, context, number, args),
        nr::SENDMSG => prepare_send(thread, context, number, args)
            .or_else(|| send_message(thread, context, args)),
        nr::RECVMSG => receive_message(thread, context, args),
        _ => None,
    }
}

/// The port of an address if it is one of the machine's own: loopback or wildcard.
fn own_port(at: GuestAddr, bytes: u64) -> Option<u16> {
    let mut address = [0u8; 28];
    let bytes = usize::try_from(bytes).unwrap_or(0).min(address.len());
    if bytes < 8 || guest::read_bytes(at, &mut address[..bytes]).is_err() {
        return None;
    }
    let is_own = match address[0] {
        AF_INET => address[4] == 127 || address[4..8] == [0; 4],
        AF_INET6 => {
            let host = &address[8..24];
            let is_low = host[..15] == [0; 15] && host[15] <= 1;
            is_low || (host[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff] && host[12] == 127)
        }
        _ => false,
    };
    is_own.then(|| u16::from_be_bytes([address[2], address[3]]))
}

/// Whether the daemon must be asked before a datagram goes to an address, and for which port.
fn unsettled_port(at: GuestAddr, bytes: u64) -> Option<u16> {
    if at.0 == 0 {
        return None;
    }
    own_port(at, bytes).filter(|port| *port != 0 && !doorbell::is_settled(*port))
}

/// Whether a sendto(2) with this address is the kernel's alone.
pub(crate) fn goes_at_once(address: u64, bytes: u64) -> bool {
    !has_daemon() || unsettled_port(GuestAddr(address), bytes).is_none()
}

/// Before sendto(2), sendmsg(2) or sendmmsg(2): has datagrams get to receivers at other nodes. An answer ends
/// the call.
fn prepare_send(thread: &Thread, context: &Context, number: u64, args: [u64; 6]) -> Option<Answer> {
    /// Bytes of `struct mmsghdr`.
    const MESSAGE_BYTES: u64 = 64;
    /// Most messages of a call (`UIO_MAXIOV`).
    const MESSAGES_MAX: u64 = 1024;
    let ask_for = |address: u64, bytes: u64| {
        let port = unsettled_port(GuestAddr(address), bytes)?;
        ask(thread, context, OP_SEND, [u64::from(port), 0, 0, 0, 0, 0]).err()
    };
    let ask_for_message = |at: GuestAddr| {
        let [address, bytes] = guest::read::<[u64; 2]>(at).ok()?;
        ask_for(address, u64::from(host::uint_arg(bytes)))
    };
    match number {
        nr::SENDTO => ask_for(args[4], args[5]),
        nr::SENDMSG => ask_for_message(GuestAddr(args[1])),
        _ => (0..u64::from(host::uint_arg(args[2])).min(MESSAGES_MAX))
            .find_map(|index| ask_for_message(GuestAddr(args[1]).plus(index * MESSAGE_BYTES))),
    }
}

/// Asks the port registry; an answer ends the call. A daemon without one says `ENOSYS`: the host's
/// call goes on.
fn ask(thread: &Thread, context: &Context, op: u64, args: [u64; 6]) -> Result<u64, Answer> {
    match ring_until_done(thread, context.mask, op, [args[0], args[1], args[2], 0]) {
        Ok(value) => Ok(value),
        Err(Some(Errno::ENOSYS)) => Ok(0),
        Err(Some(error)) => Err(Answer::from(Err(error))),
        Err(None) => Err(Answer::Interrupted),
    }
}

fn bind(thread: &Thread, context: &Context, args: [u64; 6]) -> Option<Answer> {
    if let Some(name) = unix::Name::of(args) {
        return Some(unix::bind(thread, context, args, &name));
    }
    own_port(GuestAddr(args[1]), args[2])?;
    match ask(thread, context, OP_BIND, args) {
        Ok(0) => {}
        Ok(_) => return Some(Answer::Return(0)),
        Err(answer) => return Some(answer),
    }
    if remote::takes(thread, nr::BIND, &args) {
        // By a move while the registry was asked.
        return Some(remote::execute(thread, context, nr::BIND, args));
    }
    // SAFETY: does not wait.
    Some(unsafe { host::call(nr::BIND, args) }.into())
}

fn connect(thread: &Thread, context: &Context, args: [u64; 6]) -> Option<Answer> {
    own_port(GuestAddr(args[1]), args[2])?;
    ask(thread, context, OP_CONNECT, args).err()
}

/// getsockopt(2) of `SO_PEERCRED`: the peer's PID comes first in `struct ucred`.
fn peer_credentials(args: [u64; 6]) -> Result<u64, Errno> {
    // SAFETY: the guest's own call; does not wait.
    let result = unsafe { host::call(nr::GETSOCKOPT, args) }?;
    if [args[1], args[2]].map(host::uint_arg) == [SOL_SOCKET, SO_PEERCRED] {
        let at = GuestAddr(args[3]);
        let pid: u32 = guest::read(at)?;
        guest::write(at, &super::other::from_host(pid))?;
    }
    Ok(result)
}

/// Calls `visit` with the kind and the payload of each message of `SOL_SOCKET` in a control buffer.
fn for_messages(control: &mut [u8], mut visit: impl FnMut(u32, &mut [u8])) {
    let mut at = 0;
    while let Some(header) = control.get(at..at + CMSG_HEADER_BYTES) {
        let word = |from: usize| {
            u32::from_le_bytes([header[from], header[from + 1], header[from + 2], header[from + 3]])
        };
        let (len, level, kind) = (word(0) as usize, word(8), word(12));
        if len < CMSG_HEADER_BYTES {
            return;
        }
        let end = control.len().min(at.saturating_add(len));
        if level == SOL_SOCKET
            && let Some(payload) = control.get_mut(at + CMSG_HEADER_BYTES..end)
        {
            visit(kind, payload);
        }
        at = at.saturating_add(len).next_multiple_of(8);
    }
}

fn word_of(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |word| u32::from_le_bytes(*word))
}

fn control_of(message: &[u64; 7]) -> Option<(GuestAddr, usize)> {
    let bytes = usize::try_from(message[CONTROL_BYTES_AT]).ok()?.min(CONTROL_BYTES_MAX);
    (message[CONTROL_AT] != 0 && bytes >= CMSG_HEADER_BYTES)
        .then_some((GuestAddr(message[CONTROL_AT]), bytes))
}

/// Notes that others may share what was private, if a message may carry descriptors.
pub(crate) fn share(thread: &Thread, message: GuestAddr) {
    if guest::read(message).is_ok_and(|message| control_of(&message).is_some()) {
        thread.process().private.set_words(&[0; REMOTE_FD_WORDS]);
    }
}

/// Tokens of the descriptors that a message carries and that live at another node.
struct Tokens {
    fds: [i32; DESCRIPTORS_MAX],
    count: usize,
}

impl Tokens {
    /// Puts a token in the place of a descriptor.
    fn replace(&mut self, number: &mut [u8]) -> Result<(), Errno> {
        let slot = self.fds.get_mut(self.count).ok_or(Errno::EINVAL)?;
        let token = ring(OP_PASS, [u64::from(word_of(number)), 0, 0, 0])?;
        *slot = host::int_arg(token);
        self.count += 1;
        number.copy_from_slice(&slot.to_le_bytes());
        Ok(())
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        for fd in self.fds.iter().take(self.count) {
            // SAFETY: a descriptor of the shim's own.
            let _ = unsafe { host::call(nr::CLOSE, [host::fd_arg(*fd), 0, 0, 0, 0, 0]) };
        }
    }
}

#[inline(never)] // Its buffer would be on the stack of every call.
fn send_message(thread: &Thread, context: &Context, mut args: [u64; 6]) -> Option<Answer> {
    let mut message: [u64; 7] = guest::read(GuestAddr(args[1])).ok()?;
    let (at, bytes) = control_of(&message)?;
    thread.process().private.set_words(&[0; REMOTE_FD_WORDS]);
    let mut control = [0u8; CONTROL_BYTES_MAX];
    let control = &mut control[..bytes];
    guest::read_bytes(at, control).ok()?;
    let mut tokens = Tokens { fds: [0; DESCRIPTORS_MAX], count: 0 };
    let (mut is_changed, mut outcome) = (false, Ok(()));
    for_messages(control, |kind, payload| match kind {
        SCM_CREDENTIALS => {
            if let Some(pid) = payload.first_chunk_mut::<4>()
                && let Ok(host) = super::other::to_host(u64::from(word_of(pid)))
            {
                *pid = host::uint_arg(host).to_le_bytes();
                is_changed = true;
            }
        }
        SCM_RIGHTS => {
            for number in payload.chunks_exact_mut(4) {
                if thread.process().remote.has(word_of(number).cast_signed()) {
                    outcome = outcome.and_then(|()| tokens.replace(number));
                    is_changed = true;
                }
            }
        }
        _ => {}
    });
    if let Err(error) = outcome {
        return Some(Answer::from(Err(error)));
    }
    if !is_changed || message[CONTROL_BYTES_AT] != bytes as u64 {
        return None;
    }
    message[CONTROL_AT] = control.as_ptr() as u64;
    args[1] = message.as_ptr() as u64;
    let transfer = Transfer::new(thread, context.mask, nr::SENDMSG, args, host::now())
        .with_vector(message[VECTOR_AT], message[PARTS_AT]);
    // SAFETY: the guest's own call with a control buffer of the shim's.
    Some(Answer::Return(unsafe { transfer.complete(NOT_BEGUN) }))
}

fn receive_message(thread: &Thread, context: &Context, args: [u64; 6]) -> Option<Answer> {
    let before: [u64; 7] = guest::read(GuestAddr(args[1])).ok()?;
    let has_control = control_of(&before).is_some();
    if !has_control && !receive::wants_all(args[2]) {
        return None;
    }
    // SAFETY: the guest's own call.
    let result = unsafe { receive::message(thread, context.mask, args) }?;
    Some(Answer::Return(result))
}

/// Sees to what a call of the guest's has received from queues of this node, if it was one that receives messages.
pub(crate) fn received_here(thread: &Thread, request: &Request, result: i64) {
    const MESSAGE_BYTES: u64 = 64;
    let [_, at, second, fourth, ..] = request.args;
    let (messages, flags) = match request.nr {
        nr::RECVMSG => (1, second),
        nr::RECVMMSG => (result.max(0).unsigned_abs(), fourth),
        _ => return,
    };
    if result < 0 || !has_daemon() {
        return;
    }
    for index in 0..messages {
        let at = GuestAddr(at).plus(index * MESSAGE_BYTES);
        let _ = received(thread, at, flags, Sender::Here);
    }
}

/// Whose numbers the control data of a received message has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    /// The host's: a queue of this node.
    Here,
    /// The fabric's: a queue at another node, from which the daemon has installed descriptors.
    Elsewhere,
}

/// Makes what came with a message the fabric's: credentials and descriptors.
///
/// # Errors
/// `EFAULT`.
#[inline(never)] // Its buffer would be on the stack of every call.
pub(crate) fn received(
    thread: &Thread,
    at: GuestAddr,
    flags: u64,
    sender: Sender,
) -> Result<(), Errno> {
    const MSG_CMSG_CLOEXEC: u64 = 0x4000_0000;
    let message: [u64; 7] = guest::read(at)?;
    let Some((at, bytes)) = control_of(&message) else { return Ok(()) };
    let mut control = [0u8; CONTROL_BYTES_MAX];
    let control = &mut control[..bytes];
    guest::read_bytes(at, control)?;
    let mut is_changed = false;
    for_messages(control, |kind, payload| match kind {
        SCM_CREDENTIALS if sender == Sender::Here => {
            if let Some(pid) = payload.first_chunk_mut::<4>() {
                *pid = super::other::from_host(word_of(pid)).to_le_bytes();
                is_changed = true;
            }
        }
        SCM_RIGHTS => adopt(thread, payload, flags & MSG_CMSG_CLOEXEC != 0, sender),
        _ => {}
    });
    if is_changed { guest::write_bytes(at, control) } else { Ok(()) }
}

/// Makes received descriptors what they are: tokens become what they stand for.
fn adopt(thread: &Thread, payload: &[u8], is_cloexec: bool, sender: Sender) {
    let mut list = [0i32; DESCRIPTORS_MAX];
    let mut count = 0;
    for (slot, number) in list.iter_mut().zip(payload.chunks_exact(4)) {
        *slot = word_of(number).cast_signed();
        count += 1;
    }
    let _ = adopt_all(thread, &mut list[..count], is_cloexec, sender);
}

/// The same for a descriptor that the daemon took from another process; it is closed if it cannot be one of the guest's.
///
/// # Errors
/// `EMFILE`, what the daemon answers.
pub(crate) fn adopt_taken(thread: &Thread, fd: i32) -> Result<u64, Errno> {
    let number = host::fd_arg(fd);
    adopt_all(thread, &mut [fd], true, Sender::Here).inspect_err(|_| {
        // SAFETY: the guest has not seen it.
        let _ = unsafe { host::call(nr::CLOSE, [number, 0, 0, 0, 0, 0]) };
    })?;
    signalfd::note(thread, fd);
    Ok(number)
}

fn adopt_all(
    thread: &Thread,
    list: &mut [i32],
    is_cloexec: bool,
    sender: Sender,
) -> Result<(), Errno> {
    const F_SETFD: u64 = 2;
    for fd in &*list {
        thread.process().private.remove(*fd);
    }
    let result = ring(OP_RECEIVED, [list.as_mut_ptr() as u64, list.len() as u64, 0, 0]);
    for listed in list {
        // SAFETY: our list; volatile, because the daemon writes it behind the compiler's back.
        let listed = unsafe { (&raw const *listed).read_volatile() };
        let (number, is_remote) = if listed < 0 { (!listed, true) } else { (listed, false) };
        if is_remote {
            thread.process().remote.insert(number);
            // Without it, calls that are native otherwise meet the placeholder.
            let _ = crate::filter::widen();
        }
        if is_remote || sender == Sender::Elsewhere {
            let args = [host::fd_arg(number), F_SETFD, u64::from(is_cloexec), 0, 0, 0];
            // SAFETY: sets the flag only.
            let _ = unsafe { host::call(nr::FCNTL, args) };
        }
    }
    result.map(|_| ())
}
