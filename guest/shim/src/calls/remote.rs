//! Calls on descriptors whose object lives at another node: the home executes them (`OP_REMOTE`).

use super::rest::Transfer;
use super::socket::{self, Sender};
use super::{Answer, status, terminal};
use crate::arch::frame::{Context, SigInfo};
use crate::arch::gadget;
use crate::doorbell::{Wake, ring_raw, slot, wait_event};
use crate::guest::{self, GuestAddr};
use crate::host;
use crate::park;
use crate::restart;
use crate::signal::deliver;
use crate::thread::Thread;
use core::sync::atomic::Ordering;
use dunix_guest_abi::doorbell::{
    CONNECT_NAMED, OP_REMOTE, OP_REMOTE_CANCEL, REMOTE_BACKGROUND, REMOTE_NOT, RemoteCall,
};
use dunix_shim_core::signal::{SIGPIPE, SigSet};
use dunix_shim_core::{Errno, nr, table};

/// `EPIPE`, after which a writer also gets SIGPIPE.
const EPIPE: i64 = -32;

/// Whether a call is the home's to execute, its descriptor being one of another node. Files that are open
/// here too come back from the daemon ([`REMOTE_NOT`]).
pub(crate) fn takes(thread: &Thread, number: u64, args: &[u64; 6]) -> bool {
    table::is_at_home(number, args[1]) && thread.process().remote.has(host::int_arg(args[0]))
}

/// Whether the call moves bytes inside the kernel, which cannot reach another node's descriptor;
/// programs fall back to read and write on `EINVAL`.
pub(crate) fn is_refused(thread: &Thread, number: u64, args: [u64; 6]) -> bool {
    let remote = &thread.process().remote;
    let is = |index: usize| remote.has(host::int_arg(args[index]));
    match number {
        nr::TEE => is(0) || is(1),
        nr::SPLICE | nr::COPY_FILE_RANGE => is(0) || is(2),
        nr::VMSPLICE => is(0),
        _ => false,
    }
}

/// How a call at the home ended.
enum Outcome {
    /// With this raw result.
    Done(i64),
    /// A signal came before it had any effect.
    Interrupted,
    /// It had no effect, and a move has brought the process to the object: the call is the host's.
    Here,
}

/// Lets the home execute a call that it [takes](takes).
pub(crate) fn execute(thread: &Thread, context: &Context, number: u64, args: [u64; 6]) -> Answer {
    Answer::Return(run(thread, context.mask, number, args))
}

/// Lets the home execute a call, or the host what remains of it: the result for the guest, or
/// [`gadget::NOT_BEGUN`] if the guest is to make it anew after its handler.
pub(crate) fn run(thread: &Thread, mask: SigSet, number: u64, args: [u64; 6]) -> i64 {
    let done = match attempt(thread, mask, number, args) {
        Attempt::Ended(result) => return result,
        Attempt::Here(done) => done,
    };
    let transfer = Transfer::new(thread, mask, number, args, host::now());
    // SAFETY: the guest's own call.
    unsafe { transfer.complete(if done > 0 { done.cast_signed() } else { gadget::NOT_BEGUN }) }
}

/// What became of a call that the home was to execute.
pub(crate) enum Attempt {
    /// It ended, with the result for the guest or [`gadget::NOT_BEGUN`].
    Ended(i64),
    /// The object is here: what remains after so many bytes is the host's to do.
    Here(u64),
}

