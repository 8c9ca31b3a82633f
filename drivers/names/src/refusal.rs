//! Tells a sender of this node that nobody received its datagram, as the kernel would: by ICMP
//! (RFC 792, RFC 4443), from which udp(7) makes `ECONNREFUSED` for a connected socket.

use rustix::net::SendFlags;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, ipproto, sendto, socket_with};
use std::io;
use std::net::SocketAddr;

const UDP: u8 = 17;
/// Bytes of a UDP header.
const UDP_BYTES: u16 = 8;

/// Tells the socket at `from` that its datagram to `to` was refused.
///
/// # Errors
/// What the kernel says of a raw socket; addresses of two families.
pub(crate) fn tell(from: SocketAddr, to: SocketAddr) -> io::Result<()> {
    let (family, protocol, message): (_, Protocol, Vec<u8>) = match (from, to) {
        (SocketAddr::V4(_), SocketAddr::V4(_)) => {
            (AddressFamily::INET, ipproto::ICMP, v4(from, to))
        }
        (SocketAddr::V6(_), SocketAddr::V6(_)) => {
            (AddressFamily::INET6, ipproto::ICMPV6, v6(from, to))
        }
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::RAW, flags, Some(protocol))?;
    sendto(&socket, &message, SendFlags::empty(), &SocketAddr::new(from.ip(), 0))?;
    Ok(())
}

/// The beginning of the datagram that was refused.
fn udp(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    [from.port(), to.port(), UDP_BYTES, 0].into_iter().flat_map(u16::to_be_bytes).collect()
}

fn octets(address: SocketAddr) -> Vec<u8> {
    match address {
        SocketAddr::V4(address) => address.ip().octets().to_vec(),
        SocketAddr::V6(address) => address.ip().octets().to_vec(),
    }
}

/// Destination unreachable: port unreachable.
fn v4(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    const HEADER: [u8; 8] = [3, 3, 0, 0, 0, 0, 0, 0];
    const TTL: u8 = 64;
    let mut header = [0x45, 0, 0, 28, 0, 0, 0, 0, TTL, UDP, 0, 0].to_vec();
    header.extend([octets(from), octets(to)].concat());
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    let mut message = [HEADER.to_vec(), header, udp(from, to)].concat();
    let sum = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    message
}

/// The same of version 6; the kernel adds the checksum.
fn v6(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    const HEADER: [u8; 8] = [1, 4, 0, 0, 0, 0, 0, 0];
    const HOPS: u8 = 64;
    let header = [0x60, 0, 0, 0, 0, 8, UDP, HOPS].to_vec();
    [HEADER.to_vec(), header, octets(from), octets(to), udp(from, to)].concat()
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    /// Needs root, as a node's daemon does.
    fn a_connected_sender_hears_of_it(ip: &str) {
        let receiver = UdpSocket::bind((ip, 0)).expect("a port");
        let sender = UdpSocket::bind((ip, 0)).expect("a port");
        let to = receiver.local_addr().expect("its address");
        sender.connect(to).expect("loopback");
        sender.set_read_timeout(Some(Duration::from_secs(5))).expect("an option");
        tell(sender.local_addr().expect("its address"), to).expect("an ICMP message");
        let heard = sender.recv(&mut [0; 8]).expect_err("nobody has sent anything");
        assert_eq!(heard.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn the_kernel_believes_it() {
        a_connected_sender_hears_of_it("127.0.0.1");
        a_connected_sender_hears_of_it("::1");
    }
}
