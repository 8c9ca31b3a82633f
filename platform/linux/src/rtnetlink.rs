//! The few requests of rtnetlink(7) that a link between nodes needs: bridge, veth pair, up, down,
//! a loopback address.
//!
//! A [`RouteSocket`] acts on the network namespace in which it was opened, wherever its owner goes
//! later. Each request waits for the kernel's acknowledgement, which the kernel gives before the
//! send returns.

use rustix::io::{self, Errno};
use rustix::net::netdevice::name_to_index;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// Longest name of an interface (`IFNAMSIZ` less the terminating zero).
pub const NAME_BYTES_MAX: usize = 15;

/// A socket to rtnetlink.
#[derive(Debug)]
pub struct RouteSocket(OwnedFd);

impl RouteSocket {
    /// Opens a socket that acts on the caller's network namespace.
    ///
    /// # Errors
    /// What socket(2) reports.
    pub fn open() -> io::Result<Self> {
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self(socket))
    }

    /// Returns the index of the interface of this name.
    ///
    /// # Errors
    /// `ENODEV` if there is none.
    pub fn index(&self, name: &str) -> io::Result<u32> {
        let any = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
        name_to_index(any, name)
    }

    /// Makes a bridge that is up, forwards at once and floods every multicast.
    ///
    /// # Errors
    /// `EOPNOTSUPP` if the kernel lacks bridges, `EEXIST` if the name is taken, `EPERM`.
    pub fn create_bridge(&self, name: &str) -> io::Result<()> {
        let mut request = Request::new_link(0, Some(true));
        request.string(libc::IFLA_IFNAME, checked(name)?);
        request.nested(libc::IFLA_LINKINFO, |info| {
            info.string(libc::IFLA_INFO_KIND, "bridge");
            info.nested(libc::IFLA_INFO_DATA, |data| {
                data.bytes(IFLA_BR_MCAST_SNOOPING, &[0]);
            });
        });
        self.perform(request)
    }

    /// Makes a veth pair: one end here, up, a port of `bridge`; the other, `peer`, in the network
    /// namespace that `namespace` names, not yet up.
    ///
    /// # Errors
    /// `EOPNOTSUPP` if the kernel lacks veth, `EEXIST` if a name is taken, `EPERM`.
    pub fn create_port(
        &self,
        name: &str,
        bridge: u32,
        peer: &str,
        namespace: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let namespace = namespace.as_raw_fd().to_ne_bytes();
        let (name, peer) = (checked(name)?, checked(peer)?);
        let mut request = Request::new_link(0, Some(true));
        request.string(libc::IFLA_IFNAME, name);
        request.bytes(libc::IFLA_MASTER, &bridge.to_ne_bytes());
        request.nested(libc::IFLA_LINKINFO, |info| {
            info.string(libc::IFLA_INFO_KIND, "veth");
            info.nested(libc::IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |end| {
                    end.link_header(0, None);
                    end.string(libc::IFLA_IFNAME, peer);
                    end.bytes(libc::IFLA_NET_NS_FD, &namespace);
                });
            });
        });
        self.perform(request)
    }

    /// Makes an interface with an address of its own on the link of `lower` (macvlan in bridge
    /// mode), in the network namespace that `namespace` names, not yet up.
    ///
    /// # Errors
    /// `EOPNOTSUPP` if the kernel lacks macvlan, `EEXIST` if the name is taken, `EPERM`.
    pub fn create_sibling(
        &self,
        name: &str,
        lower: u32,
        namespace: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let mut request = Request::new_link(0, None);
        request.string(libc::IFLA_IFNAME, checked(name)?);
        request.bytes(libc::IFLA_LINK, &lower.to_ne_bytes());
        request.bytes(libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
        request.nested(libc::IFLA_LINKINFO, |info| {
            info.string(libc::IFLA_INFO_KIND, "macvlan");
            info.nested(libc::IFLA_INFO_DATA, |data| {
                data.bytes(IFLA_MACVLAN_MODE, &MACVLAN_MODE_BRIDGE.to_ne_bytes());
            });
        });
        self.perform(request)
    }

    /// Sets an interface up or down.
    ///
    /// # Errors
    /// `ENODEV` if there is no such interface, `EPERM`.
    pub fn set_up(&self, index: u32, up: bool) -> io::Result<()> {
        let mut request = Request::new_link(index, Some(up));
        request.message[FLAGS_AT..FLAGS_AT + 2]
            .copy_from_slice(&flags(libc::NLM_F_REQUEST | libc::NLM_F_ACK).to_ne_bytes());
        self.perform(request)
    }

    /// Gives an interface an address that is for this network namespace alone.
    ///
    /// # Errors
    /// `ENODEV` if there is no such interface, `EEXIST` if it has the address, `EPERM`.
    pub fn add_own_address(
        &self,
        index: u32,
        address: Ipv4Addr,
        prefix_bits: u8,
    ) -> io::Result<()> {
        let mut request = Request::new(libc::RTM_NEWADDR);
        let family = AddressFamily::INET.as_raw().to_ne_bytes()[0];
        request.message.extend([family, prefix_bits, 0, libc::RT_SCOPE_HOST]);
        request.message.extend(index.to_ne_bytes());
        request.bytes(libc::IFA_LOCAL, &address.octets());
        request.bytes(libc::IFA_ADDRESS, &address.octets());
        self.perform(request)
    }

    fn perform(&self, request: Request) -> io::Result<()> {
        let message = request.finish()?;
        sendto(&self.0, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut answer = [0_u8; 4096];
        let (bytes, _) = recv(&self.0, &mut answer[..], RecvFlags::empty())?;
        acknowledged(answer.get(..bytes).unwrap_or_default())
    }
}

/// Not in libc: `IFLA_BR_MCAST_SNOOPING` of linux/if_link.h.
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
/// Not in libc: `VETH_INFO_PEER` of linux/veth.h.
const VETH_INFO_PEER: u16 = 1;
/// Not in libc: `IFLA_MACVLAN_MODE` of linux/if_link.h.
const IFLA_MACVLAN_MODE: u16 = 1;
/// Not in libc: `MACVLAN_MODE_BRIDGE`.
const MACVLAN_MODE_BRIDGE: u32 = 4;
/// Where `nlmsg_flags` lies in a message.
const FLAGS_AT: usize = 6;
/// Where the error lies in an `NLMSG_ERROR` message.
const ERROR_AT: usize = 16;

/// A request under construction: `nlmsghdr`, `ifinfomsg`, attributes, all aligned to 4 bytes.
struct Request {
    message: Vec<u8>,
}

impl Request {
    /// Starts a request that creates.
    fn new(kind: u16) -> Self {
        let mut message = vec![0_u8; 4];
        message.extend(kind.to_ne_bytes());
        let creates = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        message.extend(flags(creates).to_ne_bytes());
        message.extend([0; 8]);
        Self { message }
    }

    /// Starts an `RTM_NEWLINK` that creates.
    fn new_link(index: u32, up: Option<bool>) -> Self {
        let mut request = Self::new(libc::RTM_NEWLINK);
        request.link_header(index, up);
        request
    }

    fn link_header(&mut self, index: u32, up: Option<bool>) {
        const IFF_UP: u32 = libc::IFF_UP as u32;
        self.message.extend([0; 4]);
        self.message.extend(index.to_ne_bytes());
        self.message.extend(if up == Some(true) { IFF_UP } else { 0 }.to_ne_bytes());
        self.message.extend(if up.is_some() { IFF_UP } else { 0 }.to_ne_bytes());
    }

    fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.nested(kind, |request| request.message.extend(value));
    }

    fn string(&mut self, kind: u16, value: &str) {
        self.nested(kind, |request| {
            request.message.extend(value.as_bytes());
            request.message.push(0);
        });
    }

    /// Appends an attribute whose value `fill` appends. Values here stay far below 64 KiB.
    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.message.len();
        self.message.extend([0; 2]);
        self.message.extend(kind.to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.message.len() - start).unwrap_or(u16::MAX);
        self.message[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.message.resize(self.message.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> io::Result<Vec<u8>> {
        let length = u32::try_from(self.message.len()).map_err(|_| Errno::MSGSIZE)?;
        self.message[..4].copy_from_slice(&length.to_ne_bytes());
        Ok(self.message)
    }
}

fn flags(bits: i32) -> u16 {
    u16::try_from(bits).unwrap_or(0)
}

fn checked(name: &str) -> io::Result<&str> {
    let fits = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains('\0');
    if fits { Ok(name) } else { Err(Errno::INVAL) }
}

/// Reads an acknowledgement: an `NLMSG_ERROR` whose error is 0.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let error = answer
        .get(ERROR_AT..ERROR_AT + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_ne_bytes)
        .ok_or(Errno::BADMSG)?;
    if error == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(-error)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_nest_and_are_padded() {
        let mut request = Request::new_link(7, Some(true));
        let header = request.message.len();
        assert_eq!(header, 32);
        request.nested(18, |info| info.string(1, "veth"));
        let message = request.finish().unwrap();
        assert_eq!(message.len(), header + 4 + 4 + 8);
        assert_eq!(message[..4], u32::try_from(message.len()).unwrap().to_ne_bytes());
        assert_eq!(message[header..header + 2], 13_u16.next_multiple_of(4).to_ne_bytes());
        assert_eq!(message[header + 4..header + 6], 9_u16.to_ne_bytes());
        assert_eq!(&message[header + 8..header + 13], b"veth\0");
    }

    #[test]
    fn an_error_is_reported_and_a_short_answer_refused() {
        let mut answer = [0_u8; 20];
        assert_eq!(acknowledged(&answer), Ok(()));
        answer[ERROR_AT..].copy_from_slice(&(-17_i32).to_ne_bytes());
        assert_eq!(acknowledged(&answer), Err(Errno::EXIST));
        assert_eq!(acknowledged(&answer[..10]), Err(Errno::BADMSG));
    }

    #[test]
    fn names_are_checked() {
        assert!(checked("fab0").is_ok());
        assert!(checked("").is_err());
        assert!(checked("a-name-of-16-chr").is_err());
    }
}
