//! The plan of a run, checked, and the schedule of its requests.

use std::error::Error;
use std::time::Duration;

use epicycle::tls::TlsClient;
use epicycle::{Connect, Endpoint};

use super::flags::Flags;
use super::target::{Protocol, Target};
use crate::util;

/// Nanoseconds since the start of the warm-up.
pub(crate) type Nanos = u64;

/// A checked command line.
pub(crate) struct Plan {
    pub(crate) target: Target,
    pub(crate) protocol: Protocol,
    pub(crate) tls: Option<TlsClient>,
    pub(crate) connections: usize,
    pub(crate) rate: Option<u64>,
    /// The number of bytes in a request.
    pub(crate) size: usize,
    pub(crate) pipeline: usize,
    pub(crate) duration: Duration,
    pub(crate) warm_up: Duration,
    pub(crate) timeout: Duration,
    pub(crate) reactors: usize,
    pub(crate) headers: Vec<(String, String)>,
}

/// The most bytes that may be under way on a connection.
const MOST_UNDER_WAY: usize = 256 << 20;

/// The most requests that can be due in a second.
const MOST_RATE: u64 = 100_000_000;

impl Plan {
    pub(crate) fn new(flags: &Flags) -> Result<Self, Box<dyn Error>> {
        let mut target = flags.target.clone();
        let protocol = match (target.protocol, flags.protocol) {
            (Some(implied), Some(wanted)) if implied != wanted => {
                return Err(format!(
                    "the target speaks {implied}; for --protocol {wanted} write tcp:// or tls://"
                )
                .into());
            }
            (implied, wanted) => implied.or(wanted).unwrap_or(Protocol::Echo),
        };
        let asks_by_path = matches!(protocol, Protocol::Http | Protocol::Ws);
        if !asks_by_path && (flags.path.is_some() || !flags.header.is_empty()) {
            return Err(format!(
                "--path and --header do not apply to {protocol}; use --protocol http or ws"
            )
            .into());
        }
        match (&mut target.path, &flags.path) {
            (Some(_), Some(_)) => {
                return Err("the target has a path already; leave out --path".into());
            }
            (path, given) => *path = path.take().or_else(|| given.clone()),
        }
        let usual_size = if protocol == Protocol::Http { 0 } else { 64 };
        let size = flags.size.unwrap_or(usual_size);
        if size == 0 && protocol != Protocol::Http {
            return Err(format!("--size must be 1 or more for {protocol}").into());
        }
        for (name, number) in [
            ("--connections", flags.connections),
            ("--pipeline", flags.pipeline),
            ("--reactors", flags.reactors),
        ] {
            if number == 0 {
                return Err(format!("{name} must be 1 or more").into());
            }
        }
        if flags.reactors > flags.connections {
            return Err("each of the --reactors needs a connection; raise --connections".into());
        }
        if size.saturating_mul(flags.pipeline) > MOST_UNDER_WAY {
            return Err("--size times --pipeline must be 256 MiB or less".into());
        }
        if flags.rate.is_some_and(|rate| rate == 0 || rate > MOST_RATE) {
            return Err(format!("--rate must be 1 to {MOST_RATE} requests a second").into());
        }
        target.tls |= flags.tls;
        if target.tls && matches!(target.addr, Endpoint::Udp { .. }) {
            return Err("TLS does not go over KCP; leave out --tls, or write tls://".into());
        }
        Ok(Self {
            tls: tls(flags, &target)?,
            target,
            protocol,
            connections: flags.connections,
            rate: flags.rate,
            size,
            pipeline: flags.pipeline,
            duration: flags.duration,
            warm_up: flags.warm_up,
            timeout: flags.timeout,
            reactors: flags.reactors,
            headers: flags.header.clone(),
        })
    }

    /// Returns the number of a reactor's connections.
    pub(crate) fn share(&self, reactor: usize) -> usize {
        let rest = self.connections % self.reactors;
        self.connections / self.reactors + usize::from(reactor < rest)
    }

    /// Returns the options of a connection.
    pub(crate) fn connect(&self) -> Connect {
        let connect = Connect::to(self.target.addr.clone()).timeout(self.timeout);
        match &self.tls {
            Some(tls) => connect.tls(tls),
            None => connect,
        }
    }

    /// Returns the name of the transport.
    pub(crate) fn transport(&self) -> &'static str {
        match (&self.target.addr, self.tls.is_some()) {
            (Endpoint::Unix(_) | Endpoint::UnixAbstract(_), false) => "unix",
            (Endpoint::UnixPacket(_) | Endpoint::UnixPacketAbstract(_), _) => "unixpacket",
            (Endpoint::Unix(_) | Endpoint::UnixAbstract(_), true) => "tls over unix",
            (Endpoint::Udp { .. }, _) => "kcp",
            (_, false) => "tcp",
            (_, true) => "tls",
        }
    }
}

fn tls(flags: &Flags, target: &Target) -> Result<Option<TlsClient>, Box<dyn Error>> {
    if !target.tls {
        if flags.ca.is_some() || flags.name.is_some() {
            return Err("--ca and --name are for TLS: write tls://, https:// or wss://".into());
        }
        return Ok(None);
    }
    let tls = util::tls_client(flags.ca.as_deref())?;
    match (&flags.name, &target.addr) {
        (Some(name), _) => Ok(Some(tls.server_name(name)?)),
        (None, Endpoint::Unix(_) | Endpoint::UnixAbstract(_)) => Err(
            "a Unix socket has no host name to check the certificate against; add --name".into(),
        ),
        (None, _) => Ok(Some(tls)),
    }
}

/// The due times of a reactor's requests. Each of N reactors sends every Nth request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    rate: u64,
    step: u64,
    next: u64,
    due: Nanos,
}

impl Schedule {
    pub(crate) fn new(rate: u64, reactor: usize, reactors: usize) -> Self {
        let mut schedule = Self {
            rate,
            step: reactors as u64,
            next: reactor as u64,
            due: 0,
        };
        schedule.due = schedule.due_of(schedule.next);
        schedule
    }

    /// Returns the due time of the next request.
    pub(crate) fn due(&self) -> Nanos {
        self.due
    }

    /// Returns the time between two requests.
    pub(crate) fn period(&self) -> Duration {
        Duration::from_nanos(self.due_of(self.step))
    }

    pub(crate) fn advance(&mut self) {
        self.next += self.step;
        self.due = self.due_of(self.next);
    }

    /// Returns the number of requests, from the next one on, that are due before `end`.
    pub(crate) fn left_until(&self, end: Nanos) -> u64 {
        if self.due >= end {
            return 0;
        }
        // The largest number whose due time is before `end`.
        let last = (u128::from(end) * u128::from(self.rate)).div_ceil(1_000_000_000) as u64 - 1;
        last.saturating_sub(self.next) / self.step + 1
    }

    fn due_of(&self, number: u64) -> Nanos {
        (u128::from(number) * 1_000_000_000 / u128::from(self.rate)) as Nanos
    }
}
