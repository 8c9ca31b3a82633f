//! Verbs on attributes.

use super::{Ask, Outcome, Verdict};
use dunix_ids::Ino;
use dunix_volume::Content;
use dunix_wire::files::{Errno, FileReply, Kind, SetAttr, XATTR_BYTES_MAX};

impl Ask<'_> {
    pub(super) fn getattr(self, ino: Ino) -> Verdict {
        let (attr, lease) = self.with_state(|state| {
            let attr = state.tree.attr(ino)?;
            Ok((attr, self.lease(state, ino, None)))
        })?;
        Ok(Outcome::of(FileReply::Attr(self.present(attr)?, lease)))
    }

    pub(super) fn setattr(self, ino: Ino, set: SetAttr) -> Verdict {
        let before = self.with_state(|state| state.tree.attr(ino))?;
        if let Some(size) = set.size {
            self.resize(&before, size)?;
        }
        let (attr, lease, changed) = self.with_state(|state| {
            let attr = state.tree.set_attr(ino, set, self.now())?;
            let changed = if set.size.is_some() {
                state.holders.changed_data(ino, self.from, false)
            } else {
                let recalls = state.holders.changed_attr(ino, self.from);
                dunix_volume::Changed { recalls, drop_own: false }
            };
            Ok((attr, self.lease(state, ino, None), changed))
        })?;
        if set.atime.or(set.mtime).is_some() && attr.kind == Kind::File {
            let body = self.body(ino)?;
            if let Some(stat) = body.stat(self.authority.stores()) {
                let mut old = attr;
                crate::body::overlay(&mut old, &stat);
                let atime = if set.atime.is_some() { attr.atime } else { old.atime };
                let mtime = if set.mtime.is_some() { attr.mtime } else { old.mtime };
                body.set_times(self.authority.stores(), atime, mtime);
            }
        }
        Ok(Outcome::of(FileReply::Attr(self.present(attr)?, lease)).changing(ino, changed))
    }

    pub(super) fn readlink(self, ino: Ino) -> Verdict {
        let target = self.with_state(|state| state.tree.readlink(ino).map(<[u8]>::to_vec))?;
        Ok(Outcome::bytes(target))
    }

    pub(super) fn setxattr(self, ino: Ino, name: &[u8], value: &[u8], flags: i32) -> Verdict {
        if value.len() > XATTR_BYTES_MAX {
            return Err(Errno::ERANGE.into());
        }
        let recalls = self.with_state(|state| {
            state.tree.set_xattr(ino, name, value, flags, self.now())?;
            Ok(state.holders.changed_attr(ino, self.from))
        })?;
        Ok(Outcome::of(FileReply::Done).recalling(recalls))
    }

    pub(super) fn getxattr(self, ino: Ino, name: &[u8]) -> Verdict {
        let value = self.with_state(|state| state.tree.xattr(ino, name).map(<[u8]>::to_vec))?;
        Ok(Outcome::bytes(value))
    }

    pub(super) fn listxattr(self, ino: Ino) -> Verdict {
        Ok(Outcome::bytes(self.with_state(|state| state.tree.xattr_names(ino))?))
    }

    pub(super) fn removexattr(self, ino: Ino, name: &[u8]) -> Verdict {
        let recalls = self.with_state(|state| {
            state.tree.remove_xattr(ino, name, self.now())?;
            Ok(state.holders.changed_attr(ino, self.from))
        })?;
        Ok(Outcome::of(FileReply::Done).recalling(recalls))
    }

    /// Whether the data are an object's already, so that changing them copies nothing.
    pub(super) fn is_object(self, ino: Ino) -> Result<bool, Errno> {
        Ok(self.authority.state().tree.content(ino)?.0 == Content::Object)
    }
}
