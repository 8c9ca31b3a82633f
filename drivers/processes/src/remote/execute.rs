//! Running a holder's call on an object that has its home here.

use super::flock::FLOCK;
use super::homes::{Object, Purpose};
use super::sockets;
use super::unix;
use super::waiting::Waiting;
use super::watch::ready_now;
use crate::config::PortCall;
use crate::node::Node;
use crate::terminal::{Gate, Job, TerminalCall};
use dunix_guest_abi::arena::TREE_DEVICE;
use dunix_guest_abi::doorbell::{
    IS_BOUND, OP_BIND, OP_BOUND, OP_CONNECT, OP_SEND, REMOTE_BACKGROUND,
};
use dunix_ids::NodeId;
use dunix_linux::{Errno, Result, plain_calls, terminal_calls};
use dunix_wire::processes::image::{CALL_BYTES_MAX, RemoteKind};
use dunix_wire::processes::{
    CallArguments, CallExtra, CallOutcome, CallerJob, Place, RemoteCallRequest,
};
use rustix::fs::{OFlags, SeekFrom, fstat, major, minor};
use rustix::net::sockopt;
use rustix::termios::{LocalModes, SpecialCodeIndex};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// The numbers of bind(2) and listen(2).
pub(super) const BIND: u32 = 49;
const LISTEN: u32 = 50;
/// The number of pidfd_open(2): asks which process a descriptor is about.
pub(super) const PIDFD_OPEN: u32 = 434;
/// getsockopt(2) of `SO_PEERCRED`.
const PEER_CREDENTIALS: (u32, u64, u64) = (55, 1, 17);

/// A call that succeeded.
pub(super) type Done = CallOutcome;

impl Node {
    /// Runs a call and says what it returned. `cancelled` is told if its caller gives it up.
    pub(crate) async fn execute(
        self: &Arc<Node>,
        from: NodeId,
        request: RemoteCallRequest,
        cancelled: Arc<Notify>,
    ) -> CallOutcome {
        let (ticket, called) = (request.ticket, request.object);
        let outcome = match request.call {
            CallArguments::At { place, call } => {
                let request = RemoteCallRequest { call: *call, ..request };
                self.run_from_place(from, place, request, cancelled).await
            }
            _ => self.run_call(from, request, &cancelled).await,
        };
        self.homes.end_call(from, ticket);
        let mut outcome = outcome.unwrap_or_else(failed);
        outcome.ready = self.homes.watches.changes_for(from, called);
        outcome
    }

    /// Runs a call that names a file, on a thread that looks names up as the process does.
    async fn run_from_place(
        self: &Arc<Node>,
        from: NodeId,
        place: Place,
        request: RemoteCallRequest,
        cancelled: Arc<Notify>,
    ) -> Result<Done> {
        let owner = |id: u32| self.ids_base.checked_add(id).ok_or(Errno::PROTO);
        let (uid, gid) = (owner(place.uid)?, owner(place.gid)?);
        let below = if place.root == b"/" { &[] } else { &place.root[..] };
        let root = [self.root.as_slice(), below, b"/"].concat();
        let node = self.clone();
        let run = move || {
            let runtime = node.runtime.clone();
            runtime.block_on(node.run_call(from, request, &cancelled))
        };
        self.run_in_place(root, place.cwd, (uid, gid), run)?.await.unwrap_or(Err(Errno::IO))
    }

    /// Runs `work` on a thread of its own that looks names up below `root` as guests do.
    pub(super) fn run_in_place<T: Send + 'static>(
        &self,
        root: Vec<u8>,
        cwd: Vec<u8>,
        owner: (u32, u32),
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<tokio::sync::oneshot::Receiver<Result<T>>> {
        let path = |bytes: Vec<u8>| PathBuf::from(std::ffi::OsString::from_vec(bytes));
        let (root, cwd) = (path(root), path(cwd));
        // The last of the guests' namespaces is their mounts.
        let mounts = self.namespaces.last().ok_or(Errno::NOSYS)?;
        let mounts = rustix::io::fcntl_dupfd_cloexec(mounts, 0)?;
        let (answer, outcome) = tokio::sync::oneshot::channel();
        let run = move || {
            let entered = dunix_linux::place::enter(mounts.as_fd(), &root, &cwd, owner);
            // The caller may be gone.
            let _ = answer.send(entered.and_then(|()| work()));
        };
        std::thread::Builder::new()
            .name("names".to_owned())
            .spawn(run)
            .map_err(|_| Errno::AGAIN)?;
        Ok(outcome)
    }

