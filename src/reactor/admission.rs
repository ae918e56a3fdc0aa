//! Who may connect: the limits on the number of connections, in all and from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::addr::Addr;

/// Counts the connections of an engine against its limits.
#[derive(Debug)]
pub(crate) struct Admission {
    max: usize,
    open: AtomicUsize,
    max_per_ip: usize,
    /// Only kept when there is a limit, so the common case takes no lock.
    per_ip: Mutex<HashMap<IpAddr, usize>>,
}

impl Admission {
    pub(crate) fn new(max: usize, max_per_ip: usize) -> Self {
        Self {
            max,
            open: AtomicUsize::new(0),
            max_per_ip,
            per_ip: Mutex::default(),
        }
    }

    /// Counts one more connection from `peer`, unless a limit forbids it.
    pub(crate) fn admit(&self, peer: &Addr) -> bool {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.max {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        if let Some(ip) = self.limited_ip(peer) {
            let mut per_ip = self.per_ip.lock();
            let count = per_ip.entry(ip).or_default();
            if *count >= self.max_per_ip {
                drop(per_ip);
                self.open.fetch_sub(1, Ordering::Relaxed);
                return false;
            }
            *count += 1;
        }
        true
    }

    /// A connection that was admitted has ended.
    pub(crate) fn release(&self, peer: &Addr) {
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

    fn limited_ip(&self, peer: &Addr) -> Option<IpAddr> {
        if self.max_per_ip == usize::MAX {
            return None;
        }
        peer.ip()
    }
}
