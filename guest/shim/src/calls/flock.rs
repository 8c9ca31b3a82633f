//! Locks of whole files, flock(2): the fabric is asked first (`OP_LOCK`), then the host locks, and keeps the lock for the
//! open file description.
//!
//! ```text
//! granted earlier, epoch the same ──────────────► host's call ──► epoch the same? ── yes ─► locked
//! else: ask ──► granted ──► host's call, told ──► locked              └── no ─► ask, keep or give back
//!        └────► taken by other nodes: what the description had is given up, as by the kernel; wait, ask again
//! ```
//! What the fabric grants, it grants to all of the node until it changes the epoch. Who waits for a description of the
//! same node waits in the kernel, unasked: what it gets there it asks for afterwards.

use super::{Answer, remote};
use crate::arch::frame::Context;
use crate::arch::gadget::{self, Request};
use crate::doorbell::{node_facts, ring, ring_until_done};
use crate::host;
use crate::process::Process;
use crate::thread::Thread;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use dunix_guest_abi::doorbell::{
    LOCK_GRANTED, LOCK_OF_FILE, LOCK_TAKEN, LOCK_WAIT, LOCK_WRITE, LockWish, OP_LOCK, OP_LOCK_DONE,
    OP_LOCK_GIVE_UP,
};
use dunix_shim_core::{Errno, nr};

const LOCK_SH: u64 = 1;
const LOCK_EX: u64 = 2;
const LOCK_NB: u64 = 4;
const LOCK_UN: u64 = 8;
/// Descriptors whose grants are remembered; two of one remainder share a place.
const GRANTS: usize = 16;

/// Which descriptors' files were granted to this node, and when.
pub(crate) struct Grants([AtomicU64; GRANTS]);

impl Grants {
    pub(crate) const fn new() -> Grants {
        Grants([const { AtomicU64::new(0) }; GRANTS])
    }

    fn place(&self, fd: i32) -> Option<&AtomicU64> {
        self.0.get(usize::try_from(fd).ok()? % GRANTS)
    }

    /// All of it in one word, so that no thread reads a mixture.
    fn word(fd: i32, epoch: u32, is_exclusive: bool) -> u64 {
        u64::from(epoch) << 32 | u64::from(fd.cast_unsigned()) << 1 | u64::from(is_exclusive)
    }

    fn note(&self, fd: i32, epoch: u32, is_exclusive: bool) {
        if let Some(place) = self.place(fd) {
            place.store(Grants::word(fd, epoch, is_exclusive), Ordering::Relaxed);
        }
    }

    fn has(&self, fd: i32, epoch: u32, is_exclusive: bool) -> bool {
        let known = self.place(fd).map_or(0, |place| place.load(Ordering::Relaxed));
        known == Grants::word(fd, epoch, true)
            || !is_exclusive && known == Grants::word(fd, epoch, false)
    }

    /// The number will be another file's.
    pub(crate) fn forget(&self, fd: i32) {
        if let Some(place) = self.place(fd) {
            place.store(0, Ordering::Relaxed);
        }
    }

    /// The node is another one.
    pub(crate) fn forget_all(&self) {
        self.0.iter().for_each(|place| place.store(0, Ordering::Relaxed));
    }
}

/// A call that locks.
struct Call<'a> {
    thread: &'a Thread,
    context: &'a Context,
    args: [u64; 6],
    fd: i32,
    is_exclusive: bool,
    waits: bool,
}

/// What the fabric says.
enum Word {
    /// Lock it, then tell ([`OP_LOCK_DONE`]).
    Granted,
    /// Its locks are the host's.
    Host,
    Taken,
}

/// Handles flock(2) of a file of this node.
pub(crate) fn handle(thread: &Thread, context: &Context, args: [u64; 6]) -> Answer {
    let operation = u64::from(host::uint_arg(args[1]));
    let is_exclusive = match operation & !LOCK_NB {
        LOCK_SH => false,
        LOCK_EX => true,
        // Giving up a lock does not wait; what is none, the host refuses.
        _ => return Answer::PassOn,
    };
    let (fd, waits) = (host::int_arg(args[0]), operation & LOCK_NB == 0);
    Call { thread, context, args, fd, is_exclusive, waits }.run()
}

