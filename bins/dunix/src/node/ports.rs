//! The doorbell's calls about loopback ports, for the driver of names.
//!
//! A caller's socket is closed here before the caller goes on: what it closes then is closed.

use dunix_guest_abi::doorbell::{IS_BOUND, OP_BIND, OP_BOUND, OP_CONNECT, OP_SEND};
use dunix_linux::{Errno, Result, plain_calls};
use dunix_names::{Kind, Names, NamesError, is_own};
use dunix_processes::{DoorbellCall, PortCall};
use rustix::net::{AddressFamily, SocketType, ipproto, sockopt};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

/// Bytes of the greatest address that matters here (`struct sockaddr_in6`).
const ADDRESS_BYTES_MAX: usize = 28;

/// Answers a call if it is about ports, else gives it back.
pub(super) fn handle(
    names: &Names,
    runtime: &tokio::runtime::Handle,
    call: DoorbellCall,
) -> Option<DoorbellCall> {
    match call.op() {
        OP_BOUND => {
            let socket = call.take_fd(call.int_arg(1)).ok();
            let names = names.clone();
            runtime.spawn(async move {
                if let Some(socket) = socket {
                    bound(&names, &socket).await;
                    drop(socket);
                }
                call.answer(0);
            });
        }
        OP_SEND => {
            let names = names.clone();
            runtime.spawn(async move {
                let port = u16::try_from(call.arg(1)).unwrap_or(0);
                sendable(&names, SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await;
                call.answer(0);
            });
        }
        OP_BIND | OP_CONNECT => match port_socket(&call) {
            Ok(Some((socket, kind, address))) => {
                let names = names.clone();
                runtime.spawn(async move {
                    let socket = (socket, kind);
                    let prepared = prepare(&names, call.op(), &socket, &address).await;
                    drop(socket);
                    match prepared {
                        Ok(done) => call.answer(i64::from(done)),
                        Err(errno) => call.refuse(errno),
                    }
                });
            }
            // Other sockets are the host's business, and so is what the host finds wrong with a call.
            Ok(None) | Err(_) => call.answer(0),
        },
        _ => return Some(call),
    }
    None
}

/// Prepares a connect(2) or a datagram of a socket, or binds one; returns [`IS_BOUND`] if it is done already.
async fn prepare(
    names: &Names,
    operation: u64,
    (socket, kind): &(OwnedFd, Kind),
    raw: &[u8],
) -> Result<u32> {
    let Some(address) = parse(raw).filter(|address| is_own(address.ip())) else { return Ok(0) };
    match (operation, kind) {
        (OP_CONNECT, Kind::Stream) => {
            connectable(names, address).await;
            return Ok(0);
        }
        (OP_CONNECT | OP_SEND, _) => {
            sendable(names, address).await;
            return Ok(0);
        }
        _ => {}
    }
    let bind = |address: SocketAddr| {
        let mut raw = raw.to_vec();
        let place = raw.get_mut(PORT_AT).ok_or(Errno::INVAL)?;
        place.copy_from_slice(&address.port().to_be_bytes());
        let arguments = [1, raw.len() as u64, 0, 0, 0];
        plain_calls::run(socket.as_fd(), BIND, arguments, &raw)?;
        Ok(())
    };
    names.bind(*kind, address, bind).await.map_err(|error| errno_of(address, error))?;
    Ok(IS_BOUND)
}

/// The number of bind(2).
const BIND: u32 = 49;
/// Where a port lies in `struct sockaddr_in` and `sockaddr_in6`.
const PORT_AT: std::ops::Range<usize> = 2..4;

/// A socket has got an address by the host: listen(2) gives a port to one that has none.
async fn bound(names: &Names, socket: &OwnedFd) {
    let own = rustix::net::getsockname(socket).ok();
    let Some(address) = own.and_then(|own| SocketAddr::try_from(own).ok()) else { return };
    if matches!(kind_of(socket), Ok(Some(Kind::Stream)))
        && let Err(error) = names.hold(address).await
    {
        tracing::warn!(%address, %error, "other nodes do not know of a listener");
    }
}

/// Whatever there is to connect to, connect(2) finds out.
async fn connectable(names: &Names, address: SocketAddr) {
    if let Err(error) = names.prepare_connect(address).await {
        tracing::warn!(%address, %error, "cannot find the listener");
    }
}

/// A datagram goes where it may, as it would to a port that nobody has.
async fn sendable(names: &Names, address: SocketAddr) {
    if let Err(error) = names.prepare_send(address).await {
        tracing::warn!(%address, %error, "cannot find the receiver");
    }
}

fn errno_of(address: SocketAddr, error: NamesError) -> Errno {
    match error {
        NamesError::InUse(_) | NamesError::Exhausted(_) => Errno::ADDRINUSE,
        NamesError::Bind(error) => Errno::from_io_error(&error).unwrap_or(Errno::IO),
        error => {
            tracing::warn!(%address, %error, "cannot reserve a port");
            Errno::ADDRNOTAVAIL
        }
    }
}

/// Answers for a process elsewhere whose socket has its home here.
pub(super) fn handle_from_elsewhere(
    names: &Names,
    runtime: &tokio::runtime::Handle,
    call: PortCall,
) {
    let Ok(Some(kind)) = kind_of(&call.socket) else { return call.conclude(Ok(0)) };
    let names = names.clone();
    runtime.spawn(async move {
        if call.operation == OP_BOUND {
            bound(&names, &call.socket).await;
            return call.conclude(Ok(0));
        }
        let Ok(socket) = call.socket.try_clone() else { return call.conclude(Err(Errno::MFILE)) };
        let prepared = prepare(&names, call.operation, &(socket, kind), &call.address).await;
        call.conclude(prepared);
    });
}

/// Whose ports a socket names, if it names any.
fn kind_of(socket: &OwnedFd) -> Result<Option<Kind>> {
    let domain = sockopt::socket_domain(socket)?;
    if domain != AddressFamily::INET && domain != AddressFamily::INET6 {
        return Ok(None);
    }
    Ok(match sockopt::socket_type(socket)? {
        SocketType::STREAM => Some(Kind::Stream),
        SocketType::DGRAM if sockopt::socket_protocol(socket)? == Some(ipproto::UDP) => {
            Some(Kind::Datagram)
        }
        _ => None,
    })
}

/// The socket of a call and the address that it names, if it is TCP or UDP.
fn port_socket(call: &DoorbellCall) -> Result<Option<(OwnedFd, Kind, Vec<u8>)>> {
    let socket = call.take_fd(call.int_arg(1))?;
    let Some(kind) = kind_of(&socket)? else { return Ok(None) };
    let length = usize::try_from(call.arg(3)).unwrap_or(usize::MAX).min(ADDRESS_BYTES_MAX);
    let mut bytes = vec![0; length];
    call.memory().read(call.arg(2), &mut bytes)?;
    Ok(Some((socket, kind, bytes)))
}

/// Parses `struct sockaddr_in` or `sockaddr_in6` (ip(7), ipv6(7)).
fn parse(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk()?);
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    match AddressFamily::from_raw(family) {
        AddressFamily::INET => {
            let octets: [u8; 4] = *bytes.get(4..)?.first_chunk()?;
            Some((Ipv4Addr::from(octets), port).into())
        }
        AddressFamily::INET6 => {
            let octets: [u8; 16] = *bytes.get(8..)?.first_chunk()?;
            let ip = Ipv6Addr::from(octets);
            // A mapped address reaches the IPv4 listener.
            Some((ip.to_canonical(), port).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_and_short_ones_are_none() {
        let family = |raw: AddressFamily| raw.as_raw().to_ne_bytes().to_vec();
        let mut four = family(AddressFamily::INET);
        four.extend([0x1f, 0x90, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parse(&four), Some(([127, 0, 0, 1], 8080).into()));
        assert_eq!(parse(&four[..7]), None);
        let mut six = family(AddressFamily::INET6);
        six.extend([0, 80, 0, 0, 0, 0]);
        six.extend(Ipv6Addr::LOCALHOST.octets());
        assert_eq!(parse(&six), Some((Ipv6Addr::LOCALHOST, 80).into()));
        assert_eq!(parse(&family(AddressFamily::UNIX)), None);
    }
}
