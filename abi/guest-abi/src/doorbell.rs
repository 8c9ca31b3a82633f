//! The doorbell: a reserved system-call number that seccomp turns into a notification.
//!
//! `doorbell(op, a1..a5)` is issued from the shim's text with [`NR`]; the kernel vouches for the
//! caller's host TID. The daemon answers at once: no operation blocks for longer than a message to
//! a peer and back. What must wait answers `-EAGAIN`; the shim then waits on its
//! [`Slot`](crate::arena::Slot) and asks again, so a signal or a move can interrupt it without loss.
//! The filter is installed with `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`: an operation that the
//! daemon has received is never restarted behind its back.
//!
//! Without a daemon the number is unknown to the kernel and answers `ENOSYS`: the shim then runs
//! *solo* (host PIDs, host wait), which tests and benchmarks of the shim alone use.

/// The system-call number of the doorbell (no kernel assigns it).
pub const NR: u64 = 0x4d55;
/// A guest tree starts with this descriptor open: a SEQPACKET socket on which the shim sends its
/// seccomp listener (one byte and `SCM_RIGHTS`) before its first doorbell, and then closes.
pub const BOOT_FD: i32 = 1000;

/// First doorbell of every image: after boot and after every host exec.
/// `a1` = `*mut StartInfo`, `a2` = its size. Returns a descriptor of the arena, read-only, which the shim maps and closes
/// (with [`START_EXECUTE`] 0); `-EPROTO` on a version mismatch.
pub const OP_START: u64 = 0;
/// Before a fork: allocates the child's PID. `a1` = clone flags, `a2` = where the child will have its fork word, in the
/// state of a thread. Returns the PID, the child's slot shifted by [`FORK_SLOT_SHIFT`], and perhaps [`FORK_RINGS`]; or
/// `-EAGAIN` (out of PIDs or slots: the shim fails the fork with it). The shim keeps PID and slot, as they come, in the
/// fork word from before the clone until the child rings: only who has a copy of its memory, or shares it, has them there.
pub const OP_FORK_PREPARE: u64 = 1;
/// In [`OP_FORK_PREPARE`]'s answer: the child rings [`OP_FORK_CHILD`] before any guest code.
pub const FORK_RINGS: u64 = 1 << 48;
/// See [`OP_FORK_PREPARE`].
pub const FORK_SLOT_SHIFT: u32 = 32;
/// After a fork, by the parent. `a1` = the child's PID, `a2` = its host PID, or 0 if clone failed.
pub const OP_FORK_DONE: u64 = 2;
/// By the child of a fork, before any guest code, if its parent was told [`FORK_RINGS`]. `a1` = its PID, `a2` = `*mut ChildInfo`.
pub const OP_FORK_CHILD: u64 = 3;
/// Allocates a TID for a new thread; returns it.
pub const OP_THREAD_PREPARE: u64 = 4;
/// After the clone, by the parent. `a1` = TID, `a2` = host TID or 0 on failure.
pub const OP_THREAD_DONE: u64 = 5;
/// A thread ends (not the whole process). `a1` = TID.
pub const OP_THREAD_EXIT: u64 = 6;
/// Asks to exec. `a1` = `*const ExecRequest`. Returns a descriptor of the shim (opened with
/// `O_CLOEXEC`): the caller then does `execveat(fd, "", argv, envp, AT_EMPTY_PATH)` with the
/// guest's argv and envp; or [`EXEC_GONE`]: the image now runs on another node, the caller exits
/// without a trace; or an errno, which execve returns.
pub const OP_EXEC: u64 = 7;
/// The host exec that followed a granted [`OP_EXEC`] failed; the ticket is void.
pub const OP_EXEC_FAILED: u64 = 8;
/// `a1` = id type (`P_ALL`, `P_PID`, `P_PGID`), `a2` = id, `a3` = options as of waitid (always with
/// the wanted `WEXITED`, `WSTOPPED`, `WCONTINUED`), `a4` = `*mut WaitResult`. Returns the child's
/// PID, 0 (`WNOHANG` and none), `-EAGAIN` (wait on the slot, ask again), `-ECHILD`.
pub const OP_WAIT: u64 = 9;
/// kill(2): `a1` = pid as of kill, `a2` = signal, `a3` = `*const SigInfo` or 0 (rt_sigqueueinfo).
pub const OP_KILL: u64 = 10;
/// tgkill(2): `a1` = tgid or 0, `a2` = tid, `a3` = signal, `a4` = `*const SigInfo` or 0.
pub const OP_TGKILL: u64 = 11;
/// `a1` = pid or 0 (the caller). Returns the parent's PID, 0 for a process of another node.
pub const OP_GETPPID: u64 = 12;
/// `a1` = pid or 0. Returns the group.
pub const OP_GETPGID: u64 = 13;
/// setpgid(2): `a1` = pid or 0, `a2` = group or 0.
pub const OP_SETPGID: u64 = 14;
/// `a1` = pid or 0. Returns the session.
pub const OP_GETSID: u64 = 15;
/// setsid(2). Returns the session.
pub const OP_SETSID: u64 = 16;
/// `a1` = PID or TID of the fabric. Returns the host's number if it runs on this node,
/// `-ESRCH`, or `-EREMOTE`.
pub const OP_TO_HOST: u64 = 17;
/// `a1` = host PID or TID. Returns the fabric's, also of a process that has ended lately, or 0 if it is none of ours.
pub const OP_FROM_HOST: u64 = 18;
/// Terminal calls on the caller's descriptor `a1`: `a2` = the ioctl's request (`TIOCGPGRP`,
/// `TIOCSPGRP`, `TIOCGSID`, `TIOCSCTTY`, `TIOCNOTTY`), `a3` = its argument by value (a PID of the
/// fabric for `TIOCSPGRP`), `a4` = `DEAF_*`. Returns the PID for the reading ones, else 0, an errno,
/// or [`REMOTE_BACKGROUND`].
pub const OP_TERMINAL: u64 = 19;
/// Opens the controlling terminal (`/dev/tty`). `a1` = open flags. Returns a descriptor, with
/// [`OPENED_REMOTE`] added if the terminal lives at another node, or `-ENXIO`.
pub const OP_OPEN_TERMINAL: u64 = 20;
/// A background process touches its terminal: `a1` = SIGTTIN or SIGTTOU. The daemon signals the
/// group and returns 0 (the shim then restarts the call), or `-EIO` if the group is orphaned.
pub const OP_BACKGROUND: u64 = 21;
/// Before bind(2) to a loopback or wildcard port: `a1` = fd, `a2` = `*const sockaddr`, `a3` = its
/// length. Returns 0 (go on with the host's call), [`IS_BOUND`] or an errno (`-EADDRINUSE`).
pub const OP_BIND: u64 = 22;
/// Answers an [`OP_BIND`] that asked for any port: the daemon has bound the socket to one.
pub const IS_BOUND: u32 = 1;
/// After listen, which gives a port to a socket that has none: tells the port registry what the socket got. `a1` = fd.
pub const OP_BOUND: u64 = 23;
/// Before connect(2) to a loopback port: as [`OP_BIND`]. On success a listener or, for UDP, a receiver for the port
/// exists on this node (the program's own, or the daemon's that leads to the owner's node), if it exists anywhere.
pub const OP_CONNECT: u64 = 24;
/// Before a datagram goes to a loopback port that is not
/// [settled](crate::arena::NodeFacts::settled_ports): `a1` = port. On success it goes to the socket of
/// that port, wherever that is.
pub const OP_SEND: u64 = 52;
/// A call on a descriptor whose file offset or queue lives at another node (see [`OP_START`]'s
/// `remote_fds`). `a1` = `*mut RemoteCall`. Returns as the call does, or `-EAGAIN` (in flight:
/// wait on the slot, ask again with the same `RemoteCall`).
pub const OP_REMOTE: u64 = 25;
/// A [`RemoteCall`] in flight is given up because a signal came: `a1` = `*mut RemoteCall`. Returns
/// the call's result if it took effect after all, else `-EINTR`.
pub const OP_REMOTE_CANCEL: u64 = 26;
/// Descriptors changed hands: `a1` = fd, `a2` = new fd (dup of a remote descriptor) or -1 (closed).
pub const OP_REMOTE_FD: u64 = 27;

