//! Unix sockets by name (unix(7)): the file is the fabric's, the socket behind it one node's, which the
//! daemon finds. Abstract names are the fabric's, too.

use super::Answer;
use super::remote::{self, Attempt};
use super::rest::Transfer;
use crate::arch::frame::Context;
use crate::arch::gadget::NOT_BEGUN;
use crate::doorbell::{ring, ring_until_done};
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::thread::Thread;
use dunix_guest_abi::doorbell::{OP_NAME_BOUND, OP_NAME_CLAIM};
use dunix_shim_core::{Errno, nr};

const AF_UNIX: u8 = 1;
/// Bytes of `struct sockaddr_un`.
const ADDRESS_BYTES: usize = 110;
/// Where the name begins.
const NAME_AT: usize = 2;
const SOL_SOCKET: u64 = 1;
const SO_TYPE: u64 = 3;
const SO_PASSCRED: u64 = 16;
const F_GETFD: u64 = 1;
const F_SETFD: u64 = 2;
const F_GETFL: u64 = 3;
const O_NONBLOCK: u64 = 0o4000;
const O_NOFOLLOW: u64 = 0o400_000;
const O_PATH: u64 = 0o10_000_000;
/// How often a connection is tried that a move interrupts each time; then it is `ECONNREFUSED`.
const TURNS_MAX: u32 = 64;

/// The name in an address.
pub(crate) struct Name {
    /// The address, and a zero behind it.
    address: [u8; ADDRESS_BYTES + 1],
}

impl Name {
    /// The name that bind(2) or connect(2) is given, if it is one of a Unix socket.
    pub(crate) fn of(args: [u64; 6]) -> Option<Name> {
        let bytes =
            usize::try_from(args[2]).ok().filter(|bytes| (3..=ADDRESS_BYTES).contains(bytes))?;
        let mut address = [0; ADDRESS_BYTES + 1];
        guest::read_bytes(GuestAddr(args[1]), &mut address[..bytes]).ok()?;
        (address[..NAME_AT] == [AF_UNIX, 0]).then_some(Name { address })
    }

    fn is_abstract(&self) -> bool {
        self.address[NAME_AT] == 0
    }

    /// A descriptor that stands for the file.
    fn handle(&self, flags: u64) -> Result<u64, Errno> {
        let path = self.address[NAME_AT..].as_ptr() as u64;
        let args = [host::AT_FDCWD, path, O_PATH | host::O_CLOEXEC | flags, 0, 0, 0];
        // SAFETY: looks up a path that ends.
        unsafe { host::call(nr::OPENAT, args) }
    }
}

fn close(fd: u64) {
    // SAFETY: a descriptor of the shim's own.
    let _ = unsafe { host::call(nr::CLOSE, [fd, 0, 0, 0, 0, 0]) };
}

/// bind(2).
pub(crate) fn bind(thread: &Thread, context: &Context, args: [u64; 6], name: &Name) -> Answer {
    if name.is_abstract() {
        let ask = [args[0], args[1], args[2], 0];
        match ring_until_done(thread, context.mask, OP_NAME_CLAIM, ask) {
            Err(Some(Errno::EADDRINUSE)) => return Answer::from(Err(Errno::EADDRINUSE)),
            Err(None) => return Answer::Interrupted,
            // What is wrong with the call, the host finds out.
            _ => {}
        }
    }
    if remote::takes(thread, nr::BIND, &args) {
        // By a move meanwhile.
        return remote::execute(thread, context, nr::BIND, args);
    }
    // SAFETY: the guest's own call; does not wait.
    let result = unsafe { host::call(nr::BIND, args) };
    if name.is_abstract() {
        let _ = ring(OP_NAME_CLAIM, [args[0], args[1], args[2], 1]);
    }
    if result.is_ok()
        && !name.is_abstract()
        && let Ok(handle) = name.handle(O_NOFOLLOW)
    {
        // Who is not told of connects on this node only.
        let _ = ring(OP_NAME_BOUND, [handle, 0, 0, 0]);
        close(handle);
    }
    Answer::from(result)
}

