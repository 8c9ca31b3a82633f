//! Messages about the tree: requests to the authority of a volume, its answers, and its recalls of
//! what nodes may have cached.
//!
//! Every message is a small header, encoded by `postcard`, and a payload: file data, a link's target
//! or an attribute's value, which is the rest of the body and never copied into the header.
//!
//! Owns: the types and the checks that need nothing but the message. Refuses: names that no
//! directory can have ([`Name::check`]), bodies of another shape. Invariant: a header is never
//! longer than [`HEADER_BYTES_MAX`], a payload never longer than [`PAYLOAD_BYTES_MAX`].

use crate::Malformed;
use alloc::vec::Vec;
use dunix_ids::Ino;
use serde::{Deserialize, Serialize};

/// The most bytes of file data in one message.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// The most bytes of one encoded header; a page of directory entries is the longest.
pub const HEADER_BYTES_MAX: usize = 512 << 10;
/// The longest name in a directory, in bytes (`NAME_MAX`).
pub const NAME_BYTES_MAX: usize = 255;
/// The longest target of a symbolic link, in bytes (`PATH_MAX` less its NUL).
pub const TARGET_BYTES_MAX: usize = 4095;
/// The longest value of an extended attribute, in bytes (`XATTR_SIZE_MAX`).
pub const XATTR_BYTES_MAX: usize = 64 << 10;

/// An error number as Linux on every architecture of ours has it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Errno(pub u16);

#[expect(missing_docs, reason = "errno(3) describes them")]
impl Errno {
    pub const EPERM: Errno = Errno(1);
    pub const ENOENT: Errno = Errno(2);
    pub const EIO: Errno = Errno(5);
    pub const EBADF: Errno = Errno(9);
    pub const EACCES: Errno = Errno(13);
    pub const EBUSY: Errno = Errno(16);
    pub const EEXIST: Errno = Errno(17);
    pub const EXDEV: Errno = Errno(18);
    pub const ENOTDIR: Errno = Errno(20);
    pub const EISDIR: Errno = Errno(21);
    pub const EINVAL: Errno = Errno(22);
    pub const ENFILE: Errno = Errno(23);
    pub const EFBIG: Errno = Errno(27);
    pub const ENOSPC: Errno = Errno(28);
    pub const EROFS: Errno = Errno(30);
    pub const EMLINK: Errno = Errno(31);
    pub const ERANGE: Errno = Errno(34);
    pub const ENAMETOOLONG: Errno = Errno(36);
    pub const ENOSYS: Errno = Errno(38);
    pub const ENOTEMPTY: Errno = Errno(39);
    pub const ENODATA: Errno = Errno(61);
    pub const EOVERFLOW: Errno = Errno(75);
    pub const EOPNOTSUPP: Errno = Errno(95);
    pub const ETIMEDOUT: Errno = Errno(110);
    pub const ESTALE: Errno = Errno(116);
}

/// A name that a peer claims to be an entry of a directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Name(pub Vec<u8>);

impl Name {
    /// Returns the name if a directory can have it.
    ///
    /// # Errors
    /// ENAMETOOLONG above [`NAME_BYTES_MAX`]; EINVAL if it is empty, `.`, `..` or contains `/` or NUL.
    pub fn check(&self) -> Result<&[u8], Errno> {
        let name = self.0.as_slice();
        if name.len() > NAME_BYTES_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let dots = name.is_empty() || name == b"." || name == b"..";
        if dots || name.iter().any(|&byte| byte == b'/' || byte == 0) {
            return Err(Errno::EINVAL);
        }
        Ok(name)
    }
}

/// A part of the names that a directory can have: those are lent and recalled together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct NamePart(pub u16);

impl NamePart {
    /// The part that a name belongs to: its FNV-1a hash, folded. Few names of a directory share one.
    #[must_use]
    pub fn of(name: &[u8]) -> NamePart {
        let hash = name.iter().fold(0x811c_9dc5_u32, |hash, &byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        let [a, b, c, d] = hash.to_le_bytes();
        NamePart(u16::from_le_bytes([a ^ c, b ^ d]))
    }
}

/// What an inode is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "inode(7) describes them")]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

impl Kind {
    /// Returns the kind in the `S_IFMT` bits of a mode.
    #[must_use]
    pub const fn of_mode(mode: u32) -> Option<Kind> {
        Some(match mode & 0o170_000 {
            0o100_000 => Kind::File,
            0o040_000 => Kind::Directory,
            0o120_000 => Kind::Symlink,
            0o010_000 => Kind::Fifo,
            0o140_000 => Kind::Socket,
            0o020_000 => Kind::CharDevice,
            0o060_000 => Kind::BlockDevice,
            _ => return None,
        })
    }
}

/// A point in time since 1970, before it if `secs` is negative.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Serialize, Deserialize)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// Nanoseconds on top, below 10^9.
    pub nanos: u32,
}

