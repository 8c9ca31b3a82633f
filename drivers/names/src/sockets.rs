//! What the host's sockets of this node say about a port.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    net::{IpAddr, SocketAddr, UdpSocket},
};
use tokio::net::{TcpListener, TcpSocket};

/// What a port is of: each has ports of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// TCP.
    Stream,
    /// UDP.
    Datagram,
}

/// Connections that may wait to be accepted on behalf of another node.
const BACKLOG: u32 = 1024;
/// Bytes of a line of `/proc/net/tcp`. Listening sockets come first there, and who reads no more than a line at
/// a time does not have the kernel look through its table of connections, which takes milliseconds.
const LINE_BYTES: usize = 150;
/// `TCP_LISTEN` in `/proc/net/tcp`.
const STATE_LISTEN: &str = "0A";

/// Listens on `address` in the place of a program on another node.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket_for(address)?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

pub(crate) fn socket_for(address: SocketAddr) -> io::Result<TcpSocket> {
    if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

/// A port that is free at this moment for a socket with this address.
pub(crate) fn free_port(kind: Kind, address: SocketAddr) -> io::Result<u16> {
    let any = SocketAddr::new(address.ip(), 0);
    if kind == Kind::Datagram {
        return Ok(UdpSocket::bind(any)?.local_addr()?.port());
    }
    let socket = socket_for(address)?;
    socket.bind(any)?;
    Ok(socket.local_addr()?.port())
}

/// Tells whether any socket is bound to `port`: a bind(2) of ours would fail.
///
/// The kernel lists bound TCP sockets that do not listen nowhere. `SO_REUSEADDR` keeps connections in
/// TIME_WAIT from counting.
pub(crate) fn is_bound(kind: Kind, port: u16) -> bool {
    let try_bind = |address: SocketAddr| {
        if kind == Kind::Datagram {
            return UdpSocket::bind(address).map(drop);
        }
        let socket = socket_for(address)?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)
    };
    let in_use = |ip: &str| {
        let Ok(ip) = ip.parse::<IpAddr>() else { return false };
        let bound = try_bind(SocketAddr::new(ip, port));
        matches!(bound, Err(error) if error.kind() == io::ErrorKind::AddrInUse)
    };
    in_use("0.0.0.0") || in_use("::")
}

/// Tells whether a TCP socket of this node listens where a connection to `address` arrives.
pub(crate) fn is_listening(address: SocketAddr) -> bool {
    let reaches = |(ip, port): (IpAddr, u16)| {
        port == address.port()
            && (ip == address.ip() || ip.is_unspecified() && (ip.is_ipv6() || address.is_ipv4()))
    };
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"].iter().any(|table| {
        let Ok(table) = File::open(table) else { return false };
        let lines = BufReader::with_capacity(LINE_BYTES, table).lines().map_while(Result::ok);
        lines.skip(1).map_while(|line| parse_listener(&line)).any(reaches)
    })
}

/// Parses a line of `/proc/net/tcp` or `tcp6` (proc(5)) of a listening socket.
fn parse_listener(line: &str) -> Option<(IpAddr, u16)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (ip, port) = fields.next()?.split_once(':')?;
    if fields.nth(1)? != STATE_LISTEN {
        return None;
    }
    Some((parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?))
}

/// The kernel prints addresses as 32-bit words in the machine's byte order.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let word = |index: usize| {
        let digits = hex.get(index * 8..index * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (index, chunk) in octets.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index)?);
            }
            Some(IpAddr::from(octets).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn listeners_are_parsed_and_others_skipped() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0";
        assert_eq!(parse_listener(line), Some((Ipv4Addr::LOCALHOST.into(), 8080)));
        assert_eq!(parse_listener(&line.replace("0A", "01")), None);
        let six = "   0: 00000000000000000000000001000000:0050 0:0 0A 0 0";
        assert_eq!(parse_listener(six), Some((Ipv6Addr::LOCALHOST.into(), 80)));
    }

    #[test]
    fn the_hosts_tables_are_believed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("its address");
        assert!(is_listening(address));
        assert!(is_bound(Kind::Stream, address.port()));
        drop(listener);
        assert!(!is_listening(address));
        assert!(!is_bound(Kind::Stream, address.port()));
    }

    #[test]
    fn datagrams_have_ports_of_their_own() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let port = listener.local_addr().expect("its address").port();
        let receiver = UdpSocket::bind("[::1]:0").expect("a loopback port");
        let bound = receiver.local_addr().expect("its address").port();
        assert!(is_bound(Kind::Datagram, bound));
        assert!(port == bound || !is_bound(Kind::Datagram, port));
        drop(receiver);
        assert!(!is_bound(Kind::Datagram, bound));
    }

    #[test]
    fn a_wildcard_listener_takes_loopback_connections() {
        let listener = std::net::TcpListener::bind("0.0.0.0:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        assert!(is_listening(SocketAddr::from(([127, 0, 0, 1], port))));
        assert!(!is_listening(SocketAddr::from((Ipv6Addr::LOCALHOST, port))));
    }
}
