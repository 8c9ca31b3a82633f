//! The library's callbacks, each turned into one request of ours.

use crate::{
    Volume,
    convert::{self, O_APPEND},
    reply::{Ends, Form, Listing, Reply},
    session::{Features, ask_kernel},
};
use dunix_wire::files::{Caller, Errno, FileRequest, OpenMode, RenameMode, SetAttr};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;
const ENOTTY: Errno = Errno(25);

pub(crate) struct Server {
    pub(crate) volume: Arc<dyn Volume>,
    pub(crate) features: Arc<OnceLock<Features>>,
    pub(crate) id_first: u32,
    pub(crate) ends: Arc<Ends>,
    pub(crate) listings: AtomicU64,
}

impl Server {
    fn features(&self) -> Features {
        self.features.get().copied().unwrap_or_default()
    }

    fn ask(&self, request: FileRequest, payload: &[u8], form: Form) {
        self.volume.ask(request, payload, self.reply(form));
    }

    fn reply(&self, form: Form) -> Reply {
        let names_can_be_recalled = self.features().recall_names;
        Reply { form, names_can_be_recalled, id_first: self.id_first, looker: None }
    }

    fn id(&self, id: u32) -> u32 {
        convert::guest_id(id, self.id_first)
    }

    fn caller(&self, request: &Request) -> Caller {
        Caller { uid: self.id(request.uid()), gid: self.id(request.gid()) }
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let features = ask_kernel(config);
        // A connection is initialised once; a second time would find the same kernel.
        let _ = self.features.set(features);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (parent, name) = (convert::ino(parent), convert::name(name));
        self.ask(FileRequest::Lookup { parent, name }, &[], Form::Entry(reply));
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let reply = Reply {
            form: Form::Attr(reply),
            names_can_be_recalled: self.features().recall_names,
            id_first: self.id_first,
            looker: Some((Arc::clone(&self.volume), request.pid())),
        };
        self.volume.ask(FileRequest::Getattr { ino: convert::ino(ino) }, &[], reply);
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (atime, mtime) = (atime.map(convert::set_time), mtime.map(convert::set_time));
        let (uid, gid) = (uid.map(|id| self.id(id)), gid.map(|id| self.id(id)));
        let set = SetAttr { mode, uid, gid, size, atime, mtime };
        self.ask(FileRequest::Setattr { ino: convert::ino(ino), set }, &[], Form::Attr(reply));
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let reply = self.reply(Form::Data(reply));
        self.volume.read_link(convert::ino(ino), self.caller(request), reply);
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (parent, name, caller) =
            (convert::ino(parent), convert::name(name), self.caller(request));
        let ask = FileRequest::Mknod { parent, name, mode, rdev, caller };
        self.ask(ask, &[], Form::Entry(reply));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let (parent, name, caller) =
            (convert::ino(parent), convert::name(name), self.caller(request));
        self.ask(FileRequest::Mkdir { parent, name, mode, caller }, &[], Form::Entry(reply));
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (parent, name, caller) =
            (convert::ino(parent), convert::name(name), self.caller(request));
        let target = target.as_os_str().as_bytes();
        self.ask(FileRequest::Symlink { parent, name, caller }, target, Form::Entry(reply));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (parent, name) = (convert::ino(parent), convert::name(name));
        self.ask(FileRequest::Unlink { parent, name }, &[], Form::Empty(reply));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (parent, name) = (convert::ino(parent), convert::name(name));
        self.ask(FileRequest::Rmdir { parent, name }, &[], Form::Empty(reply));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else {
            return reply.error(convert::errno(Errno::EINVAL));
        };
        let (parent, name) = (convert::ino(parent), convert::name(name));
        let (new_parent, new_name) = (convert::ino(new_parent), convert::name(new_name));
        let ask = FileRequest::Rename { parent, name, new_parent, new_name, mode };
        self.ask(ask, &[], Form::Empty(reply));
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (ino, parent, name) = (convert::ino(ino), convert::ino(parent), convert::name(name));
        self.ask(FileRequest::Link { ino, parent, name }, &[], Form::Entry(reply));
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let open = OpenMode { exclusive: false, ..convert::open_mode(flags) };
        self.ask(FileRequest::Open { ino: convert::ino(ino), open }, &[], Form::Open(reply));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (parent, name, caller) =
            (convert::ino(parent), convert::name(name), self.caller(request));
        let open = convert::open_mode(OpenFlags(flags));
        let ask = FileRequest::Create { parent, name, mode, open, caller };
        self.ask(ask, &[], Form::Create(reply));
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let ask = FileRequest::Read { ino: convert::ino(ino), offset, size };
        self.ask(ask, &[], Form::Data(reply));
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        write: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let from_cache = write.contains(WriteFlags::FUSE_WRITE_CACHE);
        let ask = FileRequest::Write {
            ino: convert::ino(ino),
            offset,
            append: flags.0 & O_APPEND != 0 && !from_cache,
            from_cache,
            unprivileged: write.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
        };
        self.ask(ask, data, Form::Write(reply));
    }

