//! Locks for open file descriptions that live here and are used from other nodes.

use crate::{Answer, Call, How, Locks};
use dunix_ids::Ino;
use dunix_wire::locks::{Lock, LockKind, LockOwner};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use std::{os::fd::OwnedFd, sync::atomic::Ordering, time::Duration};

/// How soon it is tried again, at first and at most.
const TRY_FIRST: Duration = Duration::from_millis(1);
const TRY_MAX: Duration = Duration::from_millis(16);

/// What a description that lives here is to lock (flock(2)).
#[derive(Debug)]
pub struct FileLock {
    /// One of its descriptors.
    pub descriptor: OwnedFd,
    /// Its file, if that is the tree's: the number of the file system (major, minor), and the file's.
    pub file: Option<((u32, u32), Ino)>,
    /// What the lock excludes.
    pub kind: LockKind,
    /// To wait for it.
    pub waits: bool,
}

impl Locks {
    /// Locks a file for a description that lives here, unless nobody wants that any more.
    ///
    /// # Errors
    /// `EAGAIN` if somebody else has it and the call does not wait, `ENOLCK` without a word from the authority, `EINTR` if
    /// it was given up, else the host's.
    pub async fn lock_here(
        &self,
        lock: &FileLock,
        is_given_up: impl Fn() -> bool,
    ) -> Result<(), Errno> {
        let call = Call::Here(self.0.calls.fetch_add(1, Ordering::Relaxed));
        let mut pause = TRY_FIRST;
        loop {
            match self.try_here(call, lock).await {
                Err(Errno::AGAIN) if lock.waits => {}
                other => return other,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(TRY_MAX);
            if is_given_up() {
                return Err(Errno::INTR);
            }
        }
    }

    /// Gives a lock up that nobody wants.
    pub fn give_back(&self, lock: &FileLock) {
        // It cannot fail for a file that was locked.
        let _ = flock(&lock.descriptor, FlockOperation::Unlock);
    }

    async fn try_here(&self, call: Call, lock: &FileLock) -> Result<(), Errno> {
        let operation = match lock.kind {
            LockKind::Read => FlockOperation::NonBlockingLockShared,
            LockKind::Write => FlockOperation::NonBlockingLockExclusive,
        };
        let Some((device, ino)) = lock.file else { return flock(&lock.descriptor, operation) };
        self.local().know(device);
        let owner = LockOwner::Flocks(self.0.me);
        let wanted = Lock { owner, kind: lock.kind, first: 0, last: i64::MAX.cast_unsigned() };
        let result = match self.ask_about(call, (ino, wanted), How::Try).await {
            Answer::Granted => flock(&lock.descriptor, operation),
            Answer::Taken(_) => {
                // As the kernel does when a lock is to be another one and is in others' way.
                flock(&lock.descriptor, FlockOperation::Unlock).and(Err(Errno::AGAIN))
            }
            _ => Err(Errno::NOLCK),
        };
        self.local().pending.remove(&call);
        result
    }
}
