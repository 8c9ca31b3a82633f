//! One `dunix run` on the server's side: standard streams under credit, signals, size, exit.
//!
//! ```text
//! client frames -> [ control ]  --------------------> RunControl
//!                  [ stdin queue, <= WINDOW_BYTES ] -> program's stdin    -> StdinCredit
//! program's stdout -> [ pump, <= WINDOW_BYTES unacknowledged ] -> Output -> client
//! program's stderr -> [ likewise ]
//! exit -> both pumps read what is there -> Exited
//! ```
//!
//! Invariants: `Exited` is the last frame, after every byte that the program wrote before it ended.
//! A client that leaves earlier hangs the program up. A child that outlives the program and still
//! holds its output does not delay the exit; what it writes later is refused (SIGPIPE).

use super::{
    AdminBackend, Running,
    frames::{FrameReader, write_frame},
};
use dunix_admin_api::{
    AdminError, ClientFrame, DATA_BYTES_MAX, EXEC_BYTES_MAX, ErrorKind, ExitStatus, RunRequest,
    ServerFrame, Stream, WINDOW_BYTES,
};
use rustix::{fs::OFlags, io::Errno};
use serde_bytes::ByteBuf;
use std::{io, os::fd::OwnedFd, sync::Arc};
use tokio::{
    io::unix::AsyncFd,
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::{Semaphore, mpsc, watch},
    task::JoinHandle,
};

/// Frames that wait for the socket; their senders wait when it is full.
const OUTGOING_FRAMES_MAX: usize = 16;
/// What a terminal takes for the end of input (`VEOF`, ^D).
const TERMINAL_EOF: u8 = 4;

type Outgoing = mpsc::Sender<ServerFrame>;

/// Starts the program and relays until it ends or the client leaves.
pub(crate) async fn run<B: AdminBackend>(
    request: RunRequest,
    mut input: FrameReader<OwnedReadHalf>,
    mut output: OwnedWriteHalf,
    backend: &B,
) -> io::Result<()> {
    let has_terminal = request.terminal.is_some();
    let started = match check(&request) {
        Ok(()) => backend.run(request).await,
        Err(error) => Err(error),
    };
    let running = match started {
        Ok(running) => running,
        Err(error) => return write_frame(&mut output, &ServerFrame::Failed(error)).await,
    };
    let (outgoing, frames) = mpsc::channel(OUTGOING_FRAMES_MAX);
    let writer = tokio::spawn(write_frames(frames, output));
    let result = Session::new(running, has_terminal, outgoing)?.relay(&mut input).await;
    // The session held the last sender: the writer ends once all is written.
    match writer.await {
        Ok(written) => result.and(written),
        Err(_) => result,
    }
}

fn check(request: &RunRequest) -> Result<(), AdminError> {
    let invalid = |what: &str| Err(AdminError::new(ErrorKind::Invalid, what));
    let bytes: usize = request.argv.iter().chain(&request.env).map(|text| text.len() + 1).sum();
    if request.argv.is_empty() {
        return invalid("no program is named");
    }
    if bytes > EXEC_BYTES_MAX {
        return invalid("arguments and environment are too long");
    }
    if request.argv.iter().chain(&request.env).any(|text| text.contains(&0)) {
        return invalid("an argument or variable contains a zero byte");
    }
    if !request.cwd.starts_with(b"/") || request.cwd.contains(&0) {
        return invalid("the working directory must be an absolute path");
    }
    Ok(())
}

async fn write_frames(
    mut frames: mpsc::Receiver<ServerFrame>,
    mut output: OwnedWriteHalf,
) -> io::Result<()> {
    while let Some(frame) = frames.recv().await {
        write_frame(&mut output, &frame).await?;
    }
    Ok(())
}

struct Session {
    running: Running,
    has_terminal: bool,
    outgoing: Outgoing,
    /// To the stdin pump; `None` once input has ended.
    stdin: Option<mpsc::UnboundedSender<Vec<u8>>>,
    /// Credit that the client has left for stdin; the pump gives it back.
    stdin_credit: Arc<Semaphore>,
    stdin_pump: JoinHandle<()>,
    stdout: Pump,
    stderr: Option<Pump>,
    ended: watch::Sender<bool>,
}

struct Pump {
    credit: Arc<Semaphore>,
    task: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stdin_pump.abort();
        self.stdout.task.abort();
        if let Some(pump) = &self.stderr {
            pump.task.abort();
        }
    }
}