/// A remote descriptor is about to be sent in a message: `a1` = fd. Returns a token, `O_CLOEXEC`, to
/// be sent in its place and closed.
pub const OP_PASS: u64 = 36;
/// Descriptors came in a message: `a1` = `*mut i32`, `a2` = their number. Those that live at another
/// node, which tokens become, are inverted (`!fd`).
pub const OP_RECEIVED: u64 = 37;

/// What SIGCHLD means to the caller: `a1` = [`CHILDREN_REAPED`] and [`STOPS_SILENT`] bits. A new
/// image begins with neither and rings if it ignores SIGCHLD.
pub const OP_CHILD_POLICY: u64 = 28;

/// A thread has parked ([`moving`](crate::moving)): `a1` = its TID, `a2` = `*const ParkRecord` or 0
/// (it is arriving), `a3` = `PARK_*` bits, `a4` = the slot's `park_epoch`. Returns 0; any errno is
/// ignored.
pub const OP_PARKED: u64 = 29;
/// A script has ended: `a1` = TID of the thread that ran it, `a2` = calls done. Returns 0.
pub const OP_SCRIPT_DONE: u64 = 30;
/// By a script at an arrival: the daemon puts descriptors that it holds at their numbers. Returns 0.
pub const OP_MOVE_DESCRIPTORS: u64 = 31;
/// pidfd_open(2): `a1` = pid, `a2` = [`PIDFD_NONBLOCK`] or 0. Returns a descriptor (`O_CLOEXEC`) that is
/// readable once the process has ended, wherever it runs, `-ESRCH`, or `-EINVAL` for a thread.
pub const OP_PIDFD_OPEN: u64 = 32;
/// `a1` = fd. Returns the PID that a descriptor of [`OP_PIDFD_OPEN`] is about, with [`PIDFD_ENDED`]
/// added if the process has ended, or `-EBADF`.
pub const OP_PIDFD: u64 = 33;
/// pidfd_getfd(2) of another process: `a1` = its PID, `a2` = fd there. Returns a descriptor (`O_CLOEXEC`), to be
/// treated as one that came in a message ([`OP_RECEIVED`]), `-EAGAIN` (the process is on its way: wait on the slot, ask
/// again), `-EPERM`, `-ESRCH`, or `-EBADF`.
pub const OP_PIDFD_GETFD: u64 = 38;
/// process_madvise(2) for another process of this node: `a1` = its PID, `a2` = `*const iovec` of its memory, `a3` = how many,
/// `a4` = the advice. Returns for how many bytes it counted, `-ESRCH`, `-EREMOTE`, `-EACCES`, `-EPERM` (without CAP_SYS_NICE), `-EINVAL`,
/// `-EFAULT`, or what the kernel says.
pub const OP_PROCESS_ADVISE: u64 = 45;
/// process_mrelease(2) for a process of this node: `a1` = its PID. Returns 0, `-ESRCH`, `-EREMOTE`, or what the
/// kernel says.
pub const OP_PROCESS_RELEASE: u64 = 46;
/// The threads on this node of a process group: `a1` = the group or 0 (the caller's), `a2` = `*mut [u32]` of the host's
/// numbers, `a3` = its length, at most [`PROCESSES_MAX`], `a4` = the host's number after which to begin. Returns how many
/// were written, in order; fewer than asked for: these are the last.
pub const OP_GROUP: u64 = 47;
/// The fabric's processes: `a1` = the PID after which to begin, `a2` = `*mut [u32]`, `a3` = its length, at most
/// [`PROCESSES_MAX`]. Returns how many were written, in order; fewer than asked for: these are the last.
pub const OP_PROCESSES: u64 = 34;
/// What `/proc` tells of a process of this node otherwise than the host: `a2` = its PID or 0 (the caller), `a1` = `*mut [u64; PROC_WORDS]`: parent, group,
/// session, the terminal's device, its foreground group (-1: none), start in ticks, four times in ticks that it and its
/// children used elsewhere, and the node's name, padded with zeros.
pub const OP_PROC_NAMES: u64 = 35;
/// Words of [`OP_PROC_NAMES`].
pub const PROC_WORDS: usize = PROC_NODE_AT + 8;
/// The first word of the node's name.
pub const PROC_NODE_AT: usize = 10;
/// The most that [`OP_PROCESSES`] gives at a time.
pub const PROCESSES_MAX: usize = 1024;
/// Where each node mounts the files about the fabric's processes, a folder for each PID.
pub const PROCESS_FILES: &str = "/dev/.proc";
/// With [`OP_PIDFD_OPEN`]: `O_NONBLOCK`.
pub const PIDFD_NONBLOCK: u64 = 0o4000;
/// With [`OP_PIDFD`]: only the status of the process may be left.
pub const PIDFD_ENDED: u64 = 1 << 32;
/// Before a lock of a file or of a part of it (flock(2), fcntl(2)): `a1` = fd, `a2` = `*const LockWish`, `a3` = `*mut LockFound` or
/// 0. Returns [`LOCK_HOST`], [`LOCK_GRANTED`] (then [`OP_LOCK_DONE`]), [`LOCK_TAKEN`], `-EAGAIN` (wait on the
/// slot, ask again, or [`OP_LOCK_GIVE_UP`]), `-EDEADLK` or `-ENOLCK`.
pub const OP_LOCK: u64 = 40;
/// The host's call that [`OP_LOCK`] granted has been made.
pub const OP_LOCK_DONE: u64 = 41;
/// The calling thread waits for no lock any more.
pub const OP_LOCK_GIVE_UP: u64 = 42;
/// After bind(2) of a socket to the name of a file: `a1` = fd of a handle on the file (`O_PATH`). Other nodes
/// find the socket here from now on.
pub const OP_NAME_BOUND: u64 = 43;
/// Before bind(2) of a socket to an abstract name: `a1` = fd, `a2` = `*const sockaddr`, `a3` = its bytes; afterwards
/// again with `a4` = 1. Returns 0, or `-EADDRINUSE` if another node has the name.
pub const OP_NAME_CLAIM: u64 = 44;
/// In [`RemoteCall::nr`]: connect the socket `fd`, which this node's kernel has refused, to the address of `args[1]`
/// bytes at `args[0]`; `args[2]` = a handle on the file (`O_PATH`) or -1 for an abstract name, `args[3]` = `SOCK_*`,
/// `args[4]` = 1 with `O_NONBLOCK`, 2 with `SO_PASSCRED`. The answer is 0 if the descriptor stands for a socket at another
/// node then, 1 if it is one of this node.
pub const CONNECT_NAMED: u32 = 1 << 16 | 42;
/// ptrace(2): `a1` = request, `a2` = pid, `a3` = address, `a4` = data. Returns as the raw call does,
/// or `-EREMOTE` to one who attaches to a process of another node.
pub const OP_PTRACE: u64 = 50;
/// `/proc/PID/exe` of a process of this node: `a1` = pid, `a2` = `*mut u8`, `a3` = bytes there. Returns the bytes
/// written (without a zero), or `-ESRCH`.
pub const OP_EXE_PATH: u64 = 51;
/// [`OP_LOCK`]'s answer: the host's own call is to be made now.
pub const LOCK_GRANTED: u64 = 0;
/// [`OP_LOCK`]'s answer: the file is not the tree's, its locks are the host's.
pub const LOCK_HOST: u64 = 1;
/// [`OP_LOCK`]'s answer: somebody else has it ([`LockFound`]).
pub const LOCK_TAKEN: u64 = 2;
/// In [`LockWish::flags`]: a write lock.
pub const LOCK_WRITE: u32 = 1 << 0;
/// In [`LockWish::flags`]: to wait for it.
pub const LOCK_WAIT: u32 = 1 << 1;
/// In [`LockWish::flags`]: only to ask whether processes of other nodes are in the way.
pub const LOCK_TEST: u32 = 1 << 2;
/// In [`LockWish::flags`]: for the open file description.
pub const LOCK_OF_DESCRIPTION: u32 = 1 << 3;
/// In [`LockWish::flags`]: for the open file description, of the whole file (flock(2)). What was granted once is
/// granted on until [`lock_epoch`](crate::arena::NodeFacts::lock_epoch) changes, to all of the node.
pub const LOCK_OF_FILE: u32 = 1 << 4;
/// In [`StartInfo::flags`]: no program is loaded (`exe_fd` is not looked at): the process is to
/// become one that moves here ([`moving`](crate::moving)).
pub const START_ARRIVAL: u32 = 1 << 0;
/// In [`StartInfo::flags`]: there is a mount at [`PROCESS_FILES`].
pub const START_PROCESS_FILES: u32 = 1 << 2;
/// In [`StartInfo::flags`]: the shim rewrites hot system-call sites into jumps.
pub const START_REWRITE: u32 = 1 << 1;

