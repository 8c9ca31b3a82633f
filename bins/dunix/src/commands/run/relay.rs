//! Relays between the connection and the caller's process until the program has ended.
//!
//! ```text
//! waiting --Started--> running --Exited--> outputs written, status known
//!    |                    |
//!    '-- signal: exit     '-- signal: forwarded (no terminal) or exit (terminal)
//! ```

use super::{
    streams::{Credit, Writer, read_stdin},
    terminal::{self, RawMode},
};
use crate::admin::client::{ClientError, Connection, unexpected};
use dunix_admin_api::{ClientFrame, ServerFrame, Stream, WINDOW_BYTES};
use rustix::process::{Signal, getpid, kill_process};
use std::{fs, io, sync::Arc};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// Frames that wait for the socket; their senders wait when it is full.
const OUTGOING_FRAMES_MAX: usize = 16;
/// Signals that wait to be handled; more of them at once are the same signals again.
const SIGNALS_MAX: usize = 64;

const SIGCONT: u8 = 18;
const SIGTSTP: u8 = 20;
const SIGWINCH: u8 = 28;
/// SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGTERM.
const FORWARDED: [u8; 6] = [1, 2, 3, 10, 12, 15];

/// The signals that come to this process, from the moment of [`Signals::listen`].
pub(super) struct Signals(mpsc::Receiver<u8>);

impl Signals {
    /// Catches the signals that a run handles; one that the caller ignores stays ignored.
    pub(super) fn listen(with_terminal: bool) -> io::Result<Signals> {
        let (sender, receiver) = mpsc::channel(SIGNALS_MAX);
        let ignored = ignored(&fs::read_to_string("/proc/self/status").unwrap_or_default());
        let extra = if with_terminal { &[SIGWINCH][..] } else { &[SIGTSTP] };
        for number in FORWARDED.iter().chain(extra) {
            if ignored >> (number - 1) & 1 == 1 && *number != SIGWINCH {
                continue;
            }
            let mut arrivals = signal(SignalKind::from_raw(i32::from(*number)))?;
            let (number, sender) = (*number, sender.clone());
            tokio::spawn(async move {
                while arrivals.recv().await.is_some() {
                    if sender.send(number).await.is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Signals(receiver))
    }
}

/// The set of ignored signals from `/proc/self/status` (proc(5)).
fn ignored(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}

/// Relays until the end; returns the exit status as a shell gives it.
pub(super) async fn relay(
    connection: Connection,
    signals: &mut Signals,
    with_terminal: bool,
) -> Result<u8, ClientError> {
    let Connection { input: mut frames, output: mut socket } = connection;
    let (outgoing, mut queue) = mpsc::channel::<ClientFrame>(OUTGOING_FRAMES_MAX);
    tokio::spawn(async move {
        while let Some(frame) = queue.recv().await {
            // A broken connection shows at the reading side.
            if crate::admin::client::send(&mut socket, &frame).await.is_err() {
                return;
            }
        }
    });
    let mut relay = Relay::new(outgoing, with_terminal)?;
    loop {
        tokio::select! {
            frame = frames.next::<ServerFrame>() => {
                let frame = frame?.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
                if let Some(status) = relay.handle_frame(frame)? {
                    // Off this thread: the writers' last credits pass through its tasks.
                    let finished = tokio::task::spawn_blocking(move || relay.finish());
                    // A thread that panicked has aborted the process.
                    let _ = finished.await;
                    return Ok(status);
                }
            }
            Some(number) = signals.0.recv() => {
                if let Some(status) = relay.handle_signal(number).await {
                    return Ok(status);
                }
            }
        }
    }
}

struct Relay {
    outgoing: mpsc::Sender<ClientFrame>,
    with_terminal: bool,
    /// What reads standard input waits for.
    stdin_credit: Arc<Credit>,
    stdout: Writer,
    stderr: Writer,
    started: bool,
    raw_mode: Option<RawMode>,
}

impl Relay {
    fn new(outgoing: mpsc::Sender<ClientFrame>, with_terminal: bool) -> io::Result<Relay> {
        Ok(Relay {
            with_terminal,
            stdin_credit: Credit::new(WINDOW_BYTES),
            stdout: Writer::start(Stream::Stdout, outgoing.clone())?,
            stderr: Writer::start(Stream::Stderr, outgoing.clone())?,
            outgoing,
            started: false,
            raw_mode: None,
        })
    }

    /// Acts on a frame; returns the exit status when the program has ended.
    fn handle_frame(&mut self, frame: ServerFrame) -> Result<Option<u8>, ClientError> {
        match frame {
            ServerFrame::Started { .. } if !self.started => self.handle_start()?,
            ServerFrame::Output { stream: Stream::Stdout, bytes } => self.stdout.write(bytes),
            ServerFrame::Output { stream: Stream::Stderr, bytes } => self.stderr.write(bytes),
            ServerFrame::OutputEof(_) => {}
            ServerFrame::StdinCredit(bytes) => self.stdin_credit.add(bytes),
            ServerFrame::StdinClosed => self.stdin_credit.close(),
            ServerFrame::Exited(status) => return Ok(Some(status.shell_code())),
            ServerFrame::Failed(error) => return Err(ClientError::Refused(error)),
            _ => return Err(unexpected()),
        }
        Ok(None)
    }

    fn handle_start(&mut self) -> io::Result<()> {
        self.started = true;
        if self.with_terminal {
            self.raw_mode = Some(RawMode::enter());
        }
        read_stdin(Arc::clone(&self.stdin_credit), self.outgoing.clone(), self.with_terminal)
    }

    /// Acts on a signal; returns an exit status if dunix has to leave because of it.
    async fn handle_signal(&mut self, number: u8) -> Option<u8> {
        match number {
            SIGWINCH => self.send(ClientFrame::Resize(terminal::size())).await,
            SIGTSTP if self.started => self.stop().await,
            SIGTSTP => stop_self(),
            // The program's terminal, or its wish to start, goes with this process.
            number if self.with_terminal || !self.started => {
                self.raw_mode = None;
                return Some(number + 128);
            }
            number => self.send(ClientFrame::Signal(number)).await,
        }
        None
    }

    /// Stops the program and this process with it; goes on with both when continued.
    async fn stop(&self) {
        self.send(ClientFrame::Signal(SIGTSTP)).await;
        // Lets the writer task put the frame on the socket before this process stands still.
        tokio::task::yield_now().await;
        stop_self();
        self.send(ClientFrame::Signal(SIGCONT)).await;
    }

    async fn send(&self, frame: ClientFrame) {
        // A broken connection shows at the reading side.
        let _ = self.outgoing.send(frame).await;
    }

    /// Everything that the program wrote reaches the caller's descriptors before dunix exits.
    fn finish(self) {
        let Relay { stdout, stderr, raw_mode, outgoing, .. } = self;
        drop(outgoing);
        stdout.finish();
        stderr.finish();
        drop(raw_mode);
    }
}

fn stop_self() {
    // Sending a signal to oneself cannot fail.
    let _ = kill_process(getpid(), Signal::STOP);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_a_mask() {
        assert_eq!(ignored("SigBlk:\t0\nSigIgn:\t0000000000000001\n"), 1);
        assert_eq!(ignored(""), 0);
    }
}