/// What `stat` shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attr {
    /// The inode, the same on every node.
    pub ino: Ino,
    /// What it is.
    pub kind: Kind,
    /// Permission, set-id and sticky bits (07777).
    pub mode: u32,
    /// Names of a file; subdirectories and two of a directory.
    pub nlink: u32,
    /// Owner, as guests see it.
    pub uid: u32,
    /// Group, as guests see it.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// Allocated units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the data.
    pub mtime: Time,
    /// Last change of data or attributes.
    pub ctime: Time,
    /// Whether there are extended attributes.
    pub xattrs: bool,
}

/// On whose behalf something is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Caller {
    /// Its file-system uid.
    pub uid: u32,
    /// Its file-system gid.
    pub gid: u32,
}

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SetTime {
    /// The authority's present time.
    Now,
    /// The given time.
    At(Time),
}

/// The attributes to change; the others stay.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in Attr")]
pub struct SetAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

/// How a file is to be opened.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct OpenMode {
    /// The data may be read.
    pub read: bool,
    /// The data may be changed.
    pub write: bool,
    /// The data are thrown away.
    pub truncate: bool,
    /// A file that exists already is refused (`O_EXCL`; of [`FileRequest::Create`]).
    pub exclusive: bool,
}

/// How a name is moved (renameat2(2)).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RenameMode {
    /// Replaces what has the new name.
    Replace,
    /// Refuses if something has the new name.
    NoReplace,
    /// Exchanges the two.
    Exchange,
}

/// Asks the authority for something. Each answer's kind is named beside it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the system calls of the same names describe the fields")]
pub enum FileRequest {
    /// [`FileReply::Entry`] or [`FileReply::Absent`].
    Lookup { parent: Ino, name: Name },
    /// [`FileReply::Attr`].
    Getattr { ino: Ino },
    /// [`FileReply::Attr`].
    Setattr { ino: Ino, set: SetAttr },
    /// [`FileReply::Bytes`].
    Readlink { ino: Ino },
    /// [`FileReply::Entry`]. `mode` has the kind.
    Mknod { parent: Ino, name: Name, mode: u32, rdev: u32, caller: Caller },
    /// [`FileReply::Entry`].
    Mkdir { parent: Ino, name: Name, mode: u32, caller: Caller },
    /// [`FileReply::Entry`]. The payload is the target.
    Symlink { parent: Ino, name: Name, caller: Caller },
    /// [`FileReply::Entry`].
    Link { ino: Ino, parent: Ino, name: Name },
    /// [`FileReply::Done`].
    Unlink { parent: Ino, name: Name },
    /// [`FileReply::Done`].
    Rmdir { parent: Ino, name: Name },
    /// [`FileReply::Done`].
    Rename { parent: Ino, name: Name, new_parent: Ino, new_name: Name, mode: RenameMode },
    /// [`FileReply::Opened`].
    Open { ino: Ino, open: OpenMode },
    /// [`FileReply::Created`].
    Create { parent: Ino, name: Name, mode: u32, open: OpenMode, caller: Caller },
    /// [`FileReply::Bytes`]; fewer than `size` only at the end of the file.
    Read { ino: Ino, offset: u64, size: u32 },
    /// [`FileReply::Written`]. The payload is the data. `append`: at the end, whatever `offset`
    /// says. `from_cache`: dirty pages of a mapping, which the writer's kernel holds locked.
    /// `unprivileged`: set-id bits go, the writer lacks CAP_FSETID.
    Write { ino: Ino, offset: u64, append: bool, from_cache: bool, unprivileged: bool },
    /// [`FileReply::Done`].
    Fsync { ino: Ino, data_only: bool },
    /// [`FileReply::Done`]. `mode` as in fallocate(2).
    Fallocate { ino: Ino, offset: u64, length: u64, mode: i32 },
    /// [`FileReply::Offset`]. `hole`: SEEK_HOLE, else SEEK_DATA.
    Lseek { ino: Ino, offset: u64, hole: bool },
    /// [`FileReply::Written`].
    CopyRange { from: Ino, from_offset: u64, to: Ino, to_offset: u64, length: u64 },
    /// [`FileReply::Entries`]: those after the cookie `after`, about `size` bytes of them.
    Readdir { ino: Ino, after: u64, size: u32 },
    /// [`FileReply::Statfs`].
    Statfs,
    /// [`FileReply::Done`]. The payload is the value; `flags` as in setxattr(2).
    Setxattr { ino: Ino, name: Name, flags: i32 },
    /// [`FileReply::Bytes`].
    Getxattr { ino: Ino, name: Name },
    /// [`FileReply::Bytes`]: names, each ended by NUL.
    Listxattr { ino: Ino },
    /// [`FileReply::Done`].
    Removexattr { ino: Ino, name: Name },
}

/// One entry of a directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dirent {
    /// The inode.
    pub ino: Ino,
    /// Where to go on after this entry; never changes while the entry exists.
    pub cookie: u64,
    /// What it is.
    pub kind: Kind,
    /// The name; `.` and `..` are among them.
    pub name: Name,
}

/// The sizes of a volume, in units of `block_bytes`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "statvfs(3) describes them")]
pub struct Statfs {
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub block_bytes: u32,
}

/// What a node may keep without asking again, until it is recalled.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Lease {
    /// The attributes.
    pub attr: bool,
    /// That the name leads to this inode.
    pub entry: bool,
}

