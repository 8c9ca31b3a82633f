//! The files about the fabric's processes as a file system, served to this node's guests.
//!
//! Nothing is kept by the kernel. The text of an open file is of the moment of its opening, or of the last read from its
//! beginning.

use super::place::{FILES, LINKS, Place, What};
use crate::node::{Node, lock};
use dunix_fuse::{Caller, Errno, FileReply, FileRequest, Reply, Volume};
use dunix_ids::{Ino, NodeId, Pid};
use dunix_wire::files::{Attr, Dirent, Lease, Name, Statfs, Time};
use dunix_wire::processes::{ProcFile, ProcQuestion};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Most files that are open at a time; beyond it opening one is ENFILE.
const OPEN_MAX: usize = 4096;
/// Most bytes of their texts together; beyond it opening one is ENFILE.
const TEXT_BYTES_MAX: usize = 64 << 20;
/// For how long it is believed where a process is and whose, for files that everybody may read.
const OWNER_LIFETIME: Duration = Duration::from_millis(500);
/// Most processes of which that is known; beyond it all is forgotten.
const OWNERS_MAX: usize = 4096;

const ESRCH: Errno = Errno(3);

pub(super) struct ProcVolume(Arc<Files>);

struct Files {
    node: Arc<Node>,
    serial: AtomicU64,
    open: Mutex<Open>,
    owners: Mutex<BTreeMap<Pid, Owner>>,
}

/// Texts of open files, by inode, and the opens of each.
#[derive(Default)]
struct Open {
    texts: BTreeMap<Ino, Text>,
    handles: BTreeMap<u64, Ino>,
    bytes: usize,
}

struct Text {
    bytes: Arc<Vec<u8>>,
    opens: usize,
    /// Nobody has read from its beginning yet.
    is_fresh: bool,
}

#[derive(Clone, Copy)]
struct Owner {
    at: Instant,
    node: NodeId,
    uid: u32,
    gid: u32,
}

type Answer = Result<(FileReply, Vec<u8>), Errno>;

impl ProcVolume {
    pub(super) fn new(node: Arc<Node>) -> ProcVolume {
        ProcVolume(Arc::new(Files {
            node,
            serial: AtomicU64::new(1),
            open: Mutex::default(),
            owners: Mutex::default(),
        }))
    }
}

impl Volume for ProcVolume {
    fn ask(&self, request: FileRequest, _payload: &[u8], reply: Reply) {
        let files = self.0.clone();
        self.0.node.runtime.spawn(async move { send(reply, files.answer(request).await) });
    }

    fn read_link(&self, ino: Ino, caller: Caller, reply: Reply) {
        let files = self.0.clone();
        self.0.node.runtime.spawn(async move { send(reply, files.link(ino, caller).await) });
    }

    fn release(&self, handle: u64) {
        lock(&self.0.open).close(handle);
    }
}

fn send(reply: Reply, answer: Answer) {
    match answer {
        Ok((answer, payload)) => reply.send(Ok(answer), &payload),
        Err(errno) => reply.send(Err(errno), &[]),
    }
}

