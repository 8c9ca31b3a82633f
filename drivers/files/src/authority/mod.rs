//! The authority of a volume: the one place where its names, attributes and data are read and changed.
//!
//! ```text
//!  request ──► checks ──► tree (in memory) ──► objects, lower (host) ──► holders ──► answer + recalls
//! ```
//!
//! Owns: the tree, the object store, the table of opens. Refuses: requests with names that no
//! directory can have, unknown inodes, too long payloads; each is a peer's fault and its error. It
//! does not check permissions: the kernels of the nodes do (`default_permissions`), and the mesh
//! vouches for the nodes. Invariants: what an answer shows was never older than the last acknowledged
//! change; a change is acknowledged after the recalls that it caused; no lock is held during host I/O
//! but that of the one file concerned.

mod attributes;
mod data;
mod names;

use crate::{
    body::{Body, Stores},
    host::now,
    lower::{Lower, LowerConfig},
    objects::Objects,
};
use dunix_ids::{Ino, NodeId};
use dunix_volume::{Access, Changed, Content, Holders, Need, Tree};
use dunix_wire::files::{
    Errno, FileAnswer, FileReply, FileRequest, Lease, OpenMode, PAYLOAD_BYTES_MAX, Recall, Reclaim,
};
use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// The most opens of files at a time; a further one is ENFILE.
pub const HANDLES_MAX: usize = 1 << 20;
/// How many facts about the lower one verb can need.
const NEEDS_MAX: usize = 32;

/// A copy-on-write volume.
#[derive(Clone, Debug)]
pub struct VolumeConfig {
    /// The directory that is shown and never changed.
    pub lower: PathBuf,
    /// A directory on disk, for this volume alone; what it holds from before is lost.
    pub upper: PathBuf,
    /// What of the lower is shown.
    pub shown: LowerConfig,
}

/// How much time an answer may take now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effort {
    /// What memory and the host's caches have; else [`Fail::Deferred`], before anything is changed.
    Prompt,
    /// Whatever it takes.
    Any,
}

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fail {
    Errno(Errno),
    /// It would take too long; to be asked again with [`Effort::Any`].
    Deferred,
}

impl From<Errno> for Fail {
    fn from(errno: Errno) -> Fail {
        Fail::Errno(errno)
    }
}

/// An answer, and what must happen before it is given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    pub(crate) answer: FileAnswer,
    pub(crate) payload: Vec<u8>,
    /// To be acknowledged first, unless `at_once`.
    pub(crate) recalls: Vec<(NodeId, Recall)>,
    /// The asker's kernel holds pages locked until it has the answer: waiting for others, who may
    /// wait for those pages, could go round in a circle.
    pub(crate) at_once: bool,
}

impl Outcome {
    fn of(reply: FileReply) -> Outcome {
        let answer = FileAnswer { result: Ok(reply), drop_pages: None };
        Outcome { answer, payload: Vec::new(), recalls: Vec::new(), at_once: false }
    }

    fn bytes(payload: Vec<u8>) -> Outcome {
        Outcome { payload, ..Outcome::of(FileReply::Bytes) }
    }

    fn failed(errno: Errno) -> Outcome {
        let answer = FileAnswer { result: Err(errno), drop_pages: None };
        Outcome { answer, ..Outcome::of(FileReply::Done) }
    }

    fn recalling(mut self, recalls: impl IntoIterator<Item = (NodeId, Recall)>) -> Outcome {
        self.recalls.extend(recalls);
        self
    }

    fn changing(mut self, ino: Ino, changed: Changed) -> Outcome {
        self.recalls.extend(changed.recalls);
        self.answer.drop_pages = changed.drop_own.then_some(ino);
        self
    }
}

/// A verb's result.
type Verdict = Result<Outcome, Fail>;

/// The authority of one volume.
pub struct Authority {
    lower: Lower,
    objects: Objects,
    state: Mutex<State>,
    /// Locked before `state` where both are.
    bodies: Mutex<HashMap<Ino, Arc<Body>>>,
    started: Instant,
}

struct State {
    tree: Tree,
    holders: Holders,
    handles: HashMap<u64, Handle>,
    next_handle: u64,
}

#[derive(Clone, Copy)]
struct Handle {
    node: NodeId,
    ino: Ino,
    access: Access,
}

/// One request at work.
#[derive(Clone, Copy)]
struct Ask<'a> {
    authority: &'a Authority,
    from: NodeId,
    effort: Effort,
}

impl Authority {
    /// Opens the volume; nothing is changed in it yet.
    ///
    /// # Errors
    /// The host's, about either directory.
    pub fn open(config: VolumeConfig) -> io::Result<Authority> {
        Ok(Authority {
            lower: Lower::open_root(&config.lower, config.shown)?,
            objects: Objects::make(&config.upper)?,
            state: Mutex::new(State {
                tree: Tree::new(),
                holders: Holders::default(),
                handles: HashMap::new(),
                next_handle: 1,
            }),
            bodies: Mutex::default(),
            started: Instant::now(),
        })
    }

