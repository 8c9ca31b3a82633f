//! A node's mount: the kernel's requests go to the authority, its answers to the kernel, its recalls to
//! the kernel's caches.
//!
//! Owns: the order between answers and recalls. Invariant: a lease that was recalled while its answer
//! was on the way never reaches the kernel.
//!
//! ```text
//!  ask: note the count of recalls ─► ... ─► answer: same count? ─yes─► with its lease
//!                                                        └──no──► without
//! ```

use crate::{Files, REQUEST_DEADLINE, authority::Effort, errno_of};
use bytes::Bytes;
use dunix_fuse::{Caches, Reply, Volume};
use dunix_ids::Ino;
use dunix_wire::files::{
    Errno, FileAnswer, FileCall, FileNotice, FileReply, FileRequest, Lease, OpenMode, Recall,
    Reclaim, pack, unpack,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock},
    time::{Duration, Instant},
};

pub(crate) struct Mount {
    files: Files,
    caches: OnceLock<Caches>,
    /// How many recalls came. Held for reading while an answer is given to the kernel.
    recalls: RwLock<u64>,
    held: Mutex<Held>,
}

/// What the kernel got, for the case that the authority forgets about it.
#[derive(Default)]
struct Held {
    opens: HashMap<u64, (Ino, OpenMode)>,
    /// Inodes of which it may keep attributes or pages.
    leased: HashMap<Ino, Lent>,
}

/// What the kernel was last told of an inode.
#[derive(Clone, Copy)]
struct Lent {
    at: Instant,
    /// It has no extended attributes, and those need not be asked for.
    bare: bool,
}

/// Of more inodes than these nothing is cached.
const LEASED_MAX: usize = 1 << 21;
/// For so long after an answer the kernel may not have made the inode of it yet, so that it knows
/// nothing to forget, and would then keep what is old.
const UNBORN: Duration = Duration::from_secs(2);
/// How long a recall waits for such an inode, and how often it looks.
const BIRTH_WITHIN: Duration = Duration::from_millis(200);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// One request on its way.
struct Errand {
    mount: Arc<Mount>,
    reply: Reply,
    recalls_before: u64,
    /// What is opened by it, if it opens; of a create, the inode comes with the answer.
    opening: Option<(Option<Ino>, OpenMode)>,
    /// Whose extended attributes it changes.
    dressing: Option<Ino>,
}

impl Mount {
    pub(crate) fn new(files: Files) -> Mount {
        let (caches, recalls) = (OnceLock::new(), RwLock::new(0));
        Mount { files, caches, recalls, held: Mutex::default() }
    }

    pub(crate) fn serve_caches(&self, caches: Caches) {
        // Set once: a mount is served once.
        let _ = self.caches.set(caches);
    }

