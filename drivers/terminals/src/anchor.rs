//! The anchor process: stands for a session of the fabric at one terminal of the host.
//!
//! Sessions and groups of the host carry no meaning for guests, so no guest has a controlling
//! terminal there. The anchor leads a host session that has: the host's line discipline does ^C,
//! ^Z, window changes and hang-up as ever and signals the anchor, which reports to its daemon.
//! It keeps no descriptor of the terminal, so a master still sees the end when the last user of
//! the slave is gone. It lives as long as its socket: not longer than its daemon.

use crate::protocol::{ATTACH, ATTACHED, MESSAGE_BYTES, SIGNAL, SYNC, SYNCED};
use dunix_linux::{scm, terminal};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{self, Errno};
use rustix::process::{ioctl_tiocsctty, setsid};
use std::os::fd::{AsFd, OwnedFd};

/// Size of `struct signalfd_siginfo`; its first word is the signal.
const SIGNAL_INFO_BYTES: usize = 128;

/// Runs the anchor on its end of the daemon's socket, until the other end closes.
///
/// For a process with one thread that leads no process group yet.
///
/// # Errors
/// What the host reports; the daemon sees the socket close and makes a new anchor.
pub fn anchor_main(socket: OwnedFd) -> io::Result<()> {
    let signals = terminal::line_signals()?;
    setsid()?;
    loop {
        let mut ready = [PollFd::new(&socket, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        match poll(&mut ready, None) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        let asked = !ready[0].revents().is_empty();
        report_signals(&signals, &socket)?;
        if asked && !answer(&socket, &signals)? {
            return Ok(());
        }
    }
}

/// Answers one message; `false` at the end of the connection.
fn answer(socket: &OwnedFd, signals: &OwnedFd) -> io::Result<bool> {
    let mut body = [0; MESSAGE_BYTES];
    let (length, fds) = scm::receive(socket.as_fd(), &mut body, true)?;
    let reply = match (body[..length].first(), fds.first()) {
        (None, _) => return Ok(false),
        (Some(&ATTACH), Some(slave)) => {
            [ATTACHED, ioctl_tiocsctty(slave).err().map_or(0, errno_byte)]
        }
        (Some(&ATTACH), None) => [ATTACHED, errno_byte(Errno::BADF)],
        (Some(&SYNC), _) => [SYNCED, 0],
        (Some(_), _) => return Err(Errno::PROTO),
    };
    report_signals(signals, socket)?;
    scm::send(socket.as_fd(), &reply, &[])?;
    Ok(true)
}

fn report_signals(signals: &OwnedFd, socket: &OwnedFd) -> io::Result<()> {
    let mut info = [0_u8; SIGNAL_INFO_BYTES];
    loop {
        match io::read(signals, &mut info) {
            // Little-endian, and no signal has a number above 64.
            Ok(SIGNAL_INFO_BYTES) => scm::send(socket.as_fd(), &[SIGNAL, info[0]], &[])?,
            Ok(_) => return Err(Errno::IO),
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

fn errno_byte(errno: Errno) -> u8 {
    u8::try_from(errno.raw_os_error()).unwrap_or(u8::MAX)
}
