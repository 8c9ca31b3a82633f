//! Makes one node: namespaces, id maps, root, and in them process 1, which becomes the node's program.
//!
//! ```text
//! owner              installer                          process 1 (the owner's child)
//!  plan, descriptors ->
//!                     forks into all namespaces         -> waits for a byte on the lifeline
//!                     writes the id maps
//!                     makes the root, as the host's root
//!  <- its number, its network namespace, and exits
//!  plugs the switch in
//!  a byte on the lifeline                               -> network up, proc, pivot_root, exec
//! ```
//!
//! Device nodes, and mounts of what belongs to the host, are the host's root's to make; it joins
//! the node's mount namespace for that. A step that fails in process 1 is told to the node's log.

use crate::config::{GUEST_ID_FIRST, GUEST_IDS, ID_COUNT, Root};
use crate::error::LabError;
use crate::node_root::{self, HostMounts};
use crate::packets::Packets;
use crate::switch::NODE_INTERFACE;
use dunix_admin_api::{
    DESCRIPTOR_ADMIN, DESCRIPTOR_GUEST_DOORS, DESCRIPTOR_LIFELINE, GUEST_DOORS_VARIABLE,
};
use dunix_linux::clone::{Forked, Namespaces, Parent, become_root, fork_into};
use dunix_linux::descriptors::keep_only;
use dunix_linux::guest_space::make_root;
use dunix_linux::rtnetlink::RouteSocket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions, set_parent_process_death_signal, setsid, waitpid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// What an installer is told. The descriptors beside it are, in this order, those that the node's
/// program has from [`DESCRIPTOR_ADMIN`] on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) lab: String,
    pub(crate) node: u32,
    /// The first host id of the node.
    pub(crate) id_first: u32,
    /// The host's directory for what guests write; only at the node that serves the tree.
    pub(crate) upper: Option<PathBuf>,
    pub(crate) root: Root,
    pub(crate) arguments: Vec<OsString>,
}

/// What an installer answers; the node's network namespace comes beside.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// Process 1 waits; its number as the owner sees it.
    Waits {
        pid: i32,
    },
    Failed(String),
}

/// The installer's whole life.
pub(crate) fn run(owner: &Packets) -> io::Result<()> {
    let Some((plan, descriptors)) = owner.receive::<Plan>()? else { return Ok(()) };
    match install(plan, descriptors) {
        Ok((pid, network)) => owner.send(&Outcome::Waits { pid }, &[network.as_fd()]),
        Err(error) => owner.send(&Outcome::Failed(error.to_string()), &[]),
    }
}

fn install(plan: Plan, descriptors: Vec<OwnedFd>) -> Result<(i32, OwnedFd), LabError> {
    let programs = node_root::own_files().map_err(LabError::step("find the own program"))?;
    let users = match plan.root {
        Root::Host => Some(guests_users(&plan).map_err(LabError::step("map the guests' ids"))?),
        Root::Cow => None,
    };
    let take = |upper| HostMounts::take(upper, users.as_ref().map(OwnedFd::as_fd));
    let host = plan.upper.as_deref().map(take).transpose()?;
    let namespaces = Namespaces::USER
        .and(Namespaces::MOUNT)
        .and(Namespaces::PID)
        .and(Namespaces::NET)
        .and(Namespaces::IPC)
        .and(Namespaces::UTS)
        .and(Namespaces::CGROUP);
    let forked = fork_into(namespaces, Parent::CallersParent).map_err(io::Error::from);
    let pid = match forked.map_err(LabError::step("new namespaces"))? {
        Forked::Child => become_node(&plan, &descriptors),
        Forked::Parent(pid) => pid,
    };
    // The owner must be the only holder of what the node has.
    drop(descriptors);
    let network = open_namespace(pid, "net").map_err(LabError::step("open the network"))?;
    write_maps(pid, plan.id_first, ID_COUNT).map_err(LabError::step("write the id maps"))?;
    let mounts = open_namespace(pid, "mnt").map_err(LabError::step("open the mounts"))?;
    move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))
        .map_err(io::Error::from)
        .map_err(LabError::step("join the mounts"))?;
    node_root::prepare(&plan, &programs, host)?;
    Ok((pid.as_raw_nonzero().get(), network))
}