impl Files {
    async fn answer(self: &Arc<Files>, request: FileRequest) -> Answer {
        let plain = |reply| Ok((reply, Vec::new()));
        match request {
            FileRequest::Lookup { parent, name } => {
                let Some(place) = place(parent)?.child(name.check()?) else {
                    return plain(FileReply::Absent { lease: false });
                };
                match self.attr(place, self.fresh_ino(place)).await {
                    Ok(attr) => plain(FileReply::Entry(attr, Lease::default())),
                    Err(ESRCH | Errno::ENOENT) => plain(FileReply::Absent { lease: false }),
                    Err(errno) => Err(errno),
                }
            }
            FileRequest::Getattr { ino } => {
                let attr = self.attr(place(ino)?, ino).await;
                // A folder of a process that has ended is not there any more.
                let attr = attr.map_err(|errno| if errno == ESRCH { Errno::ENOENT } else { errno });
                plain(FileReply::Attr(attr?, Lease::default()))
            }
            FileRequest::Open { open, .. } if open.write => Err(Errno::EACCES),
            FileRequest::Open { ino, .. } => {
                let text = self.text(place(ino)?).await?;
                let handle = self.fresh_serial();
                lock(&self.open).open(handle, ino, text)?;
                plain(FileReply::Opened { handle, cached: false })
            }
            FileRequest::Read { ino, offset, size } => {
                Ok((FileReply::Bytes, self.read(ino, offset, size).await?))
            }
            FileRequest::Readdir { ino, after, .. } => {
                let mut entries = self.entries(place(ino)?, ino).await?;
                entries.retain(|entry| entry.cookie > after);
                plain(FileReply::Entries { entries, end: true })
            }
            FileRequest::Statfs => {
                plain(FileReply::Statfs(Statfs { block_bytes: 4096, ..Statfs::default() }))
            }
            FileRequest::Listxattr { .. } => plain(FileReply::Bytes),
            FileRequest::Getxattr { .. } => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::EPERM),
        }
    }

    fn fresh_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    fn fresh_ino(&self, place: Place) -> Ino {
        place.ino(self.fresh_serial())
    }

    /// Asks for a file where its process is. What is known of the process is remembered.
    async fn ask(
        &self,
        place: Place,
        contents: bool,
        near: Option<NodeId>,
    ) -> Result<ProcFile, Errno> {
        let question = ProcQuestion {
            id: place.id,
            as_thread: place.is_of_thread(),
            path: place.path(),
            contents,
        };
        let (file, node) =
            self.node.ask_file(&question, near).await.map_err(|errno| {
                Errno(u16::try_from(errno.raw_os_error()).unwrap_or(Errno::EIO.0))
            })?;
        let mut owners = lock(&self.owners);
        if owners.len() >= OWNERS_MAX {
            owners.clear();
        }
        let owner = Owner { at: Instant::now(), node, uid: file.uid, gid: file.gid };
        owners.insert(place.id, owner);
        Ok(file)
    }

    fn owner(&self, id: Pid) -> Option<Owner> {
        let owner = lock(&self.owners).get(&id).copied();
        owner.filter(|owner| owner.at.elapsed() < OWNER_LIFETIME)
    }

    async fn attr(&self, place: Place, ino: Ino) -> Result<Attr, Errno> {
        let (uid, gid) = match (place.what, self.owner(place.id)) {
            (What::Root, _) => (0, 0),
            // It was just asked about, in the same walk of a path most of the time.
            (What::File(index) | What::ThreadFile(index), Some(owner)) if !FILES[index].1 => {
                (owner.uid, owner.gid)
            }
            // Whether it has this descriptor.
            (What::Descriptor(_), _) => {
                let file = self.ask(place, true, None).await?;
                (file.uid, file.gid)
            }
            _ => {
                let file = self.ask(place, false, None).await?;
                (file.uid, file.gid)
            }
        };
        let (kind, mode) = place.mode();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let secs = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(0));
        let now = Time { secs, nanos: 0 };
        let (nlink, rdev, size, blocks, xattrs) = (1, 0, 0, 0, false);
        let (atime, mtime, ctime) = (now, now, now);
        Ok(Attr {
            ino,
            kind,
            mode,
            nlink,
            uid,
            gid,
            rdev,
            size,
            blocks,
            atime,
            mtime,
            ctime,
            xattrs,
        })
    }

    async fn text(&self, place: Place) -> Result<Vec<u8>, Errno> {
        let near = self.owner(place.id).map(|owner| owner.node);
        Ok(self.ask(place, true, near).await?.contents)
    }

    async fn read(&self, ino: Ino, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let is_stale = offset == 0 && lock(&self.open).is_read_again(ino);
        if is_stale {
            let text = self.text(place(ino)?).await?;
            lock(&self.open).renew(ino, text)?;
        }
        let text = lock(&self.open).texts.get(&ino).map(|text| text.bytes.clone());
        let text = text.ok_or(Errno::EBADF)?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
        let to = from.saturating_add(size as usize).min(text.len());
        Ok(text[from..to].to_vec())
    }

    async fn link(&self, ino: Ino, caller: Caller) -> Answer {
        let place = place(ino)?;
        let file = self.ask(place, true, None).await.map_err(|errno| match errno {
            ESRCH => Errno::ENOENT,
            errno => errno,
        })?;
        if caller.uid != 0 && caller.uid != file.uid {
            return Err(Errno::EACCES);
        }
        Ok((FileReply::Bytes, file.contents))
    }

    async fn entries(&self, folder: Place, ino: Ino) -> Result<Vec<Dirent>, Errno> {
        let mut names: Vec<Vec<u8>> = vec![b".".to_vec(), b"..".to_vec()];
        let static_names = |names: &mut Vec<Vec<u8>>| {
            names.extend(FILES.iter().map(|(name, _)| name.as_bytes().to_vec()));
        };
        match folder.what {
            What::Root => {
                let all = self.node.all_processes().await;
                names.extend(all.iter().map(|pid| pid.to_string().into_bytes()));
            }
            What::Process => {
                self.ask(folder, false, None).await?;
                names.extend(LINKS.iter().map(|name| name.as_bytes().to_vec()));
                names.extend([b"task".to_vec(), b"fd".to_vec()]);
                static_names(&mut names);
            }
            What::Thread => {
                self.ask(folder, false, None).await?;
                static_names(&mut names);
            }
            What::Tasks | What::Descriptors => {
                let list = self.text(folder).await?;
                let list = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
                names.extend(list.map(<[u8]>::to_vec));
            }
            _ => return Err(Errno::ENOTDIR),
        }
        let entry = |(index, name): (usize, Vec<u8>)| {
            let child = folder.child(&name);
            let (ino, kind) =
                child.map_or((ino, folder.mode().0), |child| (child.ino(0), child.mode().0));
            // Numbers keep their place in a list that changes.
            let number = std::str::from_utf8(&name).ok().and_then(|name| name.parse::<u64>().ok());
            let cookie = number.map_or(index as u64 + 1, |number| number + 3);
            Dirent { ino, cookie, kind, name: Name(name) }
        };
        Ok(names.into_iter().enumerate().map(entry).collect())
    }
}

