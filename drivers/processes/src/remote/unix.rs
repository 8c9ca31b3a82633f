//! Unix sockets that are connected by name (unix(7)): all nodes find what one of them has bound.
//!
//! ```text
//!  bind    --name, handle--> this node keeps the name
//!  connect --refused by this kernel--> the name's keeper: a socket of its own, connected there
//!     the descriptor stands for that socket now    <-- an object for calls
//! ```
//! The client's socket is exchanged, so one that has a name of its own is not connected elsewhere: nobody
//! could answer it. Abstract names are the fabric's: a second bind is refused on every node.

use super::calls::{FOREVER, outcome_of};
use super::execute::failed;
use super::homes::{Object, Purpose};
use super::passing::Passed;
use super::waiting::until_cancelled;
use super::watch::ready_now;
use crate::call::DoorbellCall;
use crate::host::{self, Status};
use crate::node::{Node, lock};
use dunix_guest_abi::doorbell::RemoteCall;
use dunix_ids::{Ino, NodeId, Pid};
use dunix_linux::{Errno, Result, messages, place};
use dunix_wire::Topic;
use dunix_wire::processes::image::RemoteKind;
use dunix_wire::processes::{
    CallExtra, CallOutcome, ConnectWish, ProcessesAnswer, ProcessesCall, ProcessesMessage,
    SharedName,
};
use rustix::fs::{FileType, Mode, OFlags, fcntl_setfl, fstat, fstatfs, open};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long a name counts as bound at most that a program was let to bind and that has not said more.
const BINDS_WITHIN: Duration = Duration::from_secs(2);
/// How long a node may take to say whether it has a name; until it is dead it counts as bound.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// `AF_UNIX`, as an address begins.
const FAMILY: [u8; 2] = [1, 0];

/// Abstract names that programs of this node are about to bind.
#[derive(Debug, Default)]
pub(crate) struct Binding(Mutex<BTreeMap<SharedName, Instant>>);

/// The abstract name of an address, of a socket of this type.
pub(super) fn abstract_name(kind: SocketType, address: &[u8]) -> Option<SharedName> {
    let name = address.strip_prefix(&FAMILY)?.strip_prefix(&[0])?.to_vec();
    Some(SharedName::Abstract { kind: kind.as_raw(), name })
}

/// The path of an address.
pub(super) fn path(address: &[u8]) -> Option<&[u8]> {
    let path = address.strip_prefix(&FAMILY)?.split(|byte| *byte == 0).next()?;
    (!path.is_empty()).then_some(path)
}

impl Node {
    /// `OP_NAME_BOUND`: a program of this node has bound a socket to a name of the tree.
    pub(crate) fn handle_name_bound(self: &Arc<Node>, call: DoorbellCall) {
        let node = self.clone();
        self.runtime.spawn(async move {
            let noted = match call.take_fd(call.int_arg(1)) {
                Ok(handle) => node.note_bound(handle).await,
                Err(errno) => Err(errno),
            };
            call.conclude(noted.map(|()| 0));
        });
    }

    /// Keeps the name of a socket that has been bound here.
    pub(super) async fn note_bound(self: &Arc<Node>, handle: OwnedFd) -> Result<()> {
        // The tree is asked.
        let looked = self.runtime.spawn_blocking(move || Ok((socket_of(&handle)?, handle)));
        let (name, handle) = looked.await.unwrap_or(Err(Errno::IO))?;
        self.keep_name(&name, handle).await.map(drop)
    }

    /// The same for a path as the calling thread looks it up.
    pub(super) async fn note_bound_at(self: &Arc<Node>, path: &[u8]) {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = open(OsStr::from_bytes(path), flags, Mode::empty());
        // What is not the tree's is this node's alone; without a keeper it is, too.
        if let Ok(handle) = handle
            && let Err(error) = self.note_bound(handle).await
        {
            tracing::debug!(node = %self.id, %error, "a socket's name is known here only");
        }
    }

