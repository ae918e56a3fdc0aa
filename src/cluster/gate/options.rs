use std::sync::Arc;
use std::time::Duration;

use super::RefusedPacket;
use crate::cluster::drpc::Secret;
use crate::cluster::link::LaneOptions;
#[cfg(feature = "tls")]
use crate::cluster::link::LinkTls;
use crate::cluster::packet::{Packet, PacketOptions};

/// The side that sends the heartbeats, of a gate and its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeartbeatMode {
    /// The clients. The gate answers each.
    #[default]
    Respond,
    /// The gate, one each interval.
    Tick,
}

/// The treatment of a client that does not read what is pushed to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SlowClient {
    /// It is disconnected.
    #[default]
    Close,
    /// It misses pushes.
    Drop,
}

/// The treatment of a user that logs in on a second connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DuplicateLogin {
    /// The older connection loses the user, is told [`Goodbye`](crate::cluster::packet::Control::Goodbye) if it speaks control
    /// packets, and is closed.
    #[default]
    Replace,
    /// The older connection loses the user and stays, as at a gate of due.
    Unbind,
    /// The bind fails. Two that begin at the same moment may both pass; then the later one holds.
    Refuse,
}

/// The most that a client may send, over time.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use epicycle::cluster::gate::{OverRate, RateLimit};
///
/// let limit = RateLimit::per_second(200, 256 << 10).burst(Duration::from_secs(2)).policy(OverRate::Close);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it has no effect until it is given to a gate"]
pub struct RateLimit {
    pub(super) packets: u32,
    pub(super) bytes: u32,
    pub(super) burst: Duration,
    pub(super) policy: OverRate,
}

/// The treatment of a client that sends more than its [`RateLimit`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OverRate {
    /// The gate reads no more from it until it may send again.
    #[default]
    Delay,
    /// The packet is dropped.
    Drop,
    /// It is disconnected.
    Close,
}

impl RateLimit {
    /// Limits the packets and the bytes that a client sends in a second, heartbeats included. 0 means no limit.
    pub fn per_second(packets: u32, bytes: u32) -> Self {
        Self {
            packets,
            bytes,
            burst: Duration::from_secs(1),
            policy: OverRate::default(),
        }
    }

    /// Sets for how long a client can save up what it does not send. Default: 1 s, so that a client that was silent may send the
    /// packets of a second at once.
    pub fn burst(mut self, time: Duration) -> Self {
        self.burst = time;
        self
    }

    /// Sets what happens to a client that sends more. Default: [`OverRate::Delay`].
    pub fn policy(mut self, policy: OverRate) -> Self {
        self.policy = policy;
        self
    }
}

/// Answers a packet that was refused, if it returns the data of an answer.
pub(super) type OnRefused =
    Arc<dyn Fn(&Packet<'_>, RefusedPacket) -> Option<Vec<u8>> + Send + Sync>;

/// The options that all reactors of a gate need.
#[derive(Clone)]
pub(super) struct Options {
    pub(super) packet: PacketOptions,
    pub(super) heartbeat: HeartbeatMode,
    pub(super) interval: Duration,
    pub(super) authorize_timeout: Duration,
    pub(super) max_connections: usize,
    pub(super) max_connections_per_ip: usize,
    pub(super) max_links: usize,
    pub(super) rate: Option<RateLimit>,
    pub(super) outbound_limit: usize,
    pub(super) slow: SlowClient,
    pub(super) duplicate: DuplicateLogin,
    /// In milliseconds.
    pub(super) retry_within: u32,
    pub(super) secret: Option<Secret>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<LinkTls>,
    pub(super) lanes: LaneOptions,
    pub(super) on_refused: Option<OnRefused>,
}
