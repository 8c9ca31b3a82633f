//! The link between nodes: a network namespace with a bridge, held by a process of its own.
//!
//! A node's end is `fab0` in the node's network namespace, the other end is the port `n<k>` here.
//! The bridge floods multicast and the namespace speaks no IPv6 of its own, so the link carries the
//! nodes' frames only. When the process dies, the namespace goes, and with it every veth pair.

use crate::error::LabError;
use crate::packets::Packets;
use crate::roles::{Role, start};
use dunix_linux::clone::{Namespaces, unshare};
use dunix_linux::rtnetlink::RouteSocket;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::time::Duration;

/// A node's interface on the link.
pub(crate) const NODE_INTERFACE: &str = "fab0";
const BRIDGE: &str = "switch";
/// How long the switch may take for one request.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// Plugs a node in; its network namespace comes beside.
    Plug { node: u32 },
    /// Takes a node's port up or down.
    SetPort { node: u32, up: bool },
}

type Answer = Result<(), String>;

/// The owner's hold on the switch.
#[derive(Debug)]
pub(crate) struct Switch {
    pub(crate) process: Child,
    socket: Packets,
}

impl Switch {
    pub(crate) fn start() -> Result<Switch, LabError> {
        let (process, socket) =
            start(Role::Switch, None).map_err(LabError::step("start the switch"))?;
        let switch = Switch { process, socket };
        switch.answer()?;
        Ok(switch)
    }

    /// Connects a node, whose network namespace is given, with the others.
    pub(crate) fn plug(&self, node: u32, namespace: &OwnedFd) -> Result<(), LabError> {
        let sent = self.socket.send(&Request::Plug { node }, &[namespace.as_fd()]);
        sent.map_err(LabError::step("ask the switch"))?;
        self.answer()
    }

    /// Takes a node's port up or down; a port that is down passes nothing either way.
    pub(crate) fn set_port(&self, node: u32, up: bool) -> Result<(), LabError> {
        let sent = self.socket.send(&Request::SetPort { node, up }, &[]);
        sent.map_err(LabError::step("ask the switch"))?;
        self.answer()
    }

    fn answer(&self) -> Result<(), LabError> {
        let answer: Answer =
            self.socket.receive_within(ANSWER_WITHIN).map_err(LabError::step("hear the switch"))?;
        answer.map_err(|what| LabError::Role { who: "switch".into(), what })
    }
}

/// The switch's whole life.
pub(crate) fn run(owner: &Packets) -> io::Result<()> {
    let route = match prepare() {
        Ok(route) => route,
        Err(error) => return owner.send::<Answer>(&Err(error.to_string()), &[]),
    };
    owner.send::<Answer>(&Ok(()), &[])?;
    while let Some((request, descriptors)) = owner.receive()? {
        let done = handle(&route, &request, &descriptors);
        let answer: Answer = done.map_err(|error| format!("{request:?}: {error}"));
        owner.send(&answer, &[])?;
    }
    Ok(())
}

fn prepare() -> io::Result<RouteSocket> {
    unshare(Namespaces::NET)?;
    // /proc/sys/net shows the reader's namespace. A kernel without IPv6 is found by the pre-flight.
    for scope in ["all", "default"] {
        fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1")?;
    }
    let route = RouteSocket::open()?;
    match route.create_bridge(BRIDGE) {
        Err(Errno::OPNOTSUPP) => {
            Err(io::Error::other("the kernel has no bridges (CONFIG_BRIDGE, module bridge)"))
        }
        made => Ok(made.map(|()| route)?),
    }
}

fn handle(route: &RouteSocket, request: &Request, descriptors: &[OwnedFd]) -> io::Result<()> {
    match *request {
        Request::Plug { node } => {
            let namespace = descriptors.first().ok_or(io::ErrorKind::InvalidInput)?;
            let bridge = route.index(BRIDGE)?;
            let made = route.create_port(&port(node), bridge, NODE_INTERFACE, namespace.as_fd());
            match made {
                Err(Errno::OPNOTSUPP) => {
                    Err(io::Error::other("the kernel has no veth pairs (CONFIG_VETH, module veth)"))
                }
                made => Ok(made?),
            }
        }
        Request::SetPort { node, up } => Ok(route.set_up(route.index(&port(node))?, up)?),
    }
}

fn port(node: u32) -> String {
    format!("n{node}")
}
