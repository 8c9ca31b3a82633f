//! What the kernel of this node may keep, and what it has under way: the node's own record of it.
//!
//! The authority recalls by it; it is also needed when the authority is lost, and to answer what is
//! known here. Invariant: nothing is lent beyond [`LEASED_MAX`] and [`NAMES_MAX`]; whoever finds the
//! record [full](Held::is_full) has everything forgotten.

use crate::opens::Opens;
use dunix_ids::Ino;
use dunix_wire::files::{
    Attr, FileReply, FileRequest, Lease, Name, NamePart, OpenMode, RenameMode,
};
use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

/// What the kernel got, for the case that the authority forgets about it.
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) opens: Opens,
    /// Inodes of which it may keep attributes or pages.
    pub(crate) leased: HashMap<Ino, Lent>,
    /// Names that it may keep, by directory.
    pub(crate) names: HashMap<Ino, Names>,
    pub(crate) names_count: usize,
    /// Directories whose names this node is changing: its kernel has them locked.
    pub(crate) changing: HashMap<Ino, u32>,
    /// How often this node began or ended a change of anything, of which nobody recalls what it knows.
    pub(crate) changes: u64,
}

/// By part and name: when the kernel got it.
pub(crate) type Names = BTreeMap<(NamePart, Vec<u8>), Instant>;

/// What the kernel was last told of an inode.
#[derive(Clone, Copy)]
pub(crate) struct Lent {
    pub(crate) at: Instant,
    /// It has no extended attributes, and those need not be asked for.
    pub(crate) bare: bool,
    /// Its attributes, and after how many changes of this node's own they were asked for.
    pub(crate) attr: Option<(Attr, u64)>,
}

/// A request, as far as it decides what is noted of its answer.
pub(crate) struct Noted {
    /// What is opened by it, if it opens; of a create, the inode comes with the answer.
    pub(crate) opening: Option<(Option<Ino>, OpenMode)>,
    /// The name that it looks up or makes.
    pub(crate) naming: Option<(Ino, Name)>,
    /// [`Held::changes`] when it was asked, or if it changes something, when it was answered.
    pub(crate) changes: u64,
    /// Something was recalled while the answer was on its way.
    pub(crate) recalled: bool,
}

/// Of no more inodes than these anything is cached.
const LEASED_MAX: usize = 1 << 21;
/// No more names than these are cached.
const NAMES_MAX: usize = 1 << 21;
impl Held {
    /// Whether no more can be lent.
    pub(crate) fn is_full(&self) -> bool {
        self.leased.len() >= LEASED_MAX || self.names_count >= NAMES_MAX
    }

    /// This node took a name away: its kernel keeps nothing of it.
    pub(crate) fn name_gone(&mut self, dir: Ino, name: &Name) {
        if let Some(names) = self.names.get_mut(&dir) {
            let known = names.remove(&(NamePart::of(&name.0), name.0.clone()));
            self.names_count -= usize::from(known.is_some());
        }
    }

    /// Takes the names of a part of a directory out of the record, and says when the kernel got the last of them; of
    /// `None`, those of all parts.
    pub(crate) fn take_names(
        &mut self,
        dir: Ino,
        part: Option<NamePart>,
    ) -> (Vec<Vec<u8>>, Option<Instant>) {
        let Some(names) = self.names.get_mut(&dir) else { return (Vec::new(), None) };
        let first = (part.unwrap_or(NamePart(0)), Vec::new());
        let is_meant = |key: &&(NamePart, Vec<u8>)| part.is_none_or(|part| part == key.0);
        let keys: Vec<_> =
            names.range(first..).map(|(key, _)| key).take_while(is_meant).cloned().collect();
        let last = keys.iter().filter_map(|key| names.remove(key)).max();
        self.names_count -= keys.len();
        if names.is_empty() {
            self.names.remove(&dir);
        }
        (keys.into_iter().map(|(_, name)| name).collect(), last)
    }

    /// The attributes of an inode, if they are lent and this node has changed nothing since.
    pub(crate) fn attr(&self, ino: Ino) -> Option<Attr> {
        let (attr, changes) = self.leased.get(&ino)?.attr?;
        (changes == self.changes).then_some(attr)
    }

