//! Making, moving and removing names.
//!
//! Every verb looks at all it needs before it changes anything, so that it can be asked again.

use super::{Content, Dir, Entry, INODES_MAX, Meta, Need, Node, Tree};
use alloc::{boxed::Box, collections::BTreeMap, sync::Arc, vec::Vec};
use dunix_ids::Ino;
use dunix_wire::files::{Attr, Caller, Errno, Kind, RenameMode, Time};

const SET_GROUP_ID: u32 = 0o2000;
const LINKS_MAX: u32 = 65_000;

/// What is to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct New {
    /// What it is.
    pub kind: Kind,
    /// Its permission bits.
    pub mode: u32,
    /// A device's number.
    pub rdev: u32,
    /// Its owner.
    pub caller: Caller,
    /// A symbolic link's target.
    pub target: Vec<u8>,
}

/// An inode that lost a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Removed {
    /// Which.
    pub ino: Ino,
    /// Whether its data are gone: it has neither names nor opens.
    pub gone: bool,
}

impl Tree {
    /// Makes an inode under a new name. A file's data are an object (that the caller makes).
    ///
    /// # Errors
    /// A [`Need`]; EEXIST, ENOENT (the directory was removed), ENOTDIR, ESTALE, ENOSPC.
    pub fn create(&mut self, parent: Ino, name: &[u8], new: New, now: Time) -> Result<Attr, Need> {
        if self.names(parent)?.contains_key(name) {
            return Err(Errno::EEXIST.into());
        }
        let above = self.live_dir(parent)?;
        let inherits = above.mode & SET_GROUP_ID != 0;
        let gid = if inherits { above.gid } else { new.caller.gid };
        if self.nodes.len() >= INODES_MAX {
            return Err(Errno::ENOSPC.into());
        }
        let ino = Ino(self.next_ino);
        self.next_ino += 1;
        let is_dir = new.kind == Kind::Directory;
        let mode = new.mode & 0o7777 | if is_dir && inherits { SET_GROUP_ID } else { 0 };
        let size = if is_dir { 4096 } else { new.target.len() as u64 };
        let attr = Attr {
            ino,
            kind: new.kind,
            mode,
            nlink: if is_dir { 2 } else { 1 },
            uid: new.caller.uid,
            gid,
            rdev: new.rdev,
            size,
            blocks: if is_dir { 8 } else { 0 },
            atime: now,
            mtime: now,
            ctime: now,
            xattrs: false,
        };
        let meta = Meta { attr, target: new.target, xattrs: BTreeMap::new() };
        self.nodes.insert(
            ino.0,
            Node {
                kind: new.kind,
                origin: None,
                content: Content::Object,
                meta: Some(Box::new(meta)),
                dir: is_dir.then(|| Box::new(Dir::empty(parent.0))),
                opens: 0,
            },
        );
        self.insert(parent, name, ino, now)?;
        Ok(attr)
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// A [`Need`]; EEXIST, EPERM (a directory), EMLINK, ENOENT (either was removed), ENOTDIR, ESTALE.
    pub fn link(&mut self, ino: Ino, parent: Ino, name: &[u8], now: Time) -> Result<Attr, Need> {
        if self.names(parent)?.contains_key(name) {
            return Err(Errno::EEXIST.into());
        }
        self.live_dir(parent)?;
        let attr = &self.meta(ino)?.attr;
        match attr {
            Attr { kind: Kind::Directory, .. } => return Err(Errno::EPERM.into()),
            Attr { nlink: 0, .. } => return Err(Errno::ENOENT.into()),
            Attr { nlink, .. } if *nlink >= LINKS_MAX => return Err(Errno::EMLINK.into()),
            _ => {}
        }
        self.insert(parent, name, ino, now)?;
        let attr = &mut self.meta_mut(ino)?.attr;
        attr.nlink += 1;
        attr.ctime = now;
        Ok(*attr)
    }

    /// Removes a name of something other than a directory.
    ///
    /// # Errors
    /// A [`Need`]; ENOENT, EISDIR, ENOTDIR, ESTALE.
    pub fn unlink(&mut self, parent: Ino, name: &[u8], now: Time) -> Result<Removed, Need> {
        let ino = self.lookup(parent, name)?;
        if self.node(ino)?.kind == Kind::Directory {
            return Err(Errno::EISDIR.into());
        }
        self.live_dir(parent)?;
        self.remove(parent, name, now);
        self.drop_link(ino, now)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// A [`Need`]; ENOENT, ENOTDIR, ENOTEMPTY, ESTALE.
    pub fn rmdir(&mut self, parent: Ino, name: &[u8], now: Time) -> Result<Removed, Need> {
        let ino = self.lookup(parent, name)?;
        self.empty_dir(ino)?;
        self.live_dir(parent)?;
        self.remove(parent, name, now);
        self.add_subdirs(parent, -1);
        self.drop_link(ino, now)
    }

    /// A name of the lower turned out to lead nowhere there: it is dropped, unless more is known of its
    /// inode than that it was listed.
    pub fn vanished(&mut self, parent: Ino, name: &[u8]) {
        let entry = self.names(parent).ok().and_then(|names| names.get(name)).copied();
        let known =
            |entry: &Entry| self.nodes.get(&entry.ino).is_some_and(|node| node.meta.is_some());
        if entry.is_some_and(|entry| !known(&entry))
            && let Some(dir) = self.nodes.get_mut(&parent.0).and_then(|node| node.dir.as_mut())
            && let Some(entry) = dir.names.as_mut().and_then(|names| names.remove(name))
        {
            dir.order.remove(&entry.cookie);
        }
    }

    /// Moves a name. Returns what lost its name by it.
    ///
    /// # Errors
    /// A [`Need`]; as rename(2) and renameat2(2).
    pub fn rename(
        &mut self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
        now: Time,
    ) -> Result<Option<Removed>, Need> {
        let source = self.lookup(from.0, from.1)?;
        self.live_dir(from.0)?;
        self.live_dir(to.0)?;
        let target = match self.lookup(to.0, to.1) {
            Ok(ino) => Some(ino),
            Err(Need::Refused(Errno::ENOENT)) => None,
            Err(need) => return Err(need),
        };
        self.refuse_cycle(source, to.0)?;
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => Err(Errno::EEXIST.into()),
            (RenameMode::Exchange, None) => Err(Errno::ENOENT.into()),
            (_, Some(target)) if target == source => Ok(None),
            (RenameMode::Exchange, Some(target)) => {
                self.refuse_cycle(target, from.0)?;
                self.exchange((from, source), (to, target), now).map(|()| None)
            }
            (_, Some(target)) => {
                self.refuse_replacing(source, target)?;
                let is_dir = self.node(target)?.kind == Kind::Directory;
                self.remove(to.0, to.1, now);
                if is_dir {
                    self.add_subdirs(to.0, -1);
                }
                let removed = self.drop_link(target, now)?;
                self.carry(from, to, source, now)?;
                Ok(Some(removed))
            }
            (_, None) => self.carry(from, to, source, now).map(|()| None),
        }
    }

    fn carry(
        &mut self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        ino: Ino,
        now: Time,
    ) -> Result<(), Need> {
        self.remove(from.0, from.1, now);
        if self.node(ino)?.kind == Kind::Directory {
            self.add_subdirs(from.0, -1);
        }
        self.insert(to.0, to.1, ino, now)?;
        self.meta_mut(ino)?.attr.ctime = now;
        Ok(())
    }

    fn exchange(
        &mut self,
        a: ((Ino, &[u8]), Ino),
        b: ((Ino, &[u8]), Ino),
        now: Time,
    ) -> Result<(), Need> {
        for ((parent, name), ino) in [a, b] {
            self.remove(parent, name, now);
            if self.node(ino)?.kind == Kind::Directory {
                self.add_subdirs(parent, -1);
            }
        }
        self.insert(b.0.0, b.0.1, a.1, now)?;
        self.insert(a.0.0, a.0.1, b.1, now)?;
        for ino in [a.1, b.1] {
            self.meta_mut(ino)?.attr.ctime = now;
        }
        Ok(())
    }

    fn refuse_replacing(&self, source: Ino, target: Ino) -> Result<(), Need> {
        let source_is_dir = self.node(source)?.kind == Kind::Directory;
        let target_is_dir = self.node(target)?.kind == Kind::Directory;
        match (source_is_dir, target_is_dir) {
            (true, false) => Err(Errno::ENOTDIR.into()),
            (false, true) => Err(Errno::EISDIR.into()),
            (true, true) => self.empty_dir(target),
            (false, false) => Ok(()),
        }
    }

    /// A directory cannot go below itself: two nodes may ask for halves of a cycle at once, so the
    /// kernels' own checks do not do.
    fn refuse_cycle(&self, moved: Ino, below: Ino) -> Result<(), Need> {
        let mut at = below;
        loop {
            if at == moved {
                return Err(Errno::EINVAL.into());
            }
            if at == Ino::ROOT {
                return Ok(());
            }
            at = Ino(self.dir(at)?.parent);
        }
    }

    fn empty_dir(&self, ino: Ino) -> Result<(), Need> {
        if self.names(ino)?.is_empty() { Ok(()) } else { Err(Errno::ENOTEMPTY.into()) }
    }

    /// Returns the attributes of a directory that still has a name.
    fn live_dir(&self, ino: Ino) -> Result<&Attr, Need> {
        let meta = self.meta(ino)?;
        if meta.attr.nlink == 0 { Err(Errno::ENOENT.into()) } else { Ok(&meta.attr) }
    }

    fn insert(&mut self, parent: Ino, name: &[u8], ino: Ino, now: Time) -> Result<(), Need> {
        let is_dir = match &mut self.node_mut(ino)?.dir {
            Some(dir) => {
                dir.parent = parent.0;
                true
            }
            None => false,
        };
        let dir = self.node_mut(parent)?.dir.as_mut().ok_or(Errno::ENOTDIR)?;
        let names = dir.names.as_mut().ok_or(Errno::EIO)?;
        let (name, cookie): (Arc<[u8]>, u64) = (Arc::from(name), dir.next_cookie);
        dir.next_cookie += 1;
        dir.order.insert(cookie, Arc::clone(&name));
        names.insert(name, Entry { ino: ino.0, cookie });
        if is_dir {
            self.add_subdirs(parent, 1);
        }
        self.touch(parent, now);
        Ok(())
    }

    fn remove(&mut self, parent: Ino, name: &[u8], now: Time) {
        if let Some(dir) = self.nodes.get_mut(&parent.0).and_then(|node| node.dir.as_mut())
            && let Some(entry) = dir.names.as_mut().and_then(|names| names.remove(name))
        {
            dir.order.remove(&entry.cookie);
        }
        self.touch(parent, now);
    }

    fn add_subdirs(&mut self, parent: Ino, change: i32) {
        if let Ok(meta) = self.meta_mut(parent)
            && meta.attr.nlink > 0
        {
            meta.attr.nlink = meta.attr.nlink.saturating_add_signed(change).max(1);
        }
    }

    fn drop_link(&mut self, ino: Ino, now: Time) -> Result<Removed, Need> {
        let is_dir = self.node(ino)?.kind == Kind::Directory;
        let attr = &mut self.meta_mut(ino)?.attr;
        attr.nlink = if is_dir { 0 } else { attr.nlink.saturating_sub(1) };
        attr.ctime = now;
        Ok(Removed { ino, gone: self.bury(ino) })
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
