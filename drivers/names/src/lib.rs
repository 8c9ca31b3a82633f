//! One loopback for the fabric: a port bound on any node is taken on all, and a connection to it
//! is led to the node of its listener.
//!
//! ```text
//!  client ──connect──► 127.0.0.1:P  (this driver's listener on the client's node)
//!                          │ mesh stream
//!                          ▼
//!                      127.0.0.1:P' ──connect──► 127.0.0.1:P  (the program's, on its node)
//! ```
//!
//! Both ends see loopback addresses and, if it is free there, the client's own port. The
//! coordinator's [`PortTable`](dunix_registry::PortTable) says who holds a port; holders answer
//! for what is true.
//!
//! Datagrams have ports of their own, and [stand-ins](datagrams) in the place of sockets at other nodes.
//!
//! Refuses: Unix sockets and addresses other than loopback: they are the host's.
//! Invariant: a node never listens on behalf of others on a port that it holds itself.

mod datagrams;
mod lead;
mod refusal;
mod sockets;
mod stand_ins;

use bytes::Bytes;
use dunix_ids::NodeId;
use dunix_registry::{PortTable, Reservation};
use dunix_transport::{Handler, Mesh, MeshError, MeshStream, PeerEvent, Responder};
use dunix_wire::{
    Topic,
    names::{Connection, NameCall, NameMessage, NameReply},
};
pub use sockets::Kind;
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::task::JoinHandle;

/// How long a question to a peer may take.
const CALL_DEADLINE: Duration = Duration::from_secs(2);
/// The most ports of other nodes that one node listens on at a time; a connection to a further one is
/// refused as if nobody listened.
const LED_PORTS_MAX: usize = 1024;

/// How many free ports of this node are tried for one that no other node has.
const TRIES_MAX: usize = 64;

/// Why a port cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    /// Another node holds the port (`EADDRINUSE`).
    #[error("port {0} is in use on another node")]
    InUse(u16),
    /// No port is free here and at the other nodes.
    #[error("no port is free: {0}")]
    Exhausted(io::Error),
    /// What bind(2) says.
    #[error("bind: {0}")]
    Bind(io::Error),
    /// The coordinator or the holder does not answer (`EADDRNOTAVAIL`).
    #[error("the port registry cannot be reached: {0}")]
    Peer(#[from] MeshError),
    /// A peer answered out of turn.
    #[error("node {0} gave a malformed answer")]
    Malformed(NodeId),
}

/// This node's part in the fabric's names. Cheap to clone.
#[derive(Clone)]
pub struct Names(Arc<Inner>);

struct Inner {
    mesh: Mesh,
    me: NodeId,
    coordinator: NodeId,
    /// Used at the coordinator only.
    table: Mutex<PortTable>,
    /// Listeners of this driver, by the address that clients connect to.
    led: Mutex<BTreeMap<SocketAddr, Led>>,
    datagrams: datagrams::Datagrams,
    /// Ports for which a bind(2) of this node is under way, and how many.
    about_to_bind: Mutex<BTreeMap<(Kind, u16), u32>>,
    /// Held by who binds a socket, in earnest or to see whether it could: these would fail for each other.
    binding: Mutex<()>,
}

/// A listener in the place of one at another node.
struct Led {
    holder: NodeId,
    task: JoinHandle<()>,
}

impl Names {
    /// Starts to answer peers; `coordinator` owns the table of ports.
    #[must_use]
    pub fn start(mesh: Mesh, me: NodeId, coordinator: NodeId) -> Names {
        let names = Names(Arc::new(Inner {
            mesh: mesh.clone(),
            me,
            coordinator,
            table: Mutex::default(),
            led: Mutex::default(),
            datagrams: datagrams::Datagrams::default(),
            about_to_bind: Mutex::default(),
            binding: Mutex::default(),
        }));
        mesh.register(Topic::Names, Arc::new(names.clone()));
        names
    }

