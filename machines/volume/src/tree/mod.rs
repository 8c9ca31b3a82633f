//! The names and attributes of a volume: a lower directory that never changes, and everything that
//! was made, changed or removed on top of it.
//!
//! A directory of the lower is taken over whole, at its first use; from then on its map of names is
//! the truth, so that there are no whiteouts and no opaque marks, and a rename moves one entry
//! however much lies below it. A file of the lower keeps its place there until its data change.
//!
//! ```text
//!  Content:  Lower ──first change of data──► Object ──last name and last open gone──► Gone
//!              └───────────────last name and last open gone──────────────────────────►┘
//! ```
//!
//! Owns: inode numbers, names, attributes, extended attributes, counts of names and opens. Refuses:
//! data, and reading the lower: it says what it [`Need`]s, and is asked again when it was told.
//! Invariants: a number never stands for two inodes; hard links of the lower share one; a directory
//! has one name; every listed name leads to an inode.

mod attributes;
mod names;

use alloc::{
    boxed::Box,
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    vec::Vec,
};
use dunix_ids::Ino;
use dunix_wire::files::{Attr, Dirent, Errno, Kind, Name, Time};

pub use names::{New, Removed};

/// The most inodes of a volume; a further one is ENOSPC.
pub const INODES_MAX: usize = 1 << 24;
/// How many removed inodes are remembered for those who still look at them (a deleted working
/// directory); an older one is ESTALE.
pub const DEAD_MAX: usize = 4096;
/// The greatest sum of an inode's extended attributes, in bytes.
pub const XATTRS_BYTES_MAX: usize = 64 << 10;

/// Where an inode is found in the lower: a path without a leading slash, empty for its root.
pub type LowerPath = Vec<u8>;

/// Why a question cannot be answered yet, or at all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Need {
    /// Call [`Tree::listed`] with the entries of this lower directory, and ask again.
    List(Ino, LowerPath),
    /// Call [`Tree::statted`] with the attributes of this lower inode, and ask again.
    Stat(Ino, LowerPath),
    /// It fails.
    Refused(Errno),
}

impl From<Errno> for Need {
    fn from(errno: Errno) -> Need {
        Need::Refused(errno)
    }
}

/// An entry of a lower directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LowerEntry {
    /// Its name.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Device and inode there: what hard links have in common.
    pub id: (u64, u64),
}

/// The attributes of an inode of the lower, as guests are to see them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LowerStat {
    /// Its attributes; the number does not matter.
    pub attr: Attr,
    /// A symbolic link's target.
    pub target: Vec<u8>,
}

/// Where a file's data are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// In the lower.
    Lower,
    /// In an object of the upper.
    Object,
    /// Nowhere any more.
    Gone,
}

/// The tree of one volume.
pub struct Tree {
    nodes: BTreeMap<u64, Node>,
    next_ino: u64,
    lower_ids: BTreeMap<(u64, u64), u64>,
    dead: VecDeque<Ino>,
}

struct Node {
    kind: Kind,
    origin: Option<Origin>,
    content: Content,
    /// Unknown as long as only a listing of the lower named the inode.
    meta: Option<Box<Meta>>,
    dir: Option<Box<Dir>>,
    opens: u32,
}

struct Meta {
    attr: Attr,
    target: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

struct Origin {
    dir: Arc<[u8]>,
    name: Arc<[u8]>,
}

struct Dir {
    parent: u64,
    /// `None` until the lower directory was taken over.
    names: Option<BTreeMap<Arc<[u8]>, Entry>>,
    order: BTreeMap<u64, Arc<[u8]>>,
    next_cookie: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    ino: u64,
    cookie: u64,
}

const COOKIE_SELF: u64 = 1;
const COOKIE_PARENT: u64 = 2;
/// What an entry takes in the kernel's buffer besides its name, rounded up.
const DIRENT_BYTES: usize = 32;

impl Tree {
    /// Makes the tree whose root is the lower's.
    #[must_use]
    pub fn new() -> Tree {
        let origin = Origin { dir: Arc::from(&b""[..]), name: Arc::from(&b""[..]) };
        let root = Node::of_lower(Kind::Directory, origin, Ino::ROOT.0);
        let next_ino = Ino::ROOT.0 + 1;
        Tree {
            nodes: BTreeMap::from([(Ino::ROOT.0, root)]),
            next_ino,
            lower_ids: BTreeMap::new(),
            dead: VecDeque::new(),
        }
    }

