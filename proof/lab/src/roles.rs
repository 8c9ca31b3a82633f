//! The helper processes of a lab are this same program, started with a reserved first argument.

use crate::packets::Packets;
use crate::{install, janitor, switch};
use rustix::process::{Signal, set_parent_process_death_signal};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};

/// What a helper process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Holds the link between the nodes.
    Switch,
    /// Makes one node and turns into nothing.
    Installer,
    /// Cleans up after a killed owner.
    Janitor,
}

impl Role {
    const ALL: [Role; 3] = [Role::Switch, Role::Installer, Role::Janitor];

    pub(crate) fn argument(self) -> &'static str {
        match self {
            Role::Switch => "__lab-switch",
            Role::Installer => "__lab-install",
            Role::Janitor => "__lab-janitor",
        }
    }
}

/// Runs a helper's role if this process was started as one. A program that builds labs calls this
/// first thing in `main`, while it has one thread.
#[must_use]
pub fn run_role() -> Option<ExitCode> {
    let argument = std::env::args_os().nth(1)?;
    let role = Role::ALL.into_iter().find(|role| argument == role.argument())?;
    Some(match run(role) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dunix {}: {error}", role.argument());
            ExitCode::FAILURE
        }
    })
}

fn run(role: Role) -> io::Result<()> {
    // The janitor outlives the owner; the others must not. An owner that died before this call is
    // noticed by its end of the socket.
    if role != Role::Janitor {
        set_parent_process_death_signal(Some(Signal::KILL))?;
    }
    let owner = Packets::of(rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?);
    match role {
        Role::Switch => switch::run(&owner),
        Role::Installer => install::run(&owner),
        Role::Janitor => janitor::run(&owner),
    }
}

/// Starts a helper, out of the reach of the terminal's signals. `log` is its standard error, the
/// caller's if `None`.
pub(crate) fn start(role: Role, log: Option<OwnedFd>) -> io::Result<(Child, Packets)> {
    let (ours, theirs) = Packets::pair()?;
    // By its own name, which ps shows; by the kernel's link if that file was replaced meanwhile.
    let program = std::env::current_exe().ok().filter(|path| path.exists());
    let child = Command::new(program.unwrap_or_else(|| "/proc/self/exe".into()))
        .arg0("dunix")
        .arg(role.argument())
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(log.map_or_else(Stdio::inherit, Stdio::from))
        .process_group(0)
        .spawn()?;
    Ok((child, ours))
}