    /// Nothing is kept back that a close would have to send: the kernel need not ask again.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(convert::errno(Errno::ENOSYS));
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.volume.release(handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, data_only: bool, reply: ReplyEmpty) {
        let ask = FileRequest::Fsync { ino: convert::ino(ino), data_only };
        self.ask(ask, &[], Form::Empty(reply));
    }

    /// Listings are by cookie: all that is kept of an open is whether its end is near.
    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let handle = self.listings.fetch_add(1, Ordering::Relaxed);
        reply.opened(FileHandle(handle), FopenFlags::empty());
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.ends.take(handle.0, 0);
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        after: u64,
        reply: ReplyDirectory,
    ) {
        if self.ends.take(handle.0, after) {
            return reply.ok();
        }
        let listing = Listing { ends: Arc::clone(&self.ends), handle: handle.0 };
        let size = self.features().listing_bytes;
        let ask = FileRequest::Readdir { ino: convert::ino(ino), after, size };
        self.ask(ask, &[], Form::Directory(reply, listing));
    }

    fn fsyncdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let ask = FileRequest::Fsync { ino: convert::ino(ino), data_only };
        self.ask(ask, &[], Form::Empty(reply));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.ask(FileRequest::Statfs, &[], Form::Statfs(reply));
    }

    fn setxattr(
        &self,
        _: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let (ino, name) = (convert::ino(ino), convert::name(name));
        self.ask(FileRequest::Setxattr { ino, name, flags }, value, Form::Empty(reply));
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (ino, name) = (convert::ino(ino), convert::name(name));
        self.ask(FileRequest::Getxattr { ino, name }, &[], Form::Xattr(reply, size));
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let ino = convert::ino(ino);
        self.ask(FileRequest::Listxattr { ino }, &[], Form::Xattr(reply, size));
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (ino, name) = (convert::ino(ino), convert::name(name));
        self.ask(FileRequest::Removexattr { ino, name }, &[], Form::Empty(reply));
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(convert::errno(ENOTTY));
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let ask = FileRequest::Fallocate { ino: convert::ino(ino), offset, length, mode };
        self.ask(ask, &[], Form::Empty(reply));
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let hole = match whence {
            SEEK_DATA => false,
            SEEK_HOLE => true,
            _ => return reply.error(convert::errno(Errno::EINVAL)),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(convert::errno(Errno(6))); // ENXIO
        };
        let ask = FileRequest::Lseek { ino: convert::ino(ino), offset, hole };
        self.ask(ask, &[], Form::Lseek(reply));
    }

    fn copy_file_range(
        &self,
        _: &Request,
        from: INodeNo,
        _: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _: FileHandle,
        to_offset: u64,
        length: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to) = (convert::ino(from), convert::ino(to));
        let ask = FileRequest::CopyRange { from, from_offset, to, to_offset, length };
        self.ask(ask, &[], Form::Write(reply));
    }
}