    /// Describes the object as fstat(2) does: the words of x86-64's `struct stat`, owners as guests
    /// see them.
    fn status(&self, object: &Object) -> Result<Done> {
        /// Who has no number in a user namespace (`/proc/sys/kernel/overflowuid`).
        const NOBODY: u32 = 65534;
        let stat = rustix::fs::fstat(&object.original)?;
        let guest_id = |id: u32| u64::from(id.checked_sub(self.ids_base).unwrap_or(NOBODY));
        let is_tree = self.tree_device.map(u64::from) == Some(stat.st_dev);
        let words = [
            if is_tree { u64::from(TREE_DEVICE) } else { stat.st_dev },
            stat.st_ino,
            stat.st_nlink,
            u64::from(stat.st_mode) | guest_id(stat.st_uid) << 32,
            guest_id(stat.st_gid),
            stat.st_rdev,
            stat.st_size.cast_unsigned(),
            stat.st_blksize.cast_unsigned(),
            stat.st_blocks.cast_unsigned(),
            stat.st_atime.cast_unsigned(),
            stat.st_atime_nsec,
            stat.st_mtime.cast_unsigned(),
            stat.st_mtime_nsec,
            stat.st_ctime.cast_unsigned(),
            stat.st_ctime_nsec,
            0,
            0,
            0,
        ];
        let data = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        Ok(CallOutcome { data, ..CallOutcome::default() })
    }

