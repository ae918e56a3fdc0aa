//! Membership in multicast groups.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use socket2::Socket;

/// A network interface of this host, for multicast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MulticastInterface {
    /// The interface that the system's routes select.
    #[default]
    Any,
    /// The interface with this index (`if_nametoindex(3)`). IPv4 groups support it on Linux, FreeBSD and Apple's systems
    /// only.
    Index(u32),
    /// The interface with this address. Only IPv4 groups support it.
    Addr(Ipv4Addr),
}

pub(super) fn join(
    socket: &Socket,
    group: IpAddr,
    interface: MulticastInterface,
) -> io::Result<()> {
    only_joined_groups(socket, group)?;
    match group {
        IpAddr::V4(group) => v4::join(socket, group, interface),
        IpAddr::V6(group) => socket.join_multicast_v6(&group, v6_index(interface)?),
    }
}

pub(super) fn leave(
    socket: &Socket,
    group: IpAddr,
    interface: MulticastInterface,
) -> io::Result<()> {
    match group {
        IpAddr::V4(group) => v4::leave(socket, group, interface),
        IpAddr::V6(group) => socket.leave_multicast_v6(&group, v6_index(interface)?),
    }
}

/// Selects the interface by which the socket's multicast datagrams leave.
pub(super) fn send_by(
    socket: &Socket,
    is_v6: bool,
    interface: MulticastInterface,
) -> io::Result<()> {
    if is_v6 {
        return socket.set_multicast_if_v6(v6_index(interface)?);
    }
    match interface {
        MulticastInterface::Any => socket.set_multicast_if_v4(&Ipv4Addr::UNSPECIFIED),
        MulticastInterface::Addr(addr) => socket.set_multicast_if_v4(&addr),
        MulticastInterface::Index(index) => v4::send_by_index(socket, index),
    }
}

fn v6_index(interface: MulticastInterface) -> io::Result<u32> {
    match interface {
        MulticastInterface::Any => Ok(0),
        MulticastInterface::Index(index) => Ok(index),
        MulticastInterface::Addr(_) => Err(unsupported(
            "an IPv6 group identifies an interface by its index; use MulticastInterface::Index",
        )),
    }
}

fn unsupported(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, problem)
}

/// Limits the socket to the groups that it has joined itself. By default, Linux also delivers datagrams of groups that other
/// sockets have joined.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn only_joined_groups(socket: &Socket, group: IpAddr) -> io::Result<()> {
    match group {
        IpAddr::V4(_) => socket.set_multicast_all_v4(false),
        IpAddr::V6(_) => socket.set_multicast_all_v6(false),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn only_joined_groups(_socket: &Socket, _group: IpAddr) -> io::Result<()> {
    Ok(())
}

/// Calls for IPv4 groups, on systems that identify an interface by its index or its address.
#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_vendor = "apple"
))]
mod v4 {
    use rustix::net::sockopt::set_ip_multicast_if_with_ifindex;
    use socket2::InterfaceIndexOrAddress;

    use super::{Ipv4Addr, MulticastInterface, Socket, io};

    pub(super) fn join(socket: &Socket, group: Ipv4Addr, on: MulticastInterface) -> io::Result<()> {
        socket.join_multicast_v4_n(&group, &to_socket2(on))
    }

    pub(super) fn leave(
        socket: &Socket,
        group: Ipv4Addr,
        on: MulticastInterface,
    ) -> io::Result<()> {
        socket.leave_multicast_v4_n(&group, &to_socket2(on))
    }

    pub(super) fn send_by_index(socket: &Socket, index: u32) -> io::Result<()> {
        let any = Ipv4Addr::UNSPECIFIED;
        Ok(set_ip_multicast_if_with_ifindex(socket, &any, &any, index)?)
    }

    fn to_socket2(interface: MulticastInterface) -> InterfaceIndexOrAddress {
        match interface {
            MulticastInterface::Any => InterfaceIndexOrAddress::Address(Ipv4Addr::UNSPECIFIED),
            MulticastInterface::Index(index) => InterfaceIndexOrAddress::Index(index),
            MulticastInterface::Addr(addr) => InterfaceIndexOrAddress::Address(addr),
        }
    }
}

/// Calls for IPv4 groups, on systems that identify an interface by its address only.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_vendor = "apple"
)))]
mod v4 {
    use super::{Ipv4Addr, MulticastInterface, Socket, io, unsupported};

    pub(super) fn join(socket: &Socket, group: Ipv4Addr, on: MulticastInterface) -> io::Result<()> {
        socket.join_multicast_v4(&group, &address(on)?)
    }

    pub(super) fn leave(
        socket: &Socket,
        group: Ipv4Addr,
        on: MulticastInterface,
    ) -> io::Result<()> {
        socket.leave_multicast_v4(&group, &address(on)?)
    }

    pub(super) fn send_by_index(_socket: &Socket, _index: u32) -> io::Result<()> {
        Err(by_address())
    }

    fn address(interface: MulticastInterface) -> io::Result<Ipv4Addr> {
        match interface {
            MulticastInterface::Any => Ok(Ipv4Addr::UNSPECIFIED),
            MulticastInterface::Addr(addr) => Ok(addr),
            MulticastInterface::Index(_) => Err(by_address()),
        }
    }

    fn by_address() -> io::Error {
        unsupported(
            "on this platform an IPv4 group identifies an interface by its address; use MulticastInterface::Addr",
        )
    }
}