/// Lets the home execute a call as long as the object is there. Whoever issues calls to the host
/// goes on from here and comes back: neither waits inside the other, or a call that waits over
/// many moves would fill the stack.
pub(crate) fn attempt(thread: &Thread, mask: SigSet, number: u64, args: [u64; 6]) -> Attempt {
    match number {
        nr::RECVMMSG | nr::SENDMMSG => {
            return Attempt::Ended(messages(thread, mask, number, args));
        }
        _ => {}
    }
    if number == nr::SENDMSG {
        socket::share(thread, GuestAddr(args[1]));
    }
    let wanted = bytes_wanted(number, &args);
    let mut call = Call::new(thread, mask, number, args);
    let mut done = 0;
    let result = loop {
        call.done = done;
        let result = match call.ask_home(thread, mask) {
            Outcome::Done(result) => result,
            Outcome::Interrupted if done > 0 => break done.cast_signed(),
            Outcome::Interrupted => break restart::anew_or_interrupted(thread),
            Outcome::Here => return Attempt::Here(done),
        };
        match result {
            REMOTE_NOT => return Attempt::Here(done),
            REMOTE_BACKGROUND if done == 0 => {
                return Attempt::Ended(terminal::stop_for(thread, number));
            }
            _ if result <= 0 && done > 0 => break done.cast_signed(),
            _ if result <= 0 => break result,
            _ => {}
        }
        match wanted {
            // A call comes short at any length: of a move, or of what one message carries.
            Some(wanted) if done + result.unsigned_abs() < wanted => done += result.unsigned_abs(),
            Some(_) => break (done + result.unsigned_abs()).cast_signed(),
            None => break result,
        }
    };
    match number {
        nr::ACCEPT | nr::ACCEPT4 if result >= 0 => accepted(thread, number, args[3], result),
        nr::RECVMSG if result >= 0 => {
            let _ = socket::received(thread, GuestAddr(args[1]), args[2], Sender::Elsewhere);
        }
        _ => {}
    }
    if result == EPIPE && raises_sigpipe(number, &args) {
        broken_pipe(thread);
    }
    Attempt::Ended(result)
}

/// Opens the FIFO that `handle` stands for, which may be at another node: then the descriptor is the
/// FIFO's, else the open is the host's.
pub(crate) fn open(thread: &Thread, mask: SigSet, handle: i32, flags: u64) -> Attempt {
    let nr = host::uint_arg(nr::OPENAT);
    let args = [flags, 0, 0, 0, 0];
    let call = RemoteCall { ticket: 0, nr, fd: handle, args, marks: 0, done: 0 };
    match ask_home(thread, mask, call) {
        Outcome::Here | Outcome::Done(REMOTE_NOT) => Attempt::Here(0),
        Outcome::Interrupted => Attempt::Ended(restart::anew_or_interrupted(thread)),
        Outcome::Done(result) => Attempt::Ended(result),
    }
}

/// Connects the socket `fd` by a name that may be another node's ([`CONNECT_NAMED`]).
pub(crate) fn connect_named(thread: &Thread, mask: SigSet, fd: i32, args: [u64; 5]) -> Attempt {
    let call = RemoteCall { ticket: 0, nr: CONNECT_NAMED, fd, args, marks: 0, done: 0 };
    match ask_home(thread, mask, call) {
        Outcome::Here | Outcome::Done(REMOTE_NOT) => Attempt::Here(0),
        Outcome::Interrupted => Attempt::Ended(restart::anew_or_interrupted(thread)),
        Outcome::Done(result) => Attempt::Ended(result),
    }
}

/// A connection that was accepted lives where its listener does. The daemon gives descriptors with
/// `FD_CLOEXEC`.
fn accepted(thread: &Thread, number: u64, flags: u64, fd: i64) {
    const F_SETFD: u64 = 2;
    const SOCK_CLOEXEC: u64 = host::O_CLOEXEC;
    let fd = host::int_arg(fd.unsigned_abs());
    thread.process().remote.insert(fd);
    if number == nr::ACCEPT || flags & SOCK_CLOEXEC == 0 {
        // SAFETY: sets the flag only.
        let _ = unsafe { host::call(nr::FCNTL, [host::fd_arg(fd), F_SETFD, 0, 0, 0, 0]) };
    }
}

/// How many bytes a call goes on for until all are moved; `None`: any count is its end.
fn bytes_wanted(number: u64, args: &[u64; 6]) -> Option<u64> {
    const MSG_WAITALL: u64 = 0x100;
    const MSG_PEEK: u64 = 0x2;
    match number {
        nr::WRITE | nr::SENDTO => Some(args[2]),
        nr::WRITEV => vector_bytes(args[1], args[2]),
        nr::SENDMSG => {
            let [_, _, vector, parts] = guest::read::<[u64; 4]>(GuestAddr(args[1])).ok()?;
            vector_bytes(vector, parts)
        }
        nr::RECVFROM if args[3] & (MSG_WAITALL | MSG_PEEK) == MSG_WAITALL => Some(args[2]),
        _ => None,
    }
}

