//! Sockets: ports and credentials are the fabric's.

use super::receive::{CONTROL_AT, CONTROL_BYTES_AT, PARTS_AT, VECTOR_AT};
use super::rest::Transfer;
use super::{Answer, receive, remote};
use crate::arch::frame::Context;
use crate::arch::gadget::NOT_BEGUN;
use crate::doorbell::{ring, ring_until_done};
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::thread::Thread;
use dunix_guest_abi::doorbell::{OP_BIND, OP_BOUND, OP_CONNECT, REMOTE_FD_WORDS};
use dunix_shim_core::{Errno, nr};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Control messages that the shim looks through; a longer rest passes unchanged.
const CONTROL_BYTES_MAX: usize = 1024;
const SOL_SOCKET: u32 = 1;
const SO_PEERCRED: u32 = 17;
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
        nr::SENDMSG => send_message(thread, context, args),
        nr::RECVMSG => receive_message(thread, context, args),
        _ => None,
    }
}

/// Whether an address is one of the machine's own: loopback or wildcard.
fn is_own_address(at: GuestAddr, bytes: u64) -> bool {
    let mut address = [0u8; 28];
    let bytes = usize::try_from(bytes).unwrap_or(0).min(address.len());
    if bytes < 8 || guest::read_bytes(at, &mut address[..bytes]).is_err() {
        return false;
    }
    match address[0] {
        AF_INET => address[4] == 127 || address[4..8] == [0; 4],
        AF_INET6 => {
            let host = &address[8..24];
            let is_low = host[..15] == [0; 15] && host[15] <= 1;
            is_low || (host[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff] && host[12] == 127)
        }
        _ => false,
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
    if !is_own_address(GuestAddr(args[1]), args[2]) {
        return None;
    }
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
    if !is_own_address(GuestAddr(args[1]), args[2]) {
        return None;
    }
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

/// Calls `visit` with the offset of each `SCM_CREDENTIALS` payload in a control buffer.
fn for_credentials(control: &mut [u8], mut visit: impl FnMut(&mut [u8])) {
    let mut at = 0;
    while let Some(header) = control.get(at..at + CMSG_HEADER_BYTES) {
        let word = |from: usize| {
            u32::from_le_bytes([header[from], header[from + 1], header[from + 2], header[from + 3]])
        };
        let (len, level, kind) = (word(0) as usize, word(8), word(12));
        if len < CMSG_HEADER_BYTES {
            return;
        }
        let payload = at + CMSG_HEADER_BYTES;
        if level == SOL_SOCKET
            && kind == SCM_CREDENTIALS
            && let Some(pid) = control.get_mut(payload..payload + 4)
        {
            visit(pid);
        }
        at += (len + 7) & !7;
    }
}

fn control_of(message: &[u64; 7]) -> Option<(GuestAddr, usize)> {
    let bytes = usize::try_from(message[CONTROL_BYTES_AT]).ok()?.min(CONTROL_BYTES_MAX);
    (message[CONTROL_AT] != 0 && bytes >= CMSG_HEADER_BYTES)
        .then_some((GuestAddr(message[CONTROL_AT]), bytes))
}

fn send_message(thread: &Thread, context: &Context, mut args: [u64; 6]) -> Option<Answer> {
    let mut message: [u64; 7] = guest::read(GuestAddr(args[1])).ok()?;
    let (at, bytes) = control_of(&message)?;
    // Descriptors may be among it: from now on others may share what was private.
    thread.process().private.set_words(&[0; REMOTE_FD_WORDS]);
    let mut control = [0u8; CONTROL_BYTES_MAX];
    let control = &mut control[..bytes];
    guest::read_bytes(at, control).ok()?;
    let mut is_changed = false;
    for_credentials(control, |pid| {
        let id = u32::from_le_bytes([pid[0], pid[1], pid[2], pid[3]]);
        if let Ok(host) = super::other::to_host(u64::from(id)) {
            pid.copy_from_slice(&host::uint_arg(host).to_le_bytes());
            is_changed = true;
        }
    });
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
    if result >= 0 && has_control {
        let _ = translate_received(GuestAddr(args[1]));
    }
    Some(Answer::Return(result))
}

fn translate_received(at: GuestAddr) -> Result<(), Errno> {
    let message: [u64; 7] = guest::read(at)?;
    let Some((at, bytes)) = control_of(&message) else { return Ok(()) };
    let mut control = [0u8; CONTROL_BYTES_MAX];
    let control = &mut control[..bytes];
    guest::read_bytes(at, control)?;
    let mut is_changed = false;
    for_credentials(control, |pid| {
        let host = u32::from_le_bytes([pid[0], pid[1], pid[2], pid[3]]);
        pid.copy_from_slice(&super::other::from_host(host).to_le_bytes());
        is_changed = true;
    });
    if is_changed { guest::write_bytes(at, control) } else { Ok(()) }
}
