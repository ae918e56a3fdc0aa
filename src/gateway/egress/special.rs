//! The networks that are no part of the public Internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Returns a name for the kind of an address that is no public unicast address.
///
/// Sources: the IANA registries of special-purpose IPv4 and IPv6 addresses (RFC 6890), of IPv4 multicast (RFC 5771), and of
/// global IPv6 unicast (RFC 4291: all of it is in `2000::/3`).
pub(super) fn kind(ip: IpAddr) -> Option<&'static str> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => kind_of_v4(ip),
        IpAddr::V6(ip) => match embedded(ip) {
            Some(within) => kind_of_v4(within),
            None => kind_of_v6(ip),
        },
    }
}

/// Returns the IPv4 address within an IPv6 address to which a gateway on the way leads.
pub(super) fn within(ip: IpAddr) -> Option<IpAddr> {
    match ip.to_canonical() {
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => embedded(ip).map(IpAddr::V4),
    }
}

/// Returns the network around an address that is no public unicast address.
pub(super) fn network(ip: IpAddr) -> Option<IpNet> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => find(V4, |net: &Ipv4Net| net.contains(&ip)).map(|(net, _)| net.into()),
        IpAddr::V6(ip) => find(V6, |net: &Ipv6Net| net.contains(&ip)).map(|(net, _)| net.into()),
    }
}

fn find<N: Copy>(
    table: &[(N, &'static str)],
    is_in: impl Fn(&N) -> bool,
) -> Option<(N, &'static str)> {
    table.iter().find(|(net, _)| is_in(net)).copied()
}

fn kind_of_v4(ip: Ipv4Addr) -> Option<&'static str> {
    find(V4, |net| net.contains(&ip)).map(|(_, kind)| kind)
}

fn kind_of_v6(ip: Ipv6Addr) -> Option<&'static str> {
    if let Some((_, kind)) = find(V6, |net| net.contains(&ip)) {
        return Some(kind);
    }
    (ip.segments()[0] & 0xe000 != 0x2000).then_some("reserved")
}

/// Returns the IPv4 address that a gateway on the way takes out of an IPv6 address: 6to4 (RFC 3056) and NAT64 (RFC 6052).
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let octets = ip.octets();
    let at = match ip.segments() {
        [0x2002, ..] => 2,
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => 12,
        _ => return None,
    };
    octets[at..at + 4]
        .try_into()
        .ok()
        .map(|four: [u8; 4]| four.into())
}

const fn v4(a: u8, b: u8, c: u8, d: u8, len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len)
}

const fn v6(first: u16, second: u16, third: u16, len: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(first, second, third, 0, 0, 0, 0, 0), len)
}

const V4: &[(Ipv4Net, &str)] = &[
    (v4(0, 0, 0, 0, 8), "unspecified"),
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(100, 64, 0, 0, 10), "shared by carriers"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(169, 254, 0, 0, 16), "link-local"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 0, 0, 0, 24), "reserved"),
    (v4(192, 0, 2, 0, 24), "for documentation"),
    (v4(192, 88, 99, 0, 24), "reserved"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(198, 18, 0, 0, 15), "for benchmarks"),
    (v4(198, 51, 100, 0, 24), "for documentation"),
    (v4(203, 0, 113, 0, 24), "for documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
];

const V6: &[(Ipv6Net, &str)] = &[
    (
        Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128),
        "unspecified",
    ),
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), "loopback"),
    (v6(0x64, 0xff9b, 1, 48), "private"),
    (v6(0x100, 0, 0, 64), "reserved"),
    (v6(0x2001, 0, 0, 23), "reserved"),
    (v6(0x2001, 0xdb8, 0, 32), "for documentation"),
    (v6(0x3fff, 0, 0, 20), "for documentation"),
    (v6(0x5f00, 0, 0, 16), "reserved"),
    (v6(0xfc00, 0, 0, 7), "private"),
    (v6(0xfe80, 0, 0, 10), "link-local"),
    (v6(0xfec0, 0, 0, 10), "private"),
    (v6(0xff00, 0, 0, 8), "multicast"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_not_public_are_known_in_every_form() {
        for (ip, expected) in [
            ("0.0.0.0", "unspecified"),
            ("10.255.0.1", "private"),
            ("100.64.0.1", "shared by carriers"),
            ("100.127.255.255", "shared by carriers"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("169.254.169.254", "link-local"),
            ("172.31.0.1", "private"),
            ("192.168.0.1", "private"),
            ("198.19.0.1", "for benchmarks"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("255.255.255.255", "reserved"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::7f00:1", "reserved"),
            ("::ffff:10.0.0.1", "private"),
            ("::ffff:169.254.169.254", "link-local"),
            ("2002:7f00:1::", "loopback"),
            ("2002:a9fe:a9fe::1", "link-local"),
            ("64:ff9b::10.0.0.1", "private"),
            ("64:ff9b:1::8.8.8.8", "private"),
            ("2001:0:7f00:1::", "reserved"),
            ("2001:db8::1", "for documentation"),
            ("fc00::1", "private"),
            ("fd00:ec2::254", "private"),
            ("fe80::1", "link-local"),
            ("ff02::1", "multicast"),
            ("4000::1", "reserved"),
        ] {
            assert_eq!(kind(ip.parse().expect(ip)), Some(expected), "{ip}");
        }
    }

    #[test]
    fn public_addresses_are_not_special() {
        for ip in [
            "1.1.1.1",
            "9.255.255.255",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "172.32.0.1",
            "192.0.1.1",
            "223.255.255.255",
            "::ffff:1.1.1.1",
            "2002:101:101::",
            "64:ff9b::1.1.1.1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
        ] {
            assert_eq!(kind(ip.parse().expect(ip)), None, "{ip}");
        }
    }
}