fn vector_bytes(vector: u64, parts: u64) -> Option<u64> {
    /// Most parts of a vector (`UIO_MAXIOV`).
    const PARTS_MAX: u64 = 1024;
    let mut total: u64 = 0;
    for index in 0..parts.min(PARTS_MAX) {
        let [_, bytes] = guest::read::<[u64; 2]>(GuestAddr(vector).plus(index * 16)).ok()?;
        total = total.saturating_add(bytes);
    }
    Some(total)
}

fn raises_sigpipe(number: u64, args: &[u64; 6]) -> bool {
    const MSG_NOSIGNAL: u64 = 0x4000;
    match number {
        nr::WRITE | nr::WRITEV | nr::PWRITEV2 => true,
        nr::SENDTO => args[3] & MSG_NOSIGNAL == 0,
        nr::SENDMSG => args[2] & MSG_NOSIGNAL == 0,
        _ => false,
    }
}

/// recvmmsg(2), sendmmsg(2): message by message. An error after the first ends the call with the count.
fn messages(thread: &Thread, mask: SigSet, number: u64, args: [u64; 6]) -> i64 {
    /// Bytes of `struct mmsghdr`, and where a message's bytes are counted.
    const MESSAGE_BYTES: u64 = 64;
    const COUNT_AT: u64 = 56;
    /// Most messages of a call (`UIO_MAXIOV`).
    const MESSAGES_MAX: u64 = 1024;
    const MSG_DONTWAIT: u64 = 0x40;
    const MSG_WAITFORONE: u64 = 0x10000;
    let [fd, vector, count, mut flags, ..] = args;
    let one = if number == nr::RECVMMSG { nr::RECVMSG } else { nr::SENDMSG };
    for index in 0..u64::from(host::uint_arg(count)).min(MESSAGES_MAX) {
        let at = GuestAddr(vector).plus(index * MESSAGE_BYTES);
        let result = run(thread, mask, one, [fd, at.0, flags & !MSG_WAITFORONE, 0, 0, 0]);
        if result < 0 {
            return if index > 0 { index.cast_signed() } else { result };
        }
        let _ = guest::write(at.plus(COUNT_AT), &host::uint_arg(result.unsigned_abs()));
        if flags & MSG_WAITFORONE != 0 {
            flags |= MSG_DONTWAIT;
        }
        if thread.first_noted().is_some() {
            return (index + 1).cast_signed();
        }
    }
    i64::from(host::int_arg(count))
}

/// A call of ours to the home.
struct Call {
    number: u64,
    fd: i32,
    args: [u64; 5],
    marks: u64,
    done: u64,
}

impl Call {
    fn new(thread: &Thread, mask: SigSet, number: u64, args: [u64; 6]) -> Call {
        let [fd, rest @ ..] = args;
        let marks = terminal::deafness(thread, mask);
        Call { number, fd: host::int_arg(fd), args: rest, marks, done: 0 }
    }
}

impl Call {
    fn ask_home(&self, thread: &Thread, mask: SigSet) -> Outcome {
        let nr = host::uint_arg(self.number);
        let Call { fd, args, marks, done, .. } = *self;
        ask_home(thread, mask, RemoteCall { ticket: 0, nr, fd, args, marks, done })
    }
}

/// Rings until the home has answered. The daemon gives a call in flight a ticket and takes it away
/// with the answer, so that the object's own `EAGAIN` is not mistaken for 'not yet'.
fn ask_home(thread: &Thread, mask: SigSet, mut call: RemoteCall) -> Outcome {
    // The move signal may have ended the part of a call that came before this one.
    park::if_asked(thread);
    let fd = call.fd;
    // Where it is then it may find the name itself.
    let is_about_name = call.nr == CONNECT_NAMED;
    let call = &raw mut call;
    let at = [call as u64, 0, 0, 0];
    loop {
        let seen = event(thread);
        let result = ring_raw(OP_REMOTE, at);
        if result != Errno::EAGAIN.as_result() || !is_in_flight(call) {
            return Outcome::Done(result);
        }
        match wait_event(thread, mask, seen) {
            Wake::Event => {}
            Wake::Signal => return cancel(thread, call),
            Wake::Move if !park::is_asked(thread) => {}
            // No answer can find the process while it moves: the call begins anew where it is then.
            Wake::Move => match cancel(thread, call) {
                Outcome::Interrupted => {
                    park::if_asked(thread);
                    // SAFETY: our structure, of which the daemon knows nothing any more.
                    unsafe { (&raw mut (*call).ticket).write_volatile(0) };
                    if is_about_name || !thread.process().remote.has(fd) {
                        return Outcome::Here;
                    }
                }
                done => return done,
            },
        }
    }
}

