//! The limits of connections: the server's, and those of a listener or a connection that differ.

use std::time::Duration;

use crate::buf::ring;
use crate::clock::millis;
use crate::error::Error;

/// The policy for a peer that does not read its output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OutboundPolicy {
    /// Above the high-water mark the input of an accepted connection is not read, so that its peer cannot ask for
    /// more. A connection that this side made is still read, because otherwise two such ends could wait for each
    /// other for ever. A codec may decide otherwise for either
    /// ([`Codec::backpressure`](crate::codec::Codec::backpressure)). A write beyond the outbound limit is refused
    /// with [`WriteError::Full`](crate::WriteError).
    #[default]
    PauseReads,
    /// All input is read. A write beyond the outbound limit is refused, which drops that message for this peer. Use
    /// it for feeds in which each message supersedes the last.
    Drop,
    /// All input is read. A write beyond the outbound limit closes the connection.
    Close,
}

/// The limits of some connections, where they differ from the server's.
///
/// [`Listen::limits`](crate::Listen::limits) applies them to the connections of a listener,
/// [`Connect::limits`](crate::Connect::limits) to an outbound connection, and
/// [`Conn::set_limits`](crate::Conn::set_limits) to an open connection. Each has the meaning and the cost of the option of the
/// same name of a [`Server`](crate::Server). What is not set stays as it was.
///
/// Connections with equal limits share them, so they cost no memory each.
///
/// ```
/// use std::time::Duration;
/// use epicycle::{ConnLimits, Listen, Server, service};
///
/// // People type slowly. Programs do not.
/// let people = ConnLimits::new().idle_timeout(Duration::from_secs(600)).max_frame(4 << 10);
/// let server = Server::bind("tcp://127.0.0.1:0")
///     .idle_timeout(Duration::from_secs(20))
///     .and(Listen::on("tcp://127.0.0.1:0").limits(people));
/// # server.start(|_| service(|conn, bytes| conn.write(bytes).into()))?;
/// # Ok::<(), epicycle::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "it has no effect until it is given to a listener or a connection"]
pub struct ConnLimits {
    pub(crate) idle: Option<Duration>,
    pub(crate) answer: Option<Duration>,
    pub(crate) read: Option<Duration>,
    pub(crate) write_stall: Option<Duration>,
    pub(crate) handshake: Option<Duration>,
    pub(crate) lifetime: Option<Duration>,
    pub(crate) fin: Option<Duration>,
    pub(crate) high_water: Option<usize>,
    pub(crate) low_water: Option<usize>,
    pub(crate) outbound: Option<usize>,
    pub(crate) policy: Option<OutboundPolicy>,
    pub(crate) max_files: Option<usize>,
    pub(crate) max_frame: Option<usize>,
}

/// Defines the setters of limits.
macro_rules! setters {
    ($($name:ident: $field:ident, $type:ty;)+) => {
        $(
            #[doc = concat!("Sets [`", stringify!($name), "`](crate::Server::", stringify!($name), ").")]
            pub fn $name(mut self, value: $type) -> Self {
                self.$field = Some(value);
                self
            }
        )+
    };
}

impl ConnLimits {
    /// Returns limits that change nothing.
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        idle_timeout: idle, Duration;
        answer_timeout: answer, Duration;
        read_timeout: read, Duration;
        write_stall_timeout: write_stall, Duration;
        handshake_timeout: handshake, Duration;
        lifetime: lifetime, Duration;
        fin_timeout: fin, Duration;
        high_water: high_water, usize;
        low_water: low_water, usize;
        outbound_limit: outbound, usize;
        outbound_policy: policy, OutboundPolicy;
        max_queued_files: max_files, usize;
        max_frame: max_frame, usize;
    }

    /// Returns these limits in the units of the loop, and `base` where none is set.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] with the name of the first limit that cannot work, and the remedy.
    pub(crate) fn over(&self, base: &Limits) -> Result<Limits, Error> {
        let max_frame = at_least_one("max_frame", self.max_frame.unwrap_or(base.max_frame))?;
        let max_files = self.max_files.unwrap_or(base.max_files);
        let max_files = at_least_one("max_queued_files", max_files)?;
        at_most_held("max_frame", max_frame)?;
        let (high_water, low_water, outbound) = self.output_over(base)?;
        let idle = timeout("idle_timeout", self.idle, base.idle)?;
        let handshake = timeout("handshake_timeout", self.handshake, base.handshake)?;
        let lifetime = timeout("lifetime", self.lifetime, base.lifetime)?;
        Ok(Limits {
            high_water,
            low_water,
            outbound,
            max_files,
            policy: self.policy.unwrap_or(base.policy),
            max_frame,
            watch_open: [idle, handshake, lifetime]
                .iter()
                .any(|limit| *limit != NEVER),
            idle,
            answer: timeout("answer_timeout", self.answer, base.answer)?,
            read: timeout("read_timeout", self.read, base.read)?,
            write_stall: timeout("write_stall_timeout", self.write_stall, base.write_stall)?,
            handshake,
            lifetime,
            drain: base.drain,
            fin: self.fin.map_or(base.fin, millis),
        })
    }

    /// Returns the high-water mark, the low-water mark below it, and the outbound limit, which is no lower.
    fn output_over(&self, base: &Limits) -> Result<(usize, usize, usize), Error> {
        let limit = self.outbound.unwrap_or(base.outbound);
        let high = self.high_water.unwrap_or(base.high_water.min(limit));
        at_least_one("high_water", high)?;
        at_most_held("outbound_limit", limit)?;
        if limit < SMALL_WRITE {
            let problem =
                format!("{limit} bytes is less than 16 KiB, which a single write may take");
            return Err(bad("outbound_limit", problem));
        }
        let usual_low = match high == base.high_water {
            true => base.low_water,
            false => high / 2,
        };
        let low = self.low_water.unwrap_or(usual_low);
        if low >= high {
            let problem = format!("{low} is not below the high-water mark, {high}");
            return Err(bad("low_water", problem));
        }
        if high > limit {
            let problem = format!("{high} is above the outbound limit, {limit}");
            return Err(bad("high_water", problem));
        }
        Ok((high, low, limit))
    }
}

