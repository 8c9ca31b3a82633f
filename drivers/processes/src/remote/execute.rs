//! Running a holder's call on an object that has its home here.

use super::homes::{Object, Purpose, reopen};
use super::pump::watch;
use crate::node::Node;
use crate::terminal::{Gate, Job, TerminalCall};
use dunix_guest_abi::doorbell::REMOTE_BACKGROUND;
use dunix_ids::NodeId;
use dunix_linux::{Errno, Result, terminal_calls};
use dunix_wire::processes::image::{CALL_BYTES_MAX, RemoteKind};
use dunix_wire::processes::{CallArguments, CallOutcome, RemoteCallRequest};
use rustix::fs::{OFlags, SeekFrom, fcntl_getfl};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

impl Node {
    /// Runs a call and says what it returned.
    pub(crate) async fn execute(&self, from: NodeId, request: RemoteCallRequest) -> CallOutcome {
        let Some(object) = self.homes.get(request.object) else { return failed(Errno::BADF) };
        let Purpose::Calls(what) = object.purpose else { return failed(Errno::BADF) };
        let ticket = request.ticket;
        let cancelled = self.homes.begin_call(from, ticket);
        let outcome = match what {
            _ if request.call == CallArguments::Status => status(&object, self.ids_base),
            RemoteKind::File | RemoteKind::Directory => {
                let call = request.call;
                let done = self.runtime.spawn_blocking(move || on_file(&object, call)).await;
                done.unwrap_or(Err(Errno::IO))
            }
            RemoteKind::Pipe | RemoteKind::Socket | RemoteKind::Queue => {
                on_queue(object, request.call, &cancelled).await
            }
            RemoteKind::Terminal { pts } => match self.gate(pts, &request) {
                Gate::Open => self.on_terminal(object, request, &cancelled).await,
                Gate::Background => Ok(CallOutcome { value: REMOTE_BACKGROUND, data: Vec::new() }),
                Gate::Closed => Err(Errno::IO),
            },
        };
        self.homes.end_call(from, ticket);
        outcome.unwrap_or_else(failed)
    }
}

impl Node {
    async fn on_terminal(
        &self,
        object: Arc<Object>,
        request: RemoteCallRequest,
        cancelled: &Notify,
    ) -> Result<CallOutcome> {
        let CallArguments::Terminal { request: number, argument } = request.call else {
            return on_queue(object, request.call, cancelled).await;
        };
        let (answer, outcome) = tokio::sync::oneshot::channel();
        self.extension.handle_terminal_call(TerminalCall {
            pid: request.pid,
            job: Job::from(request.job),
            fd: object.duplicate()?,
            request: number.into(),
            argument,
            answer,
        });
        let value = outcome.await.unwrap_or(Err(Errno::IO))?;
        Ok(CallOutcome { value, data: Vec::new() })
    }
}

fn failed(errno: Errno) -> CallOutcome {
    CallOutcome { value: -i64::from(errno.raw_os_error()), data: Vec::new() }
}

fn value(value: usize) -> CallOutcome {
    CallOutcome { value: i64::try_from(value).unwrap_or(i64::MAX), data: Vec::new() }
}

/// Describes the object as fstat(2) does: the words of x86-64's `struct stat`, owners as guests
/// see them (theirs begin at `ids_base`).
fn status(object: &Object, ids_base: u32) -> Result<CallOutcome> {
    /// Who has no number in a user namespace (`/proc/sys/kernel/overflowuid`).
    const NOBODY: u32 = 65534;
    let stat = rustix::fs::fstat(&object.original)?;
    let guest_id = |id: u32| u64::from(id.checked_sub(ids_base).unwrap_or(NOBODY));
    let words = [
        stat.st_dev,
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
    Ok(CallOutcome { value: 0, data })
}

/// A file: calls do not wait, and its offset lock is the kernel's.
fn on_file(object: &Object, call: CallArguments) -> Result<CallOutcome> {
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
            Ok(CallOutcome { value: at.cast_signed(), data: Vec::new() })
        }
        CallArguments::Ioctl { .. } | CallArguments::Terminal { .. } => Err(Errno::NOTTY),
        // Answered before, for every kind of object.
        CallArguments::Status => Err(Errno::NOSYS),
        CallArguments::Poll { events, .. } => Ok(value(usize::from(events & 0x45))),
    }
}