    async fn run_call(
        self: &Arc<Node>,
        from: NodeId,
        request: RemoteCallRequest,
        cancelled: &Notify,
    ) -> Result<Done> {
        let object = self.homes.get(request.object).ok_or(Errno::BADF)?;
        let Purpose::Calls(what) = object.purpose else { return Err(Errno::BADF) };
        if let RemoteKind::Terminal { pts } = what {
            match self.gate(pts, &request) {
                Gate::Open => {}
                Gate::Background => {
                    return Ok(CallOutcome { value: REMOTE_BACKGROUND, ..CallOutcome::default() });
                }
                Gate::Closed => return Err(Errno::IO),
            }
        }
        match request.call {
            CallArguments::At { .. } => Err(Errno::PROTO),
            CallArguments::Status => self.status(&object),
            CallArguments::Poll { events } => Ok(value(usize::from(ready_among(&object, events)))),
            CallArguments::Terminal { request: number, argument } => {
                let call = (request.pid, Job::from(request.job), number, argument);
                self.on_terminal(&object, call).await
            }
            CallArguments::Ioctl { request, value, argument, answer_bytes } => {
                ioctl(&object, request, value, argument, answer_bytes)
            }
            CallArguments::Plain { number: PIDFD_OPEN, .. } => {
                let stat = fstat(&object.original)?;
                let value = self.look(|state| state.pidfd_value(&stat)).ok_or(Errno::BADF)?;
                Ok(CallOutcome { value, ..CallOutcome::default() })
            }
            CallArguments::Plain { number: FLOCK, arguments, .. } => {
                self.flock(&object, arguments[0], cancelled).await
            }
            CallArguments::Plain { number, arguments, input } => {
                if number == BIND
                    && what == RemoteKind::Socket
                    && self.prepare_port(&object, OP_BIND, &input).await? == IS_BOUND
                {
                    return Ok(value(0));
                }
                let address = if number == BIND { input.clone() } else { Vec::new() };
                let kind = sockopt::socket_type(&object.original).ok();
                let name = kind.and_then(|kind| unix::abstract_name(kind, &address));
                if let Some(name) = &name {
                    self.claim(name.clone()).await?;
                }
                let done = self.plain(object.clone(), number, arguments, input).await;
                if let Some(name) = &name {
                    self.settle_claim(name);
                }
                let mut done = done?;
                if let Some(path) = unix::path(&address) {
                    self.note_bound_at(path).await;
                }
                if (number, arguments[0], arguments[1]) == PEER_CREDENTIALS
                    && let Some(credentials) = done.data.first_chunk_mut()
                {
                    self.rename(credentials);
                }
                if number == LISTEN && what == RemoteKind::Socket {
                    self.prepare_port(&object, OP_BOUND, &[]).await?;
                }
                Ok(done)
            }
            CallArguments::Send { data, address, flags, descriptors } => {
                if !address.is_empty() {
                    self.prepare_port(&object, OP_SEND, &address).await?;
                }
                let message = (&data[..], &address[..], flags);
                self.send(&object, message, descriptors, cancelled).await
            }
            CallArguments::Receive { bytes, flags } => {
                self.receive(from, &object, (bytes, flags), cancelled).await
            }
            CallArguments::Accept { flags } => self.accept(&object, from, flags, cancelled).await,
            CallArguments::Connect { address } => {
                self.prepare_port(&object, OP_CONNECT, &address).await?;
                sockets::connect(&object, &address, cancelled).await
            }
            CallArguments::Read { bytes: 0 } if what == RemoteKind::Socket => Ok(value(0)),
            CallArguments::Read { bytes } if what == RemoteKind::Socket => {
                self.receive(from, &object, (bytes, 0), cancelled).await
            }
            CallArguments::Write { data } if what == RemoteKind::Socket => {
                sockets::send(&object, (&data, &[], 0), &[], cancelled).await
            }
            call if matches!(what, RemoteKind::File | RemoteKind::Directory) => {
                let done = self.runtime.spawn_blocking(move || on_file(&object, call)).await;
                done.unwrap_or(Err(Errno::IO))
            }
            CallArguments::Read { bytes } => read(&object, what, bytes, cancelled).await,
            CallArguments::Write { data } => write(&object, what, &data, cancelled).await,
            CallArguments::Seek { .. } => Err(Errno::SPIPE),
        }
    }

    /// Lets the driver of ports prepare what the caller's own node could not: the port is used here.
    async fn prepare_port(&self, object: &Object, operation: u64, address: &[u8]) -> Result<u32> {
        let (answer, outcome) = tokio::sync::oneshot::channel();
        let (socket, address) = (object.duplicate()?, address.to_vec());
        self.extension.handle_port_call(PortCall { operation, socket, address, answer });
        outcome.await.unwrap_or(Ok(0))
    }

    async fn on_terminal(
        &self,
        object: &Arc<Object>,
        (pid, job, request, argument): (dunix_ids::Pid, Job, u32, i32),
    ) -> Result<Done> {
        if !matches!(object.purpose, Purpose::Calls(RemoteKind::Terminal { .. })) {
            return Err(Errno::NOTTY);
        }
        let (answer, outcome) = tokio::sync::oneshot::channel();
        let fd = object.duplicate()?;
        let request = request.into();
        self.extension.handle_terminal_call(TerminalCall {
            pid,
            job,
            fd,
            request,
            argument,
            answer,
        });
        let value = outcome.await.unwrap_or(Err(Errno::IO))?;
        Ok(CallOutcome { value, ..CallOutcome::default() })
    }

    async fn plain(
        &self,
        object: Arc<Object>,
        number: u32,
        arguments: [u64; 5],
        input: Vec<u8>,
    ) -> Result<Done> {
        if number == BIND {
            // On the thread that is where its caller is.
            let (value, data) =
                plain_calls::run(object.original.as_fd(), number, arguments, &input)?;
            return Ok(CallOutcome { value, data, ..CallOutcome::default() });
        }
        // fsync(2) and kin look at disks, or at the tree.
        let done = self.runtime.spawn_blocking(move || {
            plain_calls::run(object.original.as_fd(), number, arguments, &input)
        });
        let (value, data) = done.await.unwrap_or(Err(Errno::IO))?;
        Ok(CallOutcome { value, data, ..CallOutcome::default() })
    }
}

