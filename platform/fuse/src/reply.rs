//! The way back of one answer.

use crate::{ELSEWHERE, Volume, convert};
use dunix_wire::files::{Attr, Dirent, Errno, FileReply, Kind, Lease};
use fuser::{
    FileHandle, Generation, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
};

use std::{
    collections::HashMap,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

const NAME_BYTES_MAX: u32 = 255;
const GENERATION: Generation = Generation(0);

/// Answers one request of the kernel; dropped, it answers EIO.
#[must_use]
pub struct Reply {
    pub(crate) form: Form,
    pub(crate) names_can_be_recalled: bool,
    pub(crate) id_first: u32,
    /// Who looks at the attributes: the kernel asks for a FIFO's each time that somebody opens it.
    pub(crate) looker: Option<(Arc<dyn Volume>, u32)>,
}

pub(crate) enum Form {
    Attr(ReplyAttr),
    Create(ReplyCreate),
    Data(ReplyData),
    Directory(ReplyDirectory, Listing),
    Empty(ReplyEmpty),
    Entry(ReplyEntry),
    Lseek(ReplyLseek),
    Open(ReplyOpen),
    Statfs(ReplyStatfs),
    Write(ReplyWrite),
    Xattr(ReplyXattr, u32),
}

impl Reply {
    /// Gives the answer; an answer to another question is EIO.
    pub fn send(self, answer: Result<FileReply, Errno>, payload: &[u8]) {
        match answer {
            Ok(answer) => self.succeed(answer, payload),
            Err(errno) => self.fail(errno),
        }
    }

    fn succeed(self, answer: FileReply, payload: &[u8]) {
        let (names, id_first) = (self.names_can_be_recalled, self.id_first);
        match (self.form, answer) {
            (Form::Attr(reply), FileReply::Attr(attr, lease)) => {
                let life = lives(&attr, lease, names).0;
                let shown = convert::attr(&attr, id_first);
                match self.looker.filter(|_| attr.kind == Kind::Fifo) {
                    None => reply.attr(&life, &shown),
                    Some((volume, thread)) => {
                        let answer = move |may_go_on| match may_go_on {
                            true => reply.attr(&life, &shown),
                            false => reply.error(convert::errno(ELSEWHERE)),
                        };
                        volume.look_at_fifo(attr.ino, thread, Box::new(answer));
                    }
                }
            }
            (Form::Entry(reply), FileReply::Entry(attr, lease)) => {
                let (attr_life, name_life) = lives(&attr, lease, names);
                let attr = convert::attr(&attr, id_first);
                reply.entry_with_ttls(&attr_life, &name_life, &attr, GENERATION);
            }
            (Form::Entry(reply), FileReply::Absent { lease }) if lease && names => {
                // Inode 0 is ENOENT with a life.
                let life = convert::lives(Lease { attr: false, entry: true }, names).1;
                reply.entry_with_ttls(&life, &life, &convert::no_attr(), GENERATION);
            }
            (Form::Entry(reply), FileReply::Absent { .. }) => {
                reply.error(convert::errno(Errno::ENOENT));
            }
            (Form::Create(reply), FileReply::Created { attr, lease, handle, cached }) => {
                let (attr_life, name_life) = convert::lives(lease, names);
                let (attr, flags) = (convert::attr(&attr, id_first), convert::open_flags(cached));
                let life = attr_life.min(name_life);
                reply.created(&life, &attr, GENERATION, FileHandle(handle), flags);
            }
            (Form::Open(reply), FileReply::Opened { handle, cached }) => {
                reply.opened(FileHandle(handle), convert::open_flags(cached));
            }
            (Form::Data(reply), FileReply::Bytes) => reply.data(payload),
            (Form::Write(reply), FileReply::Written(bytes)) => reply.written(bytes),
            (Form::Lseek(reply), FileReply::Offset(offset)) => {
                reply.offset(i64::try_from(offset).unwrap_or(i64::MAX));
            }
            (Form::Empty(reply), FileReply::Done) => reply.ok(),
            (Form::Xattr(reply, size), FileReply::Bytes) => send_xattr(reply, size, payload),
            (Form::Directory(reply, listing), FileReply::Entries { entries, end }) => {
                list(reply, &listing, &entries, end);
            }
            (Form::Statfs(reply), FileReply::Statfs(sizes)) => reply.statfs(
                sizes.blocks,
                sizes.blocks_free,
                sizes.blocks_available,
                sizes.files,
                sizes.files_free,
                sizes.block_bytes,
                NAME_BYTES_MAX,
                sizes.block_bytes,
            ),
            // The form is dropped, which is EIO.
            (_, _) => {}
        }
    }

    fn fail(self, errno: Errno) {
        let errno = convert::errno(errno);
        match self.form {
            Form::Attr(reply) => reply.error(errno),
            Form::Create(reply) => reply.error(errno),
            Form::Data(reply) => reply.error(errno),
            Form::Directory(reply, _) => reply.error(errno),
            Form::Empty(reply) => reply.error(errno),
            Form::Entry(reply) => reply.error(errno),
            Form::Lseek(reply) => reply.error(errno),
            Form::Open(reply) => reply.error(errno),
            Form::Statfs(reply) => reply.error(errno),
            Form::Write(reply) => reply.error(errno),
            Form::Xattr(reply, _) => reply.error(errno),
        }
    }
}

/// Times to live of attributes and of the name. The kernel keeps no attributes of a FIFO, so that it asks
/// whenever one is opened.
fn lives(attr: &Attr, lease: Lease, names: bool) -> (Duration, Duration) {
    let lease = Lease { attr: lease.attr && attr.kind != Kind::Fifo, ..lease };
    convert::lives(lease, names)
}

/// An open of a directory.
pub(crate) struct Listing {
    pub(crate) ends: Arc<Ends>,
    pub(crate) handle: u64,
}

/// Opens of directories whose end is known, with the last entry's cookie: the kernel's next question
/// need not go anywhere. It is used once, so that whoever goes on asking gets what came later.
#[derive(Default)]
pub(crate) struct Ends(Mutex<HashMap<u64, u64>>);

impl Ends {
    /// Says whether nothing follows `after` in this open, and forgets it.
    pub(crate) fn take(&self, handle: u64, after: u64) -> bool {
        self.lock().remove(&handle) == Some(after)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn list(mut reply: ReplyDirectory, listing: &Listing, entries: &[Dirent], end: bool) {
    for entry in entries {
        let (ino, kind) = (fuser::INodeNo(entry.ino.0), convert::kind(entry.kind));
        if reply.add(ino, entry.cookie, kind, OsStr::from_bytes(&entry.name.0)) {
            // The kernel's buffer is full: it asks for the rest.
            return reply.ok();
        }
    }
    if let (true, Some(last)) = (end, entries.last()) {
        listing.ends.lock().insert(listing.handle, last.cookie);
    }
    reply.ok();
}

/// A size of 0 asks for the value's size (getxattr(2)).
fn send_xattr(reply: ReplyXattr, size: u32, value: &[u8]) {
    match u32::try_from(value.len()) {
        Ok(bytes) if size == 0 => reply.size(bytes),
        Ok(bytes) if bytes <= size => reply.data(value),
        _ => reply.error(convert::errno(Errno::ERANGE)),
    }
}