/// What the authority answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FileReply {
    /// It is done.
    Done,
    /// A name's inode.
    Entry(Attr, Lease),
    /// No inode has the name. Whether the node may keep that.
    Absent {
        /// As in [`Lease::entry`].
        lease: bool,
    },
    /// Attributes.
    Attr(Attr, Lease),
    /// The file is open under this number. `cached`: the node may keep its pages, also beyond
    /// the file's closing, until they are recalled.
    Opened {
        /// The number, unique for the authority's life.
        handle: u64,
        /// Whether pages may be kept.
        cached: bool,
    },
    /// The file was made if it did not exist, and is open.
    Created {
        /// Its attributes.
        attr: Attr,
        /// What the node may keep of them.
        lease: Lease,
        /// As in [`FileReply::Opened`].
        handle: u64,
        /// As in [`FileReply::Opened`].
        cached: bool,
    },
    /// The payload is the answer.
    Bytes,
    /// So many bytes were written.
    Written(u32),
    /// An offset in the file.
    Offset(u64),
    /// Entries of a directory; none at its end.
    Entries {
        /// In the order of their cookies.
        entries: Vec<Dirent>,
        /// Whether there were no more after them.
        end: bool,
    },
    /// The volume's sizes.
    Statfs(Statfs),
}

/// The header of an answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileAnswer {
    /// The answer proper.
    pub result: Result<FileReply, Errno>,
    /// The asker drops its own pages of this inode before it passes the answer on.
    pub drop_pages: Option<Ino>,
}

/// What a node has to forget before the authority acknowledges somebody's change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Recall {
    /// Attributes and pages of the inode. Dirty pages of shared mappings are written first.
    Pages(Ino),
    /// Attributes of the inode.
    Attr(Ino),
    /// What a part of the names in the directory lead to, or that they lead nowhere.
    Names(Ino, NamePart),
}

/// An open that a node had before the authority took the node to be gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reclaim {
    /// The handle's number then, and again.
    pub handle: u64,
    /// The file.
    pub ino: Ino,
    /// How it was opened.
    pub open: OpenMode,
}

/// A call on the files' topic. The answer to `Ask` is a [`FileAnswer`], to the others an empty body.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FileCall {
    /// From a node to the authority.
    Ask(FileRequest),
    /// From the authority to a node; at most [`RECALLS_MAX`].
    Recall(Vec<Recall>),
    /// From a node to the authority, after they had lost each other; at most [`RECLAIMS_MAX`].
    Reclaim(Vec<Reclaim>),
}

/// The most recalls in one call.
pub const RECALLS_MAX: usize = 64;
/// The most reclaims in one call.
pub const RECLAIMS_MAX: usize = 4096;

/// A one-way message on the files' topic, from a node to the authority.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FileNotice {
    /// The handle is closed.
    Release {
        /// Its number.
        handle: u64,
    },
}

/// Encodes a header and appends its payload.
#[must_use]
pub fn pack<T: Serialize>(header: &T, payload: &[u8]) -> Vec<u8> {
    let mut body = crate::encode(header);
    body.extend_from_slice(payload);
    body
}

/// Splits a body into its header and the offset of its payload.
///
/// # Errors
/// [`Malformed`] if there is no such header or either part is too long.
pub fn unpack<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<(T, usize), Malformed> {
    let (header, payload) = postcard::take_from_bytes(body).map_err(|_| Malformed)?;
    let at = body.len() - payload.len();
    if at > HEADER_BYTES_MAX || payload.len() > PAYLOAD_BYTES_MAX {
        return Err(Malformed);
    }
    Ok((header, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn a_payload_follows_its_header() {
        let call = FileCall::Ask(FileRequest::Write {
            ino: Ino(7),
            offset: 3,
            append: false,
            from_cache: true,
            unprivileged: false,
        });
        let body = pack(&call, b"data");
        let (back, at) = unpack::<FileCall>(&body).expect("our own encoding");
        assert_eq!((back, &body[at..]), (call, &b"data"[..]));
    }

    #[test]
    fn names_that_no_directory_has_are_refused() {
        for (name, errno) in [
            (vec![], Errno::EINVAL),
            (b".".to_vec(), Errno::EINVAL),
            (b"..".to_vec(), Errno::EINVAL),
            (b"a/b".to_vec(), Errno::EINVAL),
            (b"a\0".to_vec(), Errno::EINVAL),
            (vec![b'x'; 256], Errno::ENAMETOOLONG),
        ] {
            assert_eq!(Name(name).check(), Err(errno));
        }
        assert_eq!(Name(vec![b'x'; 255]).check().map(<[u8]>::len), Ok(255));
        assert_eq!(Name(b"...".to_vec()).check(), Ok(&b"..."[..]));
    }

    #[test]
    fn a_long_payload_is_malformed() {
        let body = pack(&FileCall::Ask(FileRequest::Statfs), &vec![0; PAYLOAD_BYTES_MAX + 1]);
        assert!(unpack::<FileCall>(&body).is_err());
    }
}
