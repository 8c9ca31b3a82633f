//! The doorbell's calls about locks of files, for the driver of locks.

use dunix_guest_abi::doorbell::{
    LOCK_GRANTED, LOCK_HOST, LOCK_OF_DESCRIPTION, LOCK_OF_FILE, LOCK_TAKEN, LOCK_TEST, LOCK_WAIT,
    LOCK_WRITE, OP_LOCK, OP_LOCK_DONE, OP_LOCK_GIVE_UP,
};
use dunix_ids::Ino;
use dunix_linux::{Errno, Result};
use dunix_locks::{Answer, Asker, By, FileLock, How, Locks, Wish};
use dunix_processes::{DoorbellCall, FlockAnswer, FlockWish};
use dunix_wire::locks::{Lock, LockKind, LockOwner};
use tokio::runtime::Handle;

/// Bytes of [`dunix_guest_abi::doorbell::LockWish`].
const WISH_BYTES: usize = 24;

/// Answers a call if it is about locks, else gives it back.
pub(super) fn handle(locks: &Locks, runtime: &Handle, call: DoorbellCall) -> Option<DoorbellCall> {
    let asker = match call.op() {
        OP_LOCK | OP_LOCK_DONE | OP_LOCK_GIVE_UP => call.caller(),
        _ => return Some(call),
    };
    let asker = match asker {
        Ok(caller) => Asker { pid: caller.pid, tid: caller.tid, host_pid: caller.host_pid },
        Err(errno) => {
            call.refuse(errno);
            return None;
        }
    };
    match call.op() {
        OP_LOCK_DONE => {
            locks.done(asker);
            call.answer(0);
        }
        OP_LOCK_GIVE_UP => {
            locks.give_up(asker.tid);
            call.answer(0);
        }
        _ => match wish_of(&call) {
            Ok(wish) => {
                let locks = locks.clone();
                runtime.spawn(async move {
                    let answer = locks.ask(asker, wish).await;
                    conclude(call, answer);
                });
            }
            Err(errno) => call.refuse(errno),
        },
    }
    None
}

/// Locks a file for a process elsewhere whose description has its home here.
pub(super) fn handle_from_elsewhere(
    locks: &Locks,
    runtime: &Handle,
    wish: FlockWish,
    answer: FlockAnswer,
) {
    let locks = locks.clone();
    let kind = if wish.is_exclusive { LockKind::Write } else { LockKind::Read };
    let file = wish.file.map(|(device, ino)| (device, Ino(ino)));
    let lock = FileLock { descriptor: wish.descriptor, file, kind, waits: wish.waits };
    runtime.spawn(async move {
        let result = locks.lock_here(&lock, || answer.is_given_up()).await;
        if !answer.conclude(result) && result.is_ok() {
            // A signal came first, or the caller's end.
            locks.give_back(&lock);
        }
    });
}

fn wish_of(call: &DoorbellCall) -> Result<Wish> {
    let mut bytes = [0; WISH_BYTES];
    call.memory().read(call.arg(2), &mut bytes)?;
    let word = |at: usize| bytes.get(at..)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes));
    let flags =
        bytes.get(16..).and_then(<[u8]>::first_chunk).map(|bytes| u32::from_ne_bytes(*bytes));
    let (Some(first), Some(last), Some(flags)) = (word(0), word(8), flags) else {
        return Err(Errno::INVAL);
    };
    Ok(Wish {
        descriptor: call.int_arg(1),
        first,
        last,
        kind: if flags & LOCK_WRITE == 0 { LockKind::Read } else { LockKind::Write },
        by: match flags {
            flags if flags & LOCK_OF_FILE != 0 => By::File,
            flags if flags & LOCK_OF_DESCRIPTION != 0 => By::Description,
            _ => By::Process,
        },
        how: match flags {
            flags if flags & LOCK_TEST != 0 => How::Test,
            flags if flags & LOCK_WAIT != 0 => How::Wait,
            _ => How::Try,
        },
    })
}

fn conclude(call: DoorbellCall, answer: Answer) {
    let number = u64::cast_signed;
    match answer {
        Answer::Granted => call.answer(number(LOCK_GRANTED)),
        Answer::NotOurs => call.answer(number(LOCK_HOST)),
        Answer::Taken(lock) => match tell(&call, lock) {
            Ok(()) => call.answer(number(LOCK_TAKEN)),
            Err(errno) => call.refuse(errno),
        },
        Answer::Waits => call.refuse(Errno::AGAIN),
        Answer::Deadlock => call.refuse(Errno::DEADLK),
        Answer::None => call.refuse(Errno::NOLCK),
    }
}

/// Writes [`dunix_guest_abi::doorbell::LockFound`] where the caller wants it.
fn tell(call: &DoorbellCall, lock: Lock) -> Result<()> {
    if call.arg(3) == 0 {
        return Ok(());
    }
    let flags = if lock.kind == LockKind::Write { LOCK_WRITE } else { 0 };
    let pid = match lock.owner {
        LockOwner::Process(pid) => pid.get(),
        LockOwner::Descriptions(_) | LockOwner::Flocks(_) => 0,
    };
    let mut bytes = Vec::with_capacity(WISH_BYTES);
    bytes.extend(lock.first.to_ne_bytes());
    bytes.extend(lock.last.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(pid.to_ne_bytes());
    call.memory().write(call.arg(3), &bytes)
}
