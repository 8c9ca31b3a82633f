//! The doorbell's calls about loopback ports, for the driver of names.

use dunix_guest_abi::doorbell::{OP_BIND, OP_BOUND, OP_CONNECT};
use dunix_linux::{Errno, Result};
use dunix_names::{Names, NamesError};
use dunix_processes::{DoorbellCall, PortCall};
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

/// Bytes of the greatest address that matters here (`struct sockaddr_in6`).
const ADDRESS_BYTES_MAX: usize = 28;

/// Answers a call if it is about ports, else gives it back.
pub(super) fn handle(
    names: &Names,
    runtime: &tokio::runtime::Handle,
    call: DoorbellCall,
) -> Option<DoorbellCall> {
    match call.op() {
        OP_BOUND => call.answer(0),
        OP_BIND | OP_CONNECT => match tcp_address(&call) {
            Ok(Some(address)) => {
                let names = names.clone();
                runtime.spawn(async move { prepare(&names, call, address).await });
            }
            // Other sockets are the host's business, and so is what the host finds wrong with a call.
            Ok(None) | Err(_) => call.answer(0),
        },
        _ => return Some(call),
    }
    None
}

async fn prepare(names: &Names, call: DoorbellCall, address: SocketAddr) {
    if call.op() == OP_CONNECT {
        connectable(names, address).await;
        return call.answer(0);
    }
    match bindable(names, address).await {
        Ok(()) => call.answer(0),
        Err(errno) => call.refuse(errno),
    }
}

/// Whatever there is to connect to, connect(2) finds out.
async fn connectable(names: &Names, address: SocketAddr) {
    if let Err(error) = names.prepare_connect(address).await {
        tracing::warn!(%address, %error, "cannot find the listener");
    }
}

async fn bindable(names: &Names, address: SocketAddr) -> Result<()> {
    match names.prepare_bind(address).await {
        Ok(()) => Ok(()),
        Err(NamesError::InUse(_)) => Err(Errno::ADDRINUSE),
        Err(error) => {
            tracing::warn!(%address, %error, "cannot reserve a port");
            Err(Errno::ADDRNOTAVAIL)
        }
    }
}

/// Answers for a process elsewhere whose socket has its home here.
pub(super) fn handle_from_elsewhere(
    names: &Names,
    runtime: &tokio::runtime::Handle,
    call: PortCall,
) {
    let address = match is_tcp(&call.socket) {
        Ok(true) => parse(&call.address).filter(|address| is_own(address.ip())),
        Ok(false) | Err(_) => None,
    };
    let Some(address) = address else { return call.conclude(Ok(())) };
    let names = names.clone();
    runtime.spawn(async move {
        let prepared = if call.operation == OP_CONNECT {
            connectable(&names, address).await;
            Ok(())
        } else {
            bindable(&names, address).await
        };
        call.conclude(prepared);
    });
}

/// Whether an address is one of the fabric's own: loopback, or any (ip(7)).
fn is_own(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified()
}

fn is_tcp(socket: &OwnedFd) -> Result<bool> {
    let domain = sockopt::socket_domain(socket)?;
    let is_internet = domain == AddressFamily::INET || domain == AddressFamily::INET6;
    Ok(is_internet && sockopt::socket_type(socket)? == SocketType::STREAM)
}

/// The Internet address that the call names, if its socket is TCP.
fn tcp_address(call: &DoorbellCall) -> Result<Option<SocketAddr>> {
    if !is_tcp(&call.take_fd(call.int_arg(1))?)? {
        return Ok(None);
    }
    let length = usize::try_from(call.arg(3)).unwrap_or(usize::MAX).min(ADDRESS_BYTES_MAX);
    let mut bytes = [0; ADDRESS_BYTES_MAX];
    call.memory().read(call.arg(2), &mut bytes[..length])?;
    Ok(parse(&bytes[..length]))
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
