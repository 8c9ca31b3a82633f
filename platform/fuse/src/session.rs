//! The connection's life, and what the kernel can do.

use crate::{Volume, mount::MAX_READ_BYTES, serve::Server};
use dunix_ids::Ino;
use fuser::{Config, InitFlags, KernelConfig, SessionACL};
use rustix::fd::OwnedFd;
use std::{
    io,
    sync::{Arc, OnceLock, atomic::AtomicU64},
};

/// How many requests of readahead and of asynchronous I/O the kernel may have pending.
const BACKGROUND_MAX: u16 = 64;
/// Code of `FUSE_NOTIFY_INVAL_ENTRY` and its flag that `fuser` does not know (linux/fuse.h 7.38).
const NOTIFY_INVAL_ENTRY: i32 = 3;
const EXPIRE_ONLY: u32 = 1;
/// Code of `FUSE_NOTIFY_INVAL_INODE`. `fuser` hides that the kernel does not know the inode.
const NOTIFY_INVAL_INODE: i32 = 2;
/// Since 7.44 a listing may fill the caller's buffer; before it was one page.
const LONG_LISTINGS_MINOR: u32 = 44;

/// What this kernel offers beyond Linux 6.1.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Features {
    /// Files that are not cached can be mapped shared (`FUSE_DIRECT_IO_ALLOW_MMAP`, 6.6). Without it such
    /// a mapping of a file that is open for writing is ENODEV.
    pub map_uncached: bool,
    /// Names can be recalled without harm to mounts on them (`FUSE_HAS_EXPIRE_ONLY`, 6.2). Without it no
    /// name is cached.
    pub recall_names: bool,
    /// How much of a directory the kernel takes at once.
    pub listing_bytes: u32,
}

/// Makes the kernel forget. Cheap to clone.
#[derive(Clone)]
pub struct Caches(Arc<OwnedFd>);

impl Caches {
    /// Drops pages and attributes of an inode; dirty pages are written first. May block until requests
    /// about this inode that the kernel waits for are answered. Returns whether the kernel knows the
    /// inode.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn drop_pages(&self, ino: Ino) -> io::Result<bool> {
        self.drop_inode(ino, 0)
    }

    /// Drops attributes of an inode. Does not block. Returns whether the kernel knows the inode.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn drop_attr(&self, ino: Ino) -> io::Result<bool> {
        self.drop_inode(ino, -1)
    }

    /// Has the kernel ask again what a name leads to, when it is next used. Waits for changes of the
    /// directory's names, and for questions about them, that this node has under way.
    ///
    /// What is mounted on the name stays (unlike with `FUSE_NOTIFY_INC_EPOCH` and with an invalidation
    /// that does more than expire).
    ///
    /// # Errors
    /// The connection is gone, or the kernel cannot (EINVAL).
    pub fn expire_name(&self, dir: Ino, name: &[u8]) -> io::Result<()> {
        let mut body = Vec::with_capacity(16 + name.len() + 1);
        body.extend_from_slice(&dir.0.to_ne_bytes());
        let bytes = u32::try_from(name.len()).map_err(|_| rustix::io::Errno::INVAL)?;
        body.extend_from_slice(&bytes.to_ne_bytes());
        body.extend_from_slice(&EXPIRE_ONLY.to_ne_bytes());
        body.extend_from_slice(name);
        body.push(0);
        match self.notify(NOTIFY_INVAL_ENTRY, &body) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// `from` is where pages are dropped from, to the end; below 0, none are.
    fn drop_inode(&self, ino: Ino, from: i64) -> io::Result<bool> {
        let mut body = [0; 24];
        body[..8].copy_from_slice(&ino.0.to_ne_bytes());
        body[8..16].copy_from_slice(&from.to_ne_bytes());
        match self.notify(NOTIFY_INVAL_INODE, &body) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a `fuse_out_header` with the code in place of an error, and its body, at once.
    fn notify(&self, code: i32, body: &[u8]) -> rustix::io::Result<()> {
        let mut message = Vec::with_capacity(16 + body.len());
        message.extend_from_slice(&0_u32.to_ne_bytes());
        message.extend_from_slice(&code.to_ne_bytes());
        message.extend_from_slice(&0_u64.to_ne_bytes());
        message.extend_from_slice(body);
        let bytes = u32::try_from(message.len()).map_err(|_| rustix::io::Errno::INVAL)?;
        message[..4].copy_from_slice(&bytes.to_ne_bytes());
        rustix::io::write(&self.0, &message).map(|_| ())
    }
}

/// A connection that is being served. It ends when the mount goes; dropping this does not end it.
pub struct Session {
    caches: Caches,
    features: Arc<OnceLock<Features>>,
    background: fuser::BackgroundSession,
}

impl Session {
    /// Serves the mount behind an open `/dev/fuse`; blocks until the kernel has greeted. The mount
    /// belongs to a user namespace in which the users' id 0 is `id_first`.
    ///
    /// # Errors
    /// The descriptor is not that of a fresh mount, or no threads can be made.
    pub fn start(
        device: OwnedFd,
        volume: Arc<dyn Volume>,
        threads: usize,
        id_first: u32,
    ) -> io::Result<Session> {
        let notify = Arc::new(device.try_clone()?);
        let features = Arc::new(OnceLock::new());
        let server = Server {
            volume,
            features: Arc::clone(&features),
            id_first,
            ends: Arc::default(),
            listings: AtomicU64::new(1),
        };
        let mut config = Config::default();
        config.acl = SessionACL::All;
        config.n_threads = Some(threads);
        let session = fuser::Session::from_fd(server, device, SessionACL::All, config)?;
        let background = session.spawn()?;
        Ok(Session { caches: Caches(notify), features, background })
    }

    /// Returns what makes the kernel forget.
    #[must_use]
    pub fn caches(&self) -> Caches {
        self.caches.clone()
    }

    /// Returns what the kernel offers.
    #[must_use]
    pub fn features(&self) -> Features {
        self.features.get().copied().unwrap_or_default()
    }

    /// Waits until the mount is gone.
    ///
    /// # Errors
    /// The connection broke.
    pub fn join(self) -> io::Result<()> {
        self.background.join()
    }
}

/// Greets the kernel: asks for what we use of its offers.
pub(crate) fn ask_kernel(config: &mut KernelConfig) -> Features {
    let wanted = [
        InitFlags::FUSE_ATOMIC_O_TRUNC,
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        InitFlags::FUSE_CACHE_SYMLINKS,
        InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    ];
    for flag in wanted {
        // Each is a gain, none a need; what is missing shows in the features.
        let _ = config.add_capabilities(flag);
    }
    // Both values are within the library's limits.
    let _ = config.set_max_write(MAX_READ_BYTES);
    let _ = config.set_max_background(BACKGROUND_MAX);
    let modern = config.kernel_abi().1 >= LONG_LISTINGS_MINOR;
    Features {
        map_uncached: config.capabilities().contains(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP),
        recall_names: config.capabilities().contains(InitFlags::FUSE_HAS_EXPIRE_ONLY),
        listing_bytes: if modern { 32 << 10 } else { 4 << 10 },
    }
}
