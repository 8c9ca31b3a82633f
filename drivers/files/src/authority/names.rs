//! Verbs on names.

use super::{Ask, Fail, Outcome, State, Verdict};
use crate::body::overlay;
use dunix_ids::{Ino, NodeId};
use dunix_volume::{
    Content, Need,
    tree::{New, Removed},
};
use dunix_wire::files::{
    Attr, Caller, Errno, FileReply, HEADER_BYTES_MAX, Kind, Lease, Recall, RenameMode,
    TARGET_BYTES_MAX,
};

/// A new inode, and what its making is to be followed by.
pub(super) struct Made {
    pub(super) attr: Attr,
    pub(super) lease: Lease,
    pub(super) recalls: Vec<(NodeId, Recall)>,
}

impl Ask<'_> {
    pub(super) fn lookup(self, parent: Ino, name: &[u8]) -> Verdict {
        let found = self.with_state(|state| {
            let ino = match state.tree.lookup(parent, name) {
                Err(Need::Refused(Errno::ENOENT)) => {
                    let now_ms = self.authority.now_ms();
                    return Ok(Err(state.holders.lend_name(parent, name, self.from, now_ms)));
                }
                found => found?,
            };
            let attr = state.tree.attr(ino)?;
            Ok(Ok((attr, self.lease(state, ino, Some((parent, name))))))
        });
        if found == Err(Fail::Errno(Errno::ENOENT)) {
            // The lower is not quite at rest: the name was listed, and is gone.
            self.authority.state().tree.vanished(parent, name);
            return Ok(Outcome::of(FileReply::Absent { lease: false }));
        }
        Ok(Outcome::of(match found? {
            Ok((attr, lease)) => FileReply::Entry(self.present(attr)?, lease),
            Err(lease) => FileReply::Absent { lease },
        }))
    }

    pub(super) fn readdir(self, ino: Ino, after: u64, size: u32) -> Verdict {
        let size = usize::try_from(size).unwrap_or(usize::MAX).min(HEADER_BYTES_MAX / 2);
        let (entries, end) = self.with_state(|state| state.tree.readdir(ino, after, size))?;
        Ok(Outcome::of(FileReply::Entries { entries, end }))
    }

    pub(super) fn mknod(
        self,
        parent: Ino,
        name: &[u8],
        mode: u32,
        rdev: u32,
        caller: Caller,
    ) -> Verdict {
        let kind = match Kind::of_mode(mode) {
            None if mode & 0o170_000 == 0 => Kind::File,
            None | Some(Kind::Directory | Kind::Symlink) => return Err(Errno::EINVAL.into()),
            Some(kind) => kind,
        };
        self.make(parent, name, &New { kind, mode, rdev, caller, target: Vec::new() })
    }

    pub(super) fn mkdir(self, parent: Ino, name: &[u8], mode: u32, caller: Caller) -> Verdict {
        let target = Vec::new();
        self.make(parent, name, &New { kind: Kind::Directory, mode, rdev: 0, caller, target })
    }

    pub(super) fn symlink(
        self,
        parent: Ino,
        name: &[u8],
        target: &[u8],
        caller: Caller,
    ) -> Verdict {
        if target.is_empty() || target.len() > TARGET_BYTES_MAX {
            return Err(Errno::ENAMETOOLONG.into());
        }
        let target = target.to_vec();
        self.make(parent, name, &New { kind: Kind::Symlink, mode: 0o777, rdev: 0, caller, target })
    }

    pub(super) fn link(self, ino: Ino, parent: Ino, name: &[u8]) -> Verdict {
        let (attr, lease, recalls) = self.with_state(|state| {
            let attr = state.tree.link(ino, parent, name, self.now())?;
            let mut recalls = self.changed_dir(state, parent, name);
            recalls.extend(state.holders.changed_attr(ino, self.from));
            Ok((attr, self.lease(state, ino, Some((parent, name))), recalls))
        })?;
        Ok(Outcome::of(FileReply::Entry(self.present(attr)?, lease)).recalling(recalls))
    }

    pub(super) fn unlink(self, parent: Ino, name: &[u8]) -> Verdict {
        self.removing((parent, name), |state| state.tree.unlink(parent, name, self.now()))
    }

    pub(super) fn rmdir(self, parent: Ino, name: &[u8]) -> Verdict {
        self.removing((parent, name), |state| state.tree.rmdir(parent, name, self.now()))
    }

    pub(super) fn rename(self, from: (Ino, &[u8]), to: (Ino, &[u8]), mode: RenameMode) -> Verdict {
        let (removed, recalls) = self.with_state(|state| {
            let moved = state.tree.lookup(from.0, from.1)?;
            let removed = state.tree.rename(from, to, mode, self.now())?;
            let mut recalls = self.changed_dir(state, from.0, from.1);
            recalls.extend(self.changed_dir(state, to.0, to.1));
            let now_ms = self.authority.now_ms();
            state.holders.carried_name(from, to, self.from, now_ms);
            if mode == RenameMode::Exchange {
                state.holders.carried_name(to, from, self.from, now_ms);
            }
            recalls.extend(state.holders.changed_attr(moved, self.from));
            if let Some(removed) = removed {
                recalls.extend(self.unnamed(state, removed));
            }
            Ok((removed, recalls))
        })?;
        self.bury(removed);
        Ok(Outcome::of(FileReply::Done).recalling(recalls))
    }

    /// Makes an inode, if the name is free.
    pub(super) fn new_inode(self, parent: Ino, name: &[u8], new: &New) -> Result<Made, Fail> {
        self.with_state(|state| {
            let attr = state.tree.create(parent, name, new.clone(), self.now())?;
            let recalls = self.changed_dir(state, parent, name);
            Ok(Made { attr, lease: self.lease(state, attr.ino, Some((parent, name))), recalls })
        })
    }

    /// Puts the size and the times of the data, where they are an object, in place of the tree's.
    pub(super) fn present(self, mut attr: Attr) -> Result<Attr, Fail> {
        if attr.kind == Kind::File
            && self.authority.state().tree.content(attr.ino)?.0 == Content::Object
            && let Some(stat) = self.body(attr.ino)?.stat(self.authority.stores())
        {
            overlay(&mut attr, &stat);
        }
        Ok(attr)
    }

    fn make(self, parent: Ino, name: &[u8], new: &New) -> Verdict {
        let made = self.new_inode(parent, name, new)?;
        Ok(Outcome::of(FileReply::Entry(made.attr, made.lease)).recalling(made.recalls))
    }

    fn removing(
        self,
        (parent, name): (Ino, &[u8]),
        mut verb: impl FnMut(&mut State) -> Result<Removed, Need>,
    ) -> Verdict {
        let (removed, recalls) = self.with_state(|state| {
            let removed = verb(state)?;
            let mut recalls = self.changed_dir(state, parent, name);
            recalls.extend(self.unnamed(state, removed));
            Ok((removed, recalls))
        })?;
        self.bury(Some(removed));
        Ok(Outcome::of(FileReply::Done).recalling(recalls))
    }

    /// Recalls what is known of an inode that lost a name; if it lost its last, those who keep it open
    /// for nobody let it go.
    fn unnamed(self, state: &mut State, removed: Removed) -> Vec<(NodeId, Recall)> {
        let mut recalls = state.holders.changed_attr(removed.ino, self.from);
        if !removed.gone {
            recalls.extend(state.holders.lost_name(removed.ino));
        }
        recalls
    }

    fn bury(self, removed: Option<Removed>) {
        if let Some(Removed { ino, gone: true }) = removed {
            self.authority.discard(ino);
        }
    }
}