    /// `OP_NAME_CLAIM`: a program of this node is about to bind a socket to an abstract name, or has been.
    pub(crate) fn handle_name_claim(self: &Arc<Node>, call: DoorbellCall) {
        let node = self.clone();
        self.runtime.spawn(async move {
            let is_done = call.arg(4) != 0;
            let claimed = match claimed_by(&call) {
                Ok(Some(name)) if is_done => {
                    node.settle_claim(&name);
                    Ok(())
                }
                Ok(Some(name)) => node.claim(name).await,
                other => other.map(drop),
            };
            call.conclude(claimed.map(|()| 0));
        });
    }

    /// Claims an abstract name for this node.
    pub(super) async fn claim(self: &Arc<Node>, name: SharedName) -> Result<()> {
        {
            let mut binding = lock(&self.binding.0);
            binding.retain(|_, since| since.elapsed() < BINDS_WITHIN);
            binding.insert(name.clone(), Instant::now());
        }
        let other = match self.find_keeper(name.clone(), true, None).await? {
            Some(other) if other != self.id => other,
            _ => return Ok(()),
        };
        let refused = match self.is_bound_at(other, name.clone()).await {
            true => true,
            false => self.find_keeper(name.clone(), true, Some(other)).await? != Some(self.id),
        };
        if refused {
            self.settle_claim(&name);
            return Err(Errno::ADDRINUSE);
        }
        Ok(())
    }

    /// The bind(2) for which a name was claimed has been made, or never will.
    pub(super) fn settle_claim(&self, name: &SharedName) {
        lock(&self.binding.0).remove(name);
    }

    async fn is_bound_at(&self, node: NodeId, name: SharedName) -> bool {
        let Some(mesh) = &self.mesh else { return false };
        let body = dunix_wire::encode(&ProcessesCall::IsBound(name));
        let answer = mesh.call(node, Topic::Processes, body, ANSWER_WITHIN).await;
        let answer = answer.ok().and_then(|answer| dunix_wire::decode(&answer).ok());
        answer != Some(ProcessesAnswer::Keeper(None))
    }

    /// Whether an abstract name is bound here, or about to be.
    pub(super) fn is_bound(&self, name: &SharedName) -> bool {
        let is_new = lock(&self.binding.0).get(name).is_some_and(|t| t.elapsed() < BINDS_WITHIN);
        let SharedName::Abstract { kind, name } = name else { return false };
        is_new || std::fs::read("/proc/net/unix").is_ok_and(|text| is_listed(&text, *kind, name))
    }

    /// Begins to connect a process's socket, which this node's kernel has refused; the ticket.
    pub(super) fn begin_connect(
        self: &Arc<Node>,
        (pid, host_pid): (Pid, u32),
        asked: &RemoteCall,
        address: &[u8],
    ) -> Result<u64> {
        let [_, _, handle, kind, flags] = asked.args;
        let kind = SocketType::from_raw(u32::try_from(kind).map_err(|_| Errno::INVAL)?);
        let name = match i32::try_from(handle) {
            Ok(number) => Err(host::take_fd(host_pid, number)?),
            Err(_) => Ok(abstract_name(kind, address).ok_or(Errno::CONNREFUSED)?),
        };
        let is_far =
            self.look(|state| Some(state.locals.get(&pid)?.remote.get(asked.fd).is_some()));
        let ticket = self.with(|state, _| state.begin_call(pid, self.id))?;
        let cancelled = self.homes.begin_call(self.id, ticket);
        let node = self.clone();
        self.runtime.spawn(async move {
            let who = (host_pid, node.ids_base);
            let connected = async {
                // The tree is asked.
                let checked = node.runtime.spawn_blocking(move || named(who, name));
                let (name, [uid, gid]) = checked.await.unwrap_or(Err(Errno::IO))?;
                let wish = ConnectWish {
                    ticket,
                    name,
                    kind: kind.as_raw(),
                    uid,
                    gid,
                    is_nonblocking: flags & 1 != 0,
                    wants_credentials: flags & 2 != 0,
                };
                node.connect_named(wish, is_far == Some(true), &cancelled).await
            };
            let connected = connected.await;
            node.homes.end_call(node.id, ticket);
            let (home, outcome, passed) =
                connected.unwrap_or_else(|errno| (node.id, failed(errno), Vec::new()));
            node.settle_call(pid, home, ticket, outcome, passed);
        });
        Ok(ticket)
    }

