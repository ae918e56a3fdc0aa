use std::sync::Arc;
use std::time::Duration;

use super::RefusedPacket;
use crate::cluster::Error;
use crate::cluster::chance::Chance;
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

/// The options of [resume](super::GateBuilder::resume).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use epicycle::cluster::gate::ResumeOptions;
///
/// let options = ResumeOptions::new().window(Duration::from_secs(60)).buffer(128 << 10);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it has no effect until it is given to a gate"]
pub struct ResumeOptions {
    pub(super) window: Duration,
    pub(super) buffer: usize,
    pub(super) lifetime: Duration,
    pub(super) max_users: usize,
    pub(super) max_bytes: usize,
}

impl ResumeOptions {
    /// Returns the defaults.
    pub fn new() -> Self {
        Self {
            window: Duration::from_secs(30),
            buffer: 64 << 10,
            lifetime: Duration::from_secs(24 * 3600),
            max_users: 10_000,
            max_bytes: 64 << 20,
        }
    }

    /// Sets the time within which a user can come back after the loss of its connection. Then nodes are told Disconnect. Default: 30 s.
    pub fn window(mut self, time: Duration) -> Self {
        self.window = time;
        self
    }

    /// Sets the bytes of pushes that are kept for a user who has a token. A client that has missed more is refused. It can be half of
    /// [`outbound_limit`](super::GateBuilder::outbound_limit) at most. Default: 64 KiB.
    pub fn buffer(mut self, bytes: usize) -> Self {
        self.buffer = bytes;
        self
    }

    /// Sets the time for which a token is good while its connection lives. Default: 24 h.
    pub fn lifetime(mut self, time: Duration) -> Self {
        self.lifetime = time;
        self
    }

    /// Sets the number of users without a connection that are waited for. A further one is gone at once. Default: 10,000.
    pub fn max_users(mut self, users: usize) -> Self {
        self.max_users = users;
        self
    }

    /// Sets the bytes of pushes that are kept for all users. Beyond it, those with new pushes lose their oldest. Default: 64 MiB.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    pub(super) fn check(&self, outbound_limit: usize) -> Result<(), Error> {
        if self.window.is_zero() || self.lifetime.is_zero() {
            let problem = "a window or a lifetime of zero leaves no time to come back; leave `resume` out instead";
            return Err(Error::argument("resume", problem));
        }
        if self.buffer > outbound_limit / 2 {
            let problem = format!(
                "a buffer of {} bytes is more than half of the outbound limit of {outbound_limit}; raise that, or keep less",
                self.buffer
            );
            return Err(Error::argument("resume", problem));
        }
        Ok(())
    }
}

impl Default for ResumeOptions {
    fn default() -> Self {
        Self::new()
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
    pub(super) resume: Option<ResumeOptions>,
    /// In milliseconds.
    pub(super) retry_within: u32,
    pub(super) secret: Option<Secret>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<LinkTls>,
    pub(super) lanes: LaneOptions,
    pub(super) on_refused: Option<OnRefused>,
    pub(super) chance: Chance,
}
