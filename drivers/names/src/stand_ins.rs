//! Sockets of this node in the place of sockets at others: what is sent to one goes to its original, and what
//! its original sends comes from it.
//!
//! Where a stand-in has another address than its original, because that is taken here, programs of this node
//! know the original by the stand-in's.

use dunix_ids::NodeId;
use dunix_linux::datagrams;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// The most stand-ins of one node. Beyond, the one goes whose original has been silent longest; a port that is
/// bound elsewhere is not led any more if all are such: its datagrams are refused as if nobody received.
const STAND_INS_MAX: usize = 1024;
/// Bytes that may wait in a stand-in; what comes beyond is dropped, as where a receiver is slow.
const WAITING_BYTES: usize = 4 << 20;
/// The loopback addresses that a port is led at.
pub(crate) const LOOPBACKS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// A socket at another node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Original {
    pub(crate) node: NodeId,
    pub(crate) address: SocketAddr,
}

struct StandIn {
    original: Original,
    /// Its port is bound by the original's node for all; else it stands for a sender.
    is_led: bool,
    socket: Arc<UdpSocket>,
    task: JoinHandle<()>,
    /// When it was of use last: a count.
    used: u64,
}

/// The stand-ins of this node, by their addresses. Invariant: one at most for each original.
#[derive(Default)]
pub(crate) struct StandIns {
    all: BTreeMap<SocketAddr, StandIn>,
    by_original: BTreeMap<Original, SocketAddr>,
    uses: u64,
}

/// Stand-ins that were removed. Their addresses are free once their tasks have ended.
#[must_use]
pub(crate) struct Removed(Vec<JoinHandle<()>>);

impl Removed {
    /// Waits until the addresses are free; the tasks never block.
    pub(crate) async fn closed(self) {
        for task in self.0 {
            // It was cancelled.
            let _ = task.await;
        }
    }
}

impl StandIns {
    /// Who the stand-in at `address` stands for.
    pub(crate) fn original_at(&self, address: SocketAddr) -> Option<Original> {
        self.all.get(&address).map(|stand_in| stand_in.original)
    }

    /// The address that an original has here.
    pub(crate) fn address_of(&self, original: Original) -> Option<SocketAddr> {
        self.by_original.get(&original).copied()
    }

    pub(crate) fn has_port(&self, port: u16) -> bool {
        LOOPBACKS.iter().any(|ip| self.all.contains_key(&SocketAddr::new(*ip, port)))
    }

    /// The stand-in of a sender; `open` starts a task for a new one.
    ///
    /// # Errors
    /// What the kernel says of a further socket.
    pub(crate) fn of_sender(
        &mut self,
        original: Original,
        open: impl Fn(Arc<UdpSocket>, SocketAddr) -> JoinHandle<()>,
    ) -> io::Result<Arc<UdpSocket>> {
        self.uses += 1;
        let known = self.address_of(original).and_then(|at| self.all.get_mut(&at));
        if let Some(known) = known {
            known.used = self.uses;
            return Ok(known.socket.clone());
        }
        let wanted = original.address;
        let ip = LOOPBACKS[usize::from(wanted.is_ipv6())];
        let same = if wanted.ip() == ip {
            socket_at(wanted)
        } else {
            Err(io::ErrorKind::AddrInUse.into())
        };
        let socket = same.or_else(|_| socket_at(SocketAddr::new(ip, 0)))?;
        self.add(original, false, socket, open)
    }

    /// Has stand-ins at a port for the sockets that a node has bound to it.
    pub(crate) fn lead(
        &mut self,
        port: u16,
        holder: NodeId,
        open: impl Fn(Arc<UdpSocket>, SocketAddr) -> JoinHandle<()>,
    ) {
        for ip in LOOPBACKS {
            let address = SocketAddr::new(ip, port);
            let original = Original { node: holder, address };
            if let Some(there) = self.all.get_mut(&address) {
                let before = std::mem::replace(&mut there.original, original);
                there.is_led = true;
                self.forget_original(before, address);
                self.by_original.insert(original, address);
                continue;
            }
            let added =
                socket_at(address).and_then(|socket| self.add(original, true, socket, &open));
            if let Err(error) = added {
                tracing::debug!(%address, %error, "cannot receive in a peer's place");
            }
        }
    }

    fn add(
        &mut self,
        original: Original,
        is_led: bool,
        socket: UdpSocket,
        open: impl Fn(Arc<UdpSocket>, SocketAddr) -> JoinHandle<()>,
    ) -> io::Result<Arc<UdpSocket>> {
        self.make_room()?;
        let (socket, address) = {
            let address = socket.local_addr()?;
            (Arc::new(socket), address)
        };
        let task = open(socket.clone(), address);
        self.uses += 1;
        let stand_in = StandIn { original, is_led, socket: socket.clone(), task, used: self.uses };
        self.all.insert(address, stand_in);
        self.by_original.insert(original, address);
        Ok(socket)
    }

    fn make_room(&mut self) -> io::Result<()> {
        if self.all.len() < STAND_INS_MAX {
            return Ok(());
        }
        let senders = self.all.iter().filter(|(_, stand_in)| !stand_in.is_led);
        let oldest = senders.min_by_key(|(_, stand_in)| stand_in.used).map(|(at, _)| *at);
        let oldest = oldest.ok_or(io::ErrorKind::QuotaExceeded)?;
        // Nobody waits for its address.
        let _ = self.remove(|at, _| at == oldest);
        Ok(())
    }

    /// Removes the stand-ins of a port.
    pub(crate) fn leave_port(&mut self, port: u16) -> Removed {
        self.remove(|at, _| at.port() == port)
    }

    /// Removes the stand-ins at a port that nobody has bound any more; those of senders stay.
    pub(crate) fn stop_leading(&mut self, port: u16) -> Removed {
        self.remove(|at, stand_in| at.port() == port && stand_in.is_led)
    }

    /// Removes the stand-ins of a node's sockets.
    pub(crate) fn leave_node(&mut self, node: NodeId) -> Removed {
        self.remove(|_, stand_in| stand_in.original.node == node)
    }

    fn remove(&mut self, is_unwanted: impl Fn(SocketAddr, &StandIn) -> bool) -> Removed {
        let unwanted = self.all.iter().filter(|(at, stand_in)| is_unwanted(**at, stand_in));
        let unwanted: Vec<SocketAddr> = unwanted.map(|(at, _)| *at).collect();
        let mut removed = Removed(Vec::new());
        for address in unwanted {
            if let Some(stand_in) = self.all.remove(&address) {
                self.forget_original(stand_in.original, address);
                stand_in.task.abort();
                removed.0.push(stand_in.task);
            }
        }
        removed
    }

    fn forget_original(&mut self, original: Original, address: SocketAddr) {
        if self.by_original.get(&original) == Some(&address) {
            self.by_original.remove(&original);
        }
    }
}

/// A socket bound to an address here. Within the runtime.
fn socket_at(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    datagrams::keep_refusals(socket.as_fd(), address.is_ipv6())?;
    // With less it serves, too.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, WAITING_BYTES);
    UdpSocket::from_std(socket)
}