/// In [`StartInfo::flags`]: [`StartInfo::signals_ignored`] is known; else the kernel is to be asked.
pub const START_SIGNALS: u32 = 1 << 4;

/// In [`StartInfo::flags`]: the program gives privileges. Nothing is loaded: the shim closes the descriptor
/// [`StartInfo::arena_fd`] and executes another shim, [`StartInfo::exe_fd`], with its own arguments and
/// environment; that starts the program.
pub const START_EXECUTE: u32 = 1 << 3;

/// Children leave no zombies: SIGCHLD is ignored or has `SA_NOCLDWAIT`.
pub const CHILDREN_REAPED: u64 = 1 << 0;
/// Stops and continuations of children send no SIGCHLD (`SA_NOCLDSTOP`).
pub const STOPS_SILENT: u64 = 1 << 1;
/// With [`OP_TERMINAL`], and in [`RemoteCall::marks`]: the caller blocks or ignores SIGTTIN.
pub const DEAF_TO_TTIN: u64 = 1;
/// The same for SIGTTOU.
pub const DEAF_TO_TTOU: u64 = 2;
/// The answer of [`OP_REMOTE`] and [`OP_TERMINAL`] when a background process uses a terminal elsewhere: the caller rings
/// [`OP_BACKGROUND`] and makes the call again. No errno that a program sees has this number.
pub const REMOTE_BACKGROUND: i64 = -512;
/// The answer of [`OP_REMOTE`] for a call that the host can do on the descriptor itself: a file that
/// is open here too, of which only the offset lives elsewhere.
pub const REMOTE_NOT: i64 = -513;
/// Added to [`OP_OPEN_TERMINAL`]'s answer: calls on the descriptor ring [`OP_REMOTE`].
pub const OPENED_REMOTE: u64 = 1 << 32;
/// [`OP_EXEC`]'s answer when the image went to another node.
pub const EXEC_GONE: i64 = 1 << 40;
/// In [`ExecRequest::flags`]: execute on this node.
pub const EXEC_PLACE_LOCAL: u32 = 1 << 0;
/// In [`ExecRequest::flags`]: execute on the next node in turn.
pub const EXEC_PLACE_SPREAD: u32 = 1 << 1;
/// In [`ExecRequest::flags`]: where it is placed by the fabric's policy it stays.
pub const EXEC_PLACE_PIN: u32 = 1 << 3;
/// In [`ExecRequest::flags`]: the caller alone has its table of descriptors, and leaves [`ExecRequest::exe_fd`] open for the
/// new image if the exec is granted on this node, which finds the number in [`StartInfo::exe_fd`].
pub const EXEC_KEEPS_PROGRAM: u32 = 1 << 2;
/// Greatest bytes of a path, terminating zero included (`PATH_MAX`).
pub const PATH_BYTES: usize = 4096;
/// Bitmap words of [`StartInfo::remote_fds`]: descriptors 0..1024 can be remote.
pub const REMOTE_FD_WORDS: usize = 16;