    /// Notes what the kernel is about to get; of what cannot be noted, the lease is taken.
    pub(crate) fn note(&mut self, reply: &mut FileReply, request: Noted) {
        let Noted { opening, naming, changes, recalled } = request;
        let at = Instant::now();
        self.note_name(reply, naming, at);
        let full = self.leased.len() >= LEASED_MAX;
        match (&*reply, opening) {
            (FileReply::Entry(_, lease) | FileReply::Attr(_, lease), _) if lease.attr && full => {
                take_leases(reply);
            }
            (FileReply::Entry(attr, lease) | FileReply::Attr(attr, lease), _) if lease.attr => {
                let lent = Lent { at, bare: !attr.xattrs, attr: Some((*attr, changes)) };
                self.leased.insert(attr.ino, lent);
            }
            (&FileReply::Opened { handle, cached }, Some((Some(ino), open))) => {
                self.leased.entry(ino).or_insert(Lent { at, bare: false, attr: None });
                self.opens.add(handle, ino, open, cached && !recalled);
            }
            (&FileReply::Created { ref attr, handle, lease, cached }, Some((_, open))) => {
                let bare = lease.attr && !attr.xattrs;
                self.leased.insert(attr.ino, Lent { at, bare, attr: None });
                self.opens.add(handle, attr.ino, open, cached && !recalled);
            }
            _ => {}
        }
    }
}

impl Held {
    fn note_name(&mut self, reply: &mut FileReply, naming: Option<(Ino, Name)>, at: Instant) {
        let lease = match reply {
            FileReply::Entry(_, lease) | FileReply::Created { lease, .. } => &mut lease.entry,
            FileReply::Absent { lease } => lease,
            // A rename: the kernel takes along what it keeps of the name.
            FileReply::Done => &mut true,
            _ => return,
        };
        let Some((dir, name)) = naming else { return };
        if self.names_count >= NAMES_MAX {
            *lease = false;
        }
        if *lease {
            let names = self.names.entry(dir).or_default();
            let known = names.insert((NamePart::of(&name.0), name.0), at);
            self.names_count += usize::from(known.is_none());
        }
    }
}

/// Whether a request may change any inode's attributes.
pub(crate) fn changes(request: &FileRequest) -> bool {
    !matches!(
        request,
        FileRequest::Lookup { .. }
            | FileRequest::Getattr { .. }
            | FileRequest::Readlink { .. }
            | FileRequest::Open { open: OpenMode { truncate: false, .. }, .. }
            | FileRequest::Read { .. }
            | FileRequest::Fsync { .. }
            | FileRequest::Lseek { .. }
            | FileRequest::Readdir { .. }
            | FileRequest::Statfs
            | FileRequest::Getxattr { .. }
            | FileRequest::Listxattr { .. }
    )
}

/// Returns the name that the kernel may keep after a request.
pub(crate) fn name_of(request: &FileRequest) -> Option<(Ino, Name)> {
    match request {
        FileRequest::Lookup { parent, name }
        | FileRequest::Mknod { parent, name, .. }
        | FileRequest::Mkdir { parent, name, .. }
        | FileRequest::Symlink { parent, name, .. }
        | FileRequest::Link { parent, name, .. }
        | FileRequest::Create { parent, name, .. } => Some((*parent, name.clone())),
        FileRequest::Rename { new_parent, new_name, .. } => Some((*new_parent, new_name.clone())),
        _ => None,
    }
}

/// Returns the name that a request takes away.
pub(crate) fn leaving_name_of(request: &FileRequest) -> Option<(Ino, Name)> {
    match request {
        FileRequest::Unlink { parent, name }
        | FileRequest::Rmdir { parent, name }
        | FileRequest::Rename { parent, name, mode: RenameMode::Replace, .. } => {
            Some((*parent, name.clone()))
        }
        _ => None,
    }
}

pub(crate) fn take_leases(reply: &mut FileReply) {
    match reply {
        FileReply::Entry(_, lease)
        | FileReply::Attr(_, lease)
        | FileReply::Created { lease, .. } => *lease = Lease::default(),
        FileReply::Absent { lease } => *lease = false,
        _ => {}
    }
}
