//! What connects the nodes: the lab's own switch, or an interface of the machine to other machines.

use crate::config::LabConfig;
use crate::error::LabError;
use crate::switch::{NODE_INTERFACE, Switch};
use dunix_linux::rtnetlink::RouteSocket;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;

/// What connects the nodes.
#[derive(Debug)]
pub(crate) enum Link {
    /// The lab's own switch.
    Switch(Switch),
    /// This interface of the machine.
    Interface(String),
}

impl Link {
    pub(crate) fn start(config: &LabConfig) -> Result<Link, LabError> {
        match &config.member {
            None => Switch::start().map(Link::Switch),
            Some(member) => Ok(Link::Interface(member.interface.clone())),
        }
    }

    /// Connects a node, whose network namespace is given, with the others.
    pub(crate) fn plug(&self, node: u32, network: &OwnedFd) -> Result<(), LabError> {
        let machine = match self {
            Link::Switch(switch) => return switch.plug(node, network),
            Link::Interface(name) => name,
        };
        let plug = || -> rustix::io::Result<()> {
            let route = RouteSocket::open()?;
            route.create_sibling(NODE_INTERFACE, route.index(machine)?, network.as_fd())
        };
        plug().map_err(|error| match error {
            Errno::NODEV => LabError::Config(format!("there is no interface {machine}")),
            Errno::OPNOTSUPP => LabError::Step {
                step: "plug the node in".into(),
                source: io::Error::other("the kernel has no macvlan (CONFIG_MACVLAN)"),
            },
            error => LabError::step(format!("plug the node into {machine}"))(error.into()),
        })
    }

    /// Takes a node's port up or down; a port that is down passes nothing either way.
    pub(crate) fn set_port(&self, node: u32, up: bool) -> Result<(), LabError> {
        match self {
            Link::Switch(switch) => switch.set_port(node, up),
            Link::Interface(name) => {
                Err(LabError::Config(format!("{name} is the machine's, no port of a switch")))
            }
        }
    }

    /// The process that holds the link, if there is one.
    pub(crate) fn process(&self) -> Option<&Child> {
        match self {
            Link::Switch(switch) => Some(&switch.process),
            Link::Interface(_) => None,
        }
    }

    pub(crate) fn process_mut(&mut self) -> Option<&mut Child> {
        match self {
            Link::Switch(switch) => Some(&mut switch.process),
            Link::Interface(_) => None,
        }
    }
}
