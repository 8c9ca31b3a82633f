//! A process that execs onto another node, and calls on what it left at home.

use super::ProcessRecord;
use alloc::{boxed::Box, string::String, vec::Vec};
use dunix_ids::{NodeId, ObjectId, Pid};
use serde::{Deserialize, Serialize};

/// Most descriptors of an image.
pub const DESCRIPTORS_MAX: usize = 1024;
/// Most places where what a process wrote may be on its way; what is at further ones is not waited for.
pub const UNDRAINED_MAX: usize = 1024;
/// Most bytes of argv and envp together (a remote exec answers `E2BIG` above it).
pub const ARGUMENT_BYTES_MAX: usize = 1 << 20;
/// Greatest bytes of [`ExecImage::reason`].
pub const REASON_BYTES_MAX: usize = 256;
/// Most bytes that one remote call carries in either direction; longer calls come short.
pub const CALL_BYTES_MAX: usize = 256 * 1024;

/// All that a fresh image needs to start at another node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExecImage {
    pub record: ProcessRecord,
    pub argv: Vec<Vec<u8>>,
    pub envp: Vec<Vec<u8>>,
    /// Absolute path of the program in the tree.
    pub exe_path: Vec<u8>,
    /// For `AT_EXECFN`.
    pub exec_fn: Vec<u8>,
    pub cwd: Vec<u8>,
    /// Absolute path of the process's root directory in the tree; `/` unless it called chroot.
    pub root: Vec<u8>,
    pub umask: u32,
    pub gid: u32,
    pub egid: u32,
    pub sgid: u32,
    pub groups: Vec<u32>,
    /// The most that it may ever get (capabilities(7), bounding set), a bit each.
    pub bounding: u64,
    /// prctl(2), `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// Soft and hard limits by `RLIMIT_*` number.
    pub rlimits: Vec<(u64, u64)>,
    pub nice: i8,
    /// Bit `n - 1` for signal `n`.
    pub signals_ignored: u64,
    pub signals_blocked: u64,
    /// Signals that were pending at the process when it left; bit `n - 1` for signal `n`.
    pub signals_pending: u64,
    pub descriptors: Vec<DescriptorImage>,
    /// Where what it has written may still be on its way; at most [`UNDRAINED_MAX`].
    pub undrained: Vec<ObjectId>,
    /// The user has sent it to its node by name, and the fabric does not move it by itself.
    pub is_pinned: bool,
    /// Why the target was chosen, for people; at most [`REASON_BYTES_MAX`].
    pub reason: String,
}

/// One open descriptor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DescriptorImage {
    /// Its number.
    pub fd: i32,
    pub cloexec: bool,
    /// Index in the image's descriptors of an earlier one with the same open file description.
    pub same_as: Option<u32>,
    pub kind: DescriptorKind,
}

/// How a descriptor is made at the target.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DescriptorKind {
    /// Opened again in the tree, and `lseek`ed. `inode`: the number that the tree knows it by; a name
    /// may be another file's by then.
    File { path: Vec<u8>, flags: u32, offset: u64, inode: Option<u64> },
    /// Opened again in the tree for mmap, fstat and locks, but offset and data calls run at the
    /// home: other holders may share the offset.
    SharedFile { path: Vec<u8>, inode: u64, flags: u32, home: NodeId, object: u64 },
    /// A device that every node has alike (`/dev/null`, `/dev/zero`, ...).
    Device { path: Vec<u8>, flags: u32 },
    /// The end of a pipe that the process writes: a pipe there, pumped to the home. `drains`: a
    /// further relay carries it on from there, which an exit has to wait for.
    PipeWrite { flags: u32, home: NodeId, object: u64, drains: bool },
    /// The end that it reads and nobody else does: a pipe there, fed by the home.
    PipeRead { flags: u32, home: NodeId, object: u64 },
    /// A connected stream socket: a socket pair there, relayed both ways.
    Stream { flags: u32, home: NodeId, object: u64, drains: bool },
    /// A placeholder at the target that is as ready as the object is; every call runs at the home.
    /// `drains`: what is written reaches its last home by a relay, which an exit has to wait for.
    /// `ready`: poll(2)'s bits when it was described.
    Remote { flags: u32, home: NodeId, object: u64, what: RemoteKind, drains: bool, ready: u16 },
    /// eventfd(2) that nobody else has.
    Event { flags: u32, count: u64, is_semaphore: bool },
    /// timerfd_create(2) that nobody else has.
    Timer { flags: u32, timer: TimerState },
    /// signalfd(2); bit `n - 1` for signal `n`.
    Signals { flags: u32, mask: u64 },
    /// epoll(7) set that nobody else has; filled once all other descriptors are there.
    Epoll { flags: u32, members: Vec<EpollMember> },
}