fn open_namespace(process: Pid, kind: &str) -> io::Result<OwnedFd> {
    let path = format!("/proc/{}/ns/{kind}", process.as_raw_nonzero());
    Ok(open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

fn write_maps(process: Pid, id_first: u32, count: u32) -> io::Result<()> {
    for file in ["uid_map", "gid_map"] {
        let path = format!("/proc/{}/{file}", process.as_raw_nonzero());
        fs::write(path, format!("0 {id_first} {count}"))?;
    }
    Ok(())
}

/// A user namespace with nobody in it, whose ids are the guests'.
fn guests_users(plan: &Plan) -> io::Result<OwnedFd> {
    let (wait, done) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    match fork_into(Namespaces::USER, Parent::Caller)? {
        Forked::Child => {
            drop(done);
            // Ends with the other side, whatever it says.
            let _ = rustix::io::read(&wait, &mut [0]);
            std::process::exit(0);
        }
        Forked::Parent(pid) => {
            let made = write_maps(pid, plan.id_first + GUEST_ID_FIRST, GUEST_IDS)
                .and_then(|()| open_namespace(pid, "user"));
            drop(done);
            waitpid(Some(pid), WaitOptions::empty())?;
            made
        }
    }
}

/// Process 1, until it is the node's program.
fn become_node(plan: &Plan, descriptors: &[OwnedFd]) -> ! {
    let error = match enter_node(plan, descriptors) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    // Standard error is the node's log.
    eprintln!("node n{} could not start: {error}", plan.node);
    std::process::exit(1);
}

fn enter_node(plan: &Plan, descriptors: &[OwnedFd]) -> Result<std::convert::Infallible, LabError> {
    let at = usize::try_from(DESCRIPTOR_LIFELINE - DESCRIPTOR_ADMIN).unwrap_or(0);
    let lifeline = descriptors.get(at).ok_or(LabError::Abandoned)?;
    let mut word = [0];
    let read = rustix::io::read(lifeline, &mut word).map_err(io::Error::from);
    if read.map_err(LabError::step("wait for the owner"))? != 1 {
        return Err(LabError::Abandoned);
    }
    host("become the node's root", become_root())?;
    // Changing ids has cleared it; an owner that died before this line shows on the lifeline.
    host("death signal", set_parent_process_death_signal(Some(Signal::KILL)))?;
    if host("look at the lifeline", has_closed(lifeline))? {
        return Err(LabError::Abandoned);
    }
    host("host name", rustix::system::sethostname(plan.lab.as_bytes()))?;
    bring_network_up().map_err(LabError::step("network"))?;
    node_root::mount_kernel_views()?;
    host("pivot_root", make_root(node_root::MOUNT_POINT))?;
    // Process 1 is no group leader, so it becomes the leader of a session without a terminal.
    host("session", setsid())?;
    execute(plan, descriptors)
}

fn host<T>(step: &str, result: rustix::io::Result<T>) -> Result<T, LabError> {
    result.map_err(io::Error::from).map_err(LabError::step(step))
}

fn has_closed(lifeline: &OwnedFd) -> rustix::io::Result<bool> {
    let mut polled = [PollFd::new(lifeline, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(polled[0].revents().contains(PollFlags::HUP))
}

/// Takes the node's interfaces up. The link-local address is usable at once: the link is the lab's
/// own, nobody else can have the address.
fn bring_network_up() -> io::Result<()> {
    for scope in ["all", "default", NODE_INTERFACE] {
        fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/accept_dad"), "0")?;
    }
    // The guests' root does not own the network namespace, and yet serves on low ports.
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")?;
    let route = RouteSocket::open()?;
    for interface in ["lo", NODE_INTERFACE] {
        route.set_up(route.index(interface)?, true)?;
    }
    route.add_own_address(route.index("lo")?, OWN_ADDRESS, 8)?;
    Ok(())
}

/// Programs ask for IPv4 addresses of a name (`AI_ADDRCONFIG`, getaddrinfo(3)) only where there is one
/// beside 127.0.0.1; without, `localhost` is unknown to them if the hosts file knows it by IPv4 alone.
const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);

fn execute(plan: &Plan, descriptors: &[OwnedFd]) -> Result<std::convert::Infallible, LabError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let null = host("open /dev/null", open("/dev/null", flags, Mode::empty()))?;
    let log = io::stderr().as_fd().try_clone_to_owned().map_err(LabError::step("the log"))?;
    let again = log.try_clone().map_err(LabError::step("the log"))?;
    let mut kept = vec![null, log, again];
    for descriptor in descriptors {
        kept.push(descriptor.try_clone().map_err(LabError::step("duplicate descriptors"))?);
    }
    host("place descriptors", keep_only(&kept))?;
    let doors = (3 + descriptors.len())
        .saturating_sub(usize::try_from(DESCRIPTOR_GUEST_DOORS).unwrap_or(usize::MAX));
    let mut command = Command::new(node_root::PROGRAM);
    command.args(&plan.arguments).env_clear().current_dir("/");
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command.env(GUEST_DOORS_VARIABLE, doors.to_string());
    for name in ["DUNIX_LOG", "DUNIX_REWRITE", "RUST_LOG", "RUST_BACKTRACE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let error = command.exec();
    Err(LabError::Step { step: format!("execute {}", node_root::PROGRAM), source: error })
}
