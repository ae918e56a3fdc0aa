//! Records the servers' callbacks: the opened connections, and the reason of each close.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use epicycle::{CloseReason, Closed};

use super::behaviour::Behaviour;

/// The number of closed connections, by client and reason.
pub(crate) type Ends = BTreeMap<String, BTreeMap<String, u64>>;

/// The connections of one server.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    opened: AtomicU64,
    closed: AtomicU64,
    ends: Mutex<Ends>,
}

impl Ledger {
    pub(crate) fn open(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn close(&self, closed: &Closed, reason: &CloseReason) {
        let who = match closed.peer.ip() {
            Some(IpAddr::V4(address)) => Behaviour::at(address),
            _ => "unknown",
        };
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = ends.entry(who.to_owned()).or_default();
        *ends.entry(name(reason)).or_default() += 1;
        self.closed.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of calls of `on_open` and `on_close`.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (
            self.opened.load(Ordering::Relaxed),
            self.closed.load(Ordering::Relaxed),
        )
    }

    pub(crate) fn ends(&self) -> Ends {
        self.ends
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Returns the kind of a close reason, without its details.
fn name(reason: &CloseReason) -> String {
    match reason {
        CloseReason::Reset(_) => "Reset".to_owned(),
        CloseReason::Io(_) => "Io".to_owned(),
        CloseReason::Tls(_) => "Tls".to_owned(),
        CloseReason::Frame(_) => "Frame".to_owned(),
        reason => format!("{reason:?}"),
    }
}
