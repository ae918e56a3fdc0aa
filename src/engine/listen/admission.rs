//! The limits on the number of connections, in total and from one network.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
#[cfg(feature = "cluster")]
use std::sync::Arc;
#[cfg(feature = "cluster")]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// Counts the connections of an engine against its limits.
#[derive(Debug)]
pub(crate) struct Admission {
    max: usize,
    open: AtomicUsize,
    max_per_ip: usize,
    prefix: Prefix,
    /// The number of connections by network address. It is only kept if there is a limit, so that the usual case takes no
    /// lock.
    per_ip: Mutex<HashMap<IpAddr, usize>>,
}

/// The number of leading bits of an address that name the network. A network counts as one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    v4: u8,
    v6: u8,
}

impl Prefix {
    /// A whole IPv4 address, and the /64 that an IPv6 host has to itself (RFC 6177, RFC 7934).
    #[cfg(feature = "cluster")]
    pub(crate) const HOST: Self = Self { v4: 32, v6: 64 };

    /// Returns none unless `v4` is from 1 to 32 and `v6` from 1 to 128.
    pub(crate) fn new(v4: u8, v6: u8) -> Option<Self> {
        ((1..=32).contains(&v4) && (1..=128).contains(&v6)).then_some(Self { v4, v6 })
    }

    /// Returns the network of an address. An IPv4 address that is mapped into IPv6 counts as IPv4.
    fn of(self, ip: IpAddr) -> IpAddr {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let mask = !u32::MAX.checked_shr(self.v4.into()).unwrap_or(0);
                Ipv4Addr::from_bits(ip.to_bits() & mask).into()
            }
            IpAddr::V6(ip) => {
                let mask = !u128::MAX.checked_shr(self.v6.into()).unwrap_or(0);
                Ipv6Addr::from_bits(ip.to_bits() & mask).into()
            }
        }
    }
}

/// Counts the connections of a listener that have not passed the steps before `on_open`, against the limits of an application that
/// admits connections by itself once they are open.
#[cfg(feature = "cluster")]
#[derive(Debug)]
pub(crate) struct Entrance {
    admission: Arc<Admission>,
    /// False if the peers are proxies, so that no limit for an address applies to them.
    counts_peers: bool,
    refused: AtomicU64,
}

/// The place of a connection that has not passed the steps before `on_open`.
#[cfg(feature = "cluster")]
#[derive(Debug)]
pub(crate) struct Entering {
    entrance: Arc<Entrance>,
    peer: Option<IpAddr>,
}

#[cfg(feature = "cluster")]
impl Entrance {
    pub(crate) fn new(admission: Arc<Admission>, counts_peers: bool) -> Self {
        Self {
            admission,
            counts_peers,
            refused: AtomicU64::new(0),
        }
    }

    /// Returns a place, unless a limit forbids it.
    pub(crate) fn enter(self: &Arc<Self>, peer: Option<IpAddr>) -> Option<Entering> {
        let peer = peer.filter(|_| self.counts_peers);
        if !self.admission.admit(peer) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let entrance = self.clone();
        Some(Entering { entrance, peer })
    }

    /// Returns the limits.
    pub(crate) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Returns the number of connections that were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(feature = "cluster")]
impl Drop for Entering {
    fn drop(&mut self) {
        self.entrance.admission.release(self.peer);
    }
}

impl Admission {
    pub(crate) fn new(max: usize, max_per_ip: usize, prefix: Prefix) -> Self {
        Self {
            max,
            open: AtomicUsize::new(0),
            max_per_ip,
            prefix,
            per_ip: Mutex::default(),
        }
    }

    /// Counts one more connection, and counts it for the address of its peer if that is known. Returns false if a limit forbids
    /// it.
    pub(crate) fn admit(&self, peer: Option<IpAddr>) -> bool {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.max {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        let is_admitted = self.admit_peer(peer);
        if !is_admitted {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
        is_admitted
    }

    /// Counts a connection, which is counted already, for the address of its peer. Returns false if the limit forbids it.
    pub(crate) fn admit_peer(&self, peer: Option<IpAddr>) -> bool {
        if let Some(ip) = self.limited_ip(peer) {
            let mut per_ip = self.per_ip.lock();
            let count = per_ip.entry(ip).or_default();
            if *count >= self.max_per_ip {
                return false;
            }
            *count += 1;
        }
        true
    }

    /// Returns the number of connections.
    #[cfg(feature = "cluster")]
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Removes an admitted connection that has ended from the counts.
    pub(crate) fn release(&self, peer: Option<IpAddr>) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(ip) = self.limited_ip(peer) {
            let mut per_ip = self.per_ip.lock();
            if let Some(count) = per_ip.get_mut(&ip) {
                *count -= 1;
                if *count == 0 {
                    per_ip.remove(&ip);
                }
            }
        }
    }

    fn limited_ip(&self, peer: Option<IpAddr>) -> Option<IpAddr> {
        if self.max_per_ip == usize::MAX {
            return None;
        }
        peer.map(|ip| self.prefix.of(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(ip: &str) -> Option<IpAddr> {
        Some(ip.parse().expect("an address"))
    }

    #[test]
    fn a_peer_is_a_network() {
        let of = |v4, v6, ip: &str| {
            let prefix = Prefix { v4, v6 };
            prefix.of(ip.parse().expect("an address")).to_string()
        };
        assert_eq!(of(32, 64, "192.0.2.77"), "192.0.2.77");
        assert_eq!(of(24, 64, "192.0.2.77"), "192.0.2.0");
        assert_eq!(of(1, 64, "192.0.2.77"), "128.0.0.0");
        assert_eq!(of(32, 64, "2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of(32, 56, "2001:db8:1:2ff:3:4:5:6"), "2001:db8:1:200::");
        assert_eq!(of(32, 128, "2001:db8::5"), "2001:db8::5");
        // As IPv6 addresses, all mapped addresses would be in one network.
        assert_eq!(of(32, 64, "::ffff:192.0.2.77"), "192.0.2.77");
        assert_eq!(of(24, 64, "::ffff:192.0.2.77"), "192.0.2.0");
    }

    #[test]
    fn a_refusal_for_one_network_takes_no_place_of_the_others() {
        let admission = Admission::new(3, 1, Prefix { v4: 32, v6: 64 });
        assert!(admission.admit(peer("2001:db8::1")));
        for _ in 0..10 {
            assert!(!admission.admit(peer("2001:db8::2")));
        }
        assert!(admission.admit(peer("2001:db8:0:1::1")));
        assert!(admission.admit(peer("192.0.2.1")));
        assert!(!admission.admit(peer("192.0.2.2")), "the total is full");
        admission.release(peer("2001:db8::1"));
        assert!(admission.admit(peer("2001:db8::2")));
        assert!(!admission.admit(peer("192.0.2.2")), "the total is full");
        assert_eq!(admission.per_ip.lock().len(), 3);
    }
}