impl Node {
    /// Opens the controlling terminal of a process elsewhere: an object of this node, for its node.
    pub(crate) fn open_terminal(
        &self,
        from: NodeId,
        pid: dunix_ids::Pid,
        job: CallerJob,
        flags: u32,
    ) -> CallOutcome {
        let flags = OFlags::from_bits_retain(flags);
        let opened = self.extension.open_terminal(pid, Job::from(job), flags).and_then(|fd| {
            let device = rustix::fs::fstat(&fd)?.st_rdev;
            let pts = major(device).saturating_sub(FIRST_MAJOR) * 256 + minor(device);
            let (ready, purpose) = (ready_now(&fd), Purpose::Calls(RemoteKind::Terminal { pts }));
            let object = self.homes.keep(Object::new(fd, purpose, Vec::new()), from)?;
            let extra = CallExtra::Opened { object, pts, ready };
            Ok(CallOutcome { extra, ..CallOutcome::default() })
        });
        opened.unwrap_or_else(failed)
    }
}

/// First major number of the terminals of devpts.
const FIRST_MAJOR: u32 = 136;

pub(super) fn failed(errno: Errno) -> CallOutcome {
    CallOutcome { value: -i64::from(errno.raw_os_error()), ..CallOutcome::default() }
}

pub(super) fn value(value: usize) -> CallOutcome {
    CallOutcome { value: i64::try_from(value).unwrap_or(i64::MAX), ..CallOutcome::default() }
}

/// poll(2)'s answer for these events.
fn ready_among(object: &Object, events: u16) -> u16 {
    /// `POLLERR`, `POLLHUP`: told unasked.
    const UNASKED: u16 = 0x8 | 0x10;
    // `POLLRDNORM`, `POLLWRNORM`.
    const READ_TOO: u16 = 0x40;
    const WRITE_TOO: u16 = 0x100;
    let now = ready_now(&object.original);
    let also =
        if now & 0x1 != 0 { READ_TOO } else { 0 } | if now & 0x4 != 0 { WRITE_TOO } else { 0 };
    (now | also) & (events | UNASKED)
}

/// A file: calls do not wait, and its offset lock is the kernel's.
fn on_file(object: &Object, call: CallArguments) -> Result<Done> {
    match call {
        CallArguments::Read { bytes } => {
            let mut data = vec![0; (bytes as usize).min(CALL_BYTES_MAX)];
            let got = rustix::io::read(&object.original, &mut data)?;
            data.truncate(got);
            Ok(CallOutcome { data, ..value(got) })
        }
        CallArguments::Write { data } => Ok(value(rustix::io::write(&object.original, &data)?)),
        CallArguments::Seek { offset, whence } => {
            let to = match whence {
                0 => SeekFrom::Start(u64::try_from(offset).map_err(|_| Errno::INVAL)?),
                1 => SeekFrom::Current(offset),
                2 => SeekFrom::End(offset),
                3 => SeekFrom::Data(u64::try_from(offset).map_err(|_| Errno::NXIO)?),
                4 => SeekFrom::Hole(u64::try_from(offset).map_err(|_| Errno::NXIO)?),
                _ => return Err(Errno::INVAL),
            };
            let at = rustix::fs::seek(&object.original, to)?;
            Ok(CallOutcome { value: at.cast_signed(), ..CallOutcome::default() })
        }
        // Answered before, for every kind of object.
        _ => Err(Errno::NOSYS),
    }
}

