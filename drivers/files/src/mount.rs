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

use crate::{
    Files, REQUEST_DEADLINE,
    authority::Effort,
    errno_of,
    held::{Held, Lent, Noted, changes, leaving_name_of, name_of, take_leases},
    opens,
};
use bytes::Bytes;
use dunix_fuse::{Caches, Reply, Volume};
use dunix_ids::Ino;
use dunix_wire::files::{
    Errno, FileAnswer, FileCall, FileNotice, FileReply, FileRequest, Lease, Name, NamePart,
    OpenMode, Recall, Reclaim, pack, unpack,
};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

pub(crate) struct Mount {
    files: Files,
    caches: OnceLock<Caches>,
    /// How many recalls came. Held for reading while an answer is given to the kernel.
    recalls: RwLock<u64>,
    held: Mutex<Held>,
    /// Whether everything is being forgotten because no more can be lent.
    emptying: AtomicBool,
}

/// Marks directories as being changed, until the answer is given.
struct Changing {
    mount: Arc<Mount>,
    dirs: Vec<Ino>,
}

/// An answer that came just before a recall may take effect just after it: the recall of names is
/// repeated then.
const REPEAT_AFTER: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];
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
    /// See [`Noted`].
    opening: Option<(Option<Ino>, OpenMode)>,
    /// Whose extended attributes it changes.
    dressing: Option<Ino>,
    /// See [`Noted`].
    naming: Option<(Ino, Name)>,
    /// The name that it takes away.
    leaving: Option<(Ino, Name)>,
    /// Whether it may change attributes.
    changes: bool,
    /// This node's own changes when it was asked.
    changes_before: u64,
    /// Given up just before the answer is passed on.
    changing: Option<Changing>,
}

impl Mount {
    pub(crate) fn new(files: Files) -> Mount {
        let (caches, recalls) = (OnceLock::new(), RwLock::new(0));
        Mount { files, caches, recalls, held: Mutex::default(), emptying: AtomicBool::new(false) }
    }

    pub(crate) fn serve_caches(&self, caches: Caches) {
        // Set once: a mount is served once.
        let _ = self.caches.set(caches);
    }

    /// Makes the kernel forget; blocks until it has.
    pub(crate) fn forget(self: &Arc<Self>, recalls: &[Recall]) {
        *self.recalls.write().unwrap_or_else(PoisonError::into_inner) += 1;
        for recall in recalls {
            match *recall {
                Recall::Pages(ino) | Recall::Attr(ino) => {
                    let lent = self.held().leased.remove(&ino);
                    self.give_back_open(ino);
                    self.forget_inode(*recall, lent);
                }
                Recall::Names(dir, part) => self.forget_names(dir, Some(part)),
            }
        }
    }

    /// Makes the kernel forget everything: the authority cannot recall it any more.
    pub(crate) fn forget_all(self: &Arc<Self>) {
        let (leased, dirs, unused) = {
            let held = &mut *self.held();
            let dirs = held.names.keys().copied().collect::<Vec<_>>();
            (std::mem::take(&mut held.leased), dirs, held.opens.unshare_all())
        };
        unused.into_iter().for_each(|handle| self.give_back(handle));
        tracing::info!(
            inodes = leased.len(),
            dirs = dirs.len(),
            "nothing of the tree stays cached"
        );
        let recalls: Vec<_> = leased.into_keys().map(Recall::Pages).collect();
        self.forget(&recalls);
        dirs.into_iter().for_each(|dir| self.forget_names(dir, None));
    }