    /// Lets the keeper of a name connect a socket. If that is this node, the caller's is `far`: the socket
    /// comes with the outcome.
    async fn connect_named(
        self: &Arc<Node>,
        wish: ConnectWish,
        is_far: bool,
        cancelled: &Notify,
    ) -> Result<(NodeId, CallOutcome, Vec<Passed>)> {
        let ticket = wish.ticket;
        let keeper = self.find_keeper(wish.name.clone(), false, None).await?;
        let keeper = keeper.ok_or(Errno::CONNREFUSED)?;
        let Some(mesh) = self.mesh.as_ref().filter(|_| keeper != self.id) else {
            if !is_far {
                return Err(Errno::CONNREFUSED);
            }
            let socket = self.connected(wish, cancelled).await?;
            let outcome = CallOutcome { value: 1, ..CallOutcome::default() };
            return Ok((self.id, outcome, vec![Passed::plain(self, socket)]));
        };
        let body = dunix_wire::encode(&ProcessesCall::ConnectNamed(wish));
        let answer = mesh.call(keeper, Topic::Processes, body, FOREVER);
        tokio::pin!(answer);
        let answer = tokio::select! {
            answer = &mut answer => answer,
            () = cancelled.notified() => {
                self.tell(keeper, &ProcessesMessage::CancelRemoteCall { ticket });
                answer.await
            }
        };
        Ok((keeper, outcome_of(answer.ok().as_deref()), Vec::new()))
    }

    /// At the keeper: a socket of this node, connected for a process elsewhere.
    pub(super) async fn connect_for(
        &self,
        from: NodeId,
        wish: ConnectWish,
        cancelled: Arc<Notify>,
    ) -> CallOutcome {
        let ticket = wish.ticket;
        let connected = self.connected(wish, &cancelled).await;
        self.homes.end_call(from, ticket);
        let kept = connected.and_then(|socket| {
            let ready = ready_now(&socket);
            let purpose = Purpose::Calls(RemoteKind::Socket);
            let object = self.homes.keep(Object::new(socket, purpose, Vec::new()), from)?;
            Ok(CallExtra::Accepted { object, address: Vec::new(), ready })
        });
        match kept {
            Ok(extra) => CallOutcome { extra, ..CallOutcome::default() },
            Err(errno) => failed(errno),
        }
    }

    async fn connected(&self, wish: ConnectWish, cancelled: &Notify) -> Result<OwnedFd> {
        let id = |id: u32| self.ids_base.checked_add(id).ok_or(Errno::PROTO);
        let user = (id(wish.uid)?, id(wish.gid)?);
        let handle = match &wish.name {
            SharedName::Abstract { .. } => None,
            name => Some(self.names.handle(name).ok_or(Errno::CONNREFUSED)?),
        };
        until_cancelled(move || connect_as(user, &wish, handle.as_deref()), cancelled).await
    }
}

/// The abstract name that a caller is about to bind its socket to.
fn claimed_by(call: &DoorbellCall) -> Result<Option<SharedName>> {
    let bytes = usize::try_from(call.arg(3)).unwrap_or(usize::MAX);
    if bytes > messages::ADDRESS_BYTES_MAX {
        return Err(Errno::INVAL);
    }
    let mut address = vec![0; bytes];
    call.memory().read(call.arg(2), &mut address)?;
    let kind = sockopt::socket_type(call.take_fd(call.int_arg(1))?)?;
    Ok(abstract_name(kind, &address))
}

/// The name of a socket of the tree.
fn socket_of(handle: &OwnedFd) -> Result<SharedName> {
    let stat = fstat(handle)?;
    let is_trees = u64::try_from(fstatfs(handle)?.f_type) == Ok(super::fifo::TREE);
    let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
    if is_trees && is_socket {
        Ok(SharedName::Socket(Ino(stat.st_ino)))
    } else {
        Err(Errno::CONNREFUSED)
    }
}