    /// Answers a request of a node. [`Effort::Prompt`] may end in `None`: ask again, elsewhere.
    pub(crate) fn answer(
        &self,
        from: NodeId,
        request: &FileRequest,
        payload: &[u8],
        effort: Effort,
    ) -> Option<Outcome> {
        let ask = Ask { authority: self, from, effort };
        match ask.dispatch(request, payload) {
            Ok(outcome) => Some(outcome),
            Err(Fail::Errno(errno)) => Some(Outcome::failed(errno)),
            Err(Fail::Deferred) => None,
        }
    }

    /// Closes an open of a node; one that it does not have is ignored.
    pub(crate) fn release(&self, node: NodeId, handle: u64) {
        let mut state = self.state();
        if state.handles.get(&handle).is_some_and(|open| open.node == node)
            && let Some(open) = state.handles.remove(&handle)
        {
            state.holders.closed(open.ino, node, open.access);
            let gone = state.tree.closed(open.ino);
            drop(state);
            if gone { self.discard(open.ino) } else { self.rest(open.ino) }
        }
    }

    /// Takes back opens of a node that was taken to be gone. What is no more stays closed.
    pub(crate) fn reclaim(&self, node: NodeId, opens: &[Reclaim]) {
        let mut state = self.state();
        for &Reclaim { handle, ino, open } in opens {
            // A number that was never given out is no reclaim.
            if handle < state.next_handle && !state.handles.contains_key(&handle) {
                // A file that went with its last open is ESTALE to those who still use it.
                let _ = state.add_open(node, handle, ino, open);
            }
        }
    }

