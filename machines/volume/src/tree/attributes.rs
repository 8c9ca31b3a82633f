//! Attributes, extended attributes and link targets.
//!
//! Size and times of a file whose data are an object are the object's: the driver puts them in
//! place of what is kept here.

use super::{Need, Tree, XATTRS_BYTES_MAX};
use alloc::vec::Vec;
use dunix_ids::Ino;
use dunix_wire::files::{Attr, Errno, Kind, SetAttr, SetTime, Time};

const XATTR_CREATE: i32 = 1;
const XATTR_REPLACE: i32 = 2;
const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o0010;

impl Tree {
    /// Returns the attributes.
    ///
    /// # Errors
    /// A [`Need`]; ESTALE.
    pub fn attr(&self, ino: Ino) -> Result<Attr, Need> {
        Ok(self.meta(ino)?.attr)
    }

    /// Changes attributes; of a size, only the consequences (the data are the caller's).
    ///
    /// # Errors
    /// A [`Need`]; ESTALE.
    pub fn set_attr(&mut self, ino: Ino, set: SetAttr, now: Time) -> Result<Attr, Need> {
        let meta = self.meta_mut(ino)?;
        let attr = &mut meta.attr;
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        if set.uid.or(set.gid).is_some() && attr.kind != Kind::Directory || set.size.is_some() {
            attr.mode = without_privilege(attr.mode);
            meta.xattrs.remove(&b"security.capability"[..]);
            attr.xattrs = !meta.xattrs.is_empty();
        }
        if let Some(mode) = set.mode {
            attr.mode = mode & 0o7777;
        }
        if let Some(size) = set.size {
            attr.size = size;
            attr.mtime = now;
        }
        let at = |time| match time {
            SetTime::Now => now,
            SetTime::At(time) => time,
        };
        attr.atime = set.atime.map_or(attr.atime, at);
        attr.mtime = set.mtime.map_or(attr.mtime, at);
        attr.ctime = now;
        Ok(*attr)
    }

    /// Notes a write: privileges go, as Linux has it for a writer without CAP_FSETID. Returns whether
    /// attributes changed.
    pub fn drop_privilege(&mut self, ino: Ino) -> bool {
        let Ok(meta) = self.meta_mut(ino) else { return false };
        let mode = without_privilege(meta.attr.mode);
        let changed = mode != meta.attr.mode;
        meta.attr.mode = mode;
        let capable = meta.xattrs.remove(&b"security.capability"[..]).is_some();
        meta.attr.xattrs = !meta.xattrs.is_empty();
        capable || changed
    }

    /// Returns a symbolic link's target.
    ///
    /// # Errors
    /// A [`Need`]; EINVAL, ESTALE.
    pub fn readlink(&self, ino: Ino) -> Result<&[u8], Need> {
        let meta = self.meta(ino)?;
        match meta.attr.kind {
            Kind::Symlink => Ok(&meta.target),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    /// Sets an extended attribute; `flags` as in setxattr(2).
    ///
    /// # Errors
    /// A [`Need`]; EEXIST, ENODATA, ENOSPC, EOPNOTSUPP, ESTALE.
    pub fn set_xattr(
        &mut self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        flags: i32,
        now: Time,
    ) -> Result<(), Need> {
        if name.starts_with(b"system.") {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let meta = self.meta_mut(ino)?;
        match (flags & (XATTR_CREATE | XATTR_REPLACE), meta.xattrs.contains_key(name)) {
            (XATTR_CREATE, true) => return Err(Errno::EEXIST.into()),
            (XATTR_REPLACE, false) => return Err(Errno::ENODATA.into()),
            _ => {}
        }
        let others = meta.xattrs.iter().filter(|(other, _)| other.as_slice() != name);
        let bytes: usize = others.map(|(name, value)| name.len() + value.len()).sum();
        if bytes + name.len() + value.len() > XATTRS_BYTES_MAX {
            return Err(Errno::ENOSPC.into());
        }
        meta.xattrs.insert(name.to_vec(), value.to_vec());
        meta.attr.xattrs = true;
        meta.attr.ctime = now;
        Ok(())
    }

    /// Returns an extended attribute.
    ///
    /// # Errors
    /// A [`Need`]; ENODATA, ESTALE.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<&[u8], Need> {
        let value = self.meta(ino)?.xattrs.get(name);
        value.map(Vec::as_slice).ok_or(Need::Refused(Errno::ENODATA))
    }

    /// Returns the names of the extended attributes, each ended by NUL.
    ///
    /// # Errors
    /// A [`Need`]; ESTALE.
    pub fn xattr_names(&self, ino: Ino) -> Result<Vec<u8>, Need> {
        let names = self.meta(ino)?.xattrs.keys();
        Ok(names.flat_map(|name| name.iter().copied().chain([0])).collect())
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// A [`Need`]; ENODATA, ESTALE.
    pub fn remove_xattr(&mut self, ino: Ino, name: &[u8], now: Time) -> Result<(), Need> {
        let meta = self.meta_mut(ino)?;
        meta.xattrs.remove(name).ok_or(Errno::ENODATA)?;
        meta.attr.xattrs = !meta.xattrs.is_empty();
        meta.attr.ctime = now;
        Ok(())
    }
}

fn without_privilege(mode: u32) -> u32 {
    let group = if mode & GROUP_EXECUTE != 0 { SET_GROUP_ID } else { 0 };
    mode & !(SET_USER_ID | group)
}