impl Call<'_> {
    fn run(&self) -> Answer {
        loop {
            // A move while it waited may have left the description behind.
            if self.thread.process().remote.has(self.fd) {
                return remote::execute(self.thread, self.context, nr::FLOCK, self.args);
            }
            let epoch = epoch();
            if self.grants().has(self.fd, epoch, self.is_exclusive) {
                match self.host(LOCK_NB) {
                    Ok(()) if is_still(epoch) => return Answer::Return(0),
                    Ok(()) => match self.settle() {
                        Some(answer) => return answer,
                        None => continue,
                    },
                    Err(Errno::EAGAIN) => {}
                    Err(error) => return Answer::from(Err(error)),
                }
            } else {
                let word = match self.ask_first() {
                    Ok(word) => word,
                    Err(answer) => return answer,
                };
                let result = self.host(LOCK_NB);
                if matches!(word, Word::Granted) {
                    let _ = ring(OP_LOCK_DONE, [0; 4]);
                }
                self.grants().note(self.fd, epoch, self.is_exclusive);
                match result {
                    Err(Errno::EAGAIN) => {}
                    other => return Answer::from(other.map(|()| 0)),
                }
            }
            if !self.waits {
                return Answer::from(Err(Errno::EAGAIN));
            }
            if let Some(answer) = self.wait_for_neighbour() {
                return answer;
            }
        }
    }

    /// A description of this node has it: the kernel knows when it is free.
    fn wait_for_neighbour(&self) -> Option<Answer> {
        let request = Request { mask: self.context.mask, nr: nr::FLOCK, args: self.args };
        // SAFETY: the guest's own call.
        let result = unsafe { gadget::interruptible(&request) };
        if result != 0 || self.thread.process().remote.has(self.fd) {
            return Some(Answer::Return(result));
        }
        self.settle()
    }

    /// Asks for what the kernel has let it have; `None`: another node was faster, and it is given back.
    fn settle(&self) -> Option<Answer> {
        let epoch = epoch();
        match self.ask(0) {
            Ok(Word::Taken) => {
                self.give_back();
                (!self.waits).then(|| Answer::from(Err(Errno::EAGAIN)))
            }
            Ok(word) => {
                if matches!(word, Word::Granted) {
                    let _ = ring(OP_LOCK_DONE, [0; 4]);
                }
                self.grants().note(self.fd, epoch, self.is_exclusive);
                Some(Answer::Return(0))
            }
            Err(error) => {
                self.give_back();
                Some(Answer::from(Err(error)))
            }
        }
    }

    /// Asks before the host is; waits for other nodes if it may.
    fn ask_first(&self) -> Result<Word, Answer> {
        match self.ask(0) {
            Ok(Word::Taken) => {}
            Ok(word) => return Ok(word),
            Err(error) => return Err(Answer::from(Err(error))),
        }
        // As the kernel does when a lock is to be another one and is in others' way.
        self.give_back();
        if !self.waits {
            return Err(Answer::from(Err(Errno::EAGAIN)));
        }
        let wish = self.wish(LOCK_WAIT);
        let ask = [self.args[0], &raw const wish as u64, 0, 0];
        match ring_until_done(self.thread, self.context.mask, OP_LOCK, ask) {
            Ok(LOCK_GRANTED) => Ok(Word::Granted),
            Ok(_) => Ok(Word::Host),
            Err(Some(error)) => Err(Answer::from(Err(error))),
            Err(None) => {
                let _ = ring(OP_LOCK_GIVE_UP, [0; 4]);
                Err(Answer::Interrupted)
            }
        }
    }

    fn ask(&self, how: u32) -> Result<Word, Errno> {
        let wish = self.wish(how);
        Ok(match ring(OP_LOCK, [self.args[0], &raw const wish as u64, 0, 0])? {
            LOCK_GRANTED => Word::Granted,
            LOCK_TAKEN => Word::Taken,
            _ => Word::Host,
        })
    }

    fn wish(&self, how: u32) -> LockWish {
        let kind = if self.is_exclusive { LOCK_WRITE } else { 0 };
        let last = i64::MAX.cast_unsigned();
        LockWish { first: 0, last, flags: LOCK_OF_FILE | kind | how, reserved: 0 }
    }

    /// The host's own call.
    fn host(&self, also: u64) -> Result<(), Errno> {
        let args = [self.args[0], self.args[1] | also, 0, 0, 0, 0];
        // SAFETY: does not wait.
        unsafe { host::call(nr::FLOCK, args) }.map(|_| ())
    }

    fn give_back(&self) {
        // SAFETY: does not wait.
        let _ = unsafe { host::call(nr::FLOCK, [self.args[0], LOCK_UN, 0, 0, 0, 0]) };
    }

    fn grants(&self) -> &Grants {
        let process: &Process = self.thread.process();
        &process.grants
    }
}

fn epoch() -> u32 {
    node_facts().lock_epoch.load(Ordering::Acquire)
}

/// Whether nobody has asked the node meanwhile what it has locked: who asks from now on finds this lock.
fn is_still(before: u32) -> bool {
    fence(Ordering::SeqCst);
    epoch() == before
}