/// connect(2).
pub(crate) fn connect(thread: &Thread, context: &Context, args: [u64; 6]) -> Answer {
    let refused = Errno::ECONNREFUSED.as_result();
    let Some(name) = Name::of(args) else { return Answer::PassOn };
    for _ in 0..TURNS_MAX {
        let result = call(thread, context, nr::CONNECT, args);
        if result != refused {
            return Answer::Return(result);
        }
        match elsewhere(thread, context, args, &name) {
            Attempt::Ended(result) => return Answer::Return(result),
            Attempt::Here(_) => {}
        }
    }
    Answer::Return(refused)
}

/// Issues a call on a socket, wherever that is.
fn call(thread: &Thread, context: &Context, number: u64, args: [u64; 6]) -> i64 {
    if remote::takes(thread, number, &args) {
        return remote::run(thread, context.mask, number, args);
    }
    let transfer = Transfer::new(thread, context.mask, number, args, host::now());
    // SAFETY: the guest's own call, or one that asks about its socket.
    unsafe { transfer.complete(NOT_BEGUN) }
}

/// Lets the node connect the socket that has the name.
fn elsewhere(thread: &Thread, context: &Context, args: [u64; 6], name: &Name) -> Attempt {
    let refused = Attempt::Ended(Errno::ECONNREFUSED.as_result());
    let option = |option: u64| {
        let (mut value, mut bytes) = (0_u32, 4_u32);
        let at = [&raw mut value as u64, &raw mut bytes as u64];
        let args = [args[0], SOL_SOCKET, option, at[0], at[1], 0];
        let result = call(thread, context, nr::GETSOCKOPT, args);
        // SAFETY: our own; volatile, because the daemon writes it behind the compiler's back.
        (result == 0).then(|| unsafe { (&raw const value).read_volatile() })
    };
    let (Some(kind), Some(passes)) = (option(SO_TYPE), option(SO_PASSCRED)) else { return refused };
    if has_name(thread, context, args[0]) {
        return refused;
    }
    let flags = call(thread, context, nr::FCNTL, [args[0], F_GETFL, 0, 0, 0, 0]).unsigned_abs();
    let flags = u64::from(flags & O_NONBLOCK != 0) | u64::from(passes != 0) << 1;
    let handle = match name.is_abstract() {
        true => None,
        false => match name.handle(0) {
            Ok(handle) => Some(handle),
            Err(error) => return Attempt::Ended(error.as_result()),
        },
    };
    let fd = host::int_arg(args[0]);
    // SAFETY: asks for the flag only.
    let close_on_exec = unsafe { host::call(nr::FCNTL, [args[0], F_GETFD, 0, 0, 0, 0]) };
    let wish = [args[1], args[2], handle.unwrap_or(u64::MAX), u64::from(kind), flags];
    let attempt = remote::connect_named(thread, context.mask, fd, wish);
    if let Some(handle) = handle {
        close(handle);
    }
    let Attempt::Ended(result) = attempt else { return attempt };
    if result < 0 {
        return attempt;
    }
    if result == 0 {
        thread.process().remote.insert(fd);
        // Without it, calls that are native otherwise meet the placeholder.
        let _ = crate::filter::widen();
    } else {
        thread.process().remote.remove(fd);
    }
    let args = [args[0], F_SETFD, close_on_exec.unwrap_or(0), 0, 0, 0];
    // SAFETY: sets the flag only.
    let _ = unsafe { host::call(nr::FCNTL, args) };
    Attempt::Ended(0)
}

/// Whether a socket has a name of its own.
fn has_name(thread: &Thread, context: &Context, fd: u64) -> bool {
    let (mut address, mut bytes) = ([0_u8; ADDRESS_BYTES], 110_u32);
    let at = [address.as_mut_ptr() as u64, &raw mut bytes as u64];
    let result = call(thread, context, nr::GETSOCKNAME, [fd, at[0], at[1], 0, 0, 0]);
    // SAFETY: our own; volatile, because the daemon writes it behind the compiler's back.
    result == 0 && unsafe { (&raw const bytes).read_volatile() } as usize > NAME_AT
}