/// A pipe or terminal: calls wait, on a description of our own.
async fn on_queue(
    object: Arc<Object>,
    call: CallArguments,
    cancelled: &Notify,
) -> Result<CallOutcome> {
    let flags = fcntl_getfl(&object.original)?;
    let access = flags & OFlags::RWMODE;
    let own = reopen(object.original.as_fd(), access)?;
    let waits = !flags.contains(OFlags::NONBLOCK);
    match call {
        CallArguments::Read { bytes } => {
            let mut data = vec![0; (bytes as usize).min(CALL_BYTES_MAX)];
            let queue = watch(own, Interest::READABLE).map_err(|_| Errno::IO)?;
            let got = tokio::select! {
                biased;
                got = read(&queue, &mut data, waits) => got?,
                () = cancelled.notified() => return Err(Errno::INTR),
            };
            data.truncate(got);
            Ok(CallOutcome { data, ..value(got) })
        }
        CallArguments::Write { data } => {
            let queue = watch(own, Interest::WRITABLE).map_err(|_| Errno::IO)?;
            let mut written = 0;
            let result = tokio::select! {
                biased;
                result = write(&queue, &data, waits, &mut written) => result,
                () = cancelled.notified() => Err(Errno::INTR),
            };
            match result {
                Err(errno) if written == 0 => Err(errno),
                _ => Ok(value(written)),
            }
        }
        CallArguments::Seek { .. } => Err(Errno::SPIPE),
        CallArguments::Terminal { .. } => Err(Errno::NOTTY),
        CallArguments::Status => Err(Errno::NOSYS),
        CallArguments::Ioctl { request, value: argument, argument: structure, answer_bytes } => {
            let mut data = structure;
            let answer_bytes = (answer_bytes as usize).min(CALL_BYTES_MAX);
            data.resize(data.len().max(answer_bytes), 0);
            let result = terminal_calls::ioctl(own.as_fd(), request, argument, &mut data)?;
            data.truncate(answer_bytes);
            Ok(CallOutcome { value: i64::from(result), data })
        }
        CallArguments::Poll { events, timeout_ms } => {
            poll(own, events, timeout_ms, cancelled).await
        }
    }
}

async fn read(queue: &AsyncFd<OwnedFd>, into: &mut [u8], waits: bool) -> Result<usize> {
    loop {
        match rustix::io::read(queue.get_ref(), &mut *into) {
            Err(Errno::AGAIN) if waits => {
                let mut ready = queue.readable().await.map_err(|_| Errno::IO)?;
                // Looked at again before it waits: readiness is an edge.
                match rustix::io::read(queue.get_ref(), &mut *into) {
                    Err(Errno::AGAIN) => ready.clear_ready(),
                    Err(Errno::INTR) => {}
                    other => return other,
                }
            }
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

async fn write(
    queue: &AsyncFd<OwnedFd>,
    from: &[u8],
    waits: bool,
    written: &mut usize,
) -> Result<()> {
    while let Some(rest) = from.get(*written..).filter(|rest| !rest.is_empty()) {
        match rustix::io::write(queue.get_ref(), rest) {
            Ok(count) => *written += count,
            Err(Errno::AGAIN) if waits => {
                let mut ready = queue.writable().await.map_err(|_| Errno::IO)?;
                match rustix::io::write(queue.get_ref(), rest) {
                    Ok(count) => *written += count,
                    Err(Errno::AGAIN) => ready.clear_ready(),
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno),
                }
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

async fn poll(
    own: OwnedFd,
    events: u16,
    timeout_ms: i32,
    cancelled: &Notify,
) -> Result<CallOutcome> {
    use rustix::event::{PollFd, PollFlags, poll};
    let wanted = PollFlags::from_bits_retain(events);
    let now = |fd: &OwnedFd| -> Result<u16> {
        let mut polled = [PollFd::new(fd, wanted)];
        poll(&mut polled, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        Ok(polled[0].revents().bits())
    };
    let held = now(&own)?;
    if held != 0 || timeout_ms == 0 {
        return Ok(value(usize::from(held)));
    }
    let interest = match (wanted.contains(PollFlags::IN), wanted.contains(PollFlags::OUT)) {
        (true, true) => Interest::READABLE | Interest::WRITABLE,
        (false, true) => Interest::WRITABLE,
        _ => Interest::READABLE,
    };
    let queue = watch(own, interest).map_err(|_| Errno::IO)?;
    let ready = async {
        loop {
            let Ok(mut ready) = queue.ready(interest).await else { return Err(Errno::IO) };
            match now(queue.get_ref())? {
                0 => ready.clear_ready(),
                held => return Ok(held),
            }
        }
    };
    let patience = u64::try_from(timeout_ms).map_or(FOREVER, Duration::from_millis);
    tokio::select! {
        held = ready => Ok(value(usize::from(held?))),
        () = tokio::time::sleep(patience) => Ok(value(0)),
        () = cancelled.notified() => Err(Errno::INTR),
    }
}

/// Longer than any process lives.
const FOREVER: Duration = Duration::from_secs(365 * 86400);