    fn forget_inode(&self, recall: Recall, lent: Option<Lent>) {
        let unborn_until = lent.map_or_else(Instant::now, |lent| lent.at + UNBORN);
        let patience = unborn_until.min(Instant::now() + BIRTH_WITHIN);
        while !self.drop_inode(recall) && Instant::now() < patience {
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Has a part of the names in a directory asked for anew, or all. If this node is changing the directory, its kernel
    /// has it locked until the authority has answered, which may in turn wait for the node that caused
    /// this recall: then the names follow as soon as the kernel lets go.
    fn forget_names(self: &Arc<Self>, dir: Ino, part: Option<NamePart>) {
        let (names, last, changing) = {
            let held = &mut *self.held();
            let (names, last) = held.take_names(dir, part);
            (names, last, held.changing.contains_key(&dir))
        };
        let Some(last) = last else { return };
        let runtime = &self.files.0.runtime;
        let fresh = last.elapsed() < UNBORN;
        let names = Arc::new(names);
        if changing {
            let (mount, names) = (Arc::clone(self), Arc::clone(&names));
            runtime.spawn_blocking(move || mount.expire(dir, &names));
        } else {
            self.expire(dir, &names);
        }
        if fresh {
            let mount = Arc::clone(self);
            runtime.spawn(async move {
                for delay in REPEAT_AFTER {
                    tokio::time::sleep(delay).await;
                    let (mount, names) = (Arc::clone(&mount), Arc::clone(&names));
                    let again = tokio::task::spawn_blocking(move || mount.expire(dir, &names));
                    // It ends with the runtime.
                    let _ = again.await;
                }
            });
        }
    }

    fn expire(&self, dir: Ino, names: &[Vec<u8>]) {
        let Some(caches) = self.caches.get() else { return };
        for name in names {
            if let Err(error) = caches.expire_name(dir, name) {
                tracing::debug!(?dir, %error, "no name to forget");
            }
        }
    }

    /// Returns the opens of this node.
    pub(crate) fn opens(&self) -> Vec<Reclaim> {
        self.held().opens.list()
    }

    /// The file is about to change: opens of it are not shared, and one that nobody uses is closed.
    fn give_back_open(&self, ino: Ino) {
        let unused = self.held().opens.unshare(ino);
        if let Some(handle) = unused {
            self.give_back(handle);
        }
    }

    /// Closes an open at the authority.
    fn give_back(&self, handle: u64) {
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

    /// Says with what this node can open a file by itself; otherwise makes way for an open or a change
    /// of size that the authority is asked for.
    fn open_here(&self, request: &FileRequest) -> Option<FileReply> {
        match request {
            FileRequest::Open { ino, open } if opens::only_reads(*open) => {
                let handle = self.held().opens.share(*ino)?;
                Some(FileReply::Opened { handle, cached: true })
            }
            FileRequest::Open { ino, .. } | FileRequest::Setattr { ino, .. } => {
                self.give_back_open(*ino);
                None
            }
            _ => None,
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the kernel knew the inode.
    fn drop_inode(&self, recall: Recall) -> bool {
        let Some(caches) = self.caches.get() else { return true };
        let known = match recall {
            Recall::Pages(ino) => caches.drop_pages(ino),
            Recall::Attr(ino) => caches.drop_attr(ino),
            Recall::Names(..) => return true,
        };
        known.unwrap_or_else(|error| {
            // Only a kernel without the mount refuses.
            tracing::debug!(?recall, %error, "nothing to forget");
            true
        })
    }

    /// Whether the inode is known to have no extended attributes.
    pub(crate) fn is_bare(&self, ino: Ino) -> bool {
        self.held().leased.get(&ino).is_some_and(|lent| lent.bare)
    }

    /// This node changes extended attributes: nobody recalls what it knows of them.
    fn forget_bare(&self, ino: Ino) {
        *self.recalls.write().unwrap_or_else(PoisonError::into_inner) += 1;
        if let Some(lent) = self.held().leased.get_mut(&ino) {
            lent.bare = false;
        }
    }

    /// Counts a change of this node's own, if it is one. Returns how many there were.
    fn count_change(&self, is_change: bool) -> u64 {
        let mut held = self.held();
        held.changes += u64::from(is_change);
        held.changes
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
        if let Some(opened) = self.open_here(&request) {
            return reply.send(Ok(opened), &[]);
        }
        if let FileRequest::Getattr { ino } = request {
            // Until it is given no recall is begun.
            let _order = self.recalls.read().unwrap_or_else(PoisonError::into_inner);
            let known = self.held().attr(ino);
            if let Some(attr) = known {
                let lease = Lease { attr: true, entry: false };
                return reply.send(Ok(FileReply::Attr(attr, lease)), &[]);
            }
        }
        let recalls_before = self.recall_count();
        let changes = changes(&request);
        let changes_before = self.count_change(changes);
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
        let (naming, leaving) = (name_of(&request), leaving_name_of(&request));
        let changing = Changing::of(&mount, &request);
        let errand = Errand {
            mount,
            reply,
            recalls_before,
            opening,
            dressing,
            naming,
            leaving,
            changes,
            changes_before,
            changing,
        };
        if self.files.0.authority.is_some() {
            errand.run_here(request, payload);
        } else {
            errand.run_there(request, payload);
        }
    }

    fn look_at_fifo(&self, ino: Ino, thread: u32, answer: Box<dyn FnOnce(bool) + Send>) {
        let Some(gate) = self.files.0.fifos.get().cloned() else { return answer(true) };
        self.files.0.runtime.spawn_blocking(move || answer(gate(ino, thread)));
    }

    fn release(&self, handle: u64) {
        let unused = self.held().opens.close(handle);
        if let Some(handle) = unused {
            self.give_back(handle);
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
                    Err(_) => self.give(Err(Errno::EIO), &[]),
                },
                Err(error) => {
                    tracing::warn!(%error, "the authority's node gives no answer");
                    self.give(Err(errno_of(&error)), &[]);
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
            self.mount.drop_inode(Recall::Pages(ino));
            self.give(answer.result, &payload);
        });
    }

    fn give(self, mut result: Result<FileReply, Errno>, payload: &[u8]) {
        if let Some(ino) = self.dressing {
            self.mount.forget_bare(ino);
        }
        let recalls = self.mount.recalls.read().unwrap_or_else(PoisonError::into_inner);
        // Also of one that failed: it may have changed something all the same.
        let changes =
            if self.changes { self.mount.count_change(true) } else { self.changes_before };
        if let Ok(reply) = &mut result {
            let recalled = *recalls != self.recalls_before;
            if recalled {
                take_leases(reply);
            }
            let held = &mut *self.mount.held();
            if let (FileReply::Done, Some((dir, name))) = (&*reply, &self.leaving) {
                held.name_gone(*dir, name);
            }
            let (opening, naming) = (self.opening, self.naming);
            held.note(reply, Noted { opening, naming, changes, recalled });
            if held.is_full() && !self.mount.emptying.swap(true, Ordering::Relaxed) {
                let mount = Arc::clone(&self.mount);
                self.mount.files.0.runtime.spawn_blocking(move || {
                    mount.forget_all();
                    mount.emptying.store(false, Ordering::Relaxed);
                });
            }
        }
        // Whoever acts on the answer may cause the next recall: it must find this change ended.
        drop(self.changing);
        self.reply.send(result, payload);
    }
}

impl Changing {
    fn of(mount: &Arc<Mount>, request: &FileRequest) -> Option<Changing> {
        let dirs = match request {
            FileRequest::Mknod { parent, .. }
            | FileRequest::Mkdir { parent, .. }
            | FileRequest::Symlink { parent, .. }
            | FileRequest::Link { parent, .. }
            | FileRequest::Unlink { parent, .. }
            | FileRequest::Rmdir { parent, .. }
            | FileRequest::Create { parent, .. } => vec![*parent],
            FileRequest::Rename { parent, new_parent, .. } => vec![*parent, *new_parent],
            _ => return None,
        };
        let mut held = mount.held();
        for dir in &dirs {
            *held.changing.entry(*dir).or_default() += 1;
        }
        drop(held);
        Some(Changing { mount: Arc::clone(mount), dirs })
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        let mut held = self.mount.held();
        for dir in &self.dirs {
            if let Some(count) = held.changing.get_mut(dir) {
                *count -= 1;
                if *count == 0 {
                    held.changing.remove(dir);
                }
            }
        }
    }
}
