//! UDP on the fabric's loopback: datagrams between sockets of different nodes.
//!
//! ```text
//!      sender's node                                    receiver's node
//!  program :Q ──send──► stand-in for :P ── mesh ──► stand-in for :Q ──send──► program :P
//!  program :Q ◄──send── stand-in for :P ◄── mesh ── stand-in for :Q ◄──send── program :P
//! ```
//!
//! A node asks the coordinator about a port when a program first sends there, and hears of changes from
//! then on; such a port is *settled*, and what is sent to it is the kernel's alone. Between programs of one
//! node a datagram never meets this driver. A port that the kernel gives to a sender without bind(2) is known
//! where it has sent to; if it is taken there, its stand-in has another.
//!
//! Invariant: what comes from a peer is never sent to a stand-in, so no datagram goes round.

use crate::sockets::Kind;
use crate::stand_ins::{Original, Removed, StandIns};
use crate::{Names, NamesError, is_own, lock, refusal};
use dunix_ids::NodeId;
use dunix_linux::datagrams as refused;
use dunix_registry::{Reservation, WatchedPorts};
use dunix_transport::MeshError;
use dunix_wire::Topic;
use dunix_wire::names::{Datagram, NameCall, NameMessage, NameReply, PortNews};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time;

/// The greatest datagram, and a byte.
const DATAGRAM_BYTES: usize = 1 << 16;
/// How long a datagram waits for room to its node, and how often; then it is dropped.
const ROOM_PAUSE: Duration = Duration::from_millis(1);
const ROOM_TURNS_MAX: u32 = 100;

/// Told of ports that have become settled.
type Settled = Box<dyn Fn(u16) + Send + Sync>;

/// What a node knows about ports of datagrams.
#[derive(Default)]
pub(crate) struct Datagrams {
    /// Used at the coordinator only.
    table: Mutex<WatchedPorts>,
    known: Mutex<Known>,
    settled: OnceLock<Settled>,
}

/// Each map has an entry for a port at most.
#[derive(Default)]
struct Known {
    stand_ins: StandIns,
    /// The versions of the last news.
    versions: BTreeMap<u16, u64>,
    settled: BTreeSet<u16>,
}

impl Datagrams {
    pub(crate) fn handle_node_down(&self, node: NodeId) {
        lock(&self.table).handle_node_down(node);
        // Nobody waits for their addresses.
        let _ = lock(&self.known).stand_ins.leave_node(node);
    }
}

impl Names {
    /// Has `settled` told, once, of each UDP port for which [`Names::prepare_send`] need not be asked again.
    pub fn set_settled(&self, settled: impl Fn(u16) + Send + Sync + 'static) {
        // A node sets it once.
        let _ = self.0.datagrams.settled.set(Box::new(settled));
    }

    /// Prepares that a program of this node sends a datagram to an address, or connects a UDP socket to it:
    /// if the address is loopback and its receiver is elsewhere, this node receives in its place.
    ///
    /// # Errors
    /// The coordinator does not answer; the caller lets the datagram go where it may.
    pub async fn prepare_send(&self, address: SocketAddr) -> Result<(), NamesError> {
        let port = address.port();
        if port == 0
            || !is_own(address.ip())
            || lock(&self.0.datagrams.known).settled.contains(&port)
        {
            return Ok(());
        }
        if self.stands_in_at(port) || self.is_bound(Kind::Datagram, port) {
            // It may go on at once.
            let names = self.clone();
            tokio::spawn(async move { names.watch(port).await });
            return Ok(());
        }
        self.watch(port).await
    }

    async fn watch(&self, port: u16) -> Result<(), NamesError> {
        match self.ask(self.0.coordinator, NameCall::Watch(port)).await? {
            NameReply::News(news) if news.port == port => self.heed(news).await,
            _ => return Err(NamesError::Malformed(self.0.coordinator)),
        }
        let is_new = lock(&self.0.datagrams.known).settled.insert(port);
        if is_new && let Some(settled) = self.0.datagrams.settled.get() {
            settled(port);
        }
        Ok(())
    }

    /// Makes a UDP port this node's.
    pub(crate) async fn hold_datagrams(&self, port: u16) -> Result<(), NamesError> {
        match self.ask(self.0.coordinator, NameCall::ReserveDatagrams(port)).await? {
            NameReply::News(news) if news.port == port => {
                self.heed(news).await;
                // Those of senders, too.
                let removed = lock(&self.0.datagrams.known).stand_ins.leave_port(port);
                removed.closed().await;
                Ok(())
            }
            NameReply::Reserved(false) => Err(NamesError::InUse(port)),
            _ => Err(NamesError::Malformed(self.0.coordinator)),
        }
    }

    pub(crate) fn stands_in_at(&self, port: u16) -> bool {
        lock(&self.0.datagrams.known).stand_ins.has_port(port)
    }

    /// Does what news of a port ask for, unless later ones have come.
    pub(crate) async fn heed(&self, news: PortNews) {
        let removed = self.apply(news);
        if let Some(removed) = removed {
            removed.closed().await;
        }
    }

    fn apply(&self, news: PortNews) -> Option<Removed> {
        let mut known = lock(&self.0.datagrams.known);
        let version = known.versions.entry(news.port).or_default();
        if *version > news.version {
            return None;
        }
        *version = news.version;
        match news.holder {
            Some(holder) if holder != self.0.me => {
                known.stand_ins.lead(news.port, holder, |socket, at| self.serve(socket, at));
                None
            }
            _ => Some(known.stand_ins.stop_leading(news.port)),
        }
    }

