//! Starting the daemon beside the keeper.

use dunix_linux::child::{self, Fork};
use dunix_linux::{Errno, scm};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::Signal;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd, RawFd};

/// The daemon's number for its socket to the keeper.
pub const KEEPER_FD: RawFd = 5;

/// What to start as the daemon.
#[derive(Debug)]
pub struct DaemonCommand {
    /// The program, opened.
    pub program: OwnedFd,
    pub argv: Vec<CString>,
    pub envp: Vec<CString>,
    /// Descriptors that it gets, with their numbers (not [`KEEPER_FD`]).
    pub descriptors: Vec<(OwnedFd, RawFd)>,
}

/// Starts the daemon, which dies with its parent; returns its host PID and the socket to it.
pub fn start_daemon(command: DaemonCommand) -> Result<(u32, OwnedFd), Errno> {
    let (keeper_end, daemon_end) = scm::packet_pair()?;
    match child::fork_single_threaded()? {
        Fork::Parent(pid) => Ok((pid, keeper_end)),
        Fork::Child => {
            drop(keeper_end);
            // The errno has nowhere to go but the status.
            let status = exec(command, daemon_end).err().map_or(126, |_| 127);
            child::exit_child(status)
        }
    }
}

fn exec(command: DaemonCommand, socket: OwnedFd) -> Result<(), Errno> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let numbers = command.descriptors.iter().map(|(_, number)| *number);
    let above = numbers.max().unwrap_or(0).max(KEEPER_FD) + 1;
    let program = fcntl_dupfd_cloexec(&command.program, above)?;
    let mut moved = vec![(fcntl_dupfd_cloexec(&socket, above)?, KEEPER_FD)];
    for (fd, number) in &command.descriptors {
        moved.push((fcntl_dupfd_cloexec(fd, above)?, *number));
    }
    drop((socket, command.descriptors));
    for (fd, number) in &moved {
        child::dup_onto(fd.as_fd(), *number)?;
    }
    Err(child::exec_fd(program.as_fd(), &command.argv, &command.envp))
}
