//! One FUSE connection: the kernel's requests come as [`FileRequest`]s, answers go back from any
//! thread and in any order, caches are dropped on demand.
//!
//! The mount is made elsewhere, by a process inside the guests' user namespace; this crate takes the
//! open `/dev/fuse` of an existing mount. The library behind it is `fuser`; nothing of it shows.
//!
//! Owns: the connection's threads, the translation, what is asked of the kernel ([`Features`]).
//! Refuses: locks (the kernel keeps them, for processes of this node only), ioctl, and FUSE's own
//! interrupts: a volume answers every request within a bound. An answer that is never given is given
//! as EIO when its [`Reply`] is dropped.
//!
//! Invariants: a release is passed on exactly once for each open; a name is given a time to live only
//! if the kernel can be told that it has run out (`FUSE_EXPIRE_ONLY`, Linux 6.2).

#![forbid(unsafe_code)]

mod convert;
mod mount;
mod reply;
mod serve;
mod session;

use dunix_ids::Ino;
pub use dunix_wire::files::{Caller, Errno, FileReply, FileRequest};
pub use mount::{MAX_READ_BYTES, mount_at, mount_options};
pub use reply::Reply;
pub use session::{Caches, Features, Session};

/// The errno of an open(2) of a FIFO whose pipe is another node's.
pub const ELSEWHERE: Errno = Errno(66);

/// Answers the requests of one mount. No method may block for long: each has one of few threads.
pub trait Volume: Send + Sync + 'static {
    /// Answers a request, now or later. `payload` is as the request's description says.
    fn ask(&self, request: FileRequest, payload: &[u8], reply: Reply);
    /// Tells whether a thread of the host that looks at a FIFO may go on. Else, if that is what it does,
    /// its open(2) fails with [`ELSEWHERE`]. No answer is no.
    fn look_at_fifo(&self, _ino: Ino, _thread: u32, answer: Box<dyn FnOnce(bool) + Send>) {
        answer(true);
    }
    /// Reads a link on somebody's behalf, whom the kernel does not check.
    fn read_link(&self, ino: Ino, _caller: Caller, reply: Reply) {
        self.ask(FileRequest::Readlink { ino }, &[], reply);
    }
    /// A file is closed for good.
    fn release(&self, handle: u64);
}