pub(crate) fn bad(name: &'static str, problem: String) -> Error {
    Error::Option { name, problem }
}

pub(crate) fn at_least_one(name: &'static str, value: usize) -> Result<usize, Error> {
    if value == 0 {
        let problem = "0 would let nothing through; use 1 or more".to_owned();
        return Err(bad(name, problem));
    }
    Ok(value)
}

fn at_most_held(name: &'static str, bytes: usize) -> Result<usize, Error> {
    if bytes > MAX_HELD {
        let problem = format!("{bytes} bytes is more than 512 MiB, the most possible");
        return Err(bad(name, problem));
    }
    Ok(bytes)
}

/// Returns a timeout in milliseconds, or [`NEVER`].
fn timeout(name: &'static str, timeout: Option<Duration>, base: u64) -> Result<u64, Error> {
    if timeout.is_some_and(|timeout| timeout.is_zero()) {
        let problem = "zero would close every connection at once; use Duration::MAX for never";
        return Err(bad(name, problem.to_owned()));
    }
    Ok(timeout.map_or(base, millis))
}

/// The limits in the units that the loop compares: bytes, and milliseconds that may be [`NEVER`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Limits {
    /// Above the low-water mark and not above the outbound limit.
    pub(crate) high_water: usize,
    pub(crate) low_water: usize,
    pub(crate) outbound: usize,
    pub(crate) max_files: usize,
    pub(crate) policy: OutboundPolicy,
    pub(crate) max_frame: usize,
    /// True if a connection has a limit from its start.
    pub(crate) watch_open: bool,
    pub(crate) idle: u64,
    pub(crate) answer: u64,
    pub(crate) read: u64,
    pub(crate) write_stall: u64,
    pub(crate) handshake: u64,
    pub(crate) lifetime: u64,
    pub(crate) drain: u64,
    pub(crate) fin: u64,
}

impl Default for Limits {
    /// Returns the limits of a server that sets none.
    fn default() -> Self {
        Self {
            high_water: 1 << 20,
            low_water: 1 << 19,
            outbound: 64 << 20,
            max_files: 16,
            policy: OutboundPolicy::PauseReads,
            max_frame: 16 << 20,
            watch_open: false,
            idle: NEVER,
            answer: NEVER,
            read: NEVER,
            write_stall: 60_000,
            handshake: NEVER,
            lifetime: NEVER,
            drain: 30_000,
            fin: 5_000,
        }
    }
}

/// The most that a connection may receive and handle before other connections are served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budgets {
    pub(crate) bytes: usize,
    pub(crate) frames: usize,
}

/// The longest frame and the largest outbound limit, in bytes.
const MAX_HELD: usize = ring::MAX_CAPACITY / 2;

/// Writes below this size are staged without a check of the outbound limit, which cannot be smaller.
pub(crate) const SMALL_WRITE: usize = 16 << 10;

/// The number of bytes that may be written beyond the outbound limit while the kernel has refused nothing. The kernel
/// is offered no output before the callback returns.
pub(crate) const UNOFFERED: usize = 1 << 20;

/// The longest time between two checks of the bytes that a peer has acknowledged, in milliseconds.
const MAX_CHECK_INTERVAL: u64 = 60_000;

/// A time that never comes. Additions to it saturate.
pub(crate) const NEVER: u64 = u64::MAX;

impl Limits {
    /// Returns the length of the longest write that can be accepted.
    pub(crate) fn longest_write(&self) -> usize {
        self.outbound.max(UNOFFERED)
    }

    /// Returns the time between two checks of the bytes that a peer has acknowledged, in milliseconds. With it, a
    /// limit that counts from the last progress is off by no more than an eighth.
    pub(crate) fn check_interval(&self) -> u64 {
        let shortest = self.write_stall.min(self.idle).min(self.drain);
        (shortest / 8).clamp(1, MAX_CHECK_INTERVAL)
    }

    /// Returns true if this much output is above the high-water mark.
    pub(crate) fn is_high(&self, bytes: usize, files: usize) -> bool {
        bytes > self.high_water || files > self.max_files / 4
    }

    /// Returns true if this much output is at or below the low-water mark.
    pub(crate) fn is_low(&self, bytes: usize, files: usize) -> bool {
        bytes <= self.low_water && files <= self.max_files / 8
    }
}