    /// At the coordinator: decides on a wish to hold a UDP port, and tells who watches it.
    pub(crate) async fn reserve_datagrams(&self, from: NodeId, port: u16) -> NameReply {
        let table = &self.0.datagrams.table;
        let mut answer = lock(table).reserve(from, port);
        if let Reservation::Ask(holder) = answer {
            let asked = self.ask(holder, NameCall::IsBoundDatagrams(port)).await;
            // A holder that does not answer keeps its port until its node is declared dead.
            let still_bound = !matches!(asked, Ok(NameReply::Is(false)));
            answer = lock(table).settle(from, port, holder, still_bound);
        }
        if answer != Reservation::Granted {
            return NameReply::Reserved(false);
        }
        let (news, watchers) = {
            let table = lock(table);
            (news_of(port, table.news(port)), table.watchers(from, port))
        };
        let told: Vec<_> =
            watchers.into_iter().map(|node| tokio::spawn(self.clone().tell(node, news))).collect();
        for told in told {
            // Who does not answer learns of it when it is back, or is dead.
            let _ = told.await;
        }
        NameReply::News(news)
    }

    async fn tell(self, node: NodeId, news: PortNews) {
        if let Err(error) = self.ask(node, NameCall::Changed(news)).await {
            tracing::warn!(%node, port = news.port, %error, "cannot tell who holds a port");
        }
    }

    /// At the coordinator.
    pub(crate) fn note_watcher(&self, from: NodeId, port: u16) -> NameReply {
        NameReply::News(news_of(port, lock(&self.0.datagrams.table).watch(from, port)))
    }

    /// Sends a peer's datagram to the program that it is for, from the sender's stand-in.
    pub(crate) fn deliver(&self, node: NodeId, datagram: Datagram) {
        let Datagram { from, to, bytes } = datagram;
        if !to.ip().is_loopback() || from.is_ipv4() != to.is_ipv4() {
            tracing::warn!(%node, %to, "a datagram for no loopback address");
            return;
        }
        let sender = Original { node, address: from };
        let socket = {
            let mut known = lock(&self.0.datagrams.known);
            if known.stand_ins.original_at(to).is_some() {
                drop(known);
                self.refuse(sender, to);
                return;
            }
            known.stand_ins.of_sender(sender, |socket, at| self.serve(socket, at))
        };
        let sent = socket.and_then(|socket| send(&socket, &bytes, to));
        if let Err(error) = sent {
            tracing::debug!(%from, %to, %error, "a datagram is lost");
        }
    }

    /// Passes on what a stand-in receives, and what it learns of refusals, until the task is aborted.
    fn serve(&self, socket: Arc<UdpSocket>, at: SocketAddr) -> JoinHandle<()> {
        let names = self.clone();
        tokio::spawn(async move {
            let mut buffer = vec![0; DATAGRAM_BYTES];
            loop {
                let Ok(ready) = socket.ready(Interest::READABLE | Interest::ERROR).await else {
                    return;
                };
                if ready.is_error() {
                    names.pass_refusals(&socket, at);
                }
                match socket.try_recv_from(&mut buffer) {
                    Ok((bytes, from)) => names.pass_on(at, from, &buffer[..bytes]).await,
                    // Nothing there, or a refusal, whose destination the kernel keeps as well.
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        })
    }

    async fn pass_on(&self, at: SocketAddr, from: SocketAddr, bytes: &[u8]) {
        let original = lock(&self.0.datagrams.known).stand_ins.original_at(at);
        let Some(Original { node, address: to }) = original else { return };
        let message = NameMessage::Datagram(Datagram { from, to, bytes: bytes.to_vec() });
        let message = dunix_wire::encode(&message);
        for _ in 0..ROOM_TURNS_MAX {
            match self.0.mesh.send(node, Topic::Names, message.clone()) {
                Err(MeshError::Congested(_)) => time::sleep(ROOM_PAUSE).await,
                Ok(()) => return,
                Err(error) => {
                    tracing::debug!(%from, %to, %error, "a datagram is lost");
                    return;
                }
            }
        }
        tracing::debug!(%from, %to, "a datagram is lost: too much waits");
    }

    /// Tells the original of a stand-in which of its datagrams nobody received.
    fn pass_refusals(&self, socket: &UdpSocket, at: SocketAddr) {
        let take = || Ok(refused::take_refused(socket.as_fd())?);
        while let Ok(to) = socket.try_io(Interest::ERROR, take) {
            let sender = lock(&self.0.datagrams.known).stand_ins.original_at(at);
            if let Some(sender) = sender {
                self.refuse(sender, to);
            }
        }
    }

    fn refuse(&self, sender: Original, to: SocketAddr) {
        let message = NameMessage::Refused { from: sender.address, to };
        // A sender that does not hear of it is as one on a machine that sends no ICMP.
        let _ = self.0.mesh.send(sender.node, Topic::Names, dunix_wire::encode(&message));
    }

    /// Tells a program of this node that nobody received its datagram at `node`.
    pub(crate) fn pass_refusal(&self, node: NodeId, from: SocketAddr, to: SocketAddr) {
        let receiver = Original { node, address: to };
        let at = lock(&self.0.datagrams.known).stand_ins.address_of(receiver);
        if let Some(at) = at.filter(|_| from.ip().is_loopback())
            && let Err(error) = refusal::tell(from, at)
        {
            tracing::debug!(%from, %to, %error, "a sender does not hear of a refusal");
        }
    }
}

fn news_of(port: u16, (holder, version): (Option<NodeId>, u64)) -> PortNews {
    PortNews { port, holder, version }
}

/// sendto(2), again if the first reports an earlier datagram's refusal.
fn send(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
    let send = || -> io::Result<usize> {
        let flags = rustix::net::SendFlags::DONTWAIT;
        Ok(rustix::net::sendto(socket, bytes, flags, &to)?)
    };
    match send() {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => send(),
        other => other,
    }
    .map(drop)
}