impl Session {
    fn new(mut running: Running, has_terminal: bool, outgoing: Outgoing) -> io::Result<Session> {
        let (ended, watch_ended) = watch::channel(false);
        let stdin_credit = Arc::new(Semaphore::new(WINDOW_BYTES as usize));
        let (stdin, queue) = mpsc::unbounded_channel();
        let null = || rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, 0.into());
        let end = has_terminal.then_some(TERMINAL_EOF);
        let sink = non_blocking(std::mem::replace(&mut running.stdin, null()?))?;
        let pump = pump_stdin(sink, queue, Arc::clone(&stdin_credit), outgoing.clone(), end);
        let source = std::mem::replace(&mut running.stdout, null()?);
        let stdout = Pump::start(source, Stream::Stdout, outgoing.clone(), watch_ended.clone())?;
        let stderr = match running.stderr.take() {
            Some(fd) => Some(Pump::start(fd, Stream::Stderr, outgoing.clone(), watch_ended)?),
            None => None,
        };
        let stdin_pump = tokio::spawn(pump);
        let stdin = Some(stdin);
        Ok(Session {
            running,
            has_terminal,
            outgoing,
            stdin,
            stdin_credit,
            stdin_pump,
            stdout,
            stderr,
            ended,
        })
    }

    async fn relay(mut self, input: &mut FrameReader<OwnedReadHalf>) -> io::Result<()> {
        let status = match self.relay_until_exit(input).await {
            Ok(status) => status,
            Err(error) => {
                self.running.control.hang_up();
                return Err(error);
            }
        };
        // The client may be slow to take what is left; its credit still has to be heard.
        self.ended.send_replace(true);
        while !self.outputs_finished() {
            tokio::select! {
                () = self.wait_for_outputs() => {}
                frame = input.next::<ClientFrame>() => match frame? {
                    Some(frame) => self.handle_frame(frame)?,
                    None => return Ok(()),
                },
            }
        }
        self.send(ServerFrame::Exited(status)).await
    }

    /// Fails if the client leaves or breaks the protocol while the program runs.
    async fn relay_until_exit(
        &mut self,
        input: &mut FrameReader<OwnedReadHalf>,
    ) -> io::Result<ExitStatus> {
        let started = ServerFrame::Started { pid: self.running.pid, node: self.running.node };
        self.send(started).await?;
        loop {
            tokio::select! {
                status = &mut self.running.exit => return Ok(status),
                frame = input.next::<ClientFrame>() => match frame? {
                    Some(frame) => self.handle_frame(frame)?,
                    None => return Err(io::ErrorKind::ConnectionAborted.into()),
                },
            }
        }
    }

    async fn send(&mut self, frame: ServerFrame) -> io::Result<()> {
        self.outgoing.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn outputs_finished(&self) -> bool {
        let finished = |pump: &Pump| pump.task.is_finished();
        finished(&self.stdout) && self.stderr.as_ref().is_none_or(finished)
    }

    async fn wait_for_outputs(&mut self) {
        // A pump that was aborted (its output is closed) has finished too.
        if !self.stdout.task.is_finished() {
            let _ = (&mut self.stdout.task).await;
        }
        if let Some(pump) = &mut self.stderr
            && !pump.task.is_finished()
        {
            let _ = (&mut pump.task).await;
        }
    }

    /// Acts on a client's frame; an error means that the client breaks the protocol.
    fn handle_frame(&mut self, frame: ClientFrame) -> io::Result<()> {
        match frame {
            ClientFrame::Stdin(bytes) => self.handle_stdin(bytes.into_vec())?,
            ClientFrame::StdinEof => self.stdin = None,
            ClientFrame::Credit { stream, bytes } => self.handle_credit(stream, bytes)?,
            // Nobody sees the terminal any more: that is a hang-up.
            ClientFrame::OutputClosed(_) if self.has_terminal => {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            ClientFrame::OutputClosed(stream) => {
                if let Some(pump) = self.pump(stream) {
                    pump.task.abort();
                }
            }
            ClientFrame::Resize(size) => self.running.control.resize(size),
            ClientFrame::Signal(signal @ 1..=64) => self.running.control.signal(signal),
            ClientFrame::Signal(_) | ClientFrame::Open { .. } => return Err(breach("frame")),
        }
        Ok(())
    }

    fn handle_stdin(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length > 0);
        let length = length.ok_or_else(|| breach("length"))?;
        let credit = self.stdin_credit.try_acquire_many(length).map_err(|_| breach("credit"))?;
        credit.forget();
        if let Some(queue) = &self.stdin {
            // The pump is gone if nobody reads the input any more: what comes is dropped.
            let _ = queue.send(bytes);
        }
        Ok(())
    }

    fn handle_credit(&mut self, stream: Stream, bytes: u32) -> io::Result<()> {
        let Some(pump) = self.pump(stream) else { return Err(breach("stream")) };
        if pump.credit.available_permits() + bytes as usize > WINDOW_BYTES as usize {
            return Err(breach("credit"));
        }
        pump.credit.add_permits(bytes as usize);
        Ok(())
    }

    fn pump(&self, stream: Stream) -> Option<&Pump> {
        match stream {
            Stream::Stdin => None,
            Stream::Stdout => Some(&self.stdout),
            Stream::Stderr => self.stderr.as_ref(),
        }
    }
}

