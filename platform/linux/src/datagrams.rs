//! Datagrams that nobody received: the kernel keeps for their sender where they went (ip(7), `IP_RECVERR`).

use crate::{Errno, Result, check, messages};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Has the kernel keep what it learns of this socket's datagrams, also if the socket is not connected.
///
/// # Errors
/// What setsockopt(2) reports.
pub fn keep_refusals(socket: BorrowedFd<'_>, is_ipv6: bool) -> Result<()> {
    let (level, option) = match is_ipv6 {
        true => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
        false => (libc::IPPROTO_IP, libc::IP_RECVERR),
    };
    let on: libc::c_int = 1;
    let bytes = libc::socklen_t::try_from(size_of_val(&on)).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel reads the one word.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), bytes)
    };
    check(result.into()).map(drop)
}

/// Takes the next datagram that was refused: where it was sent.
///
/// # Errors
/// `EAGAIN` if there is none.
pub fn take_refused(socket: BorrowedFd<'_>) -> Result<SocketAddr> {
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    let refused = messages::receive(socket, &mut [], flags)?;
    parse(&refused.address).ok_or(Errno::PROTO)
}

/// An address of the internet (`struct sockaddr_in`, `sockaddr_in6`).
fn parse(address: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(*address.first_chunk()?));
    let port = u16::from_be_bytes(*address.get(2..)?.first_chunk()?);
    match family {
        libc::AF_INET => Some((*address.get(4..)?.first_chunk::<4>()?, port).into()),
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(*address.get(8..)?.first_chunk::<16>()?);
            Some((ip, port).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    fn refused_at(ip: &str) {
        let gone = UdpSocket::bind((ip, 0)).expect("a port").local_addr().expect("its address");
        let sender = UdpSocket::bind((ip, 0)).expect("a port");
        keep_refusals(sender.as_fd(), gone.is_ipv6()).expect("an option of the kernel's");
        assert_eq!(take_refused(sender.as_fd()), Err(Errno::AGAIN));
        sender.send_to(b"hello", gone).expect("datagrams are sent to nobody, too");
        let mut found = [rustix::event::PollFd::new(&sender, rustix::event::PollFlags::empty())];
        let limit = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut found, Some(&limit)), Ok(1));
        assert_eq!(take_refused(sender.as_fd()), Ok(gone));
    }

    #[test]
    fn the_unconnected_learn_who_was_not_there() {
        refused_at("127.0.0.1");
        refused_at("::1");
    }
}