/// Whether the daemon has taken the call and not answered yet.
fn is_in_flight(call: *const RemoteCall) -> bool {
    // SAFETY: our structure; volatile, because the daemon writes it behind the compiler's back.
    unsafe { (&raw const (*call).ticket).read_volatile() != 0 }
}

/// Gives up a call in flight, unless it took effect.
fn cancel(thread: &Thread, call: *mut RemoteCall) -> Outcome {
    loop {
        let seen = event(thread);
        match ring_raw(OP_REMOTE_CANCEL, [call as u64, 0, 0, 0]) {
            result if result == Errno::EAGAIN.as_result() && is_in_flight(call) => {
                // The home's last word is on its way; guest signals wait that long.
                host::futex_wait(&slot(thread.process()).event_seq, seen);
            }
            deliver::INTERRUPTED => return Outcome::Interrupted,
            result => return Outcome::Done(result),
        }
    }
}

fn event(thread: &Thread) -> u32 {
    slot(thread.process()).event_seq.load(Ordering::Acquire)
}

/// fstat(2) at the home: the words of `struct stat`.
///
/// # Errors
/// `EINTR` if a signal was noted, or what the home says.
pub(crate) fn status(thread: &Thread, mask: SigSet, fd: i32) -> Result<[u64; 18], Errno> {
    let mut words = [0u64; 18];
    let args = [host::fd_arg(fd), words.as_mut_ptr() as u64, 0, 0, 0, 0];
    match Call::new(thread, mask, nr::FSTAT, args).ask_home(thread, mask) {
        Outcome::Done(REMOTE_NOT) | Outcome::Here => {
            // SAFETY: writes the structure only.
            unsafe { host::call(nr::FSTAT, args) }.map(|_| status::translated(words))
        }
        Outcome::Done(result) => Errno::check(result).map(|_| words),
        Outcome::Interrupted => Err(Errno::EINTR),
    }
}

/// The kernel would have sent SIGPIPE; it comes when the guest's mask is back.
fn broken_pipe(thread: &Thread) {
    let mut fields = [0u64; 14];
    fields[0] = u64::from(thread.process().pid());
    let info = SigInfo { signal: SIGPIPE.cast_signed(), errno: 0, code: 0, pad: 0, fields };
    deliver::send_self(thread, &info);
}

/// Asks the home what is ready now on a remote descriptor: poll(2)'s `revents`.
///
/// # Errors
/// `EINTR` if a signal was noted, or what the home says.
pub(crate) fn look(thread: &Thread, mask: SigSet, fd: i32, events: u32) -> Result<u32, Errno> {
    let args = [host::fd_arg(fd), u64::from(events), 0, 0, 0, 0];
    match Call::new(thread, mask, nr::POLL, args).ask_home(thread, mask) {
        Outcome::Interrupted => Err(Errno::EINTR),
        Outcome::Here | Outcome::Done(REMOTE_NOT) => look_here(fd, events),
        Outcome::Done(result) => Errno::check(result).map(host::uint_arg),
    }
}

/// What is ready now on a descriptor of this node.
fn look_here(fd: i32, events: u32) -> Result<u32, Errno> {
    let mut member = [fd.cast_unsigned(), events & 0xffff];
    // SAFETY: writes the member only; does not wait.
    unsafe { host::call(nr::POLL, [member.as_mut_ptr() as u64, 1, 0, 0, 0, 0]) }?;
    Ok(member[1] >> 16)
}