impl Pump {
    fn start(
        source: OwnedFd,
        stream: Stream,
        outgoing: Outgoing,
        ended: watch::Receiver<bool>,
    ) -> io::Result<Pump> {
        let credit = Arc::new(Semaphore::new(WINDOW_BYTES as usize));
        let source = non_blocking(source)?;
        let task = tokio::spawn(pump_output(source, stream, Arc::clone(&credit), outgoing, ended));
        Ok(Pump { credit, task })
    }
}

fn breach(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the client broke the protocol: {what}"))
}

#[expect(deprecated, reason = "an owned descriptor stays open and the same, all that is asked for")]
fn non_blocking(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    AsyncFd::new(fd)
}

/// Reads the program's output until its end, or, once the program has ended, until nothing is left.
async fn pump_output(
    source: AsyncFd<OwnedFd>,
    stream: Stream,
    credit: Arc<Semaphore>,
    outgoing: Outgoing,
    mut ended: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; DATA_BYTES_MAX];
    loop {
        // One byte of credit is waited for; what more there is is taken with it.
        let Ok(first) = credit.acquire().await else { return };
        first.forget();
        let more = credit.available_permits().min(DATA_BYTES_MAX - 1);
        let more = credit.forget_permits(more);
        match read_output(&source, &mut buffer[..=more], &mut ended).await {
            0 => break,
            length => {
                credit.add_permits(1 + more - length);
                let bytes = ByteBuf::from(buffer[..length].to_vec());
                if outgoing.send(ServerFrame::Output { stream, bytes }).await.is_err() {
                    return;
                }
            }
        }
    }
    // If the client is gone, nobody wants to know.
    let _ = outgoing.send(ServerFrame::OutputEof(stream)).await;
}

/// Reads something; 0 at the end.
async fn read_output(
    source: &AsyncFd<OwnedFd>,
    buffer: &mut [u8],
    ended: &mut watch::Receiver<bool>,
) -> usize {
    loop {
        let last_chance = *ended.borrow_and_update();
        match rustix::io::read(source.get_ref(), &mut *buffer) {
            Ok(length) => return length,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) if last_chance => return 0,
            Err(Errno::AGAIN) => {}
            // EIO: a terminal without a slave side is at its end.
            Err(_) => return 0,
        }
        tokio::select! {
            ready = source.readable() => match ready {
                // The read above found nothing; a read after this wait finds what made it ready.
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => return 0,
            },
            _ = ended.changed() => {}
        }
    }
}

/// Writes what the client sends to the program's input, giving credit back as it is taken.
async fn pump_stdin(
    sink: AsyncFd<OwnedFd>,
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    credit: Arc<Semaphore>,
    outgoing: Outgoing,
    end: Option<u8>,
) {
    while let Some(bytes) = queue.recv().await {
        if write_all(&sink, &bytes).await.is_err() {
            let _ = outgoing.send(ServerFrame::StdinClosed).await;
            return;
        }
        credit.add_permits(bytes.len());
        // Bounded by the window: the length fits.
        let length = u32::try_from(bytes.len()).unwrap_or(WINDOW_BYTES);
        if outgoing.send(ServerFrame::StdinCredit(length)).await.is_err() {
            return;
        }
    }
    if let Some(end) = end {
        // If the terminal is gone, so is its input.
        let _ = write_all(&sink, &[end]).await;
    }
}

async fn write_all(sink: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(sink.get_ref(), bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => sink.writable().await?.clear_ready(),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