/// How a timer of timerfd_create(2) stands. Times are nanoseconds; an instant is one of the timer's own
/// clock as the process sees it, which is the same at all nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TimerState {
    /// `CLOCK_*`.
    pub clock: u32,
    /// `TFD_TIMER_*` bits that it was set with.
    pub set_with: u32,
    /// When it expires next; 0 if it is not armed.
    pub due: u64,
    pub period: u64,
    /// Expirations that nobody has read.
    pub ticks: u64,
}

/// One descriptor that an epoll set watches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EpollMember {
    pub fd: i32,
    pub events: u32,
    pub data: u64,
}

/// What a remote descriptor is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RemoteKind {
    Terminal {
        pts: u32,
    },
    /// A pipe or FIFO.
    Pipe,
    /// A regular file: always ready, calls do not wait.
    File,
    Directory,
    Socket,
    /// What can be read or polled but not opened a second time: terminals' masters, inotify, shared
    /// eventfd, timerfd and the like.
    Queue,
}

/// One call to be run at an object's home.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RemoteCallRequest {
    /// Chosen by the caller's node; names the call in a cancellation.
    pub ticket: u64,
    pub object: u64,
    pub pid: Pid,
    pub job: CallerJob,
    pub call: CallArguments,
}

/// Where a caller stands in job control; the home of a terminal goes by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CallerJob {
    pub group: Pid,
    pub session: Pid,
    pub terminal: Option<ObjectId>,
    /// Its user is root.
    pub is_root: bool,
    /// It blocks or ignores SIGTTIN.
    pub deaf_to_ttin: bool,
    /// It blocks or ignores SIGTTOU.
    pub deaf_to_ttou: bool,
}

/// The calls that can be run at a home.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CallArguments {
    /// At most this many bytes.
    Read {
        bytes: u32,
    },
    Write {
        data: Vec<u8>,
    },
    Seek {
        offset: i64,
        whence: u8,
    },
    /// `argument` is the structure's content, or empty if the argument is `value`.
    Ioctl {
        request: u32,
        value: u64,
        argument: Vec<u8>,
        answer_bytes: u32,
    },
    /// `POLL*` bits; returns the ones that hold now.
    Poll {
        events: u16,
    },
    /// One of the ioctls that name sessions and groups (`TIOCSPGRP`, ...), its argument by value.
    Terminal {
        request: u32,
        argument: i32,
    },
    /// fstat(2); the outcome's data is x86-64's `struct stat`.
    Status,
    /// A call that does not wait, with its number, its arguments after the descriptor, and the
    /// structures that it reads.
    Plain {
        number: u32,
        arguments: [u64; 5],
        input: Vec<u8>,
    },
    /// sendmsg(2) with `MSG_*` flags; an empty address is none. The numbers of the descriptors that
    /// go along mean nothing.
    Send {
        data: Vec<u8>,
        address: Vec<u8>,
        flags: i32,
        descriptors: Vec<DescriptorImage>,
    },
    /// recvmsg(2) with `MSG_*` flags.
    Receive {
        bytes: u32,
        flags: i32,
    },
    /// accept4(2): a new object of the home, for the caller's node.
    Accept {
        flags: i32,
    },
    Connect {
        address: Vec<u8>,
    },
    /// One of the calls above that names a file (unix(7)).
    At {
        place: Place,
        call: Box<CallArguments>,
    },
}

/// Where a process looks up names: paths in the tree, the directory as seen below the root.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Place {
    pub root: Vec<u8>,
    pub cwd: Vec<u8>,
    /// As guests number them.
    pub uid: u32,
    pub gid: u32,
}

/// What a remote call returned.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CallOutcome {
    /// As the system call returns it: negative for an errno.
    pub value: i64,
    /// Bytes read, or the structures that the call writes.
    pub data: Vec<u8>,
    pub extra: CallExtra,
    /// What is ready now at the objects of this home that the caller's node watches, as far as it
    /// has changed by the call.
    pub ready: Vec<Readiness>,
}

/// What some calls return beside their bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum CallExtra {
    #[default]
    None,
    /// Of a message that was received; the numbers of its descriptors mean nothing.
    Message { address: Vec<u8>, control: Vec<u8>, flags: i32, descriptors: Vec<DescriptorImage> },
    /// The descriptors of a message that was sent are the home's to let go, sent or not.
    Taken,
    /// A connection that was accepted, now an object of the home.
    Accepted { object: u64, address: Vec<u8>, ready: u16 },
    /// A terminal that was opened, now an object of the home.
    Opened { object: u64, pts: u32, ready: u16 },
}

/// What is ready at an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Readiness {
    pub object: u64,
    /// `POLL*` bits (poll(2)).
    pub events: u16,
    /// Grows with each word of the home about anything: an older word is void.
    pub serial: u64,
}
