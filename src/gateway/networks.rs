//! Sets of networks, in which an address is found by halving, however many there are.

use std::net::IpAddr;

use ipnet::IpNet;

/// A set of networks.
#[derive(Debug, Default)]
pub(super) struct Networks {
    /// The first and the last address of each range, in order. Those of IPv4 come before those of IPv6.
    ranges: Box<[(IpAddr, IpAddr)]>,
}

impl Networks {
    pub(super) fn new(networks: &[IpNet]) -> Self {
        let ranges = networks.iter().map(|network| {
            // A network of mapped IPv4 addresses is one of IPv4.
            let last = network.broadcast().to_canonical();
            match network.network().to_canonical() {
                first if first.is_ipv4() == last.is_ipv4() => (first, last),
                _ => (network.network(), network.broadcast()),
            }
        });
        let mut ranges: Vec<_> = ranges.collect();
        ranges.sort_unstable();
        // Of two networks that overlap, one contains the other.
        ranges.dedup_by(|(_, last), (_, before)| last <= before);
        Self {
            ranges: ranges.into(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let behind = self.ranges.partition_point(|(first, _)| *first <= ip);
        let before = behind.checked_sub(1).map(|at| self.ranges[at]);
        before.is_some_and(|(_, last)| ip <= last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> IpNet {
        text.parse().expect(text)
    }

    #[test]
    fn networks_of_mapped_addresses_are_those_of_ipv4() {
        let networks = Networks::new(&["::ffff:10.0.0.0/104", "2001:db8::/32"].map(network));
        for (ip, is_in) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.0", false),
            ("2001:db8::1", true),
            ("2001:db9::", false),
            ("::1", false),
        ] {
            assert_eq!(networks.contains(ip.parse().expect(ip)), is_in, "{ip}");
        }
        // All of IPv6, which has no address of IPv4 but in another form.
        let all = Networks::new(&[network("::/0")]);
        assert!(all.contains("::1".parse().expect("an address")));
        assert!(!all.contains("10.0.0.1".parse().expect("an address")));
        assert!(Networks::new(&[]).is_empty());
    }

    fn networks() -> impl Strategy<Value = Vec<IpNet>> {
        // Few bits differ, so that many networks overlap or touch.
        let v4 = (0_u32..64, 24_u8..=32).prop_map(|(ip, len)| {
            IpNet::new(IpAddr::from((ip << 2).to_be_bytes()), len).expect("a length")
        });
        let v6 = (0_u128..64, 120_u8..=128).prop_map(|(ip, len)| {
            let ip = (0x2001 << 112) | (ip << 2);
            IpNet::new(IpAddr::from(ip.to_be_bytes()), len).expect("a length")
        });
        prop::collection::vec(prop_oneof![v4, v6], 0..12)
    }

    proptest! {
        #[test]
        fn an_address_is_in_a_set_if_it_is_in_one_of_its_networks(networks in networks()) {
            let set = Networks::new(&networks);
            for low in 0..=260_u16 {
                for ip in [
                    IpAddr::from([0, 0, (low >> 8) as u8, low as u8]),
                    IpAddr::from([0x2001, 0, 0, 0, 0, 0, 0, low]),
                ] {
                    let wanted = networks.iter().any(|network| network.contains(&ip));
                    prop_assert_eq!(set.contains(ip), wanted, "{}", ip);
                }
            }
        }
    }
}