    /// Makes the kernel forget; blocks until it has.
    pub(crate) fn forget(&self, recalls: &[Recall]) {
        let lent: Vec<Option<Lent>> = {
            let mut count = self.recalls.write().unwrap_or_else(PoisonError::into_inner);
            *count += 1;
            let mut held = self.held();
            let of = |recall: &Recall| match recall {
                Recall::Pages(ino) | Recall::Attr(ino) => held.leased.remove(ino),
                Recall::Entries => None,
            };
            recalls.iter().map(of).collect()
        };
        for (recall, lent) in recalls.iter().zip(lent) {
            let unborn_until = lent.map_or_else(Instant::now, |lent| lent.at + UNBORN);
            let patience = unborn_until.min(Instant::now() + BIRTH_WITHIN);
            while !self.drop_cache(*recall) && Instant::now() < patience {
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }

    /// Makes the kernel forget everything: the authority cannot recall it any more.
    pub(crate) fn forget_all(&self) {
        let leased = std::mem::take(&mut self.held().leased);
        tracing::info!(inodes = leased.len(), "all that was cached of the tree is dropped");
        let recalls: Vec<_> =
            leased.into_keys().map(Recall::Pages).chain([Recall::Entries]).collect();
        self.forget(&recalls);
    }

    /// Returns the opens of this node.
    pub(crate) fn opens(&self) -> Vec<Reclaim> {
        let held = self.held();
        let opens = held.opens.iter();
        opens.map(|(&handle, &(ino, open))| Reclaim { handle, ino, open }).collect()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the kernel knew what it had to forget.
    fn drop_cache(&self, recall: Recall) -> bool {
        let Some(caches) = self.caches.get() else { return true };
        let known = match recall {
            Recall::Pages(ino) => caches.drop_pages(ino),
            Recall::Attr(ino) => caches.drop_attr(ino),
            Recall::Entries => caches.drop_names().map(|()| true),
        };
        known.unwrap_or_else(|error| {
            // Only a kernel without the mount, or without such caches, refuses.
            tracing::debug!(?recall, %error, "nothing to forget");
            true
        })
    }

    /// Whether the inode is known to have no extended attributes.
    fn is_bare(&self, ino: Ino) -> bool {
        self.held().leased.get(&ino).is_some_and(|lent| lent.bare)
    }

    /// This node changes extended attributes: nobody recalls what it knows of them.
    fn forget_bare(&self, ino: Ino) {
        *self.recalls.write().unwrap_or_else(PoisonError::into_inner) += 1;
        if let Some(lent) = self.held().leased.get_mut(&ino) {
            lent.bare = false;
        }
    }

    fn recall_count(&self) -> u64 {
        *self.recalls.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The library's side holds the mount by this.
impl Volume for Mount {
    fn ask(&self, request: FileRequest, payload: &[u8], reply: Reply) {
        let Some(mount) = self.files.0.mount.get().cloned() else {
            return reply.send(Err(Errno::EIO), &[]);
        };
        let recalls_before = self.recall_count();
        let opening = match &request {
            FileRequest::Open { ino, open } => Some((Some(*ino), *open)),
            FileRequest::Create { open, .. } => Some((None, *open)),
            _ => None,
        };
        let dressing = match &request {
            FileRequest::Getxattr { ino, .. } if self.is_bare(*ino) => {
                return reply.send(Err(Errno::ENODATA), &[]);
            }
            FileRequest::Listxattr { ino } if self.is_bare(*ino) => {
                return reply.send(Ok(FileReply::Bytes), &[]);
            }
            FileRequest::Setxattr { ino, .. } => Some(*ino),
            _ => None,
        };
        let errand = Errand { mount, reply, recalls_before, opening, dressing };
        if self.files.0.authority.is_some() {
            errand.run_here(request, payload);
        } else {
            errand.run_there(request, payload);
        }
    }

    fn release(&self, handle: u64) {
        self.held().opens.remove(&handle);
        let inner = &self.files.0;
        if inner.authority.is_some() {
            self.files.release_at_authority(inner.me, handle);
        } else {
            let notice = pack(&FileNotice::Release { handle }, &[]);
            if let Err(error) = inner.link.send(inner.authority_node, notice) {
                tracing::debug!(%error, "a release is lost with the link");
            }
        }
    }
}

impl Errand {
    /// Asks the authority of this very node, on this thread if it can be quick.
    fn run_here(self, request: FileRequest, payload: &[u8]) {
        let files = self.mount.files.clone();
        let me = files.0.me;
        let quick = files
            .0
            .authority
            .as_ref()
            .and_then(|authority| authority.answer(me, &request, payload, Effort::Prompt));
        match quick {
            Some(outcome) => files.conclude(outcome, move |answer, data| self.finish(answer, data)),
            None => {
                let payload = Bytes::copy_from_slice(payload);
                let slow = files.clone();
                files.0.runtime.spawn_blocking(move || {
                    let Some(authority) = &slow.0.authority else { return };
                    if let Some(outcome) = authority.answer(me, &request, &payload, Effort::Any) {
                        slow.conclude(outcome, move |answer, data| self.finish(answer, data));
                    }
                });
            }
        }
    }

    /// Asks the authority's node.
    fn run_there(self, request: FileRequest, payload: &[u8]) {
        let files = self.mount.files.clone();
        let body = pack(&FileCall::Ask(request), payload);
        let runtime = files.0.runtime.clone();
        runtime.spawn(async move {
            let to = files.0.authority_node;
            match files.0.link.call(to, body, REQUEST_DEADLINE).await {
                Ok(body) => match unpack::<FileAnswer>(&body) {
                    Ok((answer, at)) => self.finish(answer, &body[at..]),
                    Err(_) => self.reply.send(Err(Errno::EIO), &[]),
                },
                Err(error) => {
                    tracing::warn!(%error, "the authority's node gives no answer");
                    self.reply.send(Err(errno_of(&error)), &[]);
                }
            }
        });
    }

    /// Passes an answer on, after this node's own pages were dropped if it says so.
    fn finish(self, answer: FileAnswer, payload: &[u8]) {
        let Some(ino) = answer.drop_pages else { return self.give(answer.result, payload) };
        let payload = payload.to_vec();
        let runtime = self.mount.files.0.runtime.clone();
        runtime.spawn_blocking(move || {
            self.mount.drop_cache(Recall::Pages(ino));
            self.give(answer.result, &payload);
        });
    }

    fn give(self, mut result: Result<FileReply, Errno>, payload: &[u8]) {
        if let Some(ino) = self.dressing {
            self.mount.forget_bare(ino);
        }
        let recalls = self.mount.recalls.read().unwrap_or_else(PoisonError::into_inner);
        if let Ok(reply) = &mut result {
            if *recalls != self.recalls_before {
                take_leases(reply);
            }
            self.mount.held().note(reply, self.opening);
        }
        self.reply.send(result, payload);
    }
}

impl Held {
    /// Notes what the kernel is about to get; of what cannot be noted, the lease is taken.
    fn note(&mut self, reply: &mut FileReply, opening: Option<(Option<Ino>, OpenMode)>) {
        let at = Instant::now();
        let full = self.leased.len() >= LEASED_MAX;
        match (&*reply, opening) {
            (FileReply::Entry(_, lease) | FileReply::Attr(_, lease), _) if lease.attr && full => {
                take_leases(reply);
            }
            (FileReply::Entry(attr, lease) | FileReply::Attr(attr, lease), _) if lease.attr => {
                self.leased.insert(attr.ino, Lent { at, bare: !attr.xattrs });
            }
            (&FileReply::Opened { handle, .. }, Some((Some(ino), open))) => {
                self.leased.entry(ino).or_insert(Lent { at, bare: false });
                self.opens.insert(handle, (ino, open));
            }
            (&FileReply::Created { ref attr, handle, lease, .. }, Some((_, open))) => {
                let bare = lease.attr && !attr.xattrs;
                self.leased.insert(attr.ino, Lent { at, bare });
                self.opens.insert(handle, (attr.ino, open));
            }
            _ => {}
        }
    }
}

fn take_leases(reply: &mut FileReply) {
    match reply {
        FileReply::Entry(_, lease)
        | FileReply::Attr(_, lease)
        | FileReply::Created { lease, .. } => *lease = Lease::default(),
        FileReply::Absent { lease } => *lease = false,
        _ => {}
    }
}