fn ioctl(
    object: &Object,
    request: u32,
    argument: u64,
    mut data: Vec<u8>,
    answer_bytes: u32,
) -> Result<Done> {
    let answer_bytes = (answer_bytes as usize).min(CALL_BYTES_MAX);
    data.resize(data.len().max(answer_bytes), 0);
    let result = terminal_calls::ioctl(object.original.as_fd(), request, argument, &mut data)?;
    data.truncate(answer_bytes);
    Ok(CallOutcome { value: i64::from(result), data, ..CallOutcome::default() })
}

/// What the settings of a terminal without lines say of a read (termios(3)).
#[derive(Clone, Copy)]
enum Rule {
    /// `MIN` is 0: it ends with nothing after `TIME`.
    Within(Duration),
    /// `MIN` is more than 1, and there is no `TIME`.
    AtLeast,
}

impl Rule {
    fn of(object: &Object, what: RemoteKind) -> Option<Rule> {
        if !matches!(what, RemoteKind::Terminal { .. }) {
            return None;
        }
        let settings = rustix::termios::tcgetattr(&object.original).ok()?;
        if settings.local_modes.contains(LocalModes::ICANON) {
            return None;
        }
        let codes = &settings.special_codes;
        match (codes[SpecialCodeIndex::VMIN], codes[SpecialCodeIndex::VTIME]) {
            (0, tenths) if tenths > 0 => Some(Rule::Within(TENTH * u32::from(tenths))),
            (2.., 0) => Some(Rule::AtLeast),
            _ => None,
        }
    }
}

/// The unit of `TIME`.
const TENTH: Duration = Duration::from_millis(100);

/// A pipe, a terminal, or what else has a queue.
async fn read(
    object: &Arc<Object>,
    what: RemoteKind,
    bytes: u32,
    cancelled: &Notify,
) -> Result<Done> {
    let waiting = Waiting::to_read(object, cancelled);
    let mut data = vec![0; (bytes as usize).min(CALL_BYTES_MAX)];
    let got = if what == RemoteKind::Queue {
        let attempt =
            || object.in_turn(waiting.waits(), READABLE, |fd| rustix::io::read(fd, &mut data));
        waiting.until_done(attempt).await?
    } else {
        let own = object.nonblocking()?;
        let rule = Rule::of(object, what).filter(|_| waiting.waits());
        let waiting = match rule {
            Some(Rule::Within(span)) => waiting.within(span),
            _ => waiting,
        };
        let attempt = || match rule {
            // poll(2) tells when there are so many.
            Some(Rule::AtLeast) if ready_now(&object.original) & READABLE == 0 => Err(Errno::AGAIN),
            _ => rustix::io::read(own, &mut data),
        };
        match waiting.until_done(attempt).await {
            Err(Errno::AGAIN) if matches!(rule, Some(Rule::Within(_))) => 0,
            other => other?,
        }
    };
    data.truncate(got);
    Ok(CallOutcome { data, ..value(got) })
}

async fn write(
    object: &Arc<Object>,
    what: RemoteKind,
    data: &[u8],
    cancelled: &Notify,
) -> Result<Done> {
    let waiting = Waiting::to_write(object, cancelled);
    let mut written = 0;
    loop {
        let rest = data.get(written..).unwrap_or(&[]);
        let result = if what == RemoteKind::Queue {
            let attempt =
                || object.in_turn(waiting.waits(), WRITABLE, |fd| rustix::io::write(fd, rest));
            waiting.until_done(attempt).await
        } else {
            let own = object.nonblocking()?;
            waiting.until_done(|| rustix::io::write(own, rest)).await
        };
        match result {
            Ok(count) => written += count,
            Err(errno) if written == 0 => return Err(errno),
            Err(_) => break,
        }
        // Other queues take a whole message at a time.
        if written >= data.len() || what == RemoteKind::Queue {
            break;
        }
    }
    Ok(value(written))
}

/// `POLLIN`, or an error or end that a read reports.
const READABLE: u16 = 0x1 | 0x8 | 0x10;
/// `POLLOUT`, or an error or end that a write reports.
const WRITABLE: u16 = 0x4 | 0x8 | 0x10;