fn place(ino: Ino) -> Result<Place, Errno> {
    Place::of_ino(ino).ok_or(Errno::ESTALE)
}

impl Open {
    fn open(&mut self, handle: u64, ino: Ino, text: Vec<u8>) -> Result<(), Errno> {
        let is_full = self.handles.len() >= OPEN_MAX;
        if is_full || self.bytes.saturating_add(text.len()) > TEXT_BYTES_MAX {
            return Err(Errno::ENFILE);
        }
        let opens = self.texts.get(&ino).map_or(0, |text| text.opens) + 1;
        self.put(ino, Text { bytes: Arc::new(text), opens, is_fresh: true });
        self.handles.insert(handle, ino);
        Ok(())
    }

    fn put(&mut self, ino: Ino, text: Text) {
        self.bytes += text.bytes.len();
        if let Some(old) = self.texts.insert(ino, text) {
            self.bytes -= old.bytes.len();
        }
    }

    fn close(&mut self, handle: u64) {
        let Some(ino) = self.handles.remove(&handle) else { return };
        let Some(text) = self.texts.get_mut(&ino) else { return };
        text.opens -= 1;
        if text.opens == 0
            && let Some(old) = self.texts.remove(&ino)
        {
            self.bytes -= old.bytes.len();
        }
    }

    /// Whether a read from the beginning is not the first.
    fn is_read_again(&mut self, ino: Ino) -> bool {
        self.texts.get_mut(&ino).is_some_and(|text| !std::mem::replace(&mut text.is_fresh, false))
    }

    fn renew(&mut self, ino: Ino, text: Vec<u8>) -> Result<(), Errno> {
        let opens = self.texts.get(&ino).map(|text| text.opens).ok_or(Errno::EBADF)?;
        if self.bytes.saturating_add(text.len()) > TEXT_BYTES_MAX {
            return Err(Errno::ENFILE);
        }
        self.put(ino, Text { bytes: Arc::new(text), opens, is_fresh: false });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_go_with_their_last_open() {
        let mut open = Open::default();
        for handle in 1..=2 {
            open.open(handle, Ino(7), vec![0; 10]).unwrap();
        }
        open.open(3, Ino(8), vec![0; 5]).unwrap();
        assert_eq!(open.bytes, 15);
        open.close(1);
        assert_eq!((open.bytes, open.texts.len()), (15, 2));
        open.close(2);
        open.close(2);
        assert_eq!((open.bytes, open.texts.len()), (5, 1));
        open.close(3);
        assert_eq!((open.bytes, open.texts.len(), open.handles.len()), (0, 0, 0));
    }

    #[test]
    fn texts_are_bounded() {
        let mut open = Open::default();
        open.open(1, Ino(7), vec![0; TEXT_BYTES_MAX]).unwrap();
        assert_eq!(open.open(2, Ino(8), vec![0]), Err(Errno::ENFILE));
        assert_eq!(open.renew(Ino(7), vec![0]), Err(Errno::ENFILE));
        open.close(1);
        assert_eq!(open.open(2, Ino(8), vec![0]), Ok(()));
    }

    #[test]
    fn only_a_second_read_from_the_beginning_asks_again() {
        let mut open = Open::default();
        open.open(1, Ino(7), Vec::new()).unwrap();
        assert!(!open.is_read_again(Ino(7)));
        assert!(open.is_read_again(Ino(7)));
        assert!(!open.is_read_again(Ino(8)));
    }
}