    /// Takes over a lower directory. Without effect if that was done before.
    pub fn listed(&mut self, ino: Ino, entries: Vec<LowerEntry>) {
        let Some(path) = self.nodes.get(&ino.0).and_then(Node::lower_path) else { return };
        if self.dir(ino).map_or(true, |dir| dir.names.is_some()) {
            return;
        }
        let path: Arc<[u8]> = Arc::from(path);
        let mut names = BTreeMap::new();
        let mut order = BTreeMap::new();
        let mut cookie = COOKIE_PARENT;
        for entry in entries {
            let name: Arc<[u8]> = Arc::from(entry.name);
            let origin = Origin { dir: Arc::clone(&path), name: Arc::clone(&name) };
            let child = self.adopt(ino, entry.kind, entry.id, origin);
            cookie += 1;
            order.insert(cookie, Arc::clone(&name));
            names.insert(name, Entry { ino: child, cookie });
        }
        if let Some(dir) = self.nodes.get_mut(&ino.0).and_then(|node| node.dir.as_mut()) {
            dir.names = Some(names);
            dir.order = order;
            dir.next_cookie = cookie + 1;
        }
    }

    /// Learns the attributes of a lower inode. Without effect if they were known.
    pub fn statted(&mut self, ino: Ino, stat: LowerStat) {
        if let Some(node) = self.nodes.get_mut(&ino.0)
            && node.meta.is_none()
        {
            let attr = Attr { ino, kind: node.kind, ..stat.attr };
            node.meta = Some(Box::new(Meta { attr, target: stat.target, xattrs: BTreeMap::new() }));
        }
    }

    /// Returns what a name leads to.
    ///
    /// # Errors
    /// A [`Need`]; ENOENT, ENOTDIR, ESTALE.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Ino, Need> {
        let names = self.names(parent)?;
        let entry = names.get(name).ok_or(Errno::ENOENT)?;
        self.meta(Ino(entry.ino))?;
        Ok(Ino(entry.ino))
    }

    /// Returns entries of a directory that follow the cookie, as many as `size` bytes hold, and whether
    /// there are no more.
    ///
    /// # Errors
    /// A [`Need`]; ENOTDIR, ESTALE.
    pub fn readdir(&self, ino: Ino, after: u64, size: usize) -> Result<(Vec<Dirent>, bool), Need> {
        let names = self.names(ino)?;
        let dir = self.dir(ino)?;
        let mut entries = Vec::new();
        let mut bytes = 0;
        let dots = [(COOKIE_SELF, &b"."[..], ino.0), (COOKIE_PARENT, &b".."[..], dir.parent)];
        let listed = dir.order.range(after.saturating_add(1)..).filter_map(|(&cookie, name)| {
            names.get(name).map(|entry| (cookie, name.as_ref(), entry.ino))
        });
        for (cookie, name, child) in dots.into_iter().filter(|dot| dot.0 > after).chain(listed) {
            bytes += DIRENT_BYTES + name.len();
            if bytes > size {
                return Ok((entries, false));
            }
            let kind = self.nodes.get(&child).map_or(Kind::Directory, |node| node.kind);
            entries.push(Dirent { ino: Ino(child), cookie, kind, name: Name(name.to_vec()) });
        }
        Ok((entries, true))
    }

