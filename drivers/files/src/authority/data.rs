//! Verbs on data.

use super::{Ask, Effort, Fail, Outcome, State, Verdict, names::Made};
use crate::{body::Keep, host::errno};
use dunix_ids::Ino;
use dunix_volume::{Access, Changed, tree::New};
use dunix_wire::files::{
    Attr, Caller, Errno, FileReply, Kind, OpenMode, PAYLOAD_BYTES_MAX, SetAttr,
};
use rustix::{
    fs::{FallocateFlags, SeekFrom},
    io::ReadWriteFlags,
};
use std::{fs::File, io::IoSlice, io::IoSliceMut, os::unix::fs::FileExt, sync::Arc};

/// Copying more than this at once would let the asker wait for too long.
const COPY_BYTES_MAX: u64 = 8 << 20;
const ENXIO: Errno = Errno(6);

/// How data are written.
#[derive(Clone, Copy)]
pub(super) struct How {
    pub(super) append: bool,
    pub(super) from_cache: bool,
    pub(super) unprivileged: bool,
}

impl Ask<'_> {
    pub(super) fn open(self, ino: Ino, open: OpenMode) -> Verdict {
        let attr = self.with_state(|state| state.tree.attr(ino))?;
        if open.read && !open.truncate {
            // What cannot be read is refused now, not at the first read.
            self.body(ino)?.reader(self.authority.stores())?;
        }
        let mut changed = None;
        if open.truncate {
            self.resize(&attr, 0)?;
            let set = SetAttr { size: Some(0), ..SetAttr::default() };
            self.with_state(|state| {
                // First: the change of the size takes privileges without a word.
                changed = Some(self.change_data(state, ino, false, true));
                state.tree.set_attr(ino, set, self.now())
            })?;
        }
        let (handle, cached) = self.with_state(|state| Ok(self.add_handle(state, ino, open)?))?;
        let outcome = Outcome::of(FileReply::Opened { handle, cached });
        Ok(match changed {
            Some(changed) => outcome.changing(ino, changed),
            None => outcome,
        })
    }

    pub(super) fn create(
        self,
        parent: Ino,
        name: &[u8],
        mode: u32,
        open: OpenMode,
        caller: Caller,
    ) -> Verdict {
        let new = New { kind: Kind::File, mode, rdev: 0, caller, target: Vec::new() };
        let Made { attr, lease, recalls } = match self.new_inode(parent, name, &new) {
            // Somebody else made it after the asker's kernel had looked. The kernel looks again, and
            // checks permissions that a maker of a file need not have.
            Err(Fail::Errno(Errno::EEXIST)) if !open.exclusive => Err(Errno::ESTALE.into()),
            made => made,
        }?;
        let (handle, cached) =
            self.with_state(|state| Ok(self.add_handle(state, attr.ino, open)?))?;
        let reply = FileReply::Created { attr, lease, handle, cached };
        Ok(Outcome::of(reply).recalling(recalls))
    }

    pub(super) fn read(self, ino: Ino, offset: u64, size: u32) -> Verdict {
        let size = usize::try_from(size).unwrap_or(usize::MAX).min(PAYLOAD_BYTES_MAX);
        let Some(file) = self.body(ino)?.reader(self.authority.stores())? else {
            return Ok(Outcome::bytes(Vec::new()));
        };
        let mut data = vec![0; size];
        if self.effort == Effort::Prompt {
            let bytes = read_cached(&file, &mut data, offset)?;
            data.truncate(bytes);
            return Ok(Outcome::bytes(data));
        }
        let mut filled = 0;
        while filled < size {
            let at = offset.checked_add(filled as u64).ok_or(Errno::EINVAL)?;
            match file.read_at(&mut data[filled..], at) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(crate::host::io_errno(&error).into()),
            }
        }
        data.truncate(filled);
        Ok(Outcome::bytes(data))
    }

    pub(super) fn write(self, ino: Ino, offset: u64, how: How, data: &[u8]) -> Verdict {
        let file = self.writer(ino, Keep::All)?;
        let written = if how.append {
            write_at_end(&file, data)?
        } else {
            file.write_at(data, offset).map_err(|error| crate::host::io_errno(&error))?
        };
        let changed = self.changed_data(ino, how.from_cache, how.unprivileged)?;
        let written = u32::try_from(written).map_err(|_| Errno::EIO)?;
        let outcome = Outcome::of(FileReply::Written(written)).changing(ino, changed);
        Ok(Outcome { at_once: how.from_cache, ..outcome })
    }

    pub(super) fn fsync(self, ino: Ino, data_only: bool) -> Verdict {
        self.may_take_long()?;
        let attr = self.with_state(|state| state.tree.attr(ino))?;
        if attr.kind == Kind::File
            && self.is_object(ino)?
            && let Some(file) = self.body(ino)?.reader(self.authority.stores())?
        {
            let synced = if data_only { file.sync_data() } else { file.sync_all() };
            synced.map_err(|error| crate::host::io_errno(&error))?;
        }
        Ok(Outcome::of(FileReply::Done))
    }

    pub(super) fn fallocate(self, ino: Ino, offset: u64, length: u64, mode: i32) -> Verdict {
        self.may_take_long()?;
        let flags = u32::try_from(mode).ok().and_then(FallocateFlags::from_bits);
        let flags = flags.ok_or(Errno::EOPNOTSUPP)?;
        let file = self.writer(ino, Keep::All)?;
        rustix::fs::fallocate(&file, flags, offset, length).map_err(errno)?;
        let changed = self.changed_data(ino, false, true)?;
        Ok(Outcome::of(FileReply::Done).changing(ino, changed))
    }

    /// What others are to forget after a change of data. `drops`: privileges go with it; where the kernel
    /// does not say of a call whether its caller could keep them, they go in any case.
    fn changed_data(self, ino: Ino, from_cache: bool, drops: bool) -> Result<Changed, Fail> {
        self.with_state(|state| Ok(self.change_data(state, ino, from_cache, drops)))
    }

    fn change_data(self, state: &mut State, ino: Ino, from_cache: bool, drops: bool) -> Changed {
        let dropped = drops && state.tree.drop_privilege(ino);
        let mut changed = state.holders.changed_data(ino, self.from, from_cache);
        if dropped {
            changed.recalls.extend(state.holders.lost_privilege(ino));
        }
        changed
    }

    pub(super) fn lseek(self, ino: Ino, offset: u64, hole: bool) -> Verdict {
        let Some(file) = self.body(ino)?.reader(self.authority.stores())? else {
            return Err(ENXIO.into());
        };
        let to = if hole { SeekFrom::Hole(offset) } else { SeekFrom::Data(offset) };
        Ok(Outcome::of(FileReply::Offset(rustix::fs::seek(&file, to).map_err(errno)?)))
    }

    pub(super) fn copy_range(self, from: (Ino, u64), to: (Ino, u64), length: u64) -> Verdict {
        self.may_take_long()?;
        let Some(source) = self.body(from.0)?.reader(self.authority.stores())? else {
            return Ok(Outcome::of(FileReply::Written(0)));
        };
        let target = self.writer(to.0, Keep::All)?;
        let (mut from_offset, mut to_offset) = (from.1, to.1);
        let length = usize::try_from(length.min(COPY_BYTES_MAX)).map_err(|_| Errno::EINVAL)?;
        let copied = rustix::fs::copy_file_range(
            &source,
            Some(&mut from_offset),
            &target,
            Some(&mut to_offset),
            length,
        )
        .map_err(errno)?;
        let changed = self.changed_data(to.0, false, true)?;
        let copied = u32::try_from(copied).map_err(|_| Errno::EIO)?;
        Ok(Outcome::of(FileReply::Written(copied)).changing(to.0, changed))
    }

    /// Sets the size of a file's data.
    pub(super) fn resize(self, attr: &Attr, size: u64) -> Result<(), Fail> {
        if attr.kind == Kind::Directory {
            return Err(Errno::EISDIR.into());
        }
        if attr.kind != Kind::File {
            return Err(Errno::EINVAL.into());
        }
        let file = self.writer(attr.ino, if size == 0 { Keep::Nothing } else { Keep::All })?;
        file.set_len(size).map_err(|error| crate::host::io_errno(&error))?;
        Ok(())
    }

    /// Returns the file that a change of data goes to, an object from now on.
    fn writer(self, ino: Ino, keep: Keep) -> Result<Arc<File>, Fail> {
        let body = self.body(ino)?;
        if !self.is_object(ino)? {
            self.may_take_long()?;
        }
        let attr = self.with_state(|state| state.tree.attr(ino))?;
        let file = body.writer(self.authority.stores(), keep, &attr)?;
        self.authority.state().tree.copied_up(ino);
        Ok(file)
    }

    fn add_handle(self, state: &mut State, ino: Ino, open: OpenMode) -> Result<(u64, bool), Errno> {
        let handle = state.next_handle;
        let access = state.add_open(self.from, handle, ino, open)?;
        state.next_handle += 1;
        Ok((handle, access == Access::Cached))
    }
}

/// Reads what the host has in memory; if that is not all, it has to be asked for elsewhere.
fn read_cached(file: &File, data: &mut [u8], offset: u64) -> Result<usize, Fail> {
    let wanted = data.len();
    let buffers = &mut [IoSliceMut::new(data)];
    match rustix::io::preadv2(file, buffers, offset, ReadWriteFlags::NOWAIT) {
        // A short answer may be the end of the file, which the next read tells without waiting.
        Ok(bytes) if bytes == wanted => Ok(bytes),
        Ok(bytes) => {
            let mut beyond = [0];
            let at = offset.saturating_add(bytes as u64);
            let buffers = &mut [IoSliceMut::new(&mut beyond)];
            match rustix::io::preadv2(file, buffers, at, ReadWriteFlags::NOWAIT) {
                Ok(0) => Ok(bytes),
                _ => Err(Fail::Deferred),
            }
        }
        Err(_) => Err(Fail::Deferred),
    }
}

/// Appends; the host's lock of the file makes it one step, whoever else appends.
fn write_at_end(file: &File, data: &[u8]) -> Result<usize, Errno> {
    rustix::io::pwritev2(file, &[IoSlice::new(data)], 0, ReadWriteFlags::APPEND).map_err(errno)
}