    /// Has a socket of this node bound, by `bind`, to a port of its own: with port 0 in `address` to one
    /// that nobody has. `bind` gets the address; until it is done the port counts as bound.
    ///
    /// # Errors
    /// [`NamesError::InUse`] if another node has the port, [`NamesError::Exhausted`] if none is found;
    /// [`NamesError::Bind`] is what `bind` says.
    pub async fn bind(
        &self,
        kind: Kind,
        address: SocketAddr,
        bind: impl Fn(SocketAddr) -> io::Result<()>,
    ) -> Result<(), NamesError> {
        if address.port() != 0 {
            return self.bind_to(kind, address, &bind).await;
        }
        for _ in 0..TRIES_MAX {
            let port = sockets::free_port(kind, address).map_err(NamesError::Exhausted)?;
            match self.bind_to(kind, SocketAddr::new(address.ip(), port), &bind).await {
                Err(NamesError::InUse(_)) => {}
                // Somebody here was faster.
                Err(NamesError::Bind(error)) if error.kind() == io::ErrorKind::AddrInUse => {}
                settled => return settled,
            }
        }
        Err(NamesError::Exhausted(io::ErrorKind::AddrInUse.into()))
    }

    async fn bind_to(
        &self,
        kind: Kind,
        address: SocketAddr,
        bind: &impl Fn(SocketAddr) -> io::Result<()>,
    ) -> Result<(), NamesError> {
        let _about_to = AboutToBind::new(&self.0, kind, address.port());
        match kind {
            Kind::Stream => self.hold(address).await?,
            Kind::Datagram => self.hold_datagrams(address.port()).await?,
        }
        let _alone = lock(&self.0.binding);
        bind(address).map_err(NamesError::Bind)
    }

    /// Makes the port of a bound TCP socket this node's.
    ///
    /// # Errors
    /// [`NamesError::InUse`] if another node has the port.
    pub async fn hold(&self, address: SocketAddr) -> Result<(), NamesError> {
        let port = address.port();
        if port == 0 || !is_own(address.ip()) {
            return Ok(());
        }
        match self.ask(self.0.coordinator, NameCall::Reserve(port)).await? {
            NameReply::Reserved(true) => {
                self.stop_leading(|at, _| at.port() == port).await;
                Ok(())
            }
            NameReply::Reserved(false) => Err(NamesError::InUse(port)),
            _ => Err(NamesError::Malformed(self.0.coordinator)),
        }
    }

    /// Prepares a connect(2) of a TCP socket by a program of this node: if `address` is loopback
    /// and its listener is elsewhere, this node listens in its place.
    ///
    /// # Errors
    /// A peer that does not answer; the caller lets connect(2) go on and be refused by the host.
    pub async fn prepare_connect(&self, address: SocketAddr) -> Result<(), NamesError> {
        if !address.ip().is_loopback() || address.port() == 0 {
            return Ok(());
        }
        if !self.is_led(address) && sockets::is_listening(address) {
            return Ok(());
        }
        let holder = match self.ask(self.0.coordinator, NameCall::Holder(address.port())).await? {
            NameReply::Holder(holder) => holder,
            _ => return Err(NamesError::Malformed(self.0.coordinator)),
        };
        match holder {
            Some(holder) if holder != self.0.me && self.listens(holder, address).await? => {
                self.lead(address, holder).await;
            }
            _ => self.stop_leading(|at, _| at.port() == address.port()).await,
        }
        Ok(())
    }

    async fn listens(&self, holder: NodeId, address: SocketAddr) -> Result<bool, NamesError> {
        match self.ask(holder, NameCall::IsListening(address)).await? {
            NameReply::Is(yes) => Ok(yes),
            _ => Err(NamesError::Malformed(holder)),
        }
    }

    async fn ask(&self, to: NodeId, call: NameCall) -> Result<NameReply, NamesError> {
        let body = dunix_wire::encode(&call);
        let answer = self.0.mesh.call(to, Topic::Names, body, CALL_DEADLINE).await?;
        dunix_wire::decode(&answer).map_err(|_| NamesError::Malformed(to))
    }

    async fn lead(&self, address: SocketAddr, holder: NodeId) {
        // The port may have changed hands since.
        self.stop_leading(|at, old| *at == address && old.holder != holder).await;
        let mut led = lock(&self.0.led);
        if led.contains_key(&address) || led.len() >= LED_PORTS_MAX {
            return;
        }
        match sockets::listen(address) {
            Ok(listener) => {
                let mesh = self.0.mesh.clone();
                let task = tokio::spawn(lead::accept(mesh, listener, address, holder));
                led.insert(address, Led { holder, task });
            }
            Err(error) => tracing::warn!(%address, %error, "cannot listen in a peer's place"),
        }
    }

    fn is_led(&self, address: SocketAddr) -> bool {
        lock(&self.0.led).contains_key(&address)
    }