/// What an image learns at its start.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StartInfo {
    /// In: the shim's [`ABI_VERSION`](crate::ABI_VERSION). Out: the daemon's.
    pub version: u32,
    /// The process's PID.
    pub pid: u32,
    /// Index of the process's slot in the arena.
    pub slot: u32,
    /// `START_*` bits.
    pub flags: u32,
    /// The program to load, opened for reading; the shim closes it.
    pub exe_fd: i32,
    /// With [`START_EXECUTE`]: a descriptor to close.
    pub arena_fd: i32,
    /// Descriptors whose offset or queue lives at another node, one bit each.
    pub remote_fds: [u64; REMOTE_FD_WORDS],
    /// With [`START_SIGNALS`]: the signals that are ignored, bit `n - 1` for signal `n`.
    pub signals_ignored: u64,
    /// The program's absolute path (`/proc/self/exe`), and behind its zero `AT_EXECFN` (the script's path for a
    /// script) with one of its own. What follows is not written.
    pub paths: [u8; 2 * PATH_BYTES],
}

/// What the child of a fork learns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ChildInfo {
    /// Index of the child's slot in the arena.
    pub slot: u32,
    /// Reserved.
    pub flags: u32,
}

/// What [`OP_EXEC`] asks for. Pointers are the guest's, `argv` and `envp` already rewritten for `#!`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ExecRequest {
    /// The program, opened for reading by the shim (with `O_CLOEXEC`), already checked: regular, executable, ELF.
    pub exe_fd: i32,
    /// What `DUNIX_PLACE` of the new environment says: [`EXEC_PLACE_LOCAL`],
    /// [`EXEC_PLACE_SPREAD`], [`EXEC_PLACE_PIN`] or none of these.
    pub flags: u32,
    /// `*const c_char`: the path for `AT_EXECFN`.
    pub exec_fn: u64,
    /// `*const *const c_char`, terminated by null.
    pub argv: u64,
    /// `*const *const c_char`, terminated by null.
    pub envp: u64,
    /// Signals that are ignored, bit `n - 1` for signal `n`.
    pub signals_ignored: u64,
    /// Signals that are blocked in the calling thread, bit `n - 1` for signal `n`.
    pub signals_blocked: u64,
    /// Descriptors opened since the last fork and never passed on (their offset is not shared),
    /// one bit each for 0..1024.
    pub private_fds: [u64; REMOTE_FD_WORDS],
    /// prctl(2), `PR_GET_SECUREBITS`.
    pub securebits: u32,
    /// Padding.
    pub reserved: u32,
}

