//! The daemon's side of anchors: start, attach, ask, end.
//!
//! Invariant: an [`Anchor`] that is dropped is dead and reaped, and the terminal free for the next.

use crate::protocol::{ATTACH, ATTACHED, MESSAGE_BYTES, SIGNAL, SYNC, SYNCED};
use dunix_linux::scm;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long an anchor may take to answer before it is given up ([`Errno::TIMEDOUT`]).
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// Most messages that one look at an anchor takes, so that a storm of ^C starves nobody.
const REPORTS_MAX: usize = 64;

/// How to start an anchor: a program that calls [`anchor_main`](crate::anchor_main) with its
/// standard input before it makes a second thread.
#[derive(Clone, Debug)]
pub struct AnchorProgram {
    /// The program, usually this one (`/proc/self/exe`).
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// A child process that stands at a terminal, or is ready to.
#[derive(Debug)]
pub(crate) struct Anchor {
    child: Child,
    socket: OwnedFd,
}

/// What a look at an anchor's socket showed.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    /// The line's signals in order.
    pub(crate) signals: Vec<u8>,
    /// The anchor has ended.
    pub(crate) ended: bool,
}

impl Anchor {
    /// Starts one that stands at no terminal yet.
    pub(crate) fn start(program: &AnchorProgram) -> std::io::Result<Self> {
        let (socket, theirs) = scm::packet_pair()?;
        let child = Command::new(&program.program)
            .args(&program.arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child, socket })
    }

    /// Makes the terminal its own; the slave is only borrowed.
    pub(crate) fn attach(&self, slave: BorrowedFd<'_>) -> Result<(), Errno> {
        scm::send(self.socket.as_fd(), &[ATTACH], &[slave])?;
        match self.wait_answer(ATTACHED)?.0 {
            0 => Ok(()),
            errno => Err(Errno::from_raw_os_error(errno.into())),
        }
    }

    /// Returns every signal that the line raised before this call and that nobody has seen.
    pub(crate) fn sync(&self) -> Result<Vec<u8>, Errno> {
        scm::send(self.socket.as_fd(), &[SYNC], &[])?;
        Ok(self.wait_answer(SYNCED)?.1)
    }

    /// Returns what has been reported by now, without waiting.
    pub(crate) fn reports(&self) -> Reports {
        let mut reports = Reports::default();
        for _ in 0..REPORTS_MAX {
            match self.receive(false) {
                Ok(Some((SIGNAL, signal))) => reports.signals.push(signal),
                // A late answer to a question that was given up.
                Ok(Some(_)) => {}
                Err(Errno::AGAIN) => break,
                Ok(None) | Err(_) => {
                    reports.ended = true;
                    break;
                }
            }
        }
        reports
    }

    /// Waits for an answer of `kind`; its second byte, and the signals reported before it.
    fn wait_answer(&self, kind: u8) -> Result<(u8, Vec<u8>), Errno> {
        let deadline = Instant::now() + ANSWER_WAIT;
        let mut signals = Vec::new();
        loop {
            self.wait_readable(deadline)?;
            match self.receive(false) {
                Ok(Some((SIGNAL, signal))) => signals.push(signal),
                Ok(Some((answered, byte))) if answered == kind => return Ok((byte, signals)),
                Ok(Some(_)) | Err(Errno::AGAIN) => {}
                Ok(None) => return Err(Errno::PIPE),
                Err(error) => return Err(error),
            }
        }
    }

    fn wait_readable(&self, deadline: Instant) -> Result<(), Errno> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        let mut ready = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut ready, Some(&timeout)) {
            Ok(0) => Err(Errno::TIMEDOUT),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn receive(&self, wait: bool) -> Result<Option<(u8, u8)>, Errno> {
        let mut body = [0; MESSAGE_BYTES];
        let (length, _) = scm::receive(self.socket.as_fd(), &mut body, wait)?;
        Ok(if length == 0 { None } else { Some((body[0], body[1])) })
    }
}

impl AsFd for Anchor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        // Both fail only if it is dead and reaped already. It holds nothing that needs an orderly end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