    /// Listens no more in certain places. They are free when this returns.
    async fn stop_leading(&self, is_meant: impl Fn(&SocketAddr, &Led) -> bool) {
        let ended: Vec<Led> = {
            let mut led = lock(&self.0.led);
            led.extract_if(.., |at, led| is_meant(at, led)).map(|(_, led)| led).collect()
        };
        for led in ended {
            led.task.abort();
            // That it was aborted is no news.
            let _ = led.task.await;
        }
    }

    async fn answer(&self, from: NodeId, call: NameCall) -> NameReply {
        match call {
            NameCall::ReserveDatagrams(port) => self.reserve_datagrams(from, port).await,
            NameCall::IsBoundDatagrams(port) => NameReply::Is(self.is_bound(Kind::Datagram, port)),
            NameCall::Watch(port) => self.note_watcher(from, port),
            NameCall::Changed(news) => {
                self.heed(news).await;
                NameReply::Done
            }
            NameCall::Reserve(port) => NameReply::Reserved(self.reserve(from, port).await),
            NameCall::Holder(port) => NameReply::Holder(lock(&self.0.table).holder(port)),
            NameCall::IsBound(port) => NameReply::Is(self.is_bound(Kind::Stream, port)),
            NameCall::IsListening(address) => {
                NameReply::Is(!self.is_led(address) && sockets::is_listening(address))
            }
        }
    }

    /// At the coordinator: decides on a wish to hold a port.
    async fn reserve(&self, from: NodeId, port: u16) -> bool {
        let answer = lock(&self.0.table).reserve(from, port);
        let holder = match answer {
            Reservation::Granted => return true,
            Reservation::Taken(_) => return false,
            Reservation::Ask(holder) => holder,
        };
        // A holder that does not answer keeps its port until its node is declared dead.
        let still_bound =
            !matches!(self.ask(holder, NameCall::IsBound(port)).await, Ok(NameReply::Is(false)));
        let mut table = lock(&self.0.table);
        table.settle(from, port, holder, still_bound) == Reservation::Granted
    }

    /// Whether a socket of this node is bound to a port, or about to be.
    fn is_bound(&self, kind: Kind, port: u16) -> bool {
        // First: who is no longer about to be is bound.
        let is_about_to = lock(&self.0.about_to_bind).contains_key(&(kind, port));
        if !is_about_to && kind == Kind::Datagram && self.stands_in_at(port) {
            return false;
        }
        let _alone = lock(&self.0.binding);
        is_about_to || sockets::is_bound(kind, port)
    }
}

/// A bind(2) in progress: nobody elsewhere gets the port while it lasts.
struct AboutToBind<'a>(&'a Inner, (Kind, u16));

impl AboutToBind<'_> {
    fn new(inner: &Inner, kind: Kind, port: u16) -> AboutToBind<'_> {
        *lock(&inner.about_to_bind).entry((kind, port)).or_default() += 1;
        AboutToBind(inner, (kind, port))
    }
}

impl Drop for AboutToBind<'_> {
    fn drop(&mut self) {
        let mut all = lock(&self.0.about_to_bind);
        if let Some(count) = all.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.1);
            }
        }
    }
}

impl Handler for Names {
    fn handle_message(&self, from: NodeId, body: Bytes) {
        match dunix_wire::decode::<NameMessage>(&body) {
            Ok(NameMessage::Datagram(datagram)) => self.deliver(from, datagram),
            Ok(NameMessage::Refused { from: sender, to }) => self.pass_refusal(from, sender, to),
            Err(_) => tracing::warn!(%from, "a malformed message about names"),
        }
    }

    fn handle_call(&self, from: NodeId, body: Bytes, reply: Responder) {
        let Ok(call) = dunix_wire::decode::<NameCall>(&body) else {
            tracing::warn!(%from, "a malformed question about names");
            return;
        };
        let names = self.clone();
        tokio::spawn(async move {
            reply.send(dunix_wire::encode(&names.answer(from, call).await));
        });
    }

    fn handle_stream(&self, from: NodeId, header: Bytes, stream: MeshStream) {
        match dunix_wire::decode::<Connection>(&header) {
            Ok(connection) if is_loopback(connection.server.ip()) => {
                tokio::spawn(lead::arrive(connection, stream));
            }
            _ => tracing::warn!(%from, "a malformed connection header"),
        }
    }

    fn handle_peer(&self, event: &PeerEvent) {
        if let PeerEvent::Down(node) = event {
            lock(&self.0.table).handle_node_down(*node);
            self.0.datagrams.handle_node_down(*node);
        }
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.is_loopback()
}

/// Whether an address is one of the fabric's own: loopback, or any (ip(7)).
#[must_use]
pub fn is_own(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