    /// Ends all that a node had open or held.
    pub(crate) fn node_gone(&self, node: NodeId) {
        let mut state = self.state();
        let open = state.handles.iter().filter(|(_, open)| open.node == node);
        let handles: Vec<u64> = open.map(|(&handle, _)| handle).collect();
        state.holders.node_gone(node);
        drop(state);
        for handle in handles {
            self.release(node, handle);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stores(&self) -> Stores<'_> {
        Stores { lower: &self.lower, objects: &self.objects }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Removes the data of an inode that is no more.
    fn discard(&self, ino: Ino) {
        self.state().holders.discard(ino);
        self.bodies().remove(&ino);
        self.objects.remove(ino);
    }

    /// Gives back the descriptor of a file that nobody has open.
    fn rest(&self, ino: Ino) {
        let mut bodies = self.bodies();
        if self.state().tree.is_open(ino) {
            return;
        }
        match bodies.get(&ino) {
            // Nobody else can come to it while the map is locked.
            Some(body) if Arc::strong_count(body) == 1 => {
                bodies.remove(&ino);
            }
            Some(body) => body.rest(),
            None => {}
        }
    }

    fn bodies(&self) -> MutexGuard<'_, HashMap<Ino, Arc<Body>>> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fetch(&self, need: Need) -> Result<(), Errno> {
        match need {
            Need::List(ino, path) => {
                let entries = self.lower.list(&path)?;
                self.state().tree.listed(ino, entries);
            }
            Need::Stat(ino, path) => {
                let stat = self.lower.stat(&path)?;
                self.state().tree.statted(ino, stat);
            }
            Need::Refused(errno) => return Err(errno),
        }
        Ok(())
    }
}

impl State {
    /// Notes an open. Returns how the file may be used through it.
    fn add_open(
        &mut self,
        node: NodeId,
        handle: u64,
        ino: Ino,
        open: OpenMode,
    ) -> Result<Access, Errno> {
        if self.handles.len() >= HANDLES_MAX {
            return Err(Errno::ENFILE);
        }
        self.tree.opened(ino)?;
        let access = match (open.read, open.write) {
            (_, false) => Access::Cached,
            (true, true) => Access::Direct,
            (false, true) => Access::Blind,
        };
        self.holders.opened(ino, node, access);
        self.handles.insert(handle, Handle { node, ino, access });
        Ok(access)
    }
}

impl Ask<'_> {
    fn dispatch(self, request: &FileRequest, payload: &[u8]) -> Verdict {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Errno::EINVAL.into());
        }
        match request {
            FileRequest::Lookup { parent, name } => self.lookup(*parent, name.check()?),
            FileRequest::Getattr { ino } => self.getattr(*ino),
            FileRequest::Setattr { ino, set } => self.setattr(*ino, *set),
            FileRequest::Readlink { ino } => self.readlink(*ino),
            FileRequest::Mknod { parent, name, mode, rdev, caller } => {
                self.mknod(*parent, name.check()?, *mode, *rdev, *caller)
            }
            FileRequest::Mkdir { parent, name, mode, caller } => {
                self.mkdir(*parent, name.check()?, *mode, *caller)
            }
            FileRequest::Symlink { parent, name, caller } => {
                self.symlink(*parent, name.check()?, payload, *caller)
            }
            FileRequest::Link { ino, parent, name } => self.link(*ino, *parent, name.check()?),
            FileRequest::Unlink { parent, name } => self.unlink(*parent, name.check()?),
            FileRequest::Rmdir { parent, name } => self.rmdir(*parent, name.check()?),
            FileRequest::Rename { parent, name, new_parent, new_name, mode } => {
                let (name, new_name) = (name.check()?, new_name.check()?);
                self.rename((*parent, name), (*new_parent, new_name), *mode)
            }
            FileRequest::Open { ino, open } => self.open(*ino, *open),
            FileRequest::Create { parent, name, mode, open, caller } => {
                self.create(*parent, name.check()?, *mode, *open, *caller)
            }
            FileRequest::Read { ino, offset, size } => self.read(*ino, *offset, *size),
            FileRequest::Write { ino, offset, append, from_cache, unprivileged } => {
                let how = data::How {
                    append: *append,
                    from_cache: *from_cache,
                    unprivileged: *unprivileged,
                };
                self.write(*ino, *offset, how, payload)
            }
            FileRequest::Fsync { ino, data_only } => self.fsync(*ino, *data_only),
            FileRequest::Fallocate { ino, offset, length, mode } => {
                self.fallocate(*ino, *offset, *length, *mode)
            }
            FileRequest::Lseek { ino, offset, hole } => self.lseek(*ino, *offset, *hole),
            FileRequest::CopyRange { from, from_offset, to, to_offset, length } => {
                self.copy_range((*from, *from_offset), (*to, *to_offset), *length)
            }
            FileRequest::Readdir { ino, after, size } => self.readdir(*ino, *after, *size),
            FileRequest::Statfs => {
                Ok(Outcome::of(FileReply::Statfs(self.authority.objects.sizes()?)))
            }
            FileRequest::Setxattr { ino, name, flags } => {
                self.setxattr(*ino, name.check()?, payload, *flags)
            }
            FileRequest::Getxattr { ino, name } => self.getxattr(*ino, name.check()?),
            FileRequest::Listxattr { ino } => self.listxattr(*ino),
            FileRequest::Removexattr { ino, name } => self.removexattr(*ino, name.check()?),
        }
    }

    /// Runs a verb on the tree, fetching what it needs of the lower.
    fn with_state<T>(self, mut verb: impl FnMut(&mut State) -> Result<T, Need>) -> Result<T, Fail> {
        for _ in 0..NEEDS_MAX {
            let need = match verb(&mut self.authority.state()) {
                Ok(value) => return Ok(value),
                Err(Need::Refused(errno)) => return Err(errno.into()),
                Err(need) => need,
            };
            self.may_take_long()?;
            self.authority.fetch(need)?;
        }
        Err(Errno::EIO.into())
    }

    fn may_take_long(self) -> Result<(), Fail> {
        if self.effort == Effort::Prompt { Err(Fail::Deferred) } else { Ok(()) }
    }

    /// Finds the data of a file.
    fn body(self, ino: Ino) -> Result<Arc<Body>, Fail> {
        let mut bodies = self.authority.bodies();
        let body = match bodies.get(&ino) {
            Some(body) => Arc::clone(body),
            None => {
                // Asked with the map locked: a body that was at work on the copy is still in it.
                let body = match self.authority.state().tree.content(ino)? {
                    (Content::Lower, path) => Arc::new(Body::in_lower(ino, path)),
                    (Content::Object, _) => Arc::new(Body::in_object(ino)),
                    (Content::Gone, _) => return Err(Errno::ESTALE.into()),
                };
                bodies.insert(ino, Arc::clone(&body));
                body
            }
        };
        drop(bodies);
        if self.effort == Effort::Prompt && !body.is_free() {
            return Err(Fail::Deferred);
        }
        Ok(body)
    }

    /// Lends attributes, and the name of an entry of a directory if there is one.
    fn lease(self, state: &mut State, ino: Ino, entry: Option<(Ino, &[u8])>) -> Lease {
        state.holders.lend_attr(ino, self.from);
        let now_ms = self.authority.now_ms();
        let may_keep = |(dir, name)| state.holders.lend_name(dir, name, self.from, now_ms);
        Lease { attr: true, entry: entry.is_some_and(may_keep) }
    }

    /// A name in a directory was changed, and with it the directory's attributes.
    fn changed_dir(self, state: &mut State, dir: Ino, name: &[u8]) -> Vec<(NodeId, Recall)> {
        let now_ms = self.authority.now_ms();
        let mut recalls = state.holders.changed_name(dir, name, self.from, now_ms);
        recalls.extend(state.holders.changed_attr(dir, self.from));
        recalls
    }

    fn now(self) -> dunix_wire::files::Time {
        now()
    }
}