/// What [`OP_WAIT`] found.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct WaitResult {
    /// The child.
    pub pid: u32,
    /// Its real user.
    pub uid: u32,
    /// `CLD_EXITED`, `CLD_KILLED`, `CLD_DUMPED`, `CLD_STOPPED`, `CLD_CONTINUED`.
    pub code: i32,
    /// Exit status, or the signal.
    pub status: i32,
    /// `struct rusage` of the child and its waited-for descendants.
    pub rusage: [u64; 18],
    /// The slot's `event_seq` when this was found, and how many children are left after it;
    /// [`WAIT_AGAIN`]: one of them may have something for a wait, ask again. As long as the number is the
    /// same, no wait finds anything. Written with every answer but `-ECHILD`.
    pub seq: u32,
    pub children: u32,
}

/// See [`WaitResult::children`].
pub const WAIT_AGAIN: u32 = u32::MAX;

/// What [`OP_LOCK`] asks for.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LockWish {
    /// The first byte of the file.
    pub first: u64,
    /// The last byte; `i64::MAX` for all to come.
    pub last: u64,
    /// `LOCK_*` bits.
    pub flags: u32,
    /// Padding.
    pub reserved: u32,
}

/// A lock that is in the way.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LockFound {
    /// The first byte.
    pub first: u64,
    /// The last byte.
    pub last: u64,
    /// [`LOCK_WRITE`] or 0.
    pub flags: u32,
    /// The process, 0 for an open file description.
    pub pid: u32,
}

/// The part of `siginfo_t` that rt_sigqueueinfo carries.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SigInfo {
    /// `si_code`, negative.
    pub code: i32,
    /// `si_pid` as the sender gave it (not trusted: the daemon replaces it).
    pub pid: u32,
    /// `si_uid`, likewise.
    pub uid: u32,
    /// Padding.
    pub reserved: u32,
    /// `si_value`.
    pub value: u64,
}

/// One call on a remote descriptor.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RemoteCall {
    /// 0 in a new call; the daemon sets it for the calls that follow.
    pub ticket: u64,
    /// The host's system-call number. poll stands for a look at the one descriptor: it does not wait.
    pub nr: u32,
    /// The descriptor.
    pub fd: i32,
    /// The call's further arguments, as the guest gave them. For poll: the events asked for; the
    /// result is the events found.
    pub args: [u64; 5],
    /// `DEAF_*` bits.
    pub marks: u64,
    /// Bytes of a read or write that are done already: the call is about the rest. A call may come
    /// short at any length.
    pub done: u64,
}