/// What a process connects to, and its user and group as guests number them; it must be allowed to.
fn named(
    (host_pid, base): (u32, u32),
    name: core::result::Result<SharedName, OwnedFd>,
) -> Result<(SharedName, [u32; 2])> {
    let name = match name {
        Ok(name) => name,
        Err(handle) => {
            let name = socket_of(&handle)?;
            /// To write.
            const WRITE: u32 = 2;
            if !Status::of(host_pid, 0)?.may(&fstat(&handle)?, WRITE) {
                return Err(Errno::ACCESS);
            }
            name
        }
    };
    let status = Status::of(host_pid, base)?;
    Ok((name, [status.uids[1], status.gids[1]]))
}

/// Connects a new socket, as this user on a thread that is to end soon.
fn connect_as(user: (u32, u32), wish: &ConnectWish, handle: Option<&OwnedFd>) -> Result<OwnedFd> {
    place::become_user(user)?;
    let kind = SocketType::from_raw(wish.kind);
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    let flags = if wish.is_nonblocking { OFlags::NONBLOCK } else { OFlags::empty() };
    fcntl_setfl(&socket, flags)?;
    sockopt::set_socket_passcred(&socket, wish.wants_credentials)?;
    let mut address = FAMILY.to_vec();
    match (&wish.name, handle) {
        (SharedName::Abstract { name, .. }, _) => {
            address.push(0);
            address.extend(name);
        }
        (_, Some(handle)) => {
            address.extend(format!("/proc/self/fd/{}\0", handle.as_raw_fd()).bytes());
        }
        (_, None) => return Err(Errno::CONNREFUSED),
    }
    messages::connect(socket.as_fd(), &address)?;
    Ok(socket)
}

/// Whether `/proc/net/unix` lists an abstract name.
fn is_listed(text: &[u8], kind: u32, name: &[u8]) -> bool {
    /// Words before the name; the type is one of them.
    const WORDS: usize = 7;
    const TYPE_AT: usize = 4;
    let shown: Vec<u8> = core::iter::once(0)
        .chain(name.iter().copied())
        .map(|b| if b == 0 { b'@' } else { b })
        .collect();
    let kind = format!("{kind:04x}");
    text.split(|byte| *byte == b'\n').any(|line| {
        let mut rest = line;
        let mut is_kind = false;
        for at in 0..WORDS {
            rest = rest.trim_ascii_start();
            let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
            is_kind |= at == TYPE_AT && &rest[..end] == kind.as_bytes();
            rest = &rest[end..];
        }
        is_kind && rest.strip_prefix(b" ") == Some(&shown)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SocketAddrUnix, bind, listen};

    #[test]
    fn abstract_names_are_found_in_the_kernels_list() {
        let kind = SocketType::STREAM;
        let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        let name = format!("dunix unix-{}\0x", std::process::id()).into_bytes();
        let listed = |kind: SocketType, name: &[u8]| {
            is_listed(&std::fs::read("/proc/net/unix").unwrap(), kind.as_raw(), name)
        };
        assert!(!listed(kind, &name));
        bind(&socket, &SocketAddrUnix::new_abstract_name(&name).unwrap()).unwrap();
        listen(&socket, 1).unwrap();
        assert!(listed(kind, &name) && !listed(SocketType::DGRAM, &name));
        assert!(!listed(kind, &name[1..]) && !listed(kind, &name[..name.len() - 1]));
    }

    #[test]
    fn an_address_is_a_path_or_an_abstract_name() {
        let kind = SocketType::STREAM;
        assert_eq!(path(b"\x01\x00dir/s\0rest"), Some(&b"dir/s"[..]));
        assert_eq!(
            (path(b"\x01\x00"), path(b"\x01\x00\0a"), path(b"\x02\x00a")),
            (None, None, None)
        );
        let named = SharedName::Abstract { kind: 1, name: b"a".to_vec() };
        assert_eq!(abstract_name(kind, b"\x01\x00\0a"), Some(named));
        assert_eq!(abstract_name(kind, b"\x01\x00a"), None);
    }
}
