//! The keeper's start: takes over what the node was given, starts the daemon, serves.
//!
//! ```text
//! given   3 admin socket   4 configuration   5 lifeline   6.. doors of the guests' control group
//! daemon  3 admin socket   4 configuration   5 socket to the keeper
//! ```

use dunix_admin_api::{
    DESCRIPTOR_ADMIN, DESCRIPTOR_CONFIG, DESCRIPTOR_GUEST_DOORS, DESCRIPTOR_LIFELINE,
    GUEST_DOORS_VARIABLE,
};
use dunix_keeper::{DaemonCommand, Ending, Keeper, start_daemon};
use dunix_linux::descriptors::{close_on_exec_from, inherited};
use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{OwnedFd, RawFd},
        unix::ffi::OsStringExt,
    },
    process::ExitCode,
};

/// More control-group hierarchies than any kernel has.
const DOORS_MAX: RawFd = 64;

/// Runs until the node ends.
pub fn run() -> ExitCode {
    match serve() {
        Ok(Ending::Asked) => ExitCode::SUCCESS,
        Ok(Ending::LifelineClosed) => {
            eprintln!("dunix: the lab's owner is gone: the node ends");
            ExitCode::FAILURE
        }
        Ok(Ending::DaemonDied(change)) => {
            eprintln!("dunix: the daemon died ({change:?}): the node ends");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("dunix: the keeper cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<Ending> {
    let given = |number: RawFd, what: &str| {
        inherited(number).ok_or_else(|| {
            io::Error::other(format!("{what} is missing; `dunix node` is started by `dunix lab`"))
        })
    };
    let admin = given(DESCRIPTOR_ADMIN, "the admin socket")?;
    let config = given(DESCRIPTOR_CONFIG, "the configuration")?;
    let lifeline = given(DESCRIPTOR_LIFELINE, "the lifeline")?;
    let doors = doors()?;
    close_on_exec_from(DESCRIPTOR_ADMIN)?;
    let (daemon, socket) = start_daemon(DaemonCommand {
        program: File::open("/proc/self/exe")?.into(),
        argv: vec![c"dunix".into(), c"node".into(), c"--daemon".into()],
        envp: environment(),
        descriptors: vec![(admin, DESCRIPTOR_ADMIN), (config, DESCRIPTOR_CONFIG)],
    })?;
    let keeper = Keeper::new(socket, Some(lifeline), Some(daemon))?;
    Ok(keeper.with_guest_doors(doors).run())
}

fn doors() -> io::Result<Vec<OwnedFd>> {
    let Ok(count) = std::env::var(GUEST_DOORS_VARIABLE) else { return Ok(Vec::new()) };
    let count: RawFd = count.parse().map_err(io::Error::other)?;
    let door = |number| inherited(number).ok_or_else(|| io::Error::other("a door is missing"));
    let first = DESCRIPTOR_GUEST_DOORS;
    (first..first + count.clamp(0, DOORS_MAX)).map(door).collect()
}

fn environment() -> Vec<CString> {
    let entry = |(mut name, value): (std::ffi::OsString, std::ffi::OsString)| {
        name.push("=");
        name.push(value);
        CString::new(name.into_vec()).ok()
    };
    std::env::vars_os().filter_map(entry).collect()
}
