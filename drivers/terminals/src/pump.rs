//! The host side (master) of a terminal, for asynchronous reading and writing.

use rustix::io::Errno;
use rustix::termios::{Winsize, tcsetwinsize};
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::unix::AsyncFd;

/// The side where the keyboard and the screen are. Dropping it hangs the terminal up.
#[derive(Debug)]
pub struct HostSide {
    master: AsyncFd<OwnedFd>,
}

impl HostSide {
    /// Takes a non-blocking master.
    pub(crate) fn new(master: OwnedFd) -> io::Result<Self> {
        #[expect(
            deprecated,
            reason = "its successor is unsafe for the sake of types that close early; OwnedFd does not"
        )]
        let master = AsyncFd::new(master)?;
        Ok(Self { master })
    }

    /// Reads what the programs wrote; 0 when the last of them has closed the terminal.
    ///
    /// # Errors
    /// What the host reports. Cancel safe.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.master.readable().await?;
            match ready.try_io(|master| Ok(rustix::io::read(master, &mut *buffer))) {
                Ok(Ok(Err(Errno::AGAIN | Errno::INTR))) | Err(_) => ready.clear_ready(),
                Ok(Ok(Err(Errno::IO))) => return Ok(0),
                Ok(Ok(other)) => return Ok(other?),
                Ok(Err(error)) => return Err(error),
            }
        }
    }

    /// Types `bytes`, all of them. Waits while the line's buffer is full and nobody reads.
    ///
    /// # Errors
    /// What the host reports. Cancelled, it may have typed a part.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.master.writable().await?;
            match ready.try_io(|master| Ok(rustix::io::write(master, bytes))) {
                Ok(Ok(Err(Errno::AGAIN | Errno::INTR))) | Err(_) => ready.clear_ready(),
                Ok(Ok(written)) => bytes = bytes.get(written?..).unwrap_or_default(),
                Ok(Err(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Changes the window's size; the foreground group gets SIGWINCH.
    ///
    /// # Errors
    /// What the host reports.
    pub fn resize(&self, size: Winsize) -> io::Result<()> {
        Ok(tcsetwinsize(&self.master, size)?)
    }
}
