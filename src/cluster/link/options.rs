use std::time::Duration;

#[cfg(doc)]
use super::Lane;
use crate::cluster::Error;
use crate::cluster::config::ServerConfig;

/// The most that may wait on a connection. What is sent at once comes on top, and the engine's limit is 512 MiB.
const MAX_BACKLOG: usize = 256 << 20;

/// The limits and times of a [`Lane`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneOptions {
    /// The time within which a peer must have answered the opening. Default: 3 s.
    pub handshake_timeout: Duration,
    /// The time within which a call must be answered, counted from when it is made. Default: 3 s.
    pub call_timeout: Duration,
    /// The time between two heartbeats. Default: 10 s. A listener closes a link that is silent for 20 s.
    pub heartbeat: Duration,
    /// The maximum number of calls that wait for answers. More are refused with [`Error::Busy`]. Default: 65,536, at about 100
    /// bytes each.
    pub max_calls: usize,
    /// The maximum number of bytes that wait for a connection. Default: 4 MiB.
    pub queue_bytes: usize,
    /// The maximum time for which they wait. Default: 3 s.
    pub queue_time: Duration,
    /// The maximum number of bytes that the connection has not sent yet. More are refused with [`Error::Busy`]. Default: 64 MiB.
    pub max_backlog: usize,
}

impl LaneOptions {
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if no link could work with these.
    pub(in crate::cluster) fn check(&self) -> Result<(), Error> {
        let times = [
            ("handshake_timeout", self.handshake_timeout),
            ("call_timeout", self.call_timeout),
            ("heartbeat", self.heartbeat),
            ("queue_time", self.queue_time),
        ];
        for (name, time) in times {
            Error::if_zero(name, time)?;
        }
        if self.max_backlog > MAX_BACKLOG {
            let problem = format!(
                "a backlog of {} bytes is more than 256 MiB",
                self.max_backlog
            );
            return Err(Error::argument("lanes", problem));
        }
        Ok(())
    }

    /// Returns the options of a server's configuration.
    pub(in crate::cluster) fn from_config(server: &ServerConfig) -> Self {
        let mut options = Self::default();
        options.call_timeout = server.call_timeout.unwrap_or(options.call_timeout);
        options.handshake_timeout = server.dial_timeout.unwrap_or(options.handshake_timeout);
        options
    }
}

impl Default for LaneOptions {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(3),
            call_timeout: Duration::from_secs(3),
            heartbeat: Duration::from_secs(10),
            max_calls: 65_536,
            queue_bytes: 4 << 20,
            queue_time: Duration::from_secs(3),
            max_backlog: 64 << 20,
        }
    }
}