    /// Says where a file's data are and, for [`Content::Lower`], the path there.
    ///
    /// # Errors
    /// ESTALE if there is no such inode; EISDIR, EINVAL if it is no file.
    pub fn content(&self, ino: Ino) -> Result<(Content, LowerPath), Errno> {
        let node = self.node(ino)?;
        match node.kind {
            Kind::File => Ok((node.content, node.lower_path().unwrap_or_default())),
            Kind::Directory => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Notes that the data are in an object from now on.
    pub fn copied_up(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino.0)
            && node.content == Content::Lower
        {
            node.content = Content::Object;
        }
    }

    /// Notes an open.
    ///
    /// # Errors
    /// ESTALE if the inode or its data are gone; EISDIR, EINVAL if it is no file.
    pub fn opened(&mut self, ino: Ino) -> Result<(), Errno> {
        if self.content(ino)?.0 == Content::Gone {
            return Err(Errno::ESTALE);
        }
        self.node_mut(ino)?.opens += 1;
        Ok(())
    }

    /// Says whether anybody has the file open.
    #[must_use]
    pub fn is_open(&self, ino: Ino) -> bool {
        self.node(ino).is_ok_and(|node| node.opens > 0)
    }

    /// Notes the end of an open. Returns whether the inode's data are gone with it.
    pub fn closed(&mut self, ino: Ino) -> bool {
        let Ok(node) = self.node_mut(ino) else { return false };
        node.opens = node.opens.saturating_sub(1);
        node.opens == 0 && self.bury(ino)
    }

    /// Panics if the tree contradicts itself.
    pub fn check_invariants(&self) {
        let mut named: BTreeMap<u64, u32> = BTreeMap::new();
        for (&ino, node) in &self.nodes {
            assert!(ino < self.next_ino, "a number that was not given out");
            assert_eq!(node.kind == Kind::Directory, node.dir.is_some(), "directory or not");
            assert!(node.origin.is_some() || node.meta.is_some(), "neither lower nor known");
            let Some(dir) = &node.dir else { continue };
            let Some(names) = &dir.names else { continue };
            assert_eq!(names.len(), dir.order.len(), "order and names differ");
            for (name, entry) in names {
                assert_eq!(dir.order.get(&entry.cookie), Some(name), "a cookie leads elsewhere");
                assert!(entry.cookie < dir.next_cookie, "a cookie of the future");
                let child = self.nodes.get(&entry.ino).expect("a name leads to an inode");
                *named.entry(entry.ino).or_default() += 1;
                if let Some(child_dir) = &child.dir {
                    assert_eq!(child_dir.parent, ino, "a directory's parent has its name");
                    assert_eq!(named[&entry.ino], 1, "a directory with two names");
                }
            }
        }
        for (ino, names) in named {
            if let Some(meta) = &self.nodes[&ino].meta {
                assert!(meta.attr.nlink >= names.min(1), "a name, but no links");
            }
        }
        assert!(self.dead.len() <= DEAD_MAX, "too many dead");
    }

    fn adopt(&mut self, parent: Ino, kind: Kind, id: (u64, u64), origin: Origin) -> u64 {
        if kind != Kind::Directory
            && let Some(&known) = self.lower_ids.get(&id)
            && self.nodes.get(&known).is_some_and(|node| !node.is_dead())
        {
            return known;
        }
        let ino = self.next_ino;
        self.next_ino += 1;
        if kind != Kind::Directory {
            self.lower_ids.insert(id, ino);
        }
        self.nodes.insert(ino, Node::of_lower(kind, origin, parent.0));
        ino
    }

    /// Ends an inode that has neither name nor open. Returns whether it did.
    fn bury(&mut self, ino: Ino) -> bool {
        let Some(node) = self.nodes.get_mut(&ino.0) else { return false };
        if node.opens > 0 || !node.is_dead() || node.content == Content::Gone {
            return false;
        }
        node.content = Content::Gone;
        self.dead.push_back(ino);
        if self.dead.len() > DEAD_MAX
            && let Some(oldest) = self.dead.pop_front()
        {
            self.nodes.remove(&oldest.0);
        }
        true
    }

    fn node(&self, ino: Ino) -> Result<&Node, Errno> {
        self.nodes.get(&ino.0).ok_or(Errno::ESTALE)
    }

    fn node_mut(&mut self, ino: Ino) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&ino.0).ok_or(Errno::ESTALE)
    }

    fn dir(&self, ino: Ino) -> Result<&Dir, Errno> {
        self.node(ino)?.dir.as_deref().ok_or(Errno::ENOTDIR)
    }

    fn names(&self, ino: Ino) -> Result<&BTreeMap<Arc<[u8]>, Entry>, Need> {
        let node = self.node(ino)?;
        let dir = node.dir.as_ref().ok_or(Errno::ENOTDIR)?;
        match &dir.names {
            Some(names) => Ok(names),
            None => Err(Need::List(ino, node.lower_path().unwrap_or_default())),
        }
    }

    fn meta(&self, ino: Ino) -> Result<&Meta, Need> {
        let node = self.node(ino)?;
        match &node.meta {
            Some(meta) => Ok(meta),
            None => Err(Need::Stat(ino, node.lower_path().unwrap_or_default())),
        }
    }

    fn meta_mut(&mut self, ino: Ino) -> Result<&mut Meta, Need> {
        self.meta(ino)?;
        self.node_mut(ino)?.meta.as_deref_mut().ok_or(Need::Refused(Errno::ESTALE))
    }

    fn touch(&mut self, ino: Ino, now: Time) {
        if let Ok(meta) = self.meta_mut(ino) {
            meta.attr.mtime = now;
            meta.attr.ctime = now;
        }
    }
}

impl Default for Tree {
    fn default() -> Tree {
        Tree::new()
    }
}

impl Node {
    fn of_lower(kind: Kind, origin: Origin, parent: u64) -> Node {
        let dir = (kind == Kind::Directory).then(|| Box::new(Dir::unlisted(parent)));
        Node { kind, origin: Some(origin), content: Content::Lower, meta: None, dir, opens: 0 }
    }

    fn is_dead(&self) -> bool {
        self.meta.as_ref().is_some_and(|meta| meta.attr.nlink == 0)
    }

    fn lower_path(&self) -> Option<LowerPath> {
        let origin = self.origin.as_ref()?;
        let mut path = origin.dir.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&origin.name);
        Some(path)
    }
}

impl Dir {
    fn unlisted(parent: u64) -> Dir {
        Dir { parent, names: None, order: BTreeMap::new(), next_cookie: COOKIE_PARENT + 1 }
    }

    fn empty(parent: u64) -> Dir {
        Dir { names: Some(BTreeMap::new()), ..Dir::unlisted(parent) }
    }
}
